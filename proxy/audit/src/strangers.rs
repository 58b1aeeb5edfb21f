//! Events of callers without an identity (security rule 23): any client can cause as many as it likes, so that they have a sink
//! of their own, of which each network has a share. They never wait, and nothing waits for them.

use std::net::IpAddr;

use super::{Backend, BackendConfig, Full};
use underpass_core::{
    limits,
    rate::{NetworkLimiter, Rate},
};

/// Bounds the events of strangers.
#[derive(Debug)]
pub(super) struct Strangers {
    /// Where their events go; without, nowhere.
    pub(super) backend: Option<Backend>,
    /// All networks together have a bound, too: a botnet has a share for each.
    networks: NetworkLimiter,
}

impl Default for Strangers {
    fn default() -> Self {
        let each = Rate {
            burst: limits::STRANGER_EVENTS,
            every: limits::STRANGER_EVENT_EVERY,
            sources: limits::STRANGER_NETWORKS,
        };
        let (burst, every) = (limits::STRANGERS_EVENTS, limits::STRANGERS_EVENT_EVERY);
        Self {
            backend: None,
            networks: NetworkLimiter::new(each, burst, every),
        }
    }
}

impl Strangers {
    pub(super) fn to(backend: Backend) -> Self {
        Self {
            backend: Some(backend),
            ..Self::default()
        }
    }

    /// How a backend for events of strangers behaves: it drops events when it is full.
    pub(super) fn config() -> BackendConfig {
        BackendConfig {
            capacity: limits::STRANGER_QUEUE,
            full: Full::Drop,
            ..BackendConfig::default()
        }
    }

    /// May one more event of this client be told? With how many were not before.
    pub(super) fn admit(&self, client: IpAddr) -> Option<u64> {
        let admitted = self.networks.take(client);
        if admitted.is_none() {
            metrics::counter!("underpass_audit_suppressed_total", "of" => "strangers").increment(1);
        }
        admitted
    }
}
