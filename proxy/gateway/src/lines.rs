//! Log lines about clusters that do not answer as they should. Anybody with a role there brings them about with each call, so that
//! each cluster has a share (security rule 23). The audit log has every call.

use underpass_core::{
    ClusterName, limits,
    rate::{Rate, RateLimiter},
};

/// How many lines each cluster gets.
#[derive(Debug)]
pub(crate) struct ClusterLines(RateLimiter<ClusterName>);

impl Default for ClusterLines {
    fn default() -> Self {
        Self(RateLimiter::new(Rate {
            burst: limits::CLUSTER_LINES,
            every: limits::CLUSTER_LINE_EVERY,
            sources: limits::CLUSTERS_WITH_LINES,
        }))
    }
}

impl ClusterLines {
    /// May there be a line about this cluster? Gives how many there were not since the last one, where there were any.
    pub(crate) fn take(&self, cluster: &ClusterName) -> Option<Option<u64>> {
        let suppressed = self.0.take(cluster.clone())?;
        Some((suppressed > 0).then_some(suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rule_23_calls_to_a_cluster_that_is_away_do_not_fill_the_log() {
        let lines = ClusterLines::default();
        let (away, other) = ("away", "other");
        let name = |name: &str| ClusterName::new(name).unwrap();
        let told = (0..10_000).filter(|_| lines.take(&name(away)).is_some());
        assert_eq!(told.count(), limits::CLUSTER_LINES as usize);
        assert_eq!(lines.take(&name(other)), Some(None));
        tokio::time::advance(limits::CLUSTER_LINE_EVERY).await;
        let left_out = 10_000 - u64::from(limits::CLUSTER_LINES);
        assert_eq!(lines.take(&name(away)), Some(Some(left_out)));
    }
}
