//! The impersonation policy of a cluster that a server reaches without an agent.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::ImpersonationPolicy;

/// Additions to [`ImpersonationPolicy`]'s default, for one cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Policy))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ClusterPolicy {
    /// Namespaces whose ServiceAccounts may be impersonated.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub allow_service_accounts: BTreeSet<String>,
    /// Users who may not.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub deny_users: BTreeSet<String>,
    /// Groups that may not.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub deny_groups: BTreeSet<String>,
}

impl ClusterPolicy {
    /// Does it say nothing?
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The policy that results.
    pub fn impersonation(&self) -> ImpersonationPolicy {
        let policy = ImpersonationPolicy::default();
        let accounts = self.allow_service_accounts.iter();
        let policy = accounts.fold(policy, ImpersonationPolicy::allow_service_accounts);
        let users = self.deny_users.iter();
        let policy = users.fold(policy, ImpersonationPolicy::deny_user);
        let groups = self.deny_groups.iter();
        groups.fold(policy, ImpersonationPolicy::deny_group)
    }
}
