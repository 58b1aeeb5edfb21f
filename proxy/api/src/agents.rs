//! `/v1/agents`: agents by their keys, and static tokens for them, each of which is the private half of a key.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use underpass_core::service_account::Account;
use underpass_core::{AgentRole, ClusterName, NodeName, Revision};
use zeroize::Zeroizing;

/// An agent: the public half of its key.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Agent))]
#[serde(rename_all = "camelCase")]
pub struct AgentView {
    /// Its id: the beginning of the SHA-256 of its first public key. It stays where keys are rotated.
    pub id: String,
    /// Of its last change.
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub revision: Revision,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// The cluster that it may serve.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub cluster: ClusterName,
    /// The public half of the key.
    pub key: String,
    /// Since when it has that key.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub key_since: Option<OffsetDateTime>,
    /// The public half of a key that is registered, and waits for its first use; both count until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_key: Option<String>,
    /// Its role.
    #[serde(default)]
    pub role: AgentRole,
    /// The join token that it has joined with, by id; absent where the server has made its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join_token: Option<String>,
    /// The ServiceAccount of the pod that it has joined as, as `NAMESPACE/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub account: Option<Account>,
    /// The node that it runs on: by its cluster's word where it has joined by a ServiceAccount, else by its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub node: Option<NodeName>,
    /// How many sessions it has with this server now.
    #[serde(default)]
    pub connected: usize,
}

/// A token to make.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = AgentRequest))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AgentRequest {
    /// The cluster that it may serve.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub cluster: ClusterName,
    /// Whether the cluster is made where there is none.
    #[serde(default)]
    pub make_cluster: bool,
}

/// A token that was just made.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct AgentMade {
    /// The token: the private half of the key, which is kept nowhere.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub token: Zeroizing<String>,
    /// The token without its secret, as the server keeps it.
    pub agent: AgentView,
}
