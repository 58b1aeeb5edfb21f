//! Credentials that are being checked, by client.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use underpass_core::{Block, blocks_of, share};

/// Bounds the checks that run or wait, in all and of one network of any size. The last places are kept for networks that have
/// few (`share.rs`): a guesser cannot take those of users who log in elsewhere.
#[derive(Clone, Debug)]
pub(super) struct Checks {
    most: usize,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    of: HashMap<Block, usize>,
}

impl Counts {
    /// How many a client's networks hold, as one subscriber's.
    fn held(&self, client: IpAddr) -> usize {
        let held = blocks_of(client).map(|block| {
            let held = self.of.get(&block).copied().unwrap_or_default();
            held / usize::try_from(block.shares()).unwrap_or(usize::MAX)
        });
        held.max().unwrap_or_default()
    }
}

impl Checks {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            counts: Arc::default(),
        }
    }

    /// A place for one more credential of `client`, until it is dropped. `None`: too many.
    pub(super) fn enter(&self, client: IpAddr) -> Option<Check> {
        let mut counts = lock(&self.counts);
        if !share::allows(counts.held(client), counts.all, self.most) {
            return None;
        }
        counts.all = counts.all.saturating_add(1);
        for block in blocks_of(client) {
            let held = counts.of.entry(block).or_default();
            *held = held.saturating_add(1);
        }
        drop(counts);
        Some(Check {
            counts: Arc::clone(&self.counts),
            client,
        })
    }
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    // Nothing panics while it is held.
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A credential that is being checked.
#[derive(Debug)]
#[must_use]
pub(super) struct Check {
    counts: Arc<Mutex<Counts>>,
    client: IpAddr,
}

impl Drop for Check {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        counts.all = counts.all.saturating_sub(1);
        for block in blocks_of(self.client) {
            if let Some(held) = counts.of.get_mut(&block) {
                *held = held.saturating_sub(1);
                if *held == 0 {
                    counts.of.remove(&block);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_23_one_network_does_not_take_all_places() {
        let checks = Checks::new(64);
        let from = |n: u8| checks.enter(IpAddr::from([192, 0, 2, n]));
        let flood: Vec<_> = (0..100).filter_map(|_| from(1)).collect();
        assert_eq!(flood.len(), 48);
        let others: Vec<_> = (2..12).map(from).collect();
        assert!(others.iter().all(Option::is_some));
        drop((flood, others));
        let counts = lock(&checks.counts);
        assert!(counts.all == 0 && counts.of.is_empty(), "{counts:?}");
    }

    #[test]
    fn rule_23_one_site_does_not_take_all_places() {
        let checks = Checks::new(64);
        let from = |n: u128| {
            let bits = 0x2001_0db8 << 96 | n << 64;
            checks.enter(std::net::Ipv6Addr::from_bits(bits).into())
        };
        // A new /64 for each.
        let flood: Vec<_> = (0..65_536).filter_map(from).collect();
        assert_eq!(flood.len(), 56);
        let others: Vec<_> = (1..9).map(|n| from(n << 16)).collect();
        assert!(others.iter().all(Option::is_some));
        drop((flood, others));
        let counts = lock(&checks.counts);
        assert!(counts.all == 0 && counts.of.is_empty(), "{counts:?}");
    }
}
