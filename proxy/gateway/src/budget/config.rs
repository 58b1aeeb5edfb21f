//! How much each may have at the same time.

use std::time::Duration;

use underpass_core::limits;

/// How much a user and a cluster may have in flight.
///
/// A bound that is too low makes callers wait who harm nobody; one that is too high lets one caller fill
/// the tunnel, the agent's connections or the API server. Each user's bounds count what they do in all clusters, each
/// cluster's what all users do there. A cluster that hangs keeps what was sent there: so one cluster gets three quarters of
/// what a user may have at the most, and one user as much of what a cluster may have open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetConfig {
    pub(super) requests_per_user: usize,
    pub(super) requests_per_user_and_cluster: usize,
    pub(super) requests_per_cluster: usize,
    pub(super) streams_per_user: usize,
    pub(super) streams_per_cluster: usize,
    pub(super) queue_per_user: usize,
    pub(super) queue_wait: Duration,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self {
            requests_per_user: limits::REQUESTS_PER_USER,
            requests_per_user_and_cluster: limits::REQUESTS_PER_USER_AND_CLUSTER,
            requests_per_cluster: limits::REQUESTS_PER_CLUSTER,
            streams_per_user: limits::STREAMS_PER_USER,
            streams_per_cluster: limits::STREAMS_PER_CLUSTER,
            queue_per_user: limits::QUEUE_PER_USER,
            queue_wait: limits::QUEUE_WAIT,
        }
    }
}

/// Why a budget cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BudgetConfigError {
    /// Nothing would ever be let through.
    #[error("{0} must be at least 1: with 0 nothing would be let through")]
    Zero(&'static str),
    /// A request that has to wait would be refused at once.
    #[error(
        "a request must be allowed to wait for some time; let none wait to refuse them at once"
    )]
    NoWait,
}

impl BudgetConfig {
    /// Requests of one user in flight, in all clusters; [`limits::REQUESTS_PER_USER`] by default. A user who has more
    /// waits.
    ///
    /// # Errors
    /// It is 0.
    pub fn requests_per_user(mut self, requests: usize) -> Result<Self, BudgetConfigError> {
        self.requests_per_user = positive(requests, "the number of requests per user")?;
        Ok(self)
    }

    /// Requests of one user in flight in one cluster; [`limits::REQUESTS_PER_USER_AND_CLUSTER`] by default. It is how much
    /// of a slow cluster's capacity one user can take, and how much of a user's requests a cluster that hangs.
    ///
    /// # Errors
    /// It is 0.
    pub fn requests_per_user_and_cluster(
        mut self,
        requests: usize,
    ) -> Result<Self, BudgetConfigError> {
        self.requests_per_user_and_cluster =
            positive(requests, "the number of requests per user and cluster")?;
        Ok(self)
    }

    /// Requests in flight in one cluster; [`limits::REQUESTS_PER_CLUSTER`] by default. Beyond it users take turns.
    ///
    /// # Errors
    /// It is 0.
    pub fn requests_per_cluster(mut self, requests: usize) -> Result<Self, BudgetConfigError> {
        self.requests_per_cluster = positive(requests, "the number of requests per cluster")?;
        Ok(self)
    }

    /// Watches, logs, shells and forwarded ports of one user; [`limits::STREAMS_PER_USER`] by default. Beyond it they
    /// are refused at once, since nobody knows when one ends.
    ///
    /// # Errors
    /// It is 0.
    pub fn streams_per_user(mut self, streams: usize) -> Result<Self, BudgetConfigError> {
        self.streams_per_user = positive(streams, "the number of streams per user")?;
        Ok(self)
    }

    /// The same in one cluster; [`limits::STREAMS_PER_CLUSTER`] by default. A tunnel's session takes 4,096 streams,
    /// requests included, even if this allows more.
    ///
    /// # Errors
    /// It is 0.
    pub fn streams_per_cluster(mut self, streams: usize) -> Result<Self, BudgetConfigError> {
        self.streams_per_cluster = positive(streams, "the number of streams per cluster")?;
        Ok(self)
    }

    /// Requests of one user that may wait; [`limits::QUEUE_PER_USER`] by default. With 0 none waits. Each keeps its head
    /// in memory meanwhile.
    #[must_use]
    pub fn queue_per_user(mut self, requests: usize) -> Self {
        self.queue_per_user = requests;
        self
    }

    /// How long a request may wait; [`limits::QUEUE_WAIT`] by default. Callers whose patience is shorter go, and their
    /// requests with them.
    ///
    /// # Errors
    /// It is no time at all.
    pub fn queue_wait(mut self, wait: Duration) -> Result<Self, BudgetConfigError> {
        if wait.is_zero() {
            return Err(BudgetConfigError::NoWait);
        }
        self.queue_wait = wait;
        Ok(self)
    }
}

fn positive(number: usize, what: &'static str) -> Result<usize, BudgetConfigError> {
    match number {
        0 => Err(BudgetConfigError::Zero(what)),
        number => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_stop_everything_is_refused() {
        let config = BudgetConfig::default;
        for refused in [
            config().requests_per_user(0),
            config().requests_per_user_and_cluster(0),
            config().requests_per_cluster(0),
            config().streams_per_user(0),
            config().streams_per_cluster(0),
        ] {
            assert!(matches!(refused, Err(BudgetConfigError::Zero(_))));
        }
        assert_eq!(
            config().queue_wait(Duration::ZERO),
            Err(BudgetConfigError::NoWait)
        );
        assert_eq!(config().queue_per_user(0).queue_per_user, 0);
        assert_eq!(config().requests_per_user(1).unwrap().requests_per_user, 1);
    }

    #[test]
    fn by_default_one_user_leaves_room_for_others() {
        let config = BudgetConfig::default();
        assert!(config.requests_per_user_and_cluster < config.requests_per_user);
        assert!(config.requests_per_user_and_cluster < config.requests_per_cluster);
        assert!(config.streams_per_user < config.streams_per_cluster);
    }
}
