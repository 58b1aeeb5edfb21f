//! Agents that join by a ServiceAccount of their cluster: the cluster has vouched for the pod, and the directory names the account.

use super::{
    draft::{Draft, Expect},
    error::ChangeError,
    object::{Agent, Cluster, JoinedPod},
};
use underpass_core::service_account::Account;
use underpass_core::{AgentRole, ClusterName, NodeName, limits};

/// A pod that asks to join. Its cluster has vouched for all of it but the key, of which the pod has proven that it holds it.
#[derive(Clone, Copy)]
pub struct PodJoining<'a> {
    /// Its cluster.
    pub cluster: &'a ClusterName,
    /// Its ServiceAccount.
    pub account: &'a Account,
    /// Its uid.
    pub uid: &'a str,
    /// The node that it runs on.
    pub node: Option<&'a NodeName>,
    /// Its public key, as the tunnel writes it.
    pub key: &'a str,
    /// The role that it wants, where it says so.
    pub role: Option<AgentRole>,
}

/// A pod that has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodJoined {
    /// The agent's id.
    pub agent: String,
    /// Its role.
    pub role: AgentRole,
    /// It was registered now, and not before.
    pub is_new: bool,
}

/// Why a pod does not join.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PodJoinError {
    /// The cluster does not let this ServiceAccount's pods join, or there is no such cluster.
    #[error("pods of the ServiceAccount {account} may not join cluster {cluster}")]
    NotNamed {
        /// The account.
        account: Account,
        /// The cluster.
        cluster: ClusterName,
    },
    /// The pod wants a role that its account does not give.
    #[error("pods of this ServiceAccount join in the role {given}, and this one asks for {wanted}")]
    OtherRole {
        /// The account's.
        given: AgentRole,
        /// The agent's wish.
        wanted: AgentRole,
    },
    /// An agent on a node needs to be on one.
    #[error(
        "the cluster does not say on which node the pod runs, which it does from Kubernetes 1.30 on"
    )]
    NoNode,
    /// The pod has joined before, with another key.
    #[error("the pod has joined with another key, as agent {agent:?}")]
    PodHasKey {
        /// The agent's id.
        agent: String,
    },
    /// The key is an agent's of another cluster.
    #[error(
        "the agent's key belongs to another cluster; an agent of this cluster needs a key of its own"
    )]
    KeyOfAnotherCluster,
    /// The key is known in this cluster already, not by this account.
    #[error("the agent's key is registered already, as agent {agent:?}")]
    KeyKnown {
        /// The agent's id.
        agent: String,
    },
    /// The directory does not take it.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl Draft {
    /// Registers a pod's key. A pod has one key, and a key that is registered moves to another pod of its account, with its volume. A
    /// new key removes others of the account with which no agent is connected: all of the pod's node, and in the role `cluster` those
    /// beyond [`limits::AGENTS_PER_ACCOUNT`].
    ///
    /// # Errors
    /// The directory or the role does not allow it, or the key is another agent's. Nothing has changed then.
    pub fn register_pod(
        &mut self,
        joining: &PodJoining<'_>,
        is_connected: impl Fn(&str) -> bool,
    ) -> Result<PodJoined, PodJoinError> {
        let role = self.role_of(joining)?;
        if role == AgentRole::Node && joining.node.is_none() {
            return Err(PodJoinError::NoNode);
        }
        let pod = JoinedPod {
            account: joining.account.clone(),
            uid: joining.uid.to_owned(),
        };
        let node = joining.node.cloned();
        let mut of_account = self.of_account(joining);
        let has_key = of_account
            .find(|(_, agent)| agent.pod.as_ref() == Some(&pod) && agent.key != joining.key);
        if let Some((agent, _)) = has_key {
            let agent = agent.clone();
            return Err(PodJoinError::PodHasKey { agent });
        }
        drop(of_account);
        let known = self.before().agent_with_key(joining.key);
        if let Some((agent, object)) = known {
            let (agent, object) = (agent.to_owned(), object.clone());
            return self.again(agent, object, role, pod, node, joining.cluster);
        }
        self.make_room_for(joining, role, is_connected)?;
        let agent = Agent {
            role,
            pod: Some(pod),
            node,
            ..Agent::new(self.now(), joining.cluster.clone(), joining.key.to_owned())
        };
        let name = agent.id();
        self.put(&name, agent, Expect::Absent)?;
        Ok(PodJoined {
            agent: name,
            role,
            is_new: true,
        })
    }

    fn role_of(&self, joining: &PodJoining<'_>) -> Result<AgentRole, PodJoinError> {
        let cluster = self.get::<Cluster>(joining.cluster.as_str());
        let given = cluster.and_then(|cluster| cluster.object.join_accounts.get(joining.account));
        let given = *given.ok_or_else(|| PodJoinError::NotNamed {
            account: joining.account.clone(),
            cluster: joining.cluster.clone(),
        })?;
        match joining.role.filter(|wanted| *wanted != given) {
            Some(wanted) => Err(PodJoinError::OtherRole { given, wanted }),
            None => Ok(given),
        }
    }

    /// A key that is registered: another pod of the same account may have taken it over, with the volume that it is on.
    fn again(
        &mut self,
        agent: String,
        object: Agent,
        role: AgentRole,
        pod: JoinedPod,
        node: Option<NodeName>,
        cluster: &ClusterName,
    ) -> Result<PodJoined, PodJoinError> {
        if object.cluster != *cluster {
            return Err(PodJoinError::KeyOfAnotherCluster);
        }
        let same_account = object.pod.as_ref().map(|pod| &pod.account) == Some(&pod.account);
        if !same_account || object.role != role {
            return Err(PodJoinError::KeyKnown { agent });
        }
        if object.pod.as_ref() != Some(&pod) || object.node != node {
            let moved = Agent {
                pod: Some(pod),
                node,
                ..object
            };
            self.put(&agent, moved, Expect::Present)?;
        }
        Ok(PodJoined {
            agent,
            role,
            is_new: false,
        })
    }

    fn of_account(&self, joining: &PodJoining<'_>) -> impl Iterator<Item = (&String, &Agent)> {
        let agents = self.all::<Agent>().iter();
        agents.filter_map(move |(id, entry)| {
            let agent = &*entry.object;
            let account = agent.pod.as_ref().map(|pod| &pod.account);
            (agent.cluster == *joining.cluster && account == Some(joining.account))
                .then_some((id, agent))
        })
    }

    fn make_room_for(
        &mut self,
        joining: &PodJoining<'_>,
        role: AgentRole,
        is_connected: impl Fn(&str) -> bool,
    ) -> Result<(), PodJoinError> {
        let mut peers: Vec<_> = self
            .of_account(joining)
            .filter(|(_, agent)| role == AgentRole::Cluster || agent.node.as_ref() == joining.node)
            .map(|(id, agent)| (agent.created, id.clone(), is_connected(&agent.key)))
            .collect();
        peers.sort();
        let kept = match role {
            AgentRole::Node => 0,
            AgentRole::Cluster => limits::AGENTS_PER_ACCOUNT.saturating_sub(1),
        };
        let over = peers.len().saturating_sub(kept);
        let idle = peers.into_iter().filter(|(_, _, connected)| !connected);
        let gone: Vec<_> = idle.take(over).collect();
        for (_, id, _) in gone {
            self.remove::<Agent>(&id, Expect::Present)?;
        }
        Ok(())
    }
}
