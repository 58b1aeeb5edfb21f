//! How often somebody may be wrong.

use std::{
    net::IpAddr,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lru::LruCache;
use tokio::time::Instant;

use underpass_core::{limits, network_of};

/// Counts the bad credentials of each client. Whoever guesses soon has to wait; whoever is right is never counted.
///
/// Clients behind one address share its count. A flood of addresses makes it forget those that it has not seen for
/// longest: it bounds what one client can do, not what a thousand can.
#[derive(Debug)]
pub(super) struct Failures(Mutex<LruCache<IpAddr, Bucket>>);

/// Failures that are not forgiven yet.
#[derive(Debug)]
struct Bucket {
    failures: u32,
    at: Instant,
}

impl Bucket {
    /// One failure is forgiven after each [`limits::FAILURE_FORGIVEN`].
    fn forgive(&mut self, now: Instant) {
        let steps = now.duration_since(self.at).as_millis() / limits::FAILURE_FORGIVEN.as_millis();
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_sub(steps);
        let forgiven = limits::FAILURE_FORGIVEN.checked_mul(steps);
        self.at = if self.failures == 0 {
            now
        } else {
            self.at + forgiven.unwrap_or(Duration::ZERO)
        };
    }
}

impl Failures {
    pub(super) fn new() -> Self {
        let room = NonZeroUsize::new(limits::FAILING_CLIENTS).unwrap_or(NonZeroUsize::MIN);
        Self(Mutex::new(LruCache::new(room)))
    }

    /// May this client have another credential checked? Where not, how long until it may.
    pub(super) fn allow(&self, client: IpAddr) -> Result<(), Duration> {
        let now = Instant::now();
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bucket) = buckets.get_mut(&network_of(client)) else {
            return Ok(());
        };
        bucket.forgive(now);
        let Some(more) = bucket.failures.checked_sub(limits::FAILURES) else {
            return Ok(());
        };
        let to_forgive = more.saturating_add(1);
        let wait = limits::FAILURE_FORGIVEN.saturating_mul(to_forgive);
        Err(wait.saturating_sub(now.saturating_duration_since(bucket.at)))
    }

    /// A credential of this client was bad.
    pub(super) fn count(&self, client: IpAddr) {
        let now = Instant::now();
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Bucket {
            failures: 0,
            at: now,
        };
        let bucket = buckets.get_or_insert_mut(network_of(client), fresh);
        bucket.forgive(now);
        bucket.failures = bucket.failures.saturating_add(1);
    }

    /// One that was counted was good.
    pub(super) fn uncount(&self, client: IpAddr) {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get_mut(&network_of(client)) {
            bucket.failures = bucket.failures.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rule_11_whoever_guesses_has_to_wait() {
        let failures = Failures::new();
        let (guesser, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        for _ in 0..limits::FAILURES {
            assert!(failures.allow(guesser).is_ok());
            failures.count(guesser);
        }
        assert!(failures.allow(guesser).is_err());
        assert!(failures.allow(other).is_ok());
        tokio::time::advance(limits::FAILURE_FORGIVEN).await;
        assert!(failures.allow(guesser).is_ok());
        failures.count(guesser);
        assert!(failures.allow(guesser).is_err());
    }

    #[tokio::test]
    async fn a_subscriber_counts_as_one() {
        let failures = Failures::new();
        for n in 0..limits::FAILURES {
            let address = Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(n));
            failures.count(address.into());
        }
        assert!(failures.allow("2001:db8::ffff".parse().unwrap()).is_err());
        assert!(failures.allow("2001:db8:0:1::".parse().unwrap()).is_ok());
    }
}
