//! Those who wait at one cluster: users take turns, and each one's requests keep their order.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use tokio::{sync::oneshot, time::Instant};

/// Tells requests that wait from each other; a smaller one is older.
pub(super) type Ticket = u64;

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) since: Instant,
    pub(super) wake: oneshot::Sender<()>,
}

/// A waiter that has left the queue.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) waiter: Waiter,
    /// It was the last one of its user.
    pub(super) last: bool,
}

/// A queue at a cluster.
#[derive(Debug, Default)]
pub(super) struct Queue {
    queues: HashMap<Arc<str>, BTreeMap<Ticket, Waiter>>,
    /// Those who have a queue.
    turns: VecDeque<Arc<str>>,
    waiting: usize,
}

impl Queue {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// How many of a user wait.
    pub(super) fn of(&self, user: &Arc<str>) -> usize {
        self.queues.get(user).map_or(0, BTreeMap::len)
    }

    /// Adds a waiter; true if it is the only one of its user.
    pub(super) fn join(&mut self, user: &Arc<str>, ticket: Ticket, waiter: Waiter) -> bool {
        let queue = self.queues.entry(Arc::clone(user)).or_default();
        let first = queue.is_empty();
        if first {
            self.turns.push_back(Arc::clone(user));
        }
        queue.insert(ticket, waiter);
        self.waiting = self.waiting.saturating_add(1);
        first
    }

    /// Users in the order of their turns.
    pub(super) fn turns(&self) -> impl Iterator<Item = &Arc<str>> {
        self.turns.iter()
    }

    /// The oldest request of a user.
    pub(super) fn oldest(&self, user: &Arc<str>) -> Option<(Ticket, &Waiter)> {
        let (ticket, waiter) = self.queues.get(user)?.first_key_value()?;
        Some((*ticket, waiter))
    }

    /// That request of a user.
    pub(super) fn waiter(&self, user: &Arc<str>, ticket: Ticket) -> Option<&Waiter> {
        self.queues.get(user)?.get(&ticket)
    }

    /// Takes the oldest request of a user out: it is served, and the user is behind the others now.
    pub(super) fn serve(&mut self, user: &Arc<str>) -> Option<Taken> {
        let (ticket, _) = self.oldest(user)?;
        let taken = self.remove(user, ticket)?;
        if !taken.last {
            self.leave_turns(user);
            self.turns.push_back(Arc::clone(user));
        }
        Some(taken)
    }

    /// Takes that request of a user out.
    pub(super) fn remove(&mut self, user: &Arc<str>, ticket: Ticket) -> Option<Taken> {
        let queue = self.queues.get_mut(user)?;
        let waiter = queue.remove(&ticket)?;
        let last = queue.is_empty();
        self.waiting = self.waiting.saturating_sub(1);
        if last {
            self.queues.remove(user);
            self.leave_turns(user);
        }
        Some(Taken { waiter, last })
    }

    fn leave_turns(&mut self, user: &Arc<str>) {
        self.turns.retain(|turn| turn != user);
    }
}

#[cfg(test)]
impl Queue {
    /// The invariants.
    pub(super) fn check(&self) {
        assert_eq!(self.turns.len(), self.queues.len());
        assert!(self.turns.iter().all(|user| self.of(user) > 0));
        let queued = self.queues.values().map(BTreeMap::len);
        assert_eq!(queued.sum::<usize>(), self.waiting);
    }
}
