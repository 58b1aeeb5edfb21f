//! The caller's credential.

use async_trait::async_trait;
use underpass_core::BoxError;
use zeroize::Zeroizing;

/// Gives the token of the caller. It is asked for each stream: a token is renewed while streams are open.
#[async_trait]
pub trait Credentials: Send + Sync {
    /// A bearer token.
    ///
    /// # Errors
    /// There is none: the login has ended, for example.
    async fn bearer(&self) -> Result<Zeroizing<String>, BoxError>;
}
