//! How a decision is taken back.

use std::sync::Arc;

use tokio_util::sync::{CancellationToken, DropGuard};

/// The life of a decision: of an authentication or an authorization. Whoever made the decision keeps
/// the token; cancelling it ends every request, watch and shell that rests on it (security rule 12).
///
/// A credential that merely *expires* does not end what it has begun: kube-apiserver doesn't either, and a
/// shell should outlive a login token of fifteen minutes.
#[derive(Clone, Debug, Default)]
pub struct Revocation {
    decision: Option<CancellationToken>,
    /// Tells whoever made the decision when nothing rests on it any longer.
    _rest: Option<Arc<DropGuard>>,
}

impl Revocation {
    /// A decision that stands until the process ends.
    pub fn never() -> Self {
        Self::default()
    }

    /// A decision that ends when `token` is cancelled.
    pub fn when(token: CancellationToken) -> Self {
        Self {
            decision: Some(token),
            _rest: None,
        }
    }

    /// The same decision. The last reference to `rest` is gone when nothing rests on the decision any longer: a decision
    /// of somebody who has to ask again from time to time.
    #[must_use]
    pub(crate) fn until_unused(self, rest: Arc<DropGuard>) -> Self {
        Self {
            _rest: Some(rest),
            ..self
        }
    }

    /// Waits until the decision is taken back.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn revoked(self) {
        match &self.decision {
            Some(token) => token.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Has it been taken back already?
    pub fn is_revoked(&self) -> bool {
        self.decision
            .as_ref()
            .is_some_and(CancellationToken::is_cancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_rests_on_it() {
        let unused = CancellationToken::new();
        let rest = Arc::new(unused.clone().drop_guard());
        let decision = Revocation::when(CancellationToken::new()).until_unused(rest);
        let waiting = Box::pin(decision.clone().revoked());
        drop(decision);
        assert!(!unused.is_cancelled());
        drop(waiting);
        assert!(unused.is_cancelled());
    }
}
