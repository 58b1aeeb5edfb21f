//! Agents that are connected, by cluster and role.

use std::collections::{BTreeMap, HashSet};

use underpass_core::AgentRole;
use underpass_tunnel::{PublicKey, Session};

use super::count;
use crate::tunnel::Tunnel;

/// The sessions of one cluster's agents in one role.
#[derive(Debug, Default)]
struct Connected {
    sessions: usize,
    /// An agent may have several sessions: each of its processes has one.
    keys: HashSet<PublicKey>,
}

/// Sets the gauges. Those of a cluster without a session in a role are not there: their number is bounded by that of the sessions,
/// and no cluster that is gone leaves one.
pub(super) fn record(tunnel: &Tunnel) {
    for role in AgentRole::ALL {
        for (cluster, connected) in by_cluster(&tunnel.sessions_in(role)) {
            let labels = [("cluster", cluster), ("role", role.to_string())];
            metrics::gauge!("underpass_agents_connected", &labels).set(count(connected.keys.len()));
            metrics::gauge!("underpass_cluster_sessions", &labels).set(count(connected.sessions));
        }
    }
}

/// Of those sessions that have a transport.
fn by_cluster(sessions: &[Session]) -> BTreeMap<String, Connected> {
    let mut clusters = BTreeMap::<_, Connected>::new();
    for session in sessions {
        if session.transport().is_none() {
            continue;
        }
        let info = session.info();
        let of_cluster = clusters.entry(info.agent.as_str().to_owned()).or_default();
        of_cluster.sessions += 1;
        of_cluster.keys.insert(info.key);
    }
    clusters
}
