//! Log lines that strangers bring about: so many of one network, so that a flood of refused credentials fills no disk.

use std::net::IpAddr;

use crate::{
    limits, network_of,
    rate::{Rate, RateLimiter},
};

/// How many log lines each network gets for what it is refused (security rule 23). Metrics count all of it.
#[derive(Debug)]
pub struct LogShare(RateLimiter<IpAddr>);

impl Default for LogShare {
    fn default() -> Self {
        Self(RateLimiter::new(Rate {
            burst: limits::REFUSAL_LINES,
            every: limits::REFUSAL_LINE_EVERY,
            sources: limits::FAILING_CLIENTS,
        }))
    }
}

impl LogShare {
    /// May there be a line about this client? Gives how many of its network there were not since the last one.
    pub fn take(&self, client: IpAddr) -> Option<u64> {
        self.0.take(network_of(client))
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
}
