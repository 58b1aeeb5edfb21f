//! An authenticator of one's own.

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use underpass_authenticate::{
    Assertion, AuthenticateError, Authenticated, Authenticator, Caller, Reserved, Source,
};
use underpass_core::AuthenticationMethod;

/// Authenticates callers: `Bearer sesame` is alice.
#[derive(Debug)]
pub struct Word(Source);

impl Word {
    /// Vouches under this name, as an authenticator of this kind.
    pub fn new(name: &str, method: AuthenticationMethod) -> Self {
        // In earnest it is cancelled when the authenticator no longer counts.
        let end = CancellationToken::new();
        Self(Source::new(name, method, Reserved::default(), end))
    }
}

#[async_trait]
impl Authenticator for Word {
    async fn authenticate(
        &self,
        caller: &Caller<'_>,
    ) -> Result<Option<Authenticated>, AuthenticateError> {
        let alice = || Assertion {
            user: "alice".to_owned(),
            groups: vec!["readers".to_owned()],
            ..Assertion::default()
        };
        let knows = caller.bearer() == Some("sesame");
        let found = knows.then(|| self.0.vouch(alice())).transpose();
        found.map_err(AuthenticateError::Rejected)
    }
}
