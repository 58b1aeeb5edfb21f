//! Agents that join by a ServiceAccount of their cluster: the cluster has vouched for the pod, and the directory names the account.

use super::{
    draft::{Draft, Expect},
    error::ChangeError,
    join_token::room_for_agent,
    object::{Agent, Cluster, JoinedPod},
    snapshot::{Snapshot, Table},
};
use time::OffsetDateTime;
use underpass_core::service_account::Account;
use underpass_core::{AgentRole, ClusterName, Labels, NodeName, limits};

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
    /// Labels of that node: its own word.
    pub labels: Option<&'a Labels>,
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
    /// The agent's key was replaced by another one.
    #[error(
        "the agent's key was replaced by another one, and counts for nothing: an agent that has lost the other one needs a new key"
    )]
    KeyReplaced,
    /// The directory does not take it.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// The change that a pod's join makes.
enum Outcome {
    /// None.
    Again(PodJoined),
    /// The key, with the volume that it is on, has moved to this pod.
    Moved(String, Agent),
    /// A new agent.
    New(Agent),
}

fn outcome(
    snapshot: &Snapshot,
    joining: &PodJoining<'_>,
    now: OffsetDateTime,
) -> Result<Outcome, PodJoinError> {
    let role = role_of(snapshot, joining)?;
    if role == AgentRole::Node && joining.node.is_none() {
        return Err(PodJoinError::NoNode);
    }
    let pod = JoinedPod {
        account: joining.account.clone(),
        uid: joining.uid.to_owned(),
    };
    let node = joining.node.cloned();
    let labels = joining.labels.filter(|_| role == AgentRole::Node);
    let labels = labels.cloned().unwrap_or_default();
    let mut own = of_account(snapshot.all(), joining);
    let has_key =
        own.find(|(_, agent)| agent.pod.as_ref() == Some(&pod) && !agent.holds(joining.key));
    if let Some((agent, _)) = has_key {
        let agent = agent.clone();
        return Err(PodJoinError::PodHasKey { agent });
    }
    if snapshot.is_replaced_key(joining.key) {
        return Err(PodJoinError::KeyReplaced);
    }
    let Some((agent, known)) = snapshot.agent_with_key(joining.key) else {
        return Ok(Outcome::New(Agent {
            role,
            pod: Some(pod),
            node,
            labels,
            ..Agent::new(now, joining.cluster.clone(), joining.key.to_owned())
        }));
    };
    let agent = agent.to_owned();
    if known.cluster != *joining.cluster {
        return Err(PodJoinError::KeyOfAnotherCluster);
    }
    let same_account = known.pod.as_ref().map(|pod| &pod.account) == Some(joining.account);
    if !same_account || known.role != role {
        return Err(PodJoinError::KeyKnown { agent });
    }
    if known.pod.as_ref() == Some(&pod) && known.node == node {
        return Ok(Outcome::Again(PodJoined::of(agent, role, false)));
    }
    let moved = Agent {
        pod: Some(pod),
        node,
        labels,
        ..known.clone()
    };
    Ok(Outcome::Moved(agent, moved))
}

fn role_of(snapshot: &Snapshot, joining: &PodJoining<'_>) -> Result<AgentRole, PodJoinError> {
    let cluster = snapshot.get::<Cluster>(joining.cluster.as_str());
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

fn of_account<'a>(
    agents: &'a Table<Agent>,
    joining: &'a PodJoining<'_>,
) -> impl Iterator<Item = (&'a String, &'a Agent)> {
    agents.iter().filter_map(move |(id, entry)| {
        let agent = &*entry.object;
        let account = agent.pod.as_ref().map(|pod| &pod.account);
        (agent.cluster == *joining.cluster && account == Some(joining.account))
            .then_some((id, agent))
    })
}

impl PodJoined {
    fn of(agent: String, role: AgentRole, is_new: bool) -> Self {
        Self {
            agent,
            role,
            is_new,
        }
    }
}

