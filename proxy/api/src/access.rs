//! `/v1/access`: lets a user in, in one go.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use underpass_core::{Authority, ClusterName, Name, Role};

use crate::{TokenMade, TokenRequest};

/// A user to let in, and the clusters to reach. All of it happens, or nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AccessRequest {
    /// The user. A missing user is made.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub user: Name,
    /// Authenticators whose user of this name they are, by kind and name: `ldap/corp`. They are added to those that there are.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub links: BTreeSet<Authority>,
    /// Groups to be in, which are made where there are none.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub groups: Vec<Name>,
    /// Clusters to reach.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub clusters: Vec<ClusterName>,
    /// Every cluster, those to come included.
    #[serde(default)]
    pub all_clusters: bool,
    /// The role that the user has there.
    pub role: Role,
    /// A token of theirs, to make with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenRequest>,
}

/// The changes that happened.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct AccessGiven {
    /// There was no such user before.
    pub made: bool,
    /// The clusters that the user could not reach in this role by a binding of their own.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub granted: Vec<ClusterName>,
    /// The token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenMade>,
}
