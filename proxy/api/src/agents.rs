//! `/v1/agents`: the tokens of agents, each of which is the private half of a key.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use underpass_core::{ClusterName, Revision};
use zeroize::Zeroizing;

/// An agent's token, without its secret.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Agent))]
#[serde(rename_all = "camelCase")]
pub struct AgentView {
    /// Its id.
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