impl Snapshot {
    /// The agent that this join would give again, without a change; `None` where it would make one. So a join that comes to nothing
    /// is answered without a turn among the changes.
    ///
    /// # Errors
    /// As [`Draft::register_pod`].
    pub fn pod_joined_before(
        &self,
        joining: &PodJoining<'_>,
    ) -> Result<Option<PodJoined>, PodJoinError> {
        match outcome(self, joining, OffsetDateTime::now_utc())? {
            Outcome::Again(joined) => Ok(Some(joined)),
            Outcome::Moved(..) | Outcome::New(_) => Ok(None),
        }
    }
}

impl Draft {
    /// Registers a pod's key. A pod has one key, and a key that is registered moves to another pod of its account, with its volume. A
    /// new key removes others of the account with which no agent is connected: all of the pod's node, and in the role `cluster` those
    /// beyond [`limits::AGENTS_PER_ACCOUNT`]; in a cluster with [`limits::AGENTS_PER_CLUSTER`] agents, the oldest one.
    ///
    /// # Errors
    /// The directory or the role does not allow it, or the key is another agent's. Nothing has changed then.
    pub fn register_pod(
        &mut self,
        joining: &PodJoining<'_>,
        is_connected: impl Fn(&str) -> bool,
    ) -> Result<PodJoined, PodJoinError> {
        match outcome(self.before(), joining, self.now())? {
            Outcome::Again(joined) => Ok(joined),
            Outcome::Moved(id, agent) => {
                let role = agent.role;
                self.take_name(&agent)?;
                self.put(&id, agent, Expect::Present)?;
                Ok(PodJoined::of(id, role, false))
            }
            Outcome::New(agent) => {
                let (id, role) = (agent.id(), agent.role);
                self.make_room_for(joining, role, is_connected)?;
                self.take_name(&agent)?;
                self.put(&id, agent, Expect::Absent)?;
                Ok(PodJoined::of(id, role, true))
            }
        }
    }

    /// The cluster says which node the pod is on. Agents that have taken the node's name by their own word lose it: somebody with a
    /// join token would be the node otherwise, to those who connect to it.
    fn take_name(&mut self, pods: &Agent) -> Result<(), PodJoinError> {
        let Some(node) = &pods.node else {
            return Ok(());
        };
        let agents = self.all::<Agent>().iter();
        let claim = agents.filter(|(_, entry)| {
            let agent = &entry.object;
            agent.cluster == pods.cluster
                && agent.pod.is_none()
                && agent.node.as_ref() == Some(node)
        });
        let claimed: Vec<_> = claim
            .map(|(id, entry)| (id.clone(), Agent::clone(&entry.object)))
            .collect();
        for (id, agent) in claimed {
            self.put(
                &id,
                Agent {
                    node: None,
                    ..agent
                },
                Expect::Present,
            )?;
        }
        Ok(())
    }

    fn make_room_for(
        &mut self,
        joining: &PodJoining<'_>,
        role: AgentRole,
        is_connected: impl Fn(&str) -> bool,
    ) -> Result<(), PodJoinError> {
        let is_peer =
            |agent: &Agent| role == AgentRole::Cluster || agent.node.as_ref() == joining.node;
        let kept = match role {
            AgentRole::Node => 0,
            AgentRole::Cluster => limits::AGENTS_PER_ACCOUNT.saturating_sub(1),
        };
        let own = of_account(self.all(), joining);
        let peers = own.filter(|(_, agent)| is_peer(agent)).count();
        let mut idle: Vec<_> = of_account(self.all(), joining)
            .filter(|(id, _)| !is_connected(id))
            .map(|(id, agent)| (agent.created, id.clone(), is_peer(agent)))
            .collect();
        idle.sort();
        let over = peers.saturating_sub(kept);
        let of_peers = idle.iter().filter(|(_, _, is_peer)| *is_peer);
        let mut gone: Vec<_> = of_peers.take(over).map(|(_, id, _)| id.clone()).collect();
        // Nodes of a cluster that scales by itself come and go, each with a name of its own.
        if gone.is_empty() && room_for_agent(self, joining.cluster).is_err() {
            gone.extend(idle.into_iter().next().map(|(_, id, _)| id));
        }
        for id in gone {
            self.remove::<Agent>(&id, Expect::Present)?;
        }
        Ok(())
    }
}
