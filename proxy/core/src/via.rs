//! The agent that a stream goes through.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::AgentRole;

/// An agent, as the server's directory knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Through {
    /// Its role.
    pub role: AgentRole,
    /// Its id.
    pub agent: String,
}

impl fmt::Display for Through {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.role, self.agent)
    }
}

/// The place where [`Clusters::connect`](crate::Clusters::connect) leaves the agent that it has chosen, for the audit log. Clones
/// share their content.
#[derive(Clone, Debug, Default)]
pub struct Via(Arc<OnceLock<Through>>);

impl Via {
    /// The stream goes through this agent. The first call counts.
    pub fn set(&self, through: Through) {
        let _ = self.0.set(through);
    }

    /// The agent; `None` where there is none, or none yet.
    pub fn through(&self) -> Option<&Through> {
        self.0.get()
    }
}
