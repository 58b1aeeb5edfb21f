//! `/v1/clusters`

use serde::{Deserialize, Serialize};
use underpass_core::Labels;

use crate::{CredentialStatus, DirectSpec};

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
}
