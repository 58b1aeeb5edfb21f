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
    deadline: Option<Deadline>,
    /// Tells the maker of the decision when nothing depends on it any longer.
    rests: Vec<Arc<DropGuard>>,
}

/// Timers do not reach further.
const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How often a waiter looks at the system's clock.
const LOOK: Duration = Duration::from_secs(10);

/// A moment by the timer, which a clock that is put back does not move, and by the system's clock, which goes on while a machine
/// sleeps. The first of the two counts.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    timer: Instant,
    clock: SystemTime,
}

impl Deadline {
    fn at(clock: SystemTime) -> Self {
        let left = clock.duration_since(SystemTime::now()).unwrap_or_default();
        let timer = Instant::now() + left.min(FAR);
        Self { timer, clock }
    }

    fn first(self, other: Self) -> Self {
        Self {
            timer: self.timer.min(other.timer),
            clock: self.clock.min(other.clock),
        }
    }

    fn is_over(self) -> bool {
        self.timer <= Instant::now() || self.clock <= SystemTime::now()
    }

    async fn over(self) {
        while !self.is_over() {
            let look = Instant::now() + LOOK;
            tokio::time::sleep_until(self.timer.min(look)).await;
        }
    }
}

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

    /// The same decision, which ends at `end` at the latest: a clock that is put back gives it no more time. Where one is put forward,
    /// or the machine has slept, those who wait hear of it within 10 s.
    #[must_use]
    pub fn until(mut self, end: SystemTime) -> Self {
        let end = Deadline::at(end);
        self.deadline = Some(self.deadline.map_or(end, |deadline| deadline.first(end)));
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
            (Some(one), Some(two)) => Some(one.first(two)),
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
            // A waiter sees no difference between an expired and a revoked decision.
            Some(deadline) => tokio::select! {
                () = taken_back => {}
                () = deadline.over() => {}
            },
        }
    }

    /// Has it been taken back already?
    pub fn is_revoked(&self) -> bool {
        let mut decisions = self.decisions.iter();
        let taken_back = decisions.any(CancellationToken::is_cancelled);
        taken_back || self.deadline.is_some_and(Deadline::is_over)
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

    /// The timer has a year left, of which some seconds pass while the clock goes on for a moment.
    #[tokio::test(start_paused = true)]
    async fn rule_12_a_clock_that_goes_ahead_of_the_timer_ends_a_decision() {
        let timer = Instant::now() + FAR;
        let clock = SystemTime::now() + Duration::from_millis(20);
        let deadline = Some(Deadline { timer, clock });
        let decision = Revocation {
            deadline,
            ..Revocation::never()
        };
        assert!(!decision.is_revoked());
        decision.clone().revoked().await;
        assert!(decision.is_revoked());
        assert!(Instant::now() < timer);
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
