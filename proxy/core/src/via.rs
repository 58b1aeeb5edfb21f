//! The agent that a stream goes through, or whose credential it uses.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::AgentRole;

/// The place of a role in the text of a [`Through`] whose credential was registered.
pub const REGISTERED_CREDENTIAL: &str = "registered-credential";

/// An agent, as the server's directory knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Through {
    /// Its role.
    pub role: AgentRole,
    /// Its id.
    pub agent: String,
    /// It has registered the credential with which the server reaches the API server itself: the stream does not go through it.
    pub by_credential: bool,
}

impl fmt::Display for Through {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.by_credential {
            true => write!(f, "{REGISTERED_CREDENTIAL}/{}", self.agent),
            false => write!(f, "{}/{}", self.role, self.agent),
        }
    }
}

/// The place where [`Clusters::connect`](crate::Clusters::connect) leaves the way that it has chosen, for the audit log. Clones
/// share their content.
#[derive(Clone, Debug, Default)]
pub struct Via(Arc<Mutex<Option<Through>>>);

impl Via {
    /// The stream goes through this agent. The last call counts: a call that an agent leaves unanswered may have another stream.
    pub fn set(&self, through: Through) {
        *self.lock() = Some(through);
    }

    /// The agent; `None` where there is none, or none yet.
    pub fn through(&self) -> Option<Through> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Through>> {
        // Nothing under the lock leaves it half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
