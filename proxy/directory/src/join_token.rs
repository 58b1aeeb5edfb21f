//! Join tokens: an agent registers its own key with one, and needs it no more.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    draft::{Checked, Draft, Expect, is_name, must_exist},
    error::ChangeError,
    object::{Agent, Cluster, ObjectKind},
    snapshot::Snapshot,
};
use underpass_authenticate::TokenHash;
use underpass_core::{AgentRole, ClusterName, Labels, NodeName, limits};

/// A join token: never the secret, only its hash. Its holder registers agents of one cluster in one role.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct JoinToken {
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// SHA-256 of the secret.
    #[serde(with = "super::hex")]
    pub sha256: TokenHash,
    /// The cluster that its agents serve.
    pub cluster: ClusterName,
    /// The role that its agents have.
    #[serde(default, skip_serializing_if = "AgentRole::is_default")]
    pub role: AgentRole,
    /// How many agents it was made for.
    pub uses: u32,
    /// How many more it registers.
    pub uses_left: u32,
    /// From when on it registers none.
    #[serde(with = "time::serde::rfc3339")]
    pub expires: OffsetDateTime,
    /// A name for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

impl JoinToken {
    /// Is its time over?
    pub fn is_expired(&self, now: OffsetDateTime) -> bool {
        self.expires <= now
    }

    /// Is it for a number of agents that a join token may be for?
    ///
    /// # Errors
    /// It is for none, or for too many.
    pub fn check_uses(&self) -> Result<(), ChangeError> {
        match self.uses {
            1..=limits::JOIN_TOKEN_USES if self.uses_left <= self.uses => Ok(()),
            _ => Err(ChangeError::JoinTokenUses),
        }
    }

    /// How many agents it may still register.
    pub fn open_uses(&self, now: OffsetDateTime) -> u32 {
        match self.is_expired(now) {
            true => 0,
            false => self.uses_left,
        }
    }
}

/// An agent that asks to join. It has proven that it holds the key.
#[derive(Clone, Copy, Debug)]
pub struct Joining<'a> {
    /// SHA-256 of the text that it shows as its token.
    pub sha256: &'a TokenHash,
    /// Its public key, as the tunnel writes it.
    pub key: &'a str,
    /// The cluster that it wants to serve, where it says so.
    pub cluster: Option<&'a ClusterName>,
    /// The role that it wants, where it says so.
    pub role: Option<AgentRole>,
    /// The node that it runs on, where it says so. It counts for agents on nodes.
    pub node: Option<&'a NodeName>,
    /// Labels of that node.
    pub labels: Option<&'a Labels>,
}

/// An agent that has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The agent's id.
    pub agent: String,
    /// The token's id.
    pub token: String,
    /// The agent's cluster.
    pub cluster: ClusterName,
    /// The agent's role.
    pub role: AgentRole,
    /// It was registered now, and not before with the same token.
    pub is_new: bool,
}

/// Why an agent does not join.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// No such token was made, or it was deleted.
    #[error("there is no such join token (was it deleted?)")]
    UnknownToken,
    /// The token's time is over.
    #[error("the join token has expired at {at}")]
    Expired {
        /// Its end.
        at: OffsetDateTime,
    },
    /// As many agents as it was made for have joined with it.
    #[error("the join token is used up: it was made for {uses}")]
    UsedUp {
        /// How many that is.
        uses: u32,
    },
    /// The agent wants a role that the token does not give.
    #[error("the join token is for agents of the role {token}, and this one asks for {wanted}")]
    OtherRole {
        /// The token's.
        token: AgentRole,
        /// The agent's wish.
        wanted: AgentRole,
    },
    /// The agent wants to serve a cluster that the token is not for.
    #[error("the join token is for cluster {token}, and this agent asks for {wanted}")]
    OtherCluster {
        /// The token's.
        token: ClusterName,
        /// The agent's wish.
        wanted: ClusterName,
    },
    /// The key is an agent's of another cluster, which is not named: the token says nothing of that cluster.
    #[error(
        "the agent's key belongs to another cluster; an agent of this cluster needs a key of its own"
    )]
    KeyOfAnotherCluster,
    /// The key is known in this cluster already, not by this token.
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
    /// The node has an agent, or the name is an agent's id: another process there, or another bearer of the token, must not take its
    /// place.
    #[error(
        "the name {node} stands for the agent {agent:?} of the cluster already: revoke that one first, or give this one another name"
    )]
    NodeTaken {
        /// The node.
        node: NodeName,
        /// Its agent's id.
        agent: String,
    },
    /// The directory does not take it.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// The effect of a join.
