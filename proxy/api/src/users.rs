//! `/v1/users`

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use underpass_core::{Authority, Role};

/// A user, as clients set it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = UserSpec))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct UserSpec {
    /// The uid that clusters see beside the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Further facts for clusters, by lower-case key.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
    /// The user is suspended: tokens stop working, and logins are refused.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// Authenticators whose user of this name is this user, by kind and name: `ldap/corp`. Users of this name at other
    /// authenticators are refused.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub links: BTreeSet<Authority>,
}

/// The state of a user.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = UserStatus))]
#[serde(rename_all = "camelCase")]
pub struct UserStatus {
    /// The groups that the directory has them in.
    pub groups: Vec<String>,
    /// Clusters that bindings let the user reach, by role: by name, `*` for all, `key=value` for a label.
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, Vec<String>>))]
    pub reach: BTreeMap<Role, BTreeSet<String>>,
    /// They have a password to log in with.
    pub has_password: bool,
}
