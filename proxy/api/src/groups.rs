//! `/v1/groups`

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use underpass_core::{Authority, Name};

/// A group, as clients set it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = GroupSpec))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct GroupSpec {
    /// Users of the directory.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub members: BTreeSet<Name>,
    /// Authenticators whose group of this name is this group, by kind and name: `ldap/corp`. The group of this name of
    /// another one counts for nothing.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub links: BTreeSet<Authority>,
}

/// There is nothing else to see of a group.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = GroupStatus))]
pub struct GroupStatus {}
