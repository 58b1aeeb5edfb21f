//! `/v1/clusters/{name}/join-tokens` and `/v1/join`: how agents register their own keys.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use underpass_core::{AgentRole, ClusterName, Labels, NodeName, Revision};
use zeroize::Zeroizing;

/// The beginning of each join token.
pub const JOIN_TOKEN_PREFIX: &str = "upj_";

/// A join token, without its secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = JoinToken))]
#[serde(rename_all = "camelCase")]
pub struct JoinTokenView {
    /// Its id: the beginning of its hash.
    pub id: String,
    /// Of its last change, which each agent that joins makes.
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub revision: Revision,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// The cluster that its agents serve.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub cluster: ClusterName,
    /// The role of its agents.
    pub role: AgentRole,
    /// How many agents it was made for.
    pub uses: u32,
    /// How many of them have not joined yet.
    pub uses_left: u32,
    /// From when on none joins.
    #[serde(with = "time::serde::rfc3339")]
    pub expires: OffsetDateTime,
    /// A name for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// A join token to make.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct JoinTokenRequest {
    /// The role of its agents; without it, `cluster`.
    pub role: AgentRole,
    /// How many agents may join with it, 1000 at the most; without it, one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// How long they may join, 30 days at the most; without it, an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
    /// Whether the cluster is made where there is none.
    pub make_cluster: bool,
    /// A name for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// A join token that was just made.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct JoinTokenMade {
    /// The join token itself, which is kept nowhere.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub token: Zeroizing<String>,
    /// The token without its secret, as the server keeps it.
    pub about: JoinTokenView,
}

/// A key to register. The join token, or the token of the pod's ServiceAccount, stands in the `Authorization` header, as a bearer
/// token. With the latter, `?cluster=NAME` says which cluster's it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct JoinRequest {
    /// The public half of the agent's key.
    pub public_key: String,
    /// The key's signature for this join token (PROTOCOL.md, "Joining").
    pub proof: String,
    /// The cluster that the agent wants to serve; without it, the token's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub cluster: Option<ClusterName>,
    /// The role that the agent wants; without it, the token's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<AgentRole>,
    /// The node that the agent runs on. It counts for the role `node`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub node: Option<NodeName>,
    /// Labels of the node, for people. They count for the role `node`.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub labels: Labels,
}

/// The agent that a key is registered for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Joined))]
#[serde(rename_all = "camelCase")]
pub struct JoinAnswer {
    /// Its id.
    pub agent: String,
    /// Its cluster.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub cluster: ClusterName,
    /// Its role.
    pub role: AgentRole,
    /// Whether it was registered now, or by an earlier request with the same token.
    pub is_new: bool,
}

/// Why an agent may not join, for programs: the `reason` of a [`Problem`](crate::Problem).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum JoinRefusal {
    /// There is no such token.
    UnknownToken,
    /// The token's time is over.
    Expired,
    /// As many agents as it was made for have joined.
    UsedUp,
    /// The token is for another role.
    OtherRole,
    /// The token is for another cluster.
    OtherCluster,
    /// The signature is not by the key for this token.
    BadProof,
    /// The key belongs to an agent of another cluster.
    KeyOfAnotherCluster,
    /// The key belongs to an agent of this cluster, which has not joined with this token.
    KeyKnown,
    /// The token is for another audience than this server.
    WrongAudience,
    /// The cluster lets no pod of this ServiceAccount join.
    AccountNotNamed,
    /// The token is not bound to a pod.
    NoPod,
    /// The cluster does not say on which node the pod runs.
    NoNodeName,
    /// The pod has joined with another key.
    PodHasKey,
    /// The cluster has not said whose token it is.
    CannotReview,
    /// The node has another agent.
    NodeTaken,
    /// Another key has taken the place of the agent's.
    KeyReplaced,
}

impl JoinRefusal {
    /// Every one.
    pub const ALL: [Self; 16] = [
        Self::UnknownToken,
        Self::Expired,
        Self::UsedUp,
        Self::OtherRole,
        Self::OtherCluster,
        Self::BadProof,
        Self::KeyOfAnotherCluster,
        Self::KeyKnown,
        Self::WrongAudience,
        Self::AccountNotNamed,
        Self::NoPod,
        Self::NoNodeName,
        Self::PodHasKey,
        Self::CannotReview,
        Self::NodeTaken,
        Self::KeyReplaced,
    ];

    /// As a problem has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownToken => "unknown-token",
            Self::Expired => "expired",
            Self::UsedUp => "used-up",
            Self::OtherRole => "other-role",
            Self::OtherCluster => "other-cluster",
            Self::BadProof => "bad-proof",
            Self::KeyOfAnotherCluster => "key-of-another-cluster",
            Self::KeyKnown => "key-known",
            Self::WrongAudience => "wrong-audience",
            Self::AccountNotNamed => "account-not-named",
            Self::NoPod => "no-pod",
            Self::NoNodeName => "no-node-name",
            Self::PodHasKey => "pod-has-key",
            Self::CannotReview => "cannot-review",
            Self::NodeTaken => "node-taken",
            Self::KeyReplaced => "key-replaced",
        }
    }
}

impl fmt::Display for JoinRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is no reason that this version knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reason is not known to this version")]
pub struct UnknownRefusal;

impl FromStr for JoinRefusal {
    type Err = UnknownRefusal;

    fn from_str(text: &str) -> Result<Self, UnknownRefusal> {
        let mut all = Self::ALL.into_iter();
        all.find(|refusal| refusal.as_str() == text)
            .ok_or(UnknownRefusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_round_trip() {
        for refusal in JoinRefusal::ALL {
            assert_eq!(refusal.as_str().parse(), Ok(refusal));
            assert_eq!(serde_json::to_value(refusal).unwrap(), refusal.as_str());
        }
        assert_eq!("".parse::<JoinRefusal>(), Err(UnknownRefusal));
    }
}
