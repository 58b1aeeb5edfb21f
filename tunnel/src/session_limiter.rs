//! Counts and limits sessions, by the owner of their keys and by agent name.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use crate::acceptor::Share;

/// Why there is no room for another session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NoRoom {
    /// The keys' owner has too many.
    #[error("the agent has {0} sessions already")]
    Agent(usize),
    /// The agents of its name have, with all keys.
    #[error("agents of this name have {0} sessions already: remove those that are not needed")]
    Name(usize),
    /// All agents together have.
    #[error("there are {0} sessions already")]
    All(usize),
}

/// Counts sessions. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct SessionLimiter {
    of_agent: usize,
    of_name: usize,
    of_all: usize,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_owner: HashMap<Arc<str>, usize>,
    by_name: HashMap<Arc<str>, usize>,
}

/// One session's place in the count, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    session_limiter: SessionLimiter,
    owner: Arc<str>,
    name: Arc<str>,
}

impl SessionLimiter {
    /// Counts up to `of_agent` sessions for each owner, `of_name` for each name, and `of_all` in all.
    pub(crate) fn new(of_agent: usize, of_name: usize, of_all: usize) -> Self {
        Self {
            of_agent,
            of_name,
            of_all,
            counts: Arc::default(),
        }
    }

    /// Counts a session of this owner, an agent of this share.
    pub(crate) fn enter(&self, owner: &str, share: &Share) -> Result<Counted, NoRoom> {
        let of_agent = share.of_agent.unwrap_or(self.of_agent);
        let of_name = share.of_name.unwrap_or(self.of_name);
        let name = share.name.as_str();
        let mut counts = self.lock();
        if counts.all >= self.of_all {
            return Err(NoRoom::All(self.of_all));
        }
        if counts
            .by_owner
            .get(owner)
            .is_some_and(|held| *held >= of_agent)
        {
            return Err(NoRoom::Agent(of_agent));
        }
        if counts
            .by_name
            .get(name)
            .is_some_and(|held| *held >= of_name)
        {
            return Err(NoRoom::Name(of_name));
        }
        let name = Arc::<str>::from(name);
        let owner = Arc::<str>::from(owner);
        *counts.by_owner.entry(Arc::clone(&owner)).or_default() += 1;
        *counts.by_name.entry(Arc::clone(&name)).or_default() += 1;
        counts.all += 1;
        Ok(Counted {
            session_limiter: self.clone(),
            owner,
            name,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Nothing under the lock leaves the counts half-changed.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.session_limiter.lock();
        counts.all -= 1;
        give_back(counts.by_owner.entry(Arc::clone(&self.owner)));
        give_back(counts.by_name.entry(Arc::clone(&self.name)));
    }
}

fn give_back<K>(held: Entry<'_, K, usize>) {
    if let Entry::Occupied(mut held) = held {
        *held.get_mut() -= 1;
        if *held.get() == 0 {
            held.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_takes_no_more_than_its_share() {
        let session_limiter = SessionLimiter::new(2, 10, 10);
        let (one, other) = ("1", "2");
        let first = session_limiter.enter(one, &Share::of("one")).unwrap();
        let _second = session_limiter.enter(one, &Share::of("one")).unwrap();
        assert_eq!(
            session_limiter.enter(one, &Share::of("one")).unwrap_err(),
            NoRoom::Agent(2)
        );
        let _another = session_limiter.enter(other, &Share::of("other")).unwrap();
        drop(first);
        assert!(
            session_limiter.enter(one, &Share::of("one")).is_ok(),
            "one has gone"
        );
    }

    #[test]
    fn all_together_take_no_more_than_there_is() {
        let session_limiter = SessionLimiter::new(5, 5, 2);
        let (one, other) = ("1", "2");
        let sessions =
            [one, other].map(|key| session_limiter.enter(key, &Share::of("edge")).unwrap());
        assert_eq!(
            session_limiter
                .enter(other, &Share::of("other"))
                .unwrap_err(),
            NoRoom::All(2)
        );
        drop(sessions);
        assert_eq!(session_limiter.lock().all, 0);
        assert!(
            session_limiter.lock().by_owner.is_empty(),
            "nothing is kept of them"
        );
        assert!(
            session_limiter.lock().by_name.is_empty(),
            "nothing is kept of them"
        );
    }

    #[test]
    fn rule_23_ever_new_keys_of_one_cluster_do_not_take_all_sessions() {
        let session_limiter = SessionLimiter::new(2, 3, 10);
        let enter = |key: u8, name: &str| session_limiter.enter(&key.to_string(), &Share::of(name));
        let held = [1, 2, 3].map(|key| enter(key, "edge").unwrap());
        assert_eq!(enter(4, "edge").unwrap_err(), NoRoom::Name(3));
        let _other = enter(4, "far").unwrap();
        drop(held);
        assert!(enter(4, "edge").is_ok(), "they have gone");
    }

    #[test]
    fn a_share_has_bounds_of_its_own() {
        let session_limiter = SessionLimiter::new(2, 3, 10);
        let nodes = Share::of("edge/node").bounded(1, 5);
        let enter = |key: u8| session_limiter.enter(&key.to_string(), &nodes);
        let held = [1, 2, 3, 4].map(|seed| enter(seed).unwrap());
        assert_eq!(enter(4).unwrap_err(), NoRoom::Agent(1));
        let last = enter(5).unwrap();
        assert_eq!(enter(6).unwrap_err(), NoRoom::Name(5));
        drop((held, last));
    }
}
