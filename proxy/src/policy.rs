//! Identities that nobody may become through this proxy.
//!
//! The same check runs on the server's side and on the agent's: a captured server cannot exceed it
//! (security rule 17).
//!
//! Names that start with `system:` belong to Kubernetes itself, so that they are refused unless
//! listed here, future ones included:
//! - `system:masters` skips authorization altogether; `system:nodes`, `system:node:*` and the control
//!   plane's users read every secret; `system:bootstrappers` may ask for node certificates.
//! - `system:anonymous` and `system:unauthenticated` are refused: a caller here is authenticated, and an
//!   authenticator that yields them is broken.
//! - `system:authenticated` passes: kube-apiserver adds it to every impersonated user anyway.
//! - `system:serviceaccount:*` is refused unless its namespace is allowed: a ServiceAccount belongs to one
//!   cluster, and several of `kube-system` amount to cluster-admin. Its own groups pass with it.
//! - `kubeadm:cluster-admins` is bound to cluster-admin by kubeadm (1.29 and later).
//! - Extras below `authentication.kubernetes.io/` are what kube-apiserver itself asserts of a token (pod, node,
//!   credential); admission policies trust them.

use std::collections::BTreeSet;

use crate::Identity;

/// Which identities may be impersonated. The default allows no ServiceAccount.
#[derive(Clone, Debug, Default)]
pub struct ImpersonationPolicy {
    service_account_namespaces: BTreeSet<String>,
    denied_users: BTreeSet<String>,
    denied_groups: BTreeSet<String>,
}

/// What made an identity unacceptable. The text names it, since the caller knows it anyway.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NeverImpersonated {
    /// The user's name.
    #[error("user {0:?} may not be impersonated")]
    User(String),
    /// One of the groups.
    #[error("group {0:?} may not be impersonated")]
    Group(String),
    /// One of the extra keys.
    #[error("extra {0:?} may not be impersonated")]
    Extra(String),
}

impl ImpersonationPolicy {
    /// Allows ServiceAccounts of one namespace (kubectl `--as=system:serviceaccount:NAMESPACE:…`).
    #[must_use]
    pub fn allow_service_accounts(mut self, namespace: impl Into<String>) -> Self {
        self.service_account_namespaces.insert(namespace.into());
        self
    }

    /// Refuses one more user.
    #[must_use]
    pub fn deny_user(mut self, user: impl Into<String>) -> Self {
        self.denied_users.insert(user.into());
        self
    }

    /// Refuses one more group, for example one that a cluster binds to cluster-admin.
    #[must_use]
    pub fn deny_group(mut self, group: impl Into<String>) -> Self {
        self.denied_groups.insert(group.into());
        self
    }

    /// May this identity be impersonated?
    ///
    /// # Errors
    /// The first part of it that may not.
    pub fn check(&self, identity: &Identity) -> Result<(), NeverImpersonated> {
        if !self.user_allowed(identity.user()) {
            return Err(NeverImpersonated::User(identity.user().to_owned()));
        }
        if let Some(group) = identity
            .groups()
            .iter()
            .find(|group| !self.group_allowed(group))
        {
            return Err(NeverImpersonated::Group(group.clone()));
        }
        let asserted = |key: &&String| key.starts_with("authentication.kubernetes.io/");
        identity
            .extra()
            .keys()
            .find(asserted)
            .map_or(Ok(()), |key| Err(NeverImpersonated::Extra(key.clone())))
    }

    fn user_allowed(&self, user: &str) -> bool {
        if self.denied_users.contains(user) {
            return false;
        }
        match user.strip_prefix("system:") {
            None => true,
            Some(rest) => rest
                .strip_prefix("serviceaccount:")
                .and_then(|account| account.split_once(':'))
                .is_some_and(|(namespace, _)| self.service_account_namespaces.contains(namespace)),
        }
    }

    fn group_allowed(&self, group: &str) -> bool {
        if self.denied_groups.contains(group) || group == "kubeadm:cluster-admins" {
            return false;
        }
        match group.strip_prefix("system:") {
            None | Some("authenticated") => true,
            Some("serviceaccounts") => !self.service_account_namespaces.is_empty(),
            Some(rest) => rest
                .strip_prefix("serviceaccounts:")
                .is_some_and(|namespace| self.service_account_namespaces.contains(namespace)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn check(policy: &ImpersonationPolicy, user: &str, groups: &[&str]) -> bool {
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        let identity = Identity::new(user.into(), None, groups, BTreeMap::new()).unwrap();
        policy.check(&identity).is_ok()
    }

    #[test]
    fn rule_17_system_identities_are_refused() {
        let policy = ImpersonationPolicy::default();
        assert!(check(&policy, "alice", &["dev", "system:authenticated"]));
        for user in [
            "system:admin",
            "system:anonymous",
            "system:apiserver",
            "system:kube-controller-manager",
            "system:kube-proxy",
            "system:kube-scheduler",
            "system:node:worker-1",
            "system:serviceaccount:kube-system:clusterrole-aggregation-controller",
            "system:something-new",
        ] {
            assert!(!check(&policy, user, &[]), "{user}");
        }
        for group in [
            "system:masters",
            "system:nodes",
            "system:bootstrappers:kubeadm:default-node-token",
            "system:unauthenticated",
            "system:serviceaccounts",
            "kubeadm:cluster-admins",
        ] {
            assert!(!check(&policy, "alice", &["dev", group]), "{group}");
        }
    }

    #[test]
    fn service_accounts_pass_by_namespace() {
        let policy = ImpersonationPolicy::default().allow_service_accounts("ci");
        let groups = ["system:serviceaccounts", "system:serviceaccounts:ci"];
        assert!(check(&policy, "system:serviceaccount:ci:deployer", &groups));
        assert!(!check(&policy, "system:serviceaccount:kube-system:x", &[]));
        assert!(!check(&policy, "system:serviceaccount:ci", &[]));
        assert!(!check(
            &policy,
            "alice",
            &["system:serviceaccounts:kube-system"]
        ));
    }

    #[test]
    fn operators_deny_more() {
        let policy = ImpersonationPolicy::default()
            .deny_group("admins")
            .deny_user("root");
        assert!(!check(&policy, "root", &[]));
        assert!(!check(&policy, "alice", &["admins"]));
    }

    #[test]
    fn asserted_extras_are_refused() {
        let key = "authentication.kubernetes.io/node-name".to_owned();
        let extra = BTreeMap::from([(key.clone(), vec!["n1".to_owned()])]);
        let identity = Identity::new("alice".into(), None, vec![], extra).unwrap();
        let refused = ImpersonationPolicy::default().check(&identity);
        assert_eq!(refused, Err(NeverImpersonated::Extra(key)));
    }
}
