//! Events of callers without an identity (security rule 23): anybody can make as many as they like, so that they
//! have a sink of their own, of which each network has a share. They never wait, and nothing waits for them.

use std::net::IpAddr;

use super::{Full, Outlet, OutletConfig};
use underpass_core::{
    limits, network_of,
    rate::{Rate, RateLimiter},
};

/// What is told of strangers, here and in log lines.
#[derive(Debug)]
pub(super) struct Strangers {
    /// Where their events go; without, nowhere.
    pub(super) outlet: Option<Outlet>,
    networks: RateLimiter<IpAddr>,
    /// All networks together: a botnet has a share for each.
    all: RateLimiter<()>,
}

impl Default for Strangers {
    fn default() -> Self {
        Self {
            outlet: None,
            networks: RateLimiter::new(Rate {
                burst: limits::STRANGER_EVENTS,
                every: limits::STRANGER_EVENT_EVERY,
                sources: limits::STRANGER_NETWORKS,
            }),
            all: RateLimiter::new(Rate {
                burst: limits::STRANGERS_EVENTS,
                every: limits::STRANGERS_EVENT_EVERY,
                sources: 1,
            }),
        }
    }
}

impl Strangers {
    pub(super) fn to(outlet: Outlet) -> Self {
        Self {
            outlet: Some(outlet),
            ..Self::default()
        }
    }

    /// How an outlet for events of strangers behaves: it drops what it has no room for.
    pub(super) fn config() -> OutletConfig {
        OutletConfig {
            capacity: limits::STRANGER_QUEUE,
            full: Full::Drop,
            ..OutletConfig::default()
        }
    }

    /// May one more event of this client be told? With how many were not before.
    pub(super) fn admit(&self, client: IpAddr) -> Option<u64> {
        let admitted = self
            .networks
            .take(network_of(client))
            .and_then(|before| Some(before.saturating_add(self.all.take(())?)));
        if admitted.is_none() {
            metrics::counter!("underpass_audit_suppressed_total", "of" => "strangers").increment(1);
        }
        admitted
    }
}
