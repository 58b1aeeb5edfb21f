//! Agents that wait for a place, or for a turn among the changes: each that is turned away is told a time of its own to come again.
//! With one wait for all, the nodes of a large cluster come back together, again and again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;
use underpass_core::ClusterName;

use crate::limits;

/// A line for each cluster.
#[derive(Debug)]
pub(super) struct WaitingLine {
    every: Duration,
    /// The last time that was told.
    last: Mutex<HashMap<ClusterName, Instant>>,
}

impl WaitingLine {
    /// One in which an agent's turn comes after each `every`.
    pub(super) fn new(every: Duration) -> Self {
        Self {
            every,
            last: Mutex::default(),
        }
    }

    /// The wait of one more agent of this cluster, of which so many may still join. Agents take a turn as it comes: a place in the line
    /// is no turn, so that an agent which asks often makes others wait for no longer than the line's bounds.
    pub(super) fn join(&self, cluster: &ClusterName, may_join: u32) -> Duration {
        let now = Instant::now();
        let turns = may_join.clamp(1, limits::JOIN_LINE);
        let longest = self.every.saturating_mul(turns);
        let mut lines = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= limits::JOIN_REVIEW_CLUSTERS {
            lines.retain(|_, last| *last > now);
        }
        let last = lines.get(cluster).map_or(now, |last| (*last).max(now));
        let next = last + self.every;
        let wait = next.saturating_duration_since(now);
        if wait > longest || lines.len() >= limits::JOIN_REVIEW_CLUSTERS {
            // Agents asked more than once.
            return longest.mul_f64(rand::rng().random_range(0.0..1.0));
        }
        lines.insert(cluster.clone(), next);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: Duration = Duration::from_secs(1);

    fn cluster(name: &str) -> ClusterName {
        ClusterName::new(name).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn no_two_agents_of_a_large_cluster_are_told_to_come_together() {
        let line = WaitingLine::new(TURN);
        let (edge, far) = (cluster("edge"), cluster("far"));
        for number in 1..=500 {
            assert_eq!(line.join(&edge, 1000), TURN * number);
        }
        assert_eq!(line.join(&far, 1000), TURN, "another cluster's is its own");
        tokio::time::advance(TURN * 499).await;
        assert_eq!(line.join(&edge, 1000), TURN * 2);
        tokio::time::advance(TURN * 1000).await;
        assert_eq!(line.join(&edge, 1000), TURN);
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_an_agent_that_asks_often_makes_the_line_no_longer_than_it_may_be() {
        let line = WaitingLine::new(TURN);
        let edge = cluster("edge");
        let asked = (0..10_000).map(|_| line.join(&edge, 3));
        assert_eq!(asked.max(), Some(TURN * 3));
        let asked = (0..10_000).map(|_| line.join(&edge, u32::MAX));
        assert_eq!(asked.max(), Some(TURN * limits::JOIN_LINE));
        assert_eq!(line.last.lock().unwrap().len(), 1);
    }
}
