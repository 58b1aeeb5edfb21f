//! Who may do what: clusters, their agents, users, their tokens.
//!
//! One small YAML file in the data directory, changed by the subcommands and by hand, and read
//! again by the running server when it changes.

mod edit;
mod file;
mod grants;
mod store;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::OffsetDateTime;
use underpass_proxy::ClusterName;
use underpass_proxy::authenticate::TokenHash;
use underpass_tunnel::PublicKey;

pub(crate) use self::edit::TokenSummary;
pub(crate) use self::store::AccessStore;
use crate::data_dir::FileError;

/// In place of a cluster's name in a user's list: every cluster.
pub(crate) const ALL_CLUSTERS: &str = "*";

/// The file's content.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Access {
    #[serde(default)]
    clusters: Vec<Cluster>,
    #[serde(default)]
    users: Vec<User>,
}

/// A cluster, and the keys of the agents that may serve it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cluster {
    #[serde(with = "text")]
    name: ClusterName,
    #[serde(default)]
    agents: Vec<AgentRecord>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentRecord {
    #[serde(with = "text")]
    key: PublicKey,
}

/// A user, what the clusters know them as, and where they may go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct User {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    extra: BTreeMap<String, Vec<String>>,
    /// Names of clusters, or [`ALL_CLUSTERS`].
    #[serde(default)]
    clusters: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tokens: Vec<TokenEntry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEntry {
    #[serde(with = "hex")]
    sha256: TokenHash,
    #[serde(with = "time::serde::rfc3339")]
    created: OffsetDateTime,
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    expires: Option<OffsetDateTime>,
}

impl TokenEntry {
    /// What people call the token: enough of its hash to tell it from others.
    fn id(&self) -> String {
        self.sha256.to_hex().chars().take(12).collect()
    }
}

impl User {
    fn may_reach(&self, cluster: &ClusterName) -> bool {
        self.clusters
            .iter()
            .any(|name| name == ALL_CLUSTERS || name == cluster.as_str())
    }
}

impl Access {
    fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }

    fn token(&self, hash: &TokenHash) -> Option<(&User, &TokenEntry)> {
        self.users.iter().find_map(|user| {
            user.tokens
                .iter()
                .find(|token| token.sha256 == *hash)
                .map(|token| (user, token))
        })
    }

    fn has_cluster(&self, name: &ClusterName) -> bool {
        self.clusters.iter().any(|cluster| cluster.name == *name)
    }

    fn cluster_of(&self, key: &PublicKey) -> Option<&ClusterName> {
        let holds = |cluster: &&Cluster| cluster.agents.iter().any(|agent| agent.key == *key);
        self.clusters
            .iter()
            .find(holds)
            .map(|cluster| &cluster.name)
    }

    /// What serde cannot check: names that stand twice would make one of them unreachable.
    fn validate(&self) -> Result<(), Invalid> {
        if let Some(twice) = first_twice(self.clusters.iter().map(|cluster| cluster.name.as_str()))
        {
            return Err(Invalid::ClusterTwice(twice.to_owned()));
        }
        if let Some(twice) = first_twice(self.users.iter().map(|user| user.name.as_str())) {
            return Err(Invalid::UserTwice(twice.to_owned()));
        }
        let agents = self.clusters.iter().flat_map(|cluster| &cluster.agents);
        let keys: Vec<_> = agents.map(|agent| agent.key.to_string()).collect();
        if let Some(twice) = first_twice(keys.iter().map(String::as_str)) {
            return Err(Invalid::KeyTwice(twice.to_owned()));
        }
        match self.users.iter().find(|user| user.name.is_empty()) {
            Some(_) => Err(Invalid::UserWithoutName),
            None => Ok(()),
        }
    }
}

fn first_twice<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = std::collections::HashSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

/// Why a file that can be parsed cannot be used.
#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum Invalid {
    #[error("it is empty (to start from nothing, remove it)")]
    Empty,
    #[error("cluster `{0}` stands in it twice")]
    ClusterTwice(String),
    #[error("user `{0}` stands in it twice")]
    UserTwice(String),
    #[error("agent key {0} stands in it twice")]
    KeyTwice(String),
    #[error("a user has an empty name")]
    UserWithoutName,
}

/// Why there is no [`Access`].
#[derive(Debug, Error)]
pub(crate) enum AccessError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{0} is no valid access file")]
    Parse(String, #[source] Box<serde_saphyr::Error>),
    #[error("{0} is no valid access file")]
    Invalid(String, #[source] Invalid),
    #[error("the access file cannot be written")]
    Serialize(#[source] Box<serde_saphyr::ser::Error>),
}

/// Values whose text form says it all.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<T: Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use underpass_proxy::authenticate::TokenHash;

    pub(super) fn serialize<S: Serializer>(
        hash: &TokenHash,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hash.to_hex())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<TokenHash, D::Error> {
        TokenHash::from_hex(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
