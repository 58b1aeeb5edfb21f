//! The sessions as the API shows them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use underpass_core::{AgentRole, ClusterName, Through};
use underpass_tunnel::{Registry, Session};

use super::{Tunnel, is_there, likeliest_first, may_stand_in, through};
use crate::api::Connected;
use crate::shells::Keepers;

impl Connected for Tunnel {
    fn serving(&self, cluster: &ClusterName) -> usize {
        self.connected(cluster)
    }

    fn served_by(&self, cluster: &ClusterName) -> BTreeSet<Through> {
        let snapshot = self.directory.snapshot();
        let of = |registry: &Registry| {
            let sessions = registry.sessions().into_iter();
            sessions.filter(|session| session.info().agent == cluster.as_str())
        };
        let agents = |sessions: Vec<Session>| -> BTreeSet<_> {
            let agents = sessions.iter();
            agents
                .filter_map(|session| through(session, &snapshot))
                .collect()
        };
        let (there, away): (Vec<_>, Vec<_>) = of(&self.registry).partition(is_there);
        if !there.is_empty() {
            return agents(there);
        }
        // Calls take a node before an agent that may never come back.
        let mut nodes = of(&self.nodes).collect::<Vec<_>>();
        nodes.retain(|session| self.stand_ins.serves(session));
        if may_stand_in(cluster, &snapshot) && !nodes.is_empty() {
            return agents(nodes);
        }
        let registrations = self.registrations.as_ref();
        match registrations.and_then(|known| known.clusters.through(cluster)) {
            Some(registered) => BTreeSet::from([registered]),
            None => agents(away),
        }
    }

    fn by_agent(&self) -> HashMap<String, usize> {
        let mut by_agent = HashMap::<_, usize>::new();
        for session in self.sessions() {
            *by_agent.entry(session.info().owner.clone()).or_default() += 1;
        }
        by_agent
    }

    fn of_agent(&self, id: &str) -> Vec<Session> {
        let mut sessions = self.sessions();
        sessions.retain(|session| session.info().owner == id && session.is_open());
        likeliest_first(&mut sessions);
        sessions
    }

    fn keepers(&self) -> Arc<Keepers> {
        Arc::clone(&self.keepers)
    }

    fn in_role(&self, role: AgentRole) -> Vec<Session> {
        self.sessions_in(role)
    }
}
