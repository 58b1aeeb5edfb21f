//! Names of agents.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

use thiserror::Error;

use super::wire::Fields;
use super::{DecodeError, limits};

/// The name by which an acceptor knows a connector: 253 bytes at the most, which WELCOME has room for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentName(String);

/// A name that WELCOME has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "the agent's name has {len} bytes, and must have at most {max}",
    max = limits::PEER_NAME
)]
pub struct NameTooLong {
    /// Its length in bytes.
    pub len: usize,
}

impl AgentName {
    /// Reads it from a frame.
    pub(crate) fn decode(fields: &mut Fields, what: &'static str) -> Result<Self, DecodeError> {
        fields.string(what, limits::PEER_NAME).map(Self)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for AgentName {
    type Error = NameTooLong;

    fn try_from(name: String) -> Result<Self, NameTooLong> {
        let len = name.len();
        if len > limits::PEER_NAME {
            return Err(NameTooLong { len });
        }
        Ok(Self(name))
    }
}

impl TryFrom<&str> for AgentName {
    type Error = NameTooLong;

    fn try_from(name: &str) -> Result<Self, NameTooLong> {
        name.to_owned().try_into()
    }
}

impl Deref for AgentName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// Hashes and compares as the text does.
impl Borrow<str> for AgentName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for AgentName {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for AgentName {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
