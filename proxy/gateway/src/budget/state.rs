//! Everything in flight, and everything that waits. Time is an argument.
//!
//! A request needs a seat of its user, one of its cluster, and one of the two together. Nobody waits while all are free:
//! a seat that comes back goes in the same step to a request that it makes room for. So a newcomer with room overtakes nobody.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::{
    BudgetConfig, OverBudget, Reason, SeatKind, Whose,
    queue::{Queue, Taken, Ticket, Waiter},
};
use underpass_core::{ClusterName, share};

/// A seat's owner and kind.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) user: Arc<str>,
    pub(super) cluster: ClusterName,
    pub(super) kind: SeatKind,
}

/// The outcome of a claim.
#[derive(Debug)]
pub(super) enum Entry {
    /// It has its seat.
    Seated,
    /// It has its seat once the receiver says so.
    Queued(Ticket, oneshot::Receiver<()>),
}

/// A cluster's requests and streams at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Occupancy {
    /// The cluster.
    pub cluster: ClusterName,
    /// Requests in flight.
    pub requests: usize,
    /// Watches, logs, shells and forwarded ports.
    pub streams: usize,
    /// Requests that wait for a seat.
    pub waiting: usize,
}

/// Everything in flight and everything that waits. Others have no entry.
#[derive(Debug)]
pub(super) struct State {
    config: BudgetConfig,
    users: HashMap<Arc<str>, User>,
    clusters: HashMap<ClusterName, Cluster>,
    next: Ticket,
}

#[derive(Debug, Default)]
struct User {
    in_flight: InFlight,
    waiting: usize,
    /// Where.
    waits_for: Vec<ClusterName>,
}

#[derive(Debug, Default)]
struct Cluster {
    in_flight: InFlight,
    /// The same by user, of those who have anything.
    of_users: HashMap<Arc<str>, InFlight>,
    queue: Queue,
}

impl Cluster {
    fn of(&self, user: &Arc<str>) -> Option<&InFlight> {
        self.of_users.get(user)
    }

    fn of_mut(&mut self, user: &Arc<str>) -> &mut InFlight {
        self.of_users.entry(Arc::clone(user)).or_default()
    }

    fn end(&mut self, claim: &Claim) {
        self.in_flight.end(claim.kind);
        if let Some(of_user) = self.of_users.get_mut(&claim.user) {
            of_user.end(claim.kind);
            if of_user.is_empty() {
                self.of_users.remove(&claim.user);
            }
        }
    }
}

#[derive(Debug, Default)]
struct InFlight {
    requests: usize,
    streams: usize,
    /// Since when there has been no room for one more stream.
    full_since: Option<Instant>,
}

impl InFlight {
    fn begin_stream(&mut self, bound: usize, now: Instant) {
        self.streams = self.streams.saturating_add(1);
        if self.streams >= bound {
            self.full_since = Some(now);
        }
    }

