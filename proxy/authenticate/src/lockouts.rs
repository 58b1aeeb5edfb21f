//! Waits between a user's password attempts.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lru::LruCache;
use tokio::time::Instant;

use super::{
    failures::Failures,
    known::{Known, Name},
};
use underpass_core::{limits, network_of};

/// The user whose password was tried, and the network; `None` counts for all networks.
type Tried = (Name, Option<IpAddr>);

/// Counts wrong passwords by user and network, by user, and by network.
///
/// Two caches, so that made-up names evict nothing that counts: the tries hold more than passwords can be checked in the
/// longest wait ([`limits::PASSWORD_LOCKOUTS`]), and only right passwords add to the known networks of users.
#[derive(Debug)]
pub(super) struct Lockouts {
    hasher: RandomState,
    networks: Failures,
    state: Mutex<State>,
}

/// A password that is being checked.
#[derive(Debug)]
pub(super) struct Attempt {
    name: Name,
    network: IpAddr,
    /// The user has logged in from there before.
    known: bool,
}

#[derive(Debug)]
struct State {
    tries: LruCache<Tried, Tries>,
    known: Known,
}

#[derive(Debug, Clone, Copy)]
struct Tries {
    wrong: u32,
    until: Instant,
}

impl State {
    fn knows(&mut self, name: Name, network: IpAddr) -> bool {
        self.known.knows(name, network)
    }

    fn waits(&self, keys: [Option<Tried>; 2], now: Instant) -> Result<(), Duration> {
        for key in keys.iter().flatten() {
            let tries = self.tries.peek(key);
            let left = tries.map(|tries| tries.until.saturating_duration_since(now));
            if let Some(left) = left.filter(|left| !left.is_zero()) {
                return Err(left);
            }
        }
        Ok(())
    }
}

/// The counters that an attempt increments.
fn keys(name: Name, network: IpAddr, known: bool) -> [Option<Tried>; 2] {
    [
        Some((name, Some(network))),
        (!known).then_some((name, None)),
    ]
}

impl Lockouts {
    pub(super) fn new() -> Self {
        let room = NonZeroUsize::new(limits::PASSWORD_LOCKOUTS).unwrap_or(NonZeroUsize::MIN);
        Self {
            hasher: RandomState::new(),
            networks: Failures::new(),
            state: Mutex::new(State {
                tries: LruCache::new(room),
                known: Known::new(),
            }),
        }
    }

    /// Has this user logged in from there before?
    pub(super) fn knows(&self, user: &str, client: IpAddr) -> bool {
        let name = self.hasher.hash_one(user);
        self.lock().knows(name, client)
    }

    /// May an attempt begin? Where not, how long until it may.
    pub(super) fn waits(&self, user: &str, client: IpAddr) -> Result<(), Duration> {
        let name = self.hasher.hash_one(user);
        let here = network_of(client);
        let mut state = self.lock();
        let known = state.knows(name, here);
        state.waits(keys(name, here, known), Instant::now())?;
        match known {
            true => Ok(()),
            false => self.networks.allow(client),
        }
    }

    /// An attempt begins, and is taken for a wrong one until it is known to be right. Where it may not, how long until it
    /// may.
    pub(super) fn begin(&self, user: &str, client: IpAddr) -> Result<Attempt, Duration> {
        let now = Instant::now();
        let name = self.hasher.hash_one(user);
        let here = network_of(client);
        let mut state = self.lock();
        let known = state.knows(name, here);
        let keys = keys(name, here, known);
        state.waits(keys, now)?;
        // Last, so that a name that waits does not count for its network, and before the name takes room: this is against
        // made-up names.
        if !known {
            self.networks.allow(client)?;
            self.networks.count(client);
        }
        for key in keys.into_iter().flatten() {
            let (free, most) = match key.1 {
                Some(_) => (limits::PASSWORD_TRIES, limits::PASSWORD_WAIT),
                None => (
                    limits::PASSWORD_TRIES_ANYWHERE,
                    limits::PASSWORD_WAIT_ANYWHERE,
                ),
            };
            let entry = state.tries.get_or_insert_mut(key, || Tries {
                wrong: 0,
                until: now,
            });
            // After the longest wait without an attempt, the count begins anew.
            if now.saturating_duration_since(entry.until) > most {
                entry.wrong = 0;
            }
            entry.wrong = entry.wrong.saturating_add(1);
            let beyond = entry.wrong.saturating_sub(free);
            entry.until = match beyond.checked_sub(1) {
                None => now,
                Some(doublings) => {
                    let seconds = 1u64.checked_shl(doublings).unwrap_or(u64::MAX);
                    now + Duration::from_secs(seconds).min(most)
                }
            };
        }
        Ok(Attempt {
            name,
            network: here,
            known,
        })
    }

