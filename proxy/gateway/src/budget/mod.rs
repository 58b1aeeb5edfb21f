//! How much each user and each cluster may have in flight, so that one user's storm leaves others untouched.
//!
//! kube-apiserver's API Priority and Fairness is the model: seats, queues, a bounded wait, 429. It is far simpler
//! here: fairness is by authenticated caller, also where that caller acts as somebody else.
//!
//! - A **request** takes a seat of its user, one of its cluster and one of its user's share there, until its
//!   answer's last byte. Where there is none it waits: users take turns in each cluster, and each one's requests go in
//!   the order they came.
//! - A **stream** (a watch, a log, a shell, a forwarded port) lasts for as long as it likes, so that it must not take a
//!   request's seat. Streams have bounds of their own, and do not wait.
//! - A cluster that **hangs** keeps the seats of its requests. It never has all of a user's, in flight, open or
//!   waiting: the last ones are for clusters where the user has few (`share.rs`).

mod config;
mod queue;
mod state;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

pub use self::{
    config::{BudgetConfig, BudgetConfigError},
    state::Occupancy,
};
use self::{
    queue::Ticket,
    state::{Claim, Entry, State},
};
use underpass_core::{ClusterName, Rejection, limits};

/// The holder of a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeatKind {
    /// It is answered, and done.
    Request,
    /// It lasts: a watch, a log, a shell, a forwarded port.
    Stream,
}

/// The owner of a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    User,
    /// A user's part in that cluster.
    UserInCluster,
    Cluster,
}

/// Why somebody is sent away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    QueueFull,
    WaitedTooLong,
    Streams,
}

/// There is no seat, and none to wait for.
#[derive(Debug)]
struct OverBudget {
    claim: Claim,
    whose: Whose,
    reason: Reason,
    retry_after: Duration,
}

impl OverBudget {
    /// `lasted`: how long it has been like this. The best guess is that it will be for as long again.
    fn new(claim: &Claim, whose: Whose, reason: Reason, lasted: Duration) -> Self {
        let begun = u64::from(lasted.subsec_nanos() > 0);
        let seconds = Duration::from_secs(lasted.as_secs().saturating_add(begun));
        Self {
            claim: claim.clone(),
            whose,
            reason,
            retry_after: seconds.clamp(Duration::from_secs(1), limits::RETRY_LATEST),
        }
    }

    fn count(&self) {
        let budget = match self.whose {
            Whose::User => "user",
            Whose::UserInCluster => "user in cluster",
            Whose::Cluster => "cluster",
        };
        let reason = match self.reason {
            Reason::QueueFull => "queue full",
            Reason::WaitedTooLong => "waited too long",
            Reason::Streams => "too many streams",
        };
        metrics::counter!(
            "underpass_proxy_over_budget_total", "budget" => budget, "reason" => reason
        )
        .increment(1);
    }

    fn into_rejection(self) -> Rejection {
        let Claim { user, cluster, .. } = self.claim;
        Rejection::OverBudget {
            what: match self.reason {
                Reason::QueueFull | Reason::WaitedTooLong => "requests in flight and waiting",
                Reason::Streams => "watches, logs, shells and forwarded ports open",
            },
            whose: match self.whose {
                Whose::User => format!("user {user:?}"),
                Whose::UserInCluster => format!("user {user:?} in cluster \"{cluster}\""),
                Whose::Cluster => format!("cluster \"{cluster}\""),
            },
            retry_after: self.retry_after,
        }
    }
}

/// The seats of all users and clusters. Clones share them; the default has the default bounds.
#[derive(Clone)]
pub struct Budgets(Arc<Shared>);

struct Shared {
    wait: Duration,
    state: Mutex<State>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A step that panicked left numbers, each of which is bounded still.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Budgets {
    fn default() -> Self {
        Self::new(BudgetConfig::default())
    }
}

impl fmt::Debug for Budgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budgets").finish_non_exhaustive()
    }
}

impl Budgets {
    /// All seats free.
    pub fn new(config: BudgetConfig) -> Self {
        Self(Arc::new(Shared {
            wait: config.queue_wait,
            state: Mutex::new(State::new(config)),
        }))
    }

    /// The clusters that have anything in flight or waiting, in no order.
    pub fn occupancy(&self) -> Vec<Occupancy> {
        self.0.lock().occupancy()
    }

    /// Sets the gauges of clusters that have something in flight. Call it when somebody looks, with a recorder that
    /// forgets gauges that are not set: a cluster's name costs nothing then once nobody asks for it.
    pub fn record(&self) {
        for at in self.occupancy() {
            let cluster = at.cluster.as_str();
            for (kind, number) in [("request", at.requests), ("stream", at.streams)] {
                metrics::gauge!(
                    "underpass_proxy_in_flight", "cluster" => cluster.to_owned(), "kind" => kind
                )
                .set(gauge(number));
            }
            metrics::gauge!("underpass_proxy_queued", "cluster" => cluster.to_owned())
                .set(gauge(at.waiting));
        }
    }

    /// Takes a seat, or waits for one. `user` is who really calls, never whom they act as.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the seat in the queue.
    pub(super) async fn seat(
        &self,
        user: &str,
        cluster: &ClusterName,
        kind: SeatKind,
    ) -> Result<Seat, Rejection> {
        let claim = Claim {
            user: user.into(),
            cluster: cluster.clone(),
            kind,
        };
        let entered = self.0.lock().enter(&claim, Instant::now());
        let (ticket, woken) = match entered {
            Ok(Entry::Seated) => (None, None),
            Ok(Entry::Queued(ticket, woken)) => (Some(ticket), Some(woken)),
            Err(over) => return Err(refuse(over)),
        };
        let mut seat = Seat {
            budgets: Arc::clone(&self.0),
            claim,
            waiting: ticket,
        };
        let Some(woken) = woken else {
            return Ok(seat);
        };
        let woken = tokio::time::timeout(self.0.wait, woken).await;
        if !matches!(woken, Ok(Ok(())))
            && let Some(over) = seat.overdue()
        {
            return Err(refuse(over));
        }
        seat.waiting = None;
        Ok(seat)
    }
}

fn refuse(over: OverBudget) -> Rejection {
    over.count();
    over.into_rejection()
}

fn gauge(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::MAX, f64::from)
}

/// A seat, or one in the queue. Dropping it lets the next one in.
pub(super) struct Seat {
    budgets: Arc<Shared>,
    claim: Claim,
    /// Until it is known that the wait is over.
    waiting: Option<Ticket>,
}

impl Seat {
    /// The reason to refuse it, unless its seat has come at the last moment.
    fn overdue(&self) -> Option<OverBudget> {
        let state = self.budgets.lock();
        state.overdue(&self.claim, self.waiting?, Instant::now())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.budgets.lock();
        match self.waiting {
            Some(ticket) => state.abandon(&self.claim, ticket),
            None => state.leave(&self.claim),
        }
    }
}
