//! `/v1/self`: the requester.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use underpass_core::{ClusterName, Role, Scope};

/// The requester.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Myself {
    /// The user's name.
    pub user: String,
    /// The groups.
    pub groups: Vec<String>,
    /// The authenticator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticated_by: Option<String>,
    /// The end of the credential's life.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires: Option<OffsetDateTime>,
    /// The clusters and requests that the credential is for.
    #[serde(default, skip_serializing_if = "Scope::is_everything")]
    pub scope: Scope,
    /// May they change the whole directory?
    pub administrator: bool,
    /// The clusters that they may reach, and as what.
    pub clusters: Vec<Reachable>,
}

/// A cluster that somebody may reach.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reachable {
    /// Its name.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: ClusterName,
    /// Their roles there.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<Role>))]
    pub roles: BTreeSet<Role>,
}
