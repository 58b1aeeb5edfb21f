//! Which agents are let in.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use time::OffsetDateTime;
use underpass_core::AgentRole;
use underpass_directory::{Directory, KeyStanding};
use underpass_tunnel::{Admission, AgentName, Denied, Proven, Share};

use crate::limits;

/// Lets agents in by their keys.
pub(crate) struct Keys(pub(crate) Arc<Directory>);

impl Admission for Keys {
    fn admit<'a>(&'a self, proven: &'a Proven) -> BoxFuture<'a, Result<AgentName, Denied>> {
        let snapshot = self.0.snapshot();
        let standing = snapshot.standing_of_key(&proven.key.to_string());
        let admitted = standing.map_or_else(
            || Err(unknown()),
            |(_, agent, standing)| match standing {
                KeyStanding::Current | KeyStanding::Next => {
                    Ok(agent.cluster.as_str().try_into()?)
                }
                KeyStanding::Replaced(at) => Err(replaced(at)),
            },
        );
        ready(admitted).boxed()
    }

    /// The agent, with any of its keys.
    fn owner(&self, proven: &Proven, _: &AgentName) -> String {
        let (snapshot, key) = (self.0.snapshot(), proven.key.to_string());
        let found = snapshot.agent_with_key(&key);
        found.map(|(id, _)| id.to_owned()).unwrap_or(key)
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

/// For the holder of a key that no agent has: which of these it is cannot be known.
fn unknown() -> Denied {
    Denied {
        reason: "this agent's key is not known here: it has not joined, or its agent was revoked, or it was replaced by others so \
                 long ago that it is forgotten"
            .to_owned(),
        ..Denied::unknown_key()
    }
}

/// For the holder of a key that another one has taken the place of: it is this agent, whose other process has rotated its key, or it is
/// not, or one of both is a thief.
fn replaced(at: Option<OffsetDateTime>) -> Denied {
    let when = at.map_or_else(|| "long ago".to_owned(), |at| format!("at {at}"));
    Denied::replaced_key(format!(
        "this key was replaced by another one {when}; if no process of this agent has done that, a thief of the key has: revoke \
         the agent, and join again with a new key"
    ))
}
