//! Identities that no caller may become through this proxy.
//!
//! The same check runs on the server's side and on the agent's: a captured server cannot exceed it
//! (security rule 17). The server's side refuses a little more, and leaves one thing to the cluster: see
//! [`ImpersonationPolicy::check_caller`] and [`ImpersonationPolicy::check_target`].
//!
//! Names that start with `system:` belong to Kubernetes itself, so that they are refused unless
//! listed here, future ones included:
//! - `system:masters` skips authorization altogether; `system:nodes`, `system:node:*` and the control
//!   plane's users read every secret; `system:bootstrappers` may ask for node certificates.
//! - `system:anonymous` and `system:unauthenticated` are refused: a caller here is authenticated, and an
//!   authenticator that yields them is broken.
//! - `system:authenticated` passes: kube-apiserver adds it to every impersonated user anyway.
//! - `system:serviceaccount:*` is refused unless its namespace is allowed: a ServiceAccount belongs to one cluster, and several
//!   of `kube-system` amount to cluster-admin. Its own groups pass with it. The agent's own account gains a caller nothing: it
//!   may only impersonate, and an impersonated user may not impersonate further.
//! - `kubeadm:cluster-admins` is bound to cluster-admin by kubeadm (1.29 and later).
//! - Extras below `authentication.kubernetes.io/` are kube-apiserver's own assertions about a token (pod, node, credential);
//!   admission policies trust them.

use std::collections::BTreeSet;

use crate::{
    Identity,
    names::{OWN_EXTRAS, OWN_NAMES},
    service_account,
};

/// The prefix of extras that kube-apiserver itself asserts of a token.
const ASSERTED: &str = "authentication.kubernetes.io/";

/// Which identities may be impersonated. The default allows no ServiceAccount.
#[derive(Clone, Debug, Default)]
pub struct ImpersonationPolicy {
    service_account_namespaces: BTreeSet<String>,
    denied_users: BTreeSet<String>,
    denied_groups: BTreeSet<String>,
}

/// The reason that an identity is refused. The text names the offending part, which the caller knows anyway.
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

    /// Namespaces whose ServiceAccounts may be impersonated.
    pub fn service_account_namespaces(&self) -> &BTreeSet<String> {
        &self.service_account_namespaces
    }

    /// Does it deny users or groups that the default does not?
    pub fn has_denials(&self) -> bool {
        !self.denied_users.is_empty() || !self.denied_groups.is_empty()
    }

    /// May this identity be impersonated?
    ///
    /// # Errors
    /// The first part of it that may not.
    pub fn check(&self, identity: &Identity) -> Result<(), NeverImpersonated> {
        self.check_with(identity, Accounts::Allowed)
    }

    /// [`check`](Self::check) of a caller: they may be none of Underpass's own users, and assert nothing in its place.
    pub fn check_caller(&self, caller: &Identity) -> Result<(), NeverImpersonated> {
        not_ours(caller)?;
        self.check_with(caller, Accounts::Allowed)
    }

    /// [`check_caller`](Self::check_caller) of a user that a caller wants to act as in a cluster. ServiceAccounts pass here:
    /// the cluster is asked whether this caller may be that account, and its agent allows namespaces.
    pub fn check_target(&self, target: &Identity) -> Result<(), NeverImpersonated> {
        not_ours(target)?;
        self.check_with(target, Accounts::All)
    }

    fn check_with(&self, identity: &Identity, accounts: Accounts) -> Result<(), NeverImpersonated> {
        if !self.user_allowed(identity.user(), accounts) {
            return Err(NeverImpersonated::User(identity.user().to_owned()));
        }
        let mut groups = identity.groups().iter();
        if let Some(group) = groups.find(|group| !self.group_allowed(group, accounts)) {
            return Err(NeverImpersonated::Group(group.clone()));
        }
        extra_below(identity, ASSERTED)
    }

    fn user_allowed(&self, user: &str, accounts: Accounts) -> bool {
        if self.denied_users.contains(user) {
            return false;
        }
        if !user.starts_with("system:") {
            return true;
        }
        service_account::split(user)
            .is_some_and(|(namespace, _)| self.namespace_allowed(namespace, accounts))
    }

    fn group_allowed(&self, group: &str, accounts: Accounts) -> bool {
        if self.denied_groups.contains(group) || group == "kubeadm:cluster-admins" {
            return false;
        }
        match group.strip_prefix("system:") {
            None | Some("authenticated") => true,
            Some("serviceaccounts") => {
                accounts == Accounts::All || !self.service_account_namespaces.is_empty()
            }
            Some(rest) => rest
                .strip_prefix("serviceaccounts:")
                .is_some_and(|namespace| self.namespace_allowed(namespace, accounts)),
        }
    }

    fn namespace_allowed(&self, namespace: &str, accounts: Accounts) -> bool {
        match accounts {
            Accounts::All => service_account::is_label(namespace),
            Accounts::Allowed => self.service_account_namespaces.contains(namespace),
        }
    }
}

