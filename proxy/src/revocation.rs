//! How a decision is taken back.

use tokio_util::sync::CancellationToken;

/// The life of a decision: of an authentication or an authorization. Whoever made the decision keeps
/// the token; cancelling it ends every request, watch and shell that rests on it (security rule 12).
///
/// A credential that merely *expires* does not end what it has begun: kube-apiserver doesn't either, and a
/// shell should outlive a login token of fifteen minutes.
#[derive(Clone, Debug, Default)]
pub struct Revocation(Option<CancellationToken>);

impl Revocation {
    /// A decision that stands until the process ends.
    pub fn never() -> Self {
        Self(None)
    }

    /// A decision that ends when `token` is cancelled.
    pub fn when(token: CancellationToken) -> Self {
        Self(Some(token))
    }

    /// Waits until the decision is taken back.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn revoked(self) {
        match self.0 {
            Some(token) => token.cancelled_owned().await,
            None => std::future::pending().await,
        }
    }

    /// Has it been taken back already?
    pub fn is_revoked(&self) -> bool {
        self.0.as_ref().is_some_and(CancellationToken::is_cancelled)
    }
}