    fn end(&mut self, kind: SeatKind) {
        match kind {
            SeatKind::Request => self.requests = self.requests.saturating_sub(1),
            SeatKind::Stream => {
                self.streams = self.streams.saturating_sub(1);
                self.full_since = None;
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.requests == 0 && self.streams == 0
    }
}

impl State {
    pub(super) fn new(config: BudgetConfig) -> Self {
        Self {
            config,
            users: HashMap::new(),
            clusters: HashMap::new(),
            next: 0,
        }
    }

    /// Takes a seat, or a seat in the queue.
    pub(super) fn enter(&mut self, claim: &Claim, now: Instant) -> Result<Entry, OverBudget> {
        match claim.kind {
            SeatKind::Stream => self.begin_stream(claim, now),
            SeatKind::Request => match self.full(&claim.user, &claim.cluster) {
                Some(whose) => self.enqueue(claim, whose, now),
                None => {
                    self.begin_request(claim);
                    Ok(Entry::Seated)
                }
            },
        }
    }

    /// A seat comes back.
    pub(super) fn leave(&mut self, claim: &Claim) {
        if let Some(user) = self.users.get_mut(&claim.user) {
            user.in_flight.end(claim.kind);
        }
        if let Some(cluster) = self.clusters.get_mut(&claim.cluster) {
            cluster.end(claim);
        }
        if claim.kind == SeatKind::Request {
            self.advance(&claim.user, &claim.cluster);
        }
        self.forget(claim);
    }

    /// A waiter has gone. Its seat, if it was given just before, comes back.
    pub(super) fn abandon(&mut self, claim: &Claim, ticket: Ticket) {
        let queue = self.queue(&claim.cluster);
        match queue.and_then(|queue| queue.remove(&claim.user, ticket)) {
            Some(taken) => {
                self.gone(&claim.user, &claim.cluster, &taken);
                self.forget(claim);
            }
            None => self.leave(claim),
        }
    }

    /// The budget that keeps a claim waiting; `None` if it has its seat by now.
    pub(super) fn overdue(
        &self,
        claim: &Claim,
        ticket: Ticket,
        now: Instant,
    ) -> Option<OverBudget> {
        let queue = &self.clusters.get(&claim.cluster)?.queue;
        let waiter = queue.waiter(&claim.user, ticket)?;
        let waited = now.saturating_duration_since(waiter.since);
        let whose = self.full(&claim.user, &claim.cluster);
        let whose = whose.unwrap_or(Whose::Cluster);
        Some(OverBudget::new(claim, whose, Reason::WaitedTooLong, waited))
    }

    pub(super) fn occupancy(&self) -> Vec<Occupancy> {
        let clusters = self.clusters.iter();
        let occupancy = clusters.map(|(name, cluster)| Occupancy {
            cluster: name.clone(),
            requests: cluster.in_flight.requests,
            streams: cluster.in_flight.streams,
            waiting: cluster.queue.len(),
        });
        occupancy.collect()
    }

    fn begin_stream(&mut self, claim: &Claim, now: Instant) -> Result<Entry, OverBudget> {
        let (of_user, of_cluster) = (
            self.config.streams_per_user,
            self.config.streams_per_cluster,
        );
        let user = self.users.get(&claim.user).map(|user| &user.in_flight);
        let cluster = self.clusters.get(&claim.cluster);
        let cluster = cluster.map(|cluster| &cluster.in_flight);
        for (whose, in_flight, bound) in [
            (Whose::User, user, of_user),
            (Whose::Cluster, cluster, of_cluster),
        ] {
            let Some(full) = in_flight.filter(|in_flight| in_flight.streams >= bound) else {
                continue;
            };
            // The end of a stream is unknown. A budget full for so long is likely to stay so for as long again.
            let since = full.full_since.unwrap_or(now);
            let full_for = now.saturating_duration_since(since);
            return Err(OverBudget::new(claim, whose, Reason::Streams, full_for));
        }
        self.share_of_streams(claim, now)?;
        let user = self.users.entry(Arc::clone(&claim.user)).or_default();
        user.in_flight.begin_stream(of_user, now);
        let cluster = self.clusters.entry(claim.cluster.clone()).or_default();
        cluster.in_flight.begin_stream(of_cluster, now);
        cluster
            .of_mut(&claim.user)
            .begin_stream(of_cluster.min(of_user), now);
        Ok(Entry::Seated)
    }

    /// Something is left of the user's streams for other clusters, and of the cluster's for other users.
    fn share_of_streams(&mut self, claim: &Claim, now: Instant) -> Result<(), OverBudget> {
        let streams = |in_flight: Option<&InFlight>| in_flight.map_or(0, |all| all.streams);
        let user = streams(self.users.get(&claim.user).map(|user| &user.in_flight));
        let Some(cluster) = self.clusters.get_mut(&claim.cluster) else {
            return Ok(());
        };
        let (all, held) = (cluster.in_flight.streams, streams(cluster.of(&claim.user)));
        if share::allows(held, user, self.config.streams_per_user)
            && share::allows(held, all, self.config.streams_per_cluster)
        {
            return Ok(());
        }
        let since = cluster.of_mut(&claim.user).full_since.get_or_insert(now);
        let full_for = now.saturating_duration_since(*since);
        let whose = Whose::UserInCluster;
        Err(OverBudget::new(claim, whose, Reason::Streams, full_for))
    }

    fn begin_request(&mut self, claim: &Claim) {
        let user = self.users.entry(Arc::clone(&claim.user)).or_default();
        user.in_flight.requests = user.in_flight.requests.saturating_add(1);
        let cluster = self.clusters.entry(claim.cluster.clone()).or_default();
        cluster.in_flight.requests = cluster.in_flight.requests.saturating_add(1);
        let here = cluster.of_mut(&claim.user);
        here.requests = here.requests.saturating_add(1);
    }

    fn enqueue(&mut self, claim: &Claim, whose: Whose, now: Instant) -> Result<Entry, OverBudget> {
        let waiting = self.users.get(&claim.user).map_or(0, |user| user.waiting);
        let here = self.clusters.get(&claim.cluster);
        let here = here.map_or(0, |at| at.queue.of(&claim.user));
        if !share::allows(here, waiting, self.config.queue_per_user) {
            // So long did it take the one at the head to get there.
            let waited = self
                .waits_since(&claim.user)
                .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
            return Err(OverBudget::new(claim, whose, Reason::QueueFull, waited));
        }
        let ticket = self.next;
        self.next = self.next.wrapping_add(1);
        let (wake, woken) = oneshot::channel();
        let user = self.users.entry(Arc::clone(&claim.user)).or_default();
        let cluster = self.clusters.entry(claim.cluster.clone()).or_default();
        user.waiting = user.waiting.saturating_add(1);
        let waiter = Waiter { since: now, wake };
        if cluster.queue.join(&claim.user, ticket, waiter) {
            user.waits_for.push(claim.cluster.clone());
        }
        Ok(Entry::Queued(ticket, woken))
    }

    /// Hands out what a seat that came back makes room for.
    fn advance(&mut self, user: &Arc<str>, cluster: &ClusterName) {
        while let Some(next) = self.next_turn(cluster) {
            // Somebody's turn is for the oldest of theirs that can go, which may be in another cluster.
            let at = if next == *user {
                self.oldest(user)
            } else {
                None
            };
            self.promote(&next, at.as_ref().unwrap_or(cluster));
        }
        while let Some(elsewhere) = self.oldest(user) {
            self.promote(user, &elsewhere);
        }
    }

    /// The next user in a cluster with room: the first in turn whose own budget allows it.
    fn next_turn(&self, cluster: &ClusterName) -> Option<Arc<str>> {
        if self.cluster_is_full(cluster) {
            return None;
        }
        let mut turns = self.clusters.get(cluster)?.queue.turns();
        turns
            .find(|user| self.full(user, cluster).is_none())
            .cloned()
    }

    /// Where the oldest request of a user is that can go now.
    fn oldest(&self, user: &Arc<str>) -> Option<ClusterName> {
        let clusters = self.users.get(user)?.waits_for.iter();
        let with_room = clusters.filter(|cluster| self.full(user, cluster).is_none());
        let heads = with_room.filter_map(|cluster| {
            let (ticket, _) = self.clusters.get(cluster)?.queue.oldest(user)?;
            Some((ticket, cluster))
        });
        heads.min().map(|(_, cluster)| cluster.clone())
    }

    /// Since when the oldest request of a user has been waiting.
    fn waits_since(&self, user: &Arc<str>) -> Option<Instant> {
        let clusters = self.users.get(user)?.waits_for.iter();
        let heads = clusters.filter_map(|cluster| {
            let (_, waiter) = self.clusters.get(cluster)?.queue.oldest(user)?;
            Some(waiter.since)
        });
        heads.min()
    }

    /// Gives a seat to the oldest request of a user in a cluster.
    fn promote(&mut self, user: &Arc<str>, cluster: &ClusterName) {
        let queue = self.queue(cluster);
        let Some(taken) = queue.and_then(|queue| queue.serve(user)) else {
            return;
        };
        self.gone(user, cluster, &taken);
        self.begin_request(&Claim {
            user: Arc::clone(user),
            cluster: cluster.clone(),
            kind: SeatKind::Request,
        });
        // Nobody may be there any more. Then they are about to abandon what they have got.
        let _ = taken.waiter.wake.send(());
    }

    fn queue(&mut self, cluster: &ClusterName) -> Option<&mut Queue> {
        Some(&mut self.clusters.get_mut(cluster)?.queue)
    }

    /// One of a user has left a cluster's queue.
    fn gone(&mut self, user: &Arc<str>, cluster: &ClusterName, taken: &Taken) {
        if let Some(user) = self.users.get_mut(user) {
            user.waiting = user.waiting.saturating_sub(1);
            if taken.last {
                user.waits_for.retain(|at| at != cluster);
            }
        }
    }

    /// The bound that keeps a user from one more request in a cluster.
    fn full(&self, user: &Arc<str>, cluster: &ClusterName) -> Option<Whose> {
        let requests = |all: &InFlight| all.requests;
        let all = self.users.get(user);
        let all = all.map_or(0, |user| requests(&user.in_flight));
        let here = self.clusters.get(cluster).and_then(|at| at.of(user));
        let here = here.map_or(0, requests);
        if all >= self.config.requests_per_user {
            return Some(Whose::User);
        }
        let share = share::allows(here, all, self.config.requests_per_user);
        if !share || here >= self.config.requests_per_user_and_cluster {
            return Some(Whose::UserInCluster);
        }
        let in_cluster = self.clusters.get(cluster);
        let in_cluster = in_cluster.map_or(0, |at| requests(&at.in_flight));
        // A few users whose clients do not read leave seats to the others.
        let has_room = share::allows(here, in_cluster, self.config.requests_per_cluster);
        (!has_room).then_some(Whose::Cluster)
    }

    fn cluster_is_full(&self, cluster: &ClusterName) -> bool {
        let cluster = self.clusters.get(cluster);
        cluster.is_some_and(|at| at.in_flight.requests >= self.config.requests_per_cluster)
    }

    fn forget(&mut self, claim: &Claim) {
        let user = self.users.get(&claim.user);
        if user.is_some_and(|user| user.in_flight.is_empty() && user.waiting == 0) {
            self.users.remove(&claim.user);
        }
        let cluster = self.clusters.get(&claim.cluster);
        if cluster.is_some_and(|at| at.in_flight.is_empty() && at.queue.len() == 0) {
            self.clusters.remove(&claim.cluster);
        }
    }
}

#[cfg(test)]
impl State {
    /// Nobody has anything.
    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.clusters.is_empty()
    }

    /// The invariants between two steps.
    pub(super) fn check(&self) {
        let config = &self.config;
        for (name, user) in &self.users {
            assert!(user.in_flight.requests <= config.requests_per_user);
            assert!(user.in_flight.streams <= config.streams_per_user);
            assert!(user.waiting <= config.queue_per_user);
            assert!(!user.in_flight.is_empty() || user.waiting > 0, "{name}");
            let queues = user.waits_for.iter();
            let queued = queues.map(|cluster| self.clusters[cluster].queue.of(name));
            assert_eq!(queued.sum::<usize>(), user.waiting);
        }
        for (name, cluster) in &self.clusters {
            assert!(cluster.in_flight.requests <= config.requests_per_cluster);
            assert!(cluster.in_flight.streams <= config.streams_per_cluster);
            assert!(
                !cluster.in_flight.is_empty() || cluster.queue.len() > 0,
                "{name}"
            );
            cluster.queue.check();
            for of_user in cluster.of_users.values() {
                assert!(of_user.requests <= config.requests_per_user_and_cluster);
                assert!(!of_user.is_empty(), "{name}");
            }
            let streams = cluster.of_users.values().map(|user| user.streams);
            assert_eq!(streams.sum::<usize>(), cluster.in_flight.streams);
            let requests = cluster.of_users.values().map(|user| user.requests);
            assert_eq!(requests.sum::<usize>(), cluster.in_flight.requests);
            assert_eq!(self.next_turn(name), None, "somebody waits for nothing");
        }
        let requests = |all: Vec<&InFlight>| all.iter().map(|all| all.requests).sum::<usize>();
        let of_users = self.users.values().map(|user| &user.in_flight).collect();
        let of_clusters = self.clusters.values().map(|at| &at.in_flight).collect();
        assert_eq!(requests(of_users), requests(of_clusters));
    }
}
