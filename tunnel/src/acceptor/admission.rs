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

    /// The agents that share a bound on their sessions with this one, which was let in under `agent`: those of its name, unless this
    /// says otherwise. Agents with other tasks take no session of its then.
    fn share(&self, proven: &Proven, agent: &AgentName) -> String {
        let _ = proven;
        agent.as_str().to_owned()
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
