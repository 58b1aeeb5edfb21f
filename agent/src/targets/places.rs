//! Places for streams to targets, and each user's share of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use underpass_core::share;

/// Bounds the streams of all users together. No user takes the last places alone (`underpass_core::share`).
#[derive(Clone, Debug)]
pub(super) struct Places {
    all: usize,
    taken: Arc<Mutex<HashMap<Box<str>, usize>>>,
}

/// One place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    user: Box<str>,
}

impl Places {
    pub(super) fn new(all: usize) -> Self {
        Self {
            all,
            taken: Arc::default(),
        }
    }

    pub(super) fn all(&self) -> usize {
        self.all
    }

    /// A place for a stream of this user; `None` where there is none.
    pub(super) fn take(&self, user: &str) -> Option<Place> {
        let mut taken = self.lock();
        // At most as many users as places.
        let all_taken = taken.values().sum();
        let held = taken.get(user).copied().unwrap_or_default();
        if !share::allows(held, all_taken, self.all) {
            return None;
        }
        let user: Box<str> = user.into();
        taken.insert(user.clone(), held.saturating_add(1));
        let places = self.clone();
        Some(Place { places, user })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, usize>> {
        // Nothing under the lock leaves it half-changed.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        match taken.get_mut(&self.user) {
            Some(held) if *held > 1 => *held -= 1,
            _ => drop(taken.remove(&self.user)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_19_one_users_streams_leave_places_for_others() {
        let places = Places::new(32);
        let greedy: Vec<_> = std::iter::from_fn(|| places.take("mallory")).collect();
        assert_eq!(greedy.len(), 24);
        let alice = places.take("alice");
        assert!(alice.is_some() && places.take("mallory").is_none());
        drop(greedy);
        let all: Vec<_> = std::iter::from_fn(|| places.take("mallory")).collect();
        assert_eq!(all.len(), 23);
        drop((alice, all));
        assert!(places.lock().is_empty());
    }

    #[test]
    fn a_few_places_are_for_whoever_comes() {
        let places = Places::new(2);
        let both = [places.take("alice"), places.take("alice")];
        assert!(both.iter().all(Option::is_some));
        assert!(places.take("bob").is_none());
    }
}
