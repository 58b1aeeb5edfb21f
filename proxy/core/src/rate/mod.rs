//! Rate limits by source: a burst, and then one at a time.

mod networks;
mod users;

use std::{
    hash::Hash,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lru::LruCache;
use tokio::time::Instant;

pub use self::{networks::NetworkLimiter, users::UserLimiter};

/// How much a source may take.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// At once, by a source that has taken nothing for long.
    pub burst: u32,
    /// One more comes back after each.
    pub every: Duration,
    /// Sources that are remembered. A flood of sources makes it forget those that took nothing for longest.
    pub sources: usize,
}

/// A token bucket for each source.
#[derive(Debug)]
pub struct RateLimiter<K: Hash + Eq> {
    share: Rate,
    buckets: Mutex<LruCache<K, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    taken: u32,
    at: Instant,
    /// Refusals since the last permit.
    suppressed: u64,
}

impl<K: Hash + Eq> RateLimiter<K> {
    /// Nothing is taken yet.
    pub fn new(share: Rate) -> Self {
        let room = NonZeroUsize::new(share.sources).unwrap_or(NonZeroUsize::MIN);
        Self {
            share,
            buckets: Mutex::new(LruCache::new(room)),
        }
    }

    /// Takes one, and says how often that was refused to this source since the last time it was not; `None` where
    /// the source has had its share.
    pub fn take(&self, source: K) -> Option<u64> {
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.get_or_insert_mut(source, || Bucket::new(now));
        let has = bucket.has(now, self.share.burst, self.share.every);
        has.then(|| bucket.take())
    }
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self {
            taken: 0,
            at: now,
            suppressed: 0,
        }
    }

    /// Is there one more to take? Where not, that is counted.
    fn has(&mut self, now: Instant, burst: u32, every: Duration) -> bool {
        self.give_back(now, every);
        let has = self.taken < burst;
        if !has {
            self.suppressed = self.suppressed.saturating_add(1);
        }
        has
    }

    /// Takes one, and says how often there was none.
    fn take(&mut self) -> u64 {
        self.taken = self.taken.saturating_add(1);
        std::mem::take(&mut self.suppressed)
    }

    fn give_back(&mut self, now: Instant, every: Duration) {
        let steps = now.duration_since(self.at).as_millis() / every.as_millis().max(1);
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.taken = self.taken.saturating_sub(steps);
        self.at = match every.checked_mul(steps) {
            Some(time) if self.taken > 0 => self.at + time,
            _ => now,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rule_23_a_source_has_its_share_and_no_more() {
        let every = Duration::from_secs(1);
        let shares = RateLimiter::new(Rate {
            burst: 2,
            every,
            sources: 8,
        });
        assert_eq!([shares.take("a"), shares.take("a")], [Some(0), Some(0)]);
        assert_eq!([shares.take("a"), shares.take("a")], [None, None]);
        assert_eq!(shares.take("b"), Some(0), "another source's is its own");
        tokio::time::advance(every).await;
        assert_eq!(shares.take("a"), Some(2), "and what was refused is told");
        assert_eq!(shares.take("a"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_a_flood_of_sources_is_not_remembered() {
        let shares = RateLimiter::new(Rate {
            burst: 1,
            every: Duration::from_secs(1),
            sources: 8,
        });
        for source in 0..10_000 {
            assert_eq!(shares.take(source), Some(0));
        }
        assert_eq!(shares.buckets.lock().unwrap().len(), 8);
    }
}
