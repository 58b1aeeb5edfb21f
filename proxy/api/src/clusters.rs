//! `/v1/clusters`

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use underpass_core::service_account::Account;
use underpass_core::{AgentRole, Labels, RegistrationRules};

use crate::{CredentialStatus, DirectSpec, RegistrationStatus};

/// A cluster, as clients set it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = ClusterSpec))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ClusterSpec {
    /// Labels, by which bindings select it.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub labels: Labels,
    /// Its API server, where this server reaches it itself; only administrators see it. Agents serve it otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct: Option<DirectSpec>,
    /// Whether agents on its nodes serve its API server while no agent of the role `cluster` is connected, where their own policies
    /// allow it. Then each node's administrator can answer for the cluster.
    pub nodes_may_stand_in: bool,
    /// Its ServiceAccounts whose pods join as agents, as `NAMESPACE/NAME`, and their roles; only administrators see them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, AgentRole>))]
    pub join_accounts: BTreeMap<Account, AgentRole>,
    /// Lets its agents register a credential for its API server, by these rules: with it this server reaches the API server itself
    /// while no agent is connected. Only administrators see them. Without them what was registered is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registrations: Option<RegistrationRules>,
}

/// The state of a cluster.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = ClusterStatus))]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// `direct` where the server reaches the API server itself, `agent` where agents serve it.
    pub kind: String,
    /// The kind of a direct cluster's credential, never the secret; only administrators see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialStatus>,
    /// Agent tokens that may serve it.
    pub agents: usize,
    /// Agents that are connected to this server now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected: Option<usize>,
    /// Agents that serve its API server now, eight at the most; only administrators see them. Those on nodes are among them once
    /// they have served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub served_by: Vec<ServingAgent>,
    /// The credential that an agent has registered, never the secret; only administrators see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration: Option<RegistrationStatus>,
}

/// An agent that serves a cluster's API server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ServingAgent {
    /// Its id.
    pub agent: String,
    /// Its role.
    pub role: AgentRole,
    /// Whether this server reaches the API server itself, with the credential that this agent has registered, and not through it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_credential: bool,
}
