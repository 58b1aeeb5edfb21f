//! Revokes decisions.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The life of a decision: of an authentication or an authorization. The maker of the decision keeps the token; cancelling it
/// ends every request, watch and shell that rests on it (security rule 12).
///
/// A provider's credential that *expires* does not end its running requests: kube-apiserver doesn't end them either, and a
/// shell should outlive a provider's token of fifteen minutes. One of our own does ([`Revocation::until`]): its maker set the
/// lifetime.
#[derive(Clone, Debug, Default)]
pub struct Revocation {
    decisions: Vec<CancellationToken>,
    deadline: Option<Instant>,
    /// Tells the maker of the decision when nothing depends on it any longer.
    rests: Vec<Arc<DropGuard>>,
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
            decisions: vec![token],
            ..Self::default()
        }
    }

    /// The same decision, which ends at `end` at the latest.
    #[must_use]
    pub fn until(mut self, end: SystemTime) -> Self {
        // The time that is left does not change when the clock is set.
        let left = end.duration_since(SystemTime::now()).unwrap_or_default();
        let end = Instant::now() + left.min(FAR);
        self.deadline = Some(self.deadline.map_or(end, |deadline| deadline.min(end)));
        self
    }

    /// The same decision. The last reference to `rest` is gone when nothing rests on the decision any longer: for makers that
    /// ask again from time to time, or that remember decisions to revoke.
    #[must_use]
    pub fn until_unused(mut self, rest: Arc<DropGuard>) -> Self {
        self.rests.push(rest);
        self
    }

    /// Both decisions: it ends as soon as one of them does.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.decisions.extend(other.decisions);
        self.rests.extend(other.rests);
        self.deadline = match (self.deadline, other.deadline) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
        self
    }

    /// Waits until the decision is taken back.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn revoked(self) {
        let taken_back = async {
            let decisions = self.decisions.iter();
            let mut ends: FuturesUnordered<_> =
                decisions.map(CancellationToken::cancelled).collect();
            if ends.next().await.is_none() {
                std::future::pending().await
            }
        };
        match self.deadline {
            None => taken_back.await,
            Some(deadline) => {
                // A waiter sees no difference between an expired and a revoked decision.
                let _ = tokio::time::timeout_at(deadline, taken_back).await;
            }
        }
    }

    /// Has it been taken back already?
    pub fn is_revoked(&self) -> bool {
        let mut decisions = self.decisions.iter();
        let taken_back = decisions.any(CancellationToken::is_cancelled);
        let now = Instant::now();
        taken_back || self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rule_12_a_decision_ends_with_its_time() {
        let start = Instant::now();
        let end = SystemTime::now() + Duration::from_secs(60);
        let decision = Revocation::when(CancellationToken::new()).until(end);
        assert!(!decision.is_revoked());
        decision.clone().revoked().await;
        assert!(start.elapsed() <= Duration::from_secs(61));
        assert!(decision.is_revoked());
    }

    #[tokio::test]
    async fn rule_12_two_decisions_end_with_either() {
        for position in 0..2 {
            let tokens = [(); 2].map(|()| CancellationToken::new());
            let [one, two] = tokens.clone().map(Revocation::when);
            let both = one.and(two);
            assert!(!both.is_revoked());
            tokens[position].cancel();
            assert!(both.is_revoked());
            both.revoked().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rule_12_a_decision_ends_when_it_is_taken_back() {
        let token = CancellationToken::new();
        let far = SystemTime::now() + Duration::from_secs(1 << 40);
        let decision = Revocation::when(token.clone()).until(far);
        token.cancel();
        decision.revoked().await;
        let past = Revocation::never().until(SystemTime::UNIX_EPOCH);
        assert!(past.is_revoked());
        past.revoked().await;
        assert!(!Revocation::never().is_revoked());
    }

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