    /// It was right.
    pub(super) fn forget(&self, attempt: Attempt) {
        let Attempt {
            name,
            network,
            known,
        } = attempt;
        let mut state = self.lock();
        state.tries.pop(&(name, Some(network)));
        state.known.learn(name, network);
        if known {
            return;
        }
        // Only this attempt was right: guesses from elsewhere still count.
        if let Some(tries) = state.tries.get_mut(&(name, None)) {
            tries.wrong = tries.wrong.saturating_sub(1);
        }
        drop(state);
        self.networks.uncount(network);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[tokio::test(start_paused = true)]
    async fn rule_11_whoever_is_wrong_waits_longer_each_time() {
        let lockouts = Lockouts::new();
        for _ in 0..=limits::PASSWORD_TRIES {
            lockouts.begin("alice", HERE).unwrap();
        }
        let mut last = Duration::ZERO;
        while last < limits::PASSWORD_WAIT {
            let Err(wait) = lockouts.begin("alice", HERE) else {
                panic!("not locked after {last:?}");
            };
            assert!(wait > last && wait <= limits::PASSWORD_WAIT);
            // No other user has to wait.
            lockouts.forget(lockouts.begin("bob", HERE).unwrap());
            last = wait;
            tokio::time::advance(wait).await;
            lockouts.begin("alice", HERE).unwrap();
        }
        lockouts.begin("alice", THERE).unwrap();
        // After a quiet while, or a right one, it begins anew.
        tokio::time::advance(3 * limits::PASSWORD_WAIT).await;
        lockouts.begin("alice", HERE).unwrap();
        lockouts.begin("alice", HERE).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn rule_11_many_who_guess_together_are_slowed_down_and_lock_nobody_out() {
        let lockouts = Lockouts::new();
        lockouts.forget(lockouts.begin("alice", HERE).unwrap());
        let client = |n: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n));
        let mut n = 0;
        while lockouts.begin("alice", client(n)).is_ok() {
            n += 1;
        }
        assert_eq!(n, limits::PASSWORD_TRIES_ANYWHERE + 1);
        for _ in 0..100 {
            tokio::time::advance(limits::PASSWORD_WAIT_ANYWHERE).await;
            n += 1;
            lockouts.begin("alice", client(n)).unwrap();
            // Where she has logged in before, she does not wait for them.
            lockouts.forget(lockouts.begin("alice", HERE).unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_ever_new_names_are_one_networks_guesses() {
        let lockouts = Lockouts::new();
        lockouts.forget(lockouts.begin("alice", HERE).unwrap());
        let guess = |n: u32| lockouts.begin(&format!("nobody-{n}"), HERE);
        for n in 0..limits::FAILURES {
            guess(n).unwrap();
        }
        let wait = guess(limits::FAILURES).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= limits::FAILURE_FORGIVEN);
        // It delays neither users who have logged in here before, nor clients elsewhere.
        for _ in 0..2 * limits::FAILURES {
            lockouts.forget(lockouts.begin("alice", HERE).unwrap());
        }
        lockouts.begin("bob", THERE).unwrap();
        tokio::time::advance(wait).await;
        guess(limits::FAILURES).unwrap();
        guess(limits::FAILURES + 1).unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_a_right_password_never_counts() {
        let lockouts = Lockouts::new();
        for n in 0..4 * limits::FAILURES {
            let user = format!("user-{n}");
            lockouts.forget(lockouts.begin(&user, HERE).unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_a_flood_of_names_does_not_make_it_forget() {
        let lockouts = Lockouts::new();
        for _ in 0..=limits::PASSWORD_TRIES_ANYWHERE {
            let elsewhere = IpAddr::from(std::net::Ipv6Addr::from_bits(1 << 64));
            let _ = lockouts.begin("victim", elsewhere);
        }
        lockouts.forget(lockouts.begin("alice", HERE).unwrap());
        // A site for each name, as many as can be checked until the longest wait is over.
        for n in 2..limits::PASSWORD_LOCKOUTS / 2 {
            let bits = u128::try_from(n).unwrap() << 80;
            let from = IpAddr::from(std::net::Ipv6Addr::from_bits(bits));
            lockouts.begin(&format!("nobody-{n}"), from).unwrap();
        }
        let elsewhere = IpAddr::from(std::net::Ipv6Addr::from_bits(1 << 64));
        lockouts.begin("victim", elsewhere).unwrap_err();
        let name = lockouts.hasher.hash_one("alice");
        assert!(lockouts.lock().knows(name, HERE));
    }

    #[test]
    fn where_somebody_has_logged_in_is_bounded() {
        let lockouts = Lockouts::new();
        for n in 0..=limits::PASSWORD_NETWORKS {
            let from = IpAddr::from([10, 0, 0, u8::try_from(n).unwrap()]);
            lockouts.forget(lockouts.begin("alice", from).unwrap());
        }
        let name = lockouts.hasher.hash_one("alice");
        let mut state = lockouts.lock();
        assert!(!state.knows(name, IpAddr::from([10, 0, 0, 0])));
        assert!(state.knows(name, IpAddr::from([10, 0, 0, 1])));
    }
}
