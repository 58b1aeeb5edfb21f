//! Which agents are let in.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use underpass_core::{AgentRole, ClusterName};
use underpass_directory::Directory;
use underpass_tunnel::{Admission, AgentName, Denied, Proven, Share};

use crate::limits;

/// Lets agents in by their keys.
pub(crate) struct Keys(pub(crate) Arc<Directory>);

impl Admission for Keys {
    fn admit<'a>(&'a self, proven: &'a Proven) -> BoxFuture<'a, Result<AgentName, Denied>> {
        let snapshot = self.0.snapshot();
        let cluster = snapshot.cluster_of_agent(&proven.key.to_string());
        let named = |cluster: &ClusterName| Ok(cluster.as_str().try_into()?);
        ready(cluster.map_or_else(|| Err(Denied::unknown_key()), named)).boxed()
    }

    /// A cluster has many nodes, and one of them may be captured: they leave the cluster's agents sessions of their own.
    fn share(&self, proven: &Proven, agent: &AgentName) -> Share {
        let snapshot = self.0.snapshot();
        let found = snapshot.agent_with_key(&proven.key.to_string());
        match found.map(|(_, agent)| agent.role) {
            Some(AgentRole::Node) => Share::of(format!("{}/node", agent.as_str()))
                .bounded(limits::SESSIONS_OF_NODE, limits::SESSIONS_OF_NODES),
            Some(AgentRole::Cluster) | None => Share::of(agent.as_str()),
        }
    }
}
