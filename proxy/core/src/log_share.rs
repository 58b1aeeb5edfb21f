//! Log lines that others bring about: strangers with refused credentials, users and agents of a cluster. Each has a share, so
//! that a flood fills no disk (security rule 23). Metrics and the audit log have all of it.

use std::net::IpAddr;

use crate::{
    limits,
    rate::{NetworkLimiter, Rate, RateLimiter},
};

/// Bounds the log lines about refusals, of each network and of all together.
#[derive(Debug)]
pub struct NetworkLogShare(NetworkLimiter);

impl Default for NetworkLogShare {
    fn default() -> Self {
        let each = Rate {
            burst: limits::REFUSAL_LINES,
            every: limits::REFUSAL_LINE_EVERY,
            sources: limits::FAILING_CLIENTS,
        };
        let (burst, every) = (limits::REFUSALS_LINES, limits::REFUSALS_LINE_EVERY);
        Self(NetworkLimiter::new(each, burst, every))
    }
}

impl NetworkLogShare {
    /// May there be a line about this client? Gives how many of its networks, or of all, there were not since the last one.
    pub fn take(&self, client: IpAddr) -> Option<u64> {
        self.0.take(client)
    }
}

/// Bounds the log lines about each cluster: calls that it does not answer as it should, or agents that come and go.
#[derive(Debug)]
pub struct ClusterLogShare(RateLimiter<String>);

impl Default for ClusterLogShare {
    fn default() -> Self {
        Self(RateLimiter::new(Rate {
            burst: limits::CLUSTER_LINES,
            every: limits::CLUSTER_LINE_EVERY,
            sources: limits::CLUSTERS_WITH_LINES,
        }))
    }
}

impl ClusterLogShare {
    /// May there be a line about this cluster? Gives how many there were not since the last one, where there were any.
    pub fn take(&self, cluster: &str) -> Option<Option<u64>> {
        let suppressed = self.0.take(cluster.to_owned())?;
        Some((suppressed > 0).then_some(suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rule_23_refused_credentials_of_one_network_do_not_fill_the_log() {
        let share = NetworkLogShare::default();
        let (flood, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let lines = (0..10_000).filter(|_| share.take(flood).is_some()).count();
        assert_eq!(lines, limits::REFUSAL_LINES as usize);
        assert_eq!(share.take(other), Some(0));
        tokio::time::advance(limits::REFUSAL_LINE_EVERY).await;
        let left_out = 10_000 - u64::from(limits::REFUSAL_LINES);
        assert_eq!(share.take(flood), Some(left_out));
        assert_eq!(share.take(flood), None);
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_many_networks_neither_fill_the_log_nor_make_it_forget() {
        let share = NetworkLogShare::default();
        let first = "192.0.2.1".parse().unwrap();
        let lines = (0..1000).filter(|_| share.take(first).is_some()).count();
        assert_eq!(lines, limits::REFUSAL_LINES as usize);
        let from = |n: u32| std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into();
        let flood = |count| {
            (0..count)
                .filter(|n| share.take(from(*n)).is_some())
                .count()
        };
        assert_eq!(flood(100_000), limits::REFUSALS_LINES as usize - lines);
        // A second gives ten lines to all: the first network, which has one of its own back, gets no share anew.
        tokio::time::advance(limits::REFUSAL_LINE_EVERY).await;
        let lines = (0..1000).filter(|_| share.take(first).is_some()).count();
        assert_eq!(lines, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_one_cluster_does_not_fill_the_log() {
        let share = ClusterLogShare::default();
        let lines = (0..10_000).filter(|_| share.take("edge").is_some());
        assert_eq!(lines.count(), limits::CLUSTER_LINES as usize);
        assert_eq!(share.take("far"), Some(None));
        tokio::time::advance(limits::CLUSTER_LINE_EVERY).await;
        let left_out = 10_000 - u64::from(limits::CLUSTER_LINES);
        assert_eq!(share.take("edge"), Some(Some(left_out)));
    }
}
