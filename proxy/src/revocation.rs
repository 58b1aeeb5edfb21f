//! How a decision is taken back.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The life of a decision: of an authentication or an authorization. Whoever made the decision keeps
/// the token; cancelling it ends every request, watch and shell that rests on it (security rule 12).
///
/// A credential of somebody else's that *expires* does not end what it has begun: kube-apiserver doesn't either, and a
/// shell should outlive a provider's token of fifteen minutes. One of our own does ([`Revocation::until`]): whoever
/// made it said how long it counts.
#[derive(Clone, Debug, Default)]
pub struct Revocation {
    token: Token,
    deadline: Option<Instant>,
}

#[derive(Clone, Debug, Default)]
enum Token {
    #[default]
    None,
    Own(CancellationToken),
    /// Whoever made the decision sees by the count whether anything still rests on it.
    Shared(Arc<CancellationToken>),
}

/// Timers do not reach further.
const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Revocation {
    /// A decision that stands until the process ends.
    pub fn never() -> Self {
        Self::default()
    }

    /// A decision that ends when `token` is cancelled.
    pub fn when(token: CancellationToken) -> Self {
        Self {
            token: Token::Own(token),
            deadline: None,
        }
    }

    /// A decision that ends when `token` is cancelled, whose maker wants to know when nothing rests on it.
    pub(crate) fn shared(token: Arc<CancellationToken>) -> Self {
        Self {
            token: Token::Shared(token),
            deadline: None,
        }
    }

    /// The same decision, which ends at `end` at the latest.
    #[must_use]
    pub fn until(mut self, end: SystemTime) -> Self {
        // The time that is left does not change when somebody sets the clock.
        let left = end.duration_since(SystemTime::now()).unwrap_or_default();
        let end = Instant::now() + left.min(FAR);
        self.deadline = Some(self.deadline.map_or(end, |deadline| deadline.min(end)));
        self
    }

    /// Waits until the decision is taken back.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn revoked(self) {
        let cancelled = async {
            match &self.token {
                Token::None => std::future::pending().await,
                Token::Own(token) => token.cancelled().await,
                Token::Shared(token) => token.cancelled().await,
            }
        };
        match self.deadline {
            None => cancelled.await,
            Some(deadline) => {
                // Too late and taken back are the same to whoever waits.
                let _ = tokio::time::timeout_at(deadline, cancelled).await;
            }
        }
    }

    /// Has it been taken back already?
    pub fn is_revoked(&self) -> bool {
        let cancelled = match &self.token {
            Token::None => false,
            Token::Own(token) => token.is_cancelled(),
            Token::Shared(token) => token.is_cancelled(),
        };
        cancelled
            || self
                .deadline
                .is_some_and(|deadline| deadline <= Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rule_12_a_decision_ends_with_its_time() {
        let start = Instant::now();
        let end = SystemTime::now() + Duration::from_secs(60);
        let token = CancellationToken::new();
        let decision = Revocation::when(token).until(end);
        assert!(!decision.is_revoked());
        decision.clone().revoked().await;
        assert!(start.elapsed() <= Duration::from_secs(61));
        assert!(decision.is_revoked());
    }

    #[tokio::test(start_paused = true)]
    async fn rule_12_a_decision_ends_when_it_is_taken_back() {
        let token = Arc::new(CancellationToken::new());
        let far = SystemTime::now() + Duration::from_secs(1 << 40);
        let decision = Revocation::shared(Arc::clone(&token)).until(far);
        token.cancel();
        decision.revoked().await;
        let past = Revocation::never().until(SystemTime::UNIX_EPOCH);
        assert!(past.is_revoked());
        past.revoked().await;
        assert!(!Revocation::never().is_revoked());
    }
}
