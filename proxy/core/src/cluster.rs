//! Names of clusters.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The name of a cluster: a DNS label as Kubernetes defines it (RFC 1123: 1 to 63 of `[a-z0-9-]`,
/// not starting or ending with `-`).
///
/// A value of this type is safe in a path, a log line and a kubeconfig.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(Box<str>);

/// Why a text is not a [`ClusterName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cluster's name is 1 to 63 of a-z, 0-9 and '-', and neither starts nor ends with '-'")]
pub struct ClusterNameError;

impl ClusterName {
    /// Checks `name`.
    ///
    /// # Errors
    /// The text is not a DNS label.
    pub fn new(name: &str) -> Result<Self, ClusterNameError> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let bytes = name.as_bytes();
        let edges = [bytes.first(), bytes.last()];
        if bytes.len() > 63
            || !bytes.iter().copied().all(legal)
            || edges.iter().any(|edge| matches!(edge, None | Some(b'-')))
        {
            return Err(ClusterNameError);
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = ClusterNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl TryFrom<String> for ClusterName {
    type Error = ClusterNameError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(&name)
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> Self {
        name.0.into()
    }
}

impl std::borrow::Borrow<str> for ClusterName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_dns_labels_only() {
        for good in ["a", "prod-eu-1", "0", &"x".repeat(63)] {
            assert_eq!(ClusterName::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a/b",
            "a%2fb",
            "é",
            "..",
            &"x".repeat(64),
        ] {
            assert_eq!(ClusterName::new(bad), Err(ClusterNameError), "{bad}");
        }
    }
}
