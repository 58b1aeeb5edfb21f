//! Log lines that strangers bring about: so many of one network, so that a flood of refused credentials fills no disk.

use std::net::IpAddr;

use crate::{
    limits,
    rate::{NetworkLimiter, Rate},
};

/// Bounds the log lines about refusals, of each network and of all together (security rule 23). Metrics count all of them.
#[derive(Debug)]
pub struct LogShare(NetworkLimiter);

impl Default for LogShare {
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

impl LogShare {
    /// May there be a line about this client? Gives how many of its networks, or of all, there were not since the last one.
    pub fn take(&self, client: IpAddr) -> Option<u64> {
        self.0.take(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rule_23_refused_credentials_of_one_network_do_not_fill_the_log() {
        let share = LogShare::default();
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
        let share = LogShare::default();
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
}
