//! `/v1/bindings`

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use underpass_core::{Role, Selector, Subject};

/// Gives subjects a role in clusters.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = BindingSpec))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BindingSpec {
    /// Users and groups, of the directory or of identity providers.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<Subject>))]
    pub subjects: BTreeSet<Subject>,
    /// The clusters.
    pub clusters: Selector,
    /// The role that the subjects have there.
    pub role: Role,
}

/// There is nothing else to see of a binding.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = BindingStatus))]
pub struct BindingStatus {}
