//! Agents that are connected, by cluster and role.

use std::collections::{BTreeMap, HashSet};

use underpass_core::AgentRole;
use underpass_tunnel::Session;

use super::count;
use crate::tunnel::Tunnel;

/// The sessions of one cluster's agents in one role.
#[derive(Debug, Default)]
struct Connected {
    sessions: usize,
    /// Their ids. An agent may have several sessions, as each of its processes has one, and while its key is rotated they have proved
    /// different keys.
    agents: HashSet<String>,
}

/// Sets the gauges. Those of a cluster without a session in a role are not there: their number is bounded by that of the sessions,
/// and no cluster that is gone leaves one.
pub(super) fn record(tunnel: &Tunnel) {
    for role in AgentRole::ALL {
        for (cluster, connected) in by_cluster(&tunnel.sessions_in(role)) {
            let labels = [("cluster", cluster), ("role", role.to_string())];
            metrics::gauge!("underpass_agents_connected", &labels)
                .set(count(connected.agents.len()));
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
        of_cluster.agents.insert(info.owner.clone());
    }
    clusters
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    use underpass_audit::AuditLog;
    use underpass_directory::{Agent, Draft, Expect, Rotation};
    use underpass_tunnel::AgentKey;

    use super::*;
    use crate::tunnel::Keys;
    use crate::tunnel::tests::{ID, directory, session};

    #[tokio::test]
    async fn an_agent_whose_key_is_rotated_counts_once() {
        let [key, next] = [1, 2].map(|seed| move || AgentKey::from_seed([seed; 32]).unwrap());
        let directory = directory(&key()).await;
        let tunnel = Tunnel::new(Arc::clone(&directory), AuditLog::default());
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (_first, accepted) = session(key(), Keys(Arc::clone(&directory))).await;
        tunnel.serve(accepted, here);
        let public = [key(), next()].map(|key| key.public_key().to_string());
        let rotation = Rotation {
            agent: ID,
            key: &public[0],
            next: &public[1],
        };
        let join = |draft: &mut Draft| {
            let mut joined = Agent::clone(&draft.get(ID).unwrap().object);
            joined.join_token = Some("j".to_owned());
            draft.put(ID, joined, Expect::Present)
        };
        directory.change(join).await.unwrap();
        let register = directory.change(|draft| draft.register_next_key(&rotation));
        register.await.unwrap();
        let (_second, accepted) = session(next(), Keys(Arc::clone(&directory))).await;
        tunnel.serve(accepted, here);
        let clusters = by_cluster(&tunnel.sessions_in(AgentRole::Cluster));
        let connected = &clusters["edge"];
        assert_eq!((connected.sessions, connected.agents.len()), (2, 1));
    }
}