enum Outcome<'a> {
    /// The key is registered already, with this token.
    Again(Joined),
    /// The key is new, and this token registers it.
    New(&'a str, &'a JoinToken),
}

fn outcome<'a>(
    before: &'a Snapshot,
    joining: &Joining<'_>,
    now: OffsetDateTime,
) -> Result<Outcome<'a>, JoinError> {
    let found = before.join_token(joining.sha256);
    let (id, token) = found.ok_or(JoinError::UnknownToken)?;
    token.must_be_for(joining)?;
    let known = before.agent_with_key(joining.key);
    if let Some((agent, object)) = known
        && object.join_token.as_deref() == Some(id)
    {
        return Ok(Outcome::Again(token.joined(id, agent, false)));
    }
    if before.is_replaced_key(joining.key) {
        return Err(JoinError::KeyReplaced);
    }
    token.must_register_more(now)?;
    match known {
        Some((_, object)) if object.cluster != token.cluster => Err(JoinError::KeyOfAnotherCluster),
        Some((agent, _)) => Err(JoinError::KeyKnown {
            agent: agent.to_owned(),
        }),
        None => Ok(Outcome::New(id, token)),
    }
}

impl Snapshot {
    /// The agent that this join would give again, without a change; `None` where it would register a new one. So a join that comes to
    /// nothing is answered without a turn among the changes.
    ///
    /// # Errors
    /// As [`Draft::register`].
    pub fn joined_before(&self, joining: &Joining<'_>) -> Result<Option<Joined>, JoinError> {
        match outcome(self, joining, OffsetDateTime::now_utc())? {
            Outcome::Again(joined) => Ok(Some(joined)),
            Outcome::New(..) => Ok(None),
        }
    }
}

impl Draft {
    /// Registers an agent's key with a join token, which loses one use. An agent that was registered with this token before gets
    /// the same answer again, at no use, also once the token has ended: the first answer may have been lost.
    ///
    /// # Errors
    /// The token does not allow it, or the key is another agent's. Nothing has changed then.
    pub fn register(&mut self, joining: &Joining<'_>) -> Result<Joined, JoinError> {
        let (id, token) = match outcome(self.before(), joining, self.now())? {
            Outcome::Again(joined) => return Ok(joined),
            Outcome::New(id, token) => (id.to_owned(), token.clone()),
        };
        let node = joining.node.filter(|_| token.role == AgentRole::Node);
        if let Some(node) = node
            && let Some(agent) = self.agent_of_node(&token.cluster, node)
        {
            let node = node.clone();
            return Err(JoinError::NodeTaken { node, agent });
        }
        let labels = joining.labels.filter(|_| token.role == AgentRole::Node);
        let agent = Agent {
            role: token.role,
            join_token: Some(id.clone()),
            node: node.cloned(),
            labels: labels.cloned().unwrap_or_default(),
            ..Agent::new(self.now(), token.cluster.clone(), joining.key.to_owned())
        };
        let name = agent.id();
        self.put(&name, agent, Expect::Absent)?;
        let joined = token.joined(&id, &name, true);
        let used = JoinToken {
            uses_left: token.uses_left.saturating_sub(1),
            ..token
        };
        self.put(&id, used, Expect::Present)?;
        Ok(joined)
    }

