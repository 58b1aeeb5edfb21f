//! Which connectors are let in.

use futures_util::future::BoxFuture;
use thiserror::Error;
use underpass_proto::agent_name::{AgentName, NameTooLong};
use underpass_proto::code::CloseCode;
use underpass_proto::handshake::Proven;

/// Maps keys to agents.
///
/// Asked once for each transport, after the connector has proven that it owns the key.
pub trait Admission: Send + Sync + 'static {
    /// The name of the agent that `proven` belongs to, or why it is not let in.
    fn admit<'a>(&'a self, proven: &'a Proven) -> BoxFuture<'a, Result<AgentName, Denied>>;

    /// The holder of the key, where one may prove several: sessions of one owner count together, and are carried on with any of its
    /// keys. The key itself, unless this says otherwise.
    fn owner(&self, proven: &Proven, agent: &AgentName) -> String {
        let _ = agent;
        proven.key.to_string()
    }

    /// The sessions that count together with those of this agent, which was let in under `agent`: those of its name, unless this says
    /// otherwise. Agents with other tasks take no session of its then.
    fn share(&self, proven: &Proven, agent: &AgentName) -> Share {
        let _ = proven;
        Share::of(agent.as_str())
    }
}

/// Sessions that count together, and how many of them there may be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Share {
    /// Sessions with one name count together.
    pub name: String,
    /// Those of one [owner](Admission::owner); `None` is [`AcceptorConfig::max_sessions_of_agent`](super::AcceptorConfig::max_sessions_of_agent).
    pub of_agent: Option<usize>,
    /// All of them; `None` is [`AcceptorConfig::max_sessions_of_name`](super::AcceptorConfig::max_sessions_of_name).
    pub of_name: Option<usize>,
}

impl Share {
    /// The share of this name, with the acceptor's bounds.
    pub fn of(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            of_agent: None,
            of_name: None,
        }
    }

    /// With bounds of its own: of one owner, and of all.
    #[must_use]
    pub fn bounded(self, of_agent: usize, of_name: usize) -> Self {
        Self {
            of_agent: Some(of_agent),
            of_name: Some(of_name),
            ..self
        }
    }
}

/// Why a connector is not let in. Both parts are told to it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{code}: {reason}")]
pub struct Denied {
    /// For programs.
    pub code: CloseCode,
    /// For people.
    pub reason: String,
}

impl Denied {
    /// Another key has taken the place of this one.
    pub fn replaced_key(reason: impl Into<String>) -> Self {
        Self {
            code: CloseCode::KeyReplaced,
            reason: reason.into(),
        }
    }

    /// No agent has the key.
    pub fn unknown_key() -> Self {
        Self {
            code: CloseCode::Unauthenticated,
            reason: "this agent's key is not known here".to_owned(),
        }
    }
}

/// A name that the protocol has no room for is this side's fault.
impl From<NameTooLong> for Denied {
    fn from(error: NameTooLong) -> Self {
        Self {
            code: CloseCode::Internal,
            reason: error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::limits;

    fn nameable(name: String) -> Result<AgentName, Denied> {
        Ok(name.try_into()?)
    }

    #[test]
    fn a_name_that_welcome_cannot_hold_is_this_sides_fault() {
        assert!(nameable("a".repeat(limits::PEER_NAME)).is_ok());
        let denied = nameable("a".repeat(limits::PEER_NAME + 1)).unwrap_err();
        assert_eq!(denied.code, CloseCode::Internal);
    }
}