/// Which ServiceAccounts pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Accounts {
    /// Those of the policy's namespaces.
    Allowed,
    /// Any.
    All,
}

fn not_ours(identity: &Identity) -> Result<(), NeverImpersonated> {
    let ours = |name: &&String| name.starts_with(OWN_NAMES);
    if identity.user().starts_with(OWN_NAMES) {
        return Err(NeverImpersonated::User(identity.user().to_owned()));
    }
    if let Some(group) = identity.groups().iter().find(ours) {
        return Err(NeverImpersonated::Group(group.clone()));
    }
    extra_below(identity, OWN_EXTRAS)
}

fn extra_below(identity: &Identity, prefix: &str) -> Result<(), NeverImpersonated> {
    let below = |key: &&String| key.starts_with(prefix);
    match identity.extra().keys().find(below) {
        None => Ok(()),
        Some(key) => Err(NeverImpersonated::Extra(key.clone())),
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
            "system:bootstrap:abcdef",
            "system:serviceaccount:kube-system:",
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
        for almost in ["ci", "ci:", "ci:a:b", "ci:A"] {
            let user = format!("system:serviceaccount:{almost}");
            assert!(!check(&policy, &user, &[]), "{user}");
        }
        assert!(!check(
            &policy,
            "alice",
            &["system:serviceaccounts:kube-system"]
        ));
    }

    fn identity(user: &str, groups: &[&str], extra: &[&str]) -> Identity {
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        let extra = extra
            .iter()
            .map(|&key| (key.to_owned(), vec!["x".to_owned()]));
        Identity::new(user.into(), None, groups, extra.collect()).unwrap()
    }

    #[test]
    fn rule_17_underpasses_own_users_are_nobodys() {
        let policy = ImpersonationPolicy::default();
        for ours in [
            identity("underpass:token-reviewer", &[], &[]),
            identity("alice", &["underpass:x"], &[]),
            identity("alice", &[], &["underpass.dev/original-user"]),
        ] {
            policy.check_caller(&ours).unwrap_err();
            policy.check_target(&ours).unwrap_err();
        }
        // The agent has to let them pass: it is the server that asks as them.
        let reviewer = identity("underpass:token-reviewer", &[], &[]);
        policy.check(&reviewer).unwrap();
    }

    #[test]
    fn rule_17_whom_somebody_acts_as_is_bounded_too() {
        let policy = ImpersonationPolicy::default();
        let account = "system:serviceaccount:ci:deployer";
        let groups = ["system:serviceaccounts", "system:serviceaccounts:ci"];
        let deployer = identity(account, &groups, &[]);
        policy.check_target(&deployer).unwrap();
        policy.check_caller(&deployer).unwrap_err();
        for never in [
            identity("system:node:worker-1", &[], &[]),
            identity("system:admin", &[], &[]),
            identity("system:serviceaccount:ci:a:b", &[], &[]),
            identity(account, &["system:masters"], &[]),
            identity("bob", &["system:nodes"], &[]),
            identity("bob", &["system:serviceaccounts:"], &[]),
            identity("bob", &["kubeadm:cluster-admins"], &[]),
            identity("bob", &[], &["authentication.kubernetes.io/pod-name"]),
        ] {
            policy.check_target(&never).unwrap_err();
        }
        policy
            .deny_user(account)
            .check_target(&deployer)
            .unwrap_err();
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
