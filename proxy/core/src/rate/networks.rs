//! The shares of clients by their networks.

use std::{
    net::IpAddr,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lru::LruCache;
use tokio::time::Instant;

use super::{Bucket, Rate};
use crate::network::{BLOCK_SIZES, Block, blocks_of};

/// The shares of clients: each by its networks, of every size that one may have ([`blocks_of`]), and all together.
#[derive(Debug)]
pub struct NetworkLimiter {
    each: Rate,
    all: (u32, Duration),
    state: Mutex<Networks>,
}

#[derive(Debug)]
struct Networks {
    /// By size, so that many small ones do not make it forget large ones.
    blocks: [LruCache<Block, Bucket>; BLOCK_SIZES],
    all: Bucket,
}

impl NetworkLimiter {
    /// `each` is a subscriber's; all together may take `burst` at once, and one more after each `every`.
    pub fn new(each: Rate, burst: u32, every: Duration) -> Self {
        let room = NonZeroUsize::new(each.sources).unwrap_or(NonZeroUsize::MIN);
        Self {
            each,
            all: (burst, every),
            state: Mutex::new(Networks {
                blocks: std::array::from_fn(|_| LruCache::new(room)),
                all: Bucket::new(Instant::now()),
            }),
        }
    }

    /// Takes one, and says how often that was refused since the last time it was not: to this client's networks, and to
    /// all. `None` where one of them has had its share. A network that gets nothing is not remembered for it, so that a
    /// flood of them makes nothing be forgotten.
    pub fn take(&self, client: IpAddr) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Networks { blocks, all } = &mut *state;
        if !all.has(now, self.all.0, self.all.1) {
            return None;
        }
        let of = blocks_of(client);
        // The largest first: it refuses for many small ones.
        for block in of.clone().rev() {
            let (burst, every) = self.share_of(block);
            let blocks = blocks.get_mut(block.size());
            let bucket = blocks.and_then(|blocks| blocks.get_mut(&block));
            if bucket.is_some_and(|bucket| !bucket.has(now, burst, every)) {
                return None;
            }
        }
        let taken = of.map(|block| {
            let fresh = || Bucket::new(now);
            let blocks = blocks.get_mut(block.size());
            blocks.map_or(0, |blocks| blocks.get_or_insert_mut(block, fresh).take())
        });
        Some(taken.fold(all.take(), u64::saturating_add))
    }

    fn share_of(&self, block: Block) -> (u32, Duration) {
        let shares = block.shares();
        let every = self.each.every / shares.max(1);
        (self.each.burst.saturating_mul(shares), every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(burst: u32, all: u32) -> NetworkLimiter {
        let each = Rate {
            burst,
            every: Duration::from_secs(1),
            sources: 64,
        };
        NetworkLimiter::new(each, all, Duration::from_millis(100))
    }

    fn v6(network: u128) -> IpAddr {
        let site = 0x2001_0db8_u128 << 96;
        std::net::Ipv6Addr::from_bits(site | network << 64).into()
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_who_has_many_networks_has_few_shares() {
        let limiter = limiter(10, 10_000);
        let taken = |networks: std::ops::Range<u128>| {
            let takes = networks.flat_map(|network| [network; 20]);
            takes.filter(|n| limiter.take(v6(*n)).is_some()).count()
        };
        assert_eq!(taken(0..1), 10, "a /64");
        assert_eq!(taken(1..256), 30, "the rest of its /56");
        assert_eq!(taken(256..65_536), 120, "the rest of its /48");
        assert_eq!(taken(65_536..65_537), 10, "another /48");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(taken(0..65_536), 16);
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_each_refusal_is_told_once() {
        let limiter = limiter(1, 10_000);
        let refused = |from: u128| (0..10).filter(|_| limiter.take(v6(from)).is_none()).count();
        let mut refusals: usize = (0..256).map(refused).sum();
        let mut told = 0;
        for _ in 0..100 {
            tokio::time::advance(Duration::from_secs(1)).await;
            for network in 0..256 {
                match limiter.take(v6(network)) {
                    Some(before) => told += usize::try_from(before).unwrap(),
                    None => refusals += 1,
                }
            }
        }
        let untold: u64 = {
            let state = limiter.state.lock().unwrap();
            let blocks = state.blocks.iter().flat_map(|blocks| blocks.iter());
            blocks.map(|(_, bucket)| bucket.suppressed).sum()
        };
        assert_eq!(told + usize::try_from(untold).unwrap(), refusals);
    }
}
