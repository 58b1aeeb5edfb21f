//! Shells at agents: their kinds, and their ids.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The id of a shell: random, and never that of another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShellId(String);

/// Not the id of a shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the id of a shell has {} letters from a to f and digits",
    ShellId::BYTES
)]
pub struct BadShellId;

impl ShellId {
    /// Its length.
    pub const BYTES: usize = 32;

    /// A new one.
    pub fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ShellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ShellId {
    type Err = BadShellId;

    fn from_str(text: &str) -> Result<Self, BadShellId> {
        let legal = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        match text.len() == Self::BYTES && text.bytes().all(legal) {
            true => Ok(Self(text.to_owned())),
            false => Err(BadShellId),
        }
    }
}

impl Serialize for ShellId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ShellId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The kind of a shell. Each needs its own permission, at the server and in the agent's policy.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ShellKind {
    /// The caller's own shell, in which kubectl is the caller.
    #[default]
    Kubectl,
    /// A shell of the agent's node itself.
    Node,
}

/// Not a kind of shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no shell of this kind: the kinds are kubectl and node")]
pub struct UnknownShellKind;

impl ShellKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Kubectl, Self::Node];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kubectl => "kubectl",
            Self::Node => "node",
        }
    }
}

impl fmt::Display for ShellKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ShellKind {
    type Err = UnknownShellKind;

    fn from_str(text: &str) -> Result<Self, UnknownShellKind> {
        let mut all = Self::ALL.into_iter();
        all.find(|kind| kind.name() == text).ok_or(UnknownShellKind)
    }
}
