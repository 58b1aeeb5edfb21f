//! Clusters that a binding chooses.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{ClusterName, Labels};

/// Clusters that a binding is about: those that any of the three chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Selector {
    /// Every cluster, those to come included.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// By name.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub names: BTreeSet<ClusterName>,
    /// Those that have all of these labels.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub labels: Labels,
}

impl Selector {
    /// Does it choose nothing, now and ever?
    pub fn is_empty(&self) -> bool {
        !self.all && self.names.is_empty() && self.labels.is_empty()
    }

    /// Does it choose the cluster called `name`, which has `labels`?
    pub fn selects(&self, name: &ClusterName, labels: &Labels) -> bool {
        let by_labels = !self.labels.is_empty() && self.labels.are_among(labels);
        self.all || self.names.contains(name) || by_labels
    }
}
