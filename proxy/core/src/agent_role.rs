//! The roles of agents.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The work of an agent in its cluster.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum AgentRole {
    /// It serves the cluster's API server.
    #[default]
    Cluster,
    /// It runs on one node.
    Node,
}

impl AgentRole {
    /// Every role.
    pub const ALL: [Self; 2] = [Self::Cluster, Self::Node];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Node => "node",
        }
    }

    /// Is it the role of an agent that names none?
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for AgentRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no role of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an agent's role is `cluster` or `node`")]
pub struct UnknownAgentRole;

impl FromStr for AgentRole {
    type Err = UnknownAgentRole;

    fn from_str(text: &str) -> Result<Self, UnknownAgentRole> {
        let mut roles = Self::ALL.into_iter();
        roles
            .find(|role| role.as_str() == text)
            .ok_or(UnknownAgentRole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_in_json() {
        for role in AgentRole::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
        }
        assert_eq!("Node".parse::<AgentRole>(), Err(UnknownAgentRole));
    }
}
