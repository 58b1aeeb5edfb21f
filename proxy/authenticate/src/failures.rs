//! Limits bad credentials by client.

use std::{
    net::IpAddr,
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lru::LruCache;
use tokio::time::Instant;

use underpass_core::{BLOCK_SIZES, Block, blocks_of, limits};

/// Counts the bad credentials of each client, in each network that one may have ([`blocks_of`]). A guesser soon has to
/// wait; a right credential is never counted.
///
/// Clients behind one address share its count. A flood of addresses makes it forget those that it has not seen for
/// longest: it bounds what one site can do, not what a thousand can.
#[derive(Debug)]
pub struct Failures(Mutex<Buckets>);

/// By the size of the network.
type Buckets = [LruCache<Block, Bucket>; BLOCK_SIZES];

/// Failures that are not forgiven yet.
#[derive(Debug)]
struct Bucket {
    failures: u32,
    at: Instant,
}

impl Bucket {
    /// One failure is forgiven after each `every`.
    fn forgive(&mut self, now: Instant, every: Duration) {
        let steps = now.duration_since(self.at).as_millis() / every.as_millis().max(1);
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_sub(steps);
        let forgiven = every.checked_mul(steps);
        self.at = if self.failures == 0 {
            now
        } else {
            self.at + forgiven.unwrap_or(Duration::ZERO)
        };
    }
}

/// How many a network may have, and after how long one of them is forgiven.
fn share_of(block: Block) -> (u32, Duration) {
    let shares = block.shares();
    let every = limits::FAILURE_FORGIVEN / shares.max(1);
    (limits::FAILURES.saturating_mul(shares), every)
}

impl Default for Failures {
    fn default() -> Self {
        Self::new()
    }
}

impl Failures {
    /// Nothing is counted yet.
    pub fn new() -> Self {
        let room = NonZeroUsize::new(limits::FAILING_CLIENTS).unwrap_or(NonZeroUsize::MIN);
        Self(Mutex::new(std::array::from_fn(|_| LruCache::new(room))))
    }

    /// May this client have another credential checked?
    ///
    /// # Errors
    /// It may not before so much time has passed.
    pub fn allow(&self, client: IpAddr) -> Result<(), Duration> {
        let now = Instant::now();
        let mut buckets = self.lock();
        let waits = blocks_of(client).filter_map(|block| {
            let bucket = buckets.get_mut(block.size())?.get_mut(&block)?;
            let (most, every) = share_of(block);
            bucket.forgive(now, every);
            let to_forgive = bucket.failures.checked_sub(most)?.saturating_add(1);
            let wait = every.saturating_mul(to_forgive);
            Some(wait.saturating_sub(now.saturating_duration_since(bucket.at)))
        });
        waits.max().map_or(Ok(()), Err)
    }

    /// A credential of this client was bad.
    pub fn count(&self, client: IpAddr) {
        let now = Instant::now();
        let mut buckets = self.lock();
        for block in blocks_of(client) {
            let fresh = || Bucket {
                failures: 0,
                at: now,
            };
            if let Some(buckets) = buckets.get_mut(block.size()) {
                let bucket = buckets.get_or_insert_mut(block, fresh);
                bucket.forgive(now, share_of(block).1);
                bucket.failures = bucket.failures.saturating_add(1);
            }
        }
    }

    /// One that was counted was good.
    pub(super) fn uncount(&self, client: IpAddr) {
        let mut buckets = self.lock();
        for block in blocks_of(client) {
            let buckets = buckets.get_mut(block.size());
            if let Some(bucket) = buckets.and_then(|buckets| buckets.get_mut(&block)) {
                bucket.failures = bucket.failures.saturating_sub(1);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[tokio::test(start_paused = true)]
    async fn rule_23_guesses_from_ever_new_networks_of_one_site_are_one_sites() {
        let failures = Failures::new();
        let from = |n: u32| Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(n) << 64).into();
        // A new /64 for each.
        let guesses = (0..65_536).take_while(|n| {
            let allowed = failures.allow(from(*n)).is_ok();
            failures.count(from(*n));
            allowed
        });
        // The first /56, and then the rest of the /48.
        assert_eq!(guesses.count(), 200);
        let guesses = (256..65_536).filter(|n| {
            let allowed = failures.allow(from(*n)).is_ok();
            if allowed {
                failures.count(from(*n));
            }
            allowed
        });
        assert_eq!(guesses.count(), 599);
        failures.allow(from(65_535)).unwrap_err();
        assert!(failures.allow(from(65_536)).is_ok(), "another site");
        tokio::time::advance(limits::FAILURE_FORGIVEN).await;
        assert!(failures.allow(from(65_535)).is_ok());
    }
}
