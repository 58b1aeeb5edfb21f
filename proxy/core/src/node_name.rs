//! Names of nodes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The name of a node, as Kubernetes has it: a DNS subdomain (RFC 1123).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(String);

/// Not the name of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a node's name has {most} bytes at the most: lower-case letters, digits, '-' and '.', with a letter or a digit beside each dot and \
     at both ends",
    most = NodeName::BYTES
)]
pub struct NodeNameError;

impl NodeName {
    /// The longest one, in bytes.
    pub const BYTES: usize = 253;

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = NodeNameError;

    fn from_str(text: &str) -> Result<Self, NodeNameError> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_label = |label: &str| {
            !label.is_empty()
                && label.bytes().all(legal)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        match text.len() <= Self::BYTES && text.split('.').all(is_label) {
            true => Ok(Self(text.to_owned())),
            false => Err(NodeNameError),
        }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for NodeName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_name_is_a_subdomain() {
        for good in ["a", "worker-1", "ip-10-0-0-1.eu.example.org", "1"] {
            assert_eq!(good.parse::<NodeName>().unwrap().as_str(), good);
        }
        let long = "a".repeat(NodeName::BYTES + 1);
        for bad in [
            "", ".", "a.", "a..b", "-a", "a-.b", "A", "a_b", "a b", "a/b", &long,
        ] {
            assert_eq!(bad.parse::<NodeName>(), Err(NodeNameError), "{bad:?}");
        }
    }
}
