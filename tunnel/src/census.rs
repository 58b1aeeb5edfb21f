//! How many sessions there are, and of whom.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use underpass_proto::key::PublicKey;

/// Why there is no room for another session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NoRoom {
    /// The key's owner has too many.
    #[error("the agent has {0} sessions already")]
    Agent(usize),
    /// All agents together have.
    #[error("there are {0} sessions already")]
    All(usize),
}

/// Counts sessions. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Census {
    of_agent: usize,
    of_all: usize,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_key: HashMap<PublicKey, usize>,
}

/// One session's place in the count, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    census: Census,
    key: PublicKey,
}

impl Census {
    /// Counts up to `of_agent` sessions for each key, and `of_all` in all.
    pub(crate) fn new(of_agent: usize, of_all: usize) -> Self {
        Self {
            of_agent,
            of_all,
            counts: Arc::default(),
        }
    }

    /// Counts a session of `key`'s owner.
    pub(crate) fn enter(&self, key: PublicKey) -> Result<Counted, NoRoom> {
        let mut counts = self.lock();
        if counts.all >= self.of_all {
            return Err(NoRoom::All(self.of_all));
        }
        let of_agent = counts.by_key.entry(key).or_default();
        if *of_agent >= self.of_agent {
            return Err(NoRoom::Agent(self.of_agent));
        }
        *of_agent += 1;
        counts.all += 1;
        Ok(Counted {
            census: self.clone(),
            key,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Nothing under the lock leaves the counts half-changed.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.census.lock();
        counts.all -= 1;
        if let Entry::Occupied(mut count) = counts.by_key.entry(self.key) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use underpass_proto::key::AgentKey;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        AgentKey::from_seed([seed; 32]).unwrap().public_key()
    }

    #[test]
    fn an_agent_takes_no_more_than_its_share() {
        let census = Census::new(2, 10);
        let (one, other) = (key(1), key(2));
        let first = census.enter(one).unwrap();
        let _second = census.enter(one).unwrap();
        assert_eq!(census.enter(one).unwrap_err(), NoRoom::Agent(2));
        let _another = census.enter(other).unwrap();
        drop(first);
        assert!(census.enter(one).is_ok(), "one has gone");
    }

    #[test]
    fn all_together_take_no_more_than_there_is() {
        let census = Census::new(5, 2);
        let (one, other) = (key(1), key(2));
        let sessions = [one, other].map(|key| census.enter(key).unwrap());
        assert_eq!(census.enter(other).unwrap_err(), NoRoom::All(2));
        drop(sessions);
        assert_eq!(census.lock().all, 0);
        assert!(census.lock().by_key.is_empty(), "nothing is kept of them");
    }
}