    /// The id of the agent that this name of a node stands for. Its id names an agent too, as where it has no node's name.
    fn agent_of_node(&self, cluster: &ClusterName, node: &NodeName) -> Option<String> {
        let mut agents = self.all::<Agent>().iter();
        let found = agents.find(|(id, entry)| {
            let agent = &entry.object;
            let is_it = agent.node.as_ref() == Some(node) || *id == node.as_str();
            agent.cluster == *cluster && is_it
        });
        found.map(|(id, _)| id.clone())
    }

    /// The agents that a cluster has, and those that its join tokens may still register.
    pub fn agents_with_promised(&self, cluster: &ClusterName) -> usize {
        let agents = self.all::<Agent>().values();
        let agents = agents.filter(|entry| entry.object.cluster == *cluster);
        let tokens = self.all::<JoinToken>().values();
        let tokens = tokens.filter(|entry| entry.object.cluster == *cluster);
        let open = tokens.map(|entry| entry.object.open_uses(self.now()));
        let open = open.fold(0, u32::saturating_add);
        agents
            .count()
            .saturating_add(usize::try_from(open).unwrap_or(usize::MAX))
    }
}

impl JoinToken {
    fn joined(&self, id: &str, agent: &str, is_new: bool) -> Joined {
        Joined {
            agent: agent.to_owned(),
            token: id.to_owned(),
            cluster: self.cluster.clone(),
            role: self.role,
            is_new,
        }
    }

    fn must_be_for(&self, joining: &Joining<'_>) -> Result<(), JoinError> {
        if let Some(wanted) = joining.cluster.filter(|wanted| **wanted != self.cluster) {
            return Err(JoinError::OtherCluster {
                token: self.cluster.clone(),
                wanted: wanted.clone(),
            });
        }
        match joining.role.filter(|wanted| *wanted != self.role) {
            None => Ok(()),
            Some(wanted) => Err(JoinError::OtherRole {
                token: self.role,
                wanted,
            }),
        }
    }

    fn must_register_more(&self, now: OffsetDateTime) -> Result<(), JoinError> {
        if self.is_expired(now) {
            return Err(JoinError::Expired { at: self.expires });
        }
        if self.uses_left == 0 {
            return Err(JoinError::UsedUp { uses: self.uses });
        }
        Ok(())
    }
}

impl Checked for JoinToken {
    fn check(&self, name: &str, draft: &Draft) -> Result<(), ChangeError> {
        is_name(name)?;
        let cluster = self.cluster.as_str();
        must_exist::<Cluster>(draft, cluster)?;
        let served = draft.get::<Cluster>(cluster);
        if served.is_some_and(|served| served.object.direct.is_some()) {
            return Err(ChangeError::AgentsAndDirect(cluster.to_owned()));
        }
        self.check_uses()
    }

    /// Of a cluster that has as many as it may, the oldest goes that registers no more.
    fn make_room(&self, draft: &mut Draft) -> Result<(), ChangeError> {
        let tokens = draft.all::<Self>().iter();
        let own: Vec<_> = tokens
            .filter(|(_, entry)| entry.object.cluster == self.cluster)
            .collect();
        if own.len() < limits::JOIN_TOKENS_PER_CLUSTER {
            return Ok(());
        }
        let over = own
            .into_iter()
            .filter(|(_, entry)| entry.object.open_uses(draft.now()) == 0);
        let oldest = over.min_by_key(|(id, entry)| (entry.object.created, *id));
        let oldest = oldest.map(|(id, _)| id.clone());
        let oldest = oldest.ok_or_else(|| ChangeError::TooManyJoinTokens {
            cluster: self.cluster.clone(),
        })?;
        draft.remove::<Self>(&oldest, Expect::Present)
    }
}

/// Bounds the agents of one cluster.
pub(super) fn room_for_agent(draft: &Draft, cluster: &ClusterName) -> Result<(), ChangeError> {
    let agents = draft.all::<Agent>().values();
    let agents = agents.filter(|entry| entry.object.cluster == *cluster);
    match agents.count() {
        count if count < limits::AGENTS_PER_CLUSTER => Ok(()),
        _ => Err(ChangeError::TooMany(ObjectKind::Agent)),
    }
}
