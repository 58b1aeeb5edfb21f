//! Manifests for an agent in its cluster: a ServiceAccount that may impersonate and nothing else.
//!
//! RBAC can only allow. So the agent's [`ImpersonationPolicy`](underpass_core::ImpersonationPolicy) lists the identities that
//! are never impersonated, and these manifests take away as much as RBAC can: ServiceAccounts unless their namespace is stated,
//! and with [`AgentRbac::constrained`] nodes as well.
//!
//! The two forms, of which the agent's requests do not differ:
//! - *Classic*: the verb `impersonate` on `users` and `groups` of the core group, and on `uids` and `userextras/KEY` of
//!   `authentication.k8s.io`. RBAC has no wildcard for the keys, hence every resource of that group; nothing else in it
//!   knows that verb.
//! - *Constrained* (KEP-5284, on from Kubernetes 1.36): `impersonate:user-info` on all four in `authentication.k8s.io`, and
//!   `impersonate-on:user-info:VERB` on all that the impersonated user may ask for. An API server that does not know it sees no
//!   right to impersonate at all; one that does refuses nodes, ServiceAccounts and the group `system:masters` for all names in
//!   a request. (`userInfoImpersonationMode` in apiserver/pkg/endpoints/filters/impersonation/mode.go; verbs have no wildcard
//!   there either.)

mod objects;
mod rules;

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::Value;

use self::objects::{Objects, Subject};
use underpass_core::{
    names::{ACCESS_REVIEWER, TOKEN_REVIEWER},
    service_account::{is_label, is_subdomain},
};

/// The rights that the manifests grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRbac {
    /// The namespace of the agent's ServiceAccount.
    pub namespace: String,
    /// Make the namespace too.
    pub create_namespace: bool,
    /// The ServiceAccount's name.
    pub service_account: String,
    /// Users that may be impersonated; every user if empty.
    pub users: Vec<String>,
    /// In which groups; in any if empty.
    pub groups: Vec<String>,
    /// With which extras, by their keys; with any if empty.
    pub extras: Vec<String>,
    /// ServiceAccounts of these namespaces too.
    pub service_account_namespaces: Vec<String>,
    /// By constrained impersonation, which nothing before Kubernetes 1.36 understands.
    pub constrained: bool,
    /// Let the server ask whether a user may act as another ([`ACCESS_REVIEWER`]).
    pub access_reviewer: bool,
    /// Let the server have ServiceAccounts' tokens reviewed ([`TOKEN_REVIEWER`]).
    pub token_reviewer: bool,
    /// Let the agent look up services and their endpoints, in these namespaces.
    pub services: Vec<ServiceNamespace>,
    /// The Secret of the agent's namespace that holds its key. It is made, empty.
    pub key_secret: Option<String>,
    /// The ServiceAccount of the agent's namespace whose tokens the agent may request, to register them at its server. It is made,
    /// and may impersonate as the agent, and nothing else, unless it is the agent's own.
    pub registered_account: Option<String>,
}

/// Where the agent may look up services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceNamespace {
    /// In every namespace.
    Every,
    /// In this one.
    Named(String),
}

impl From<String> for ServiceNamespace {
    /// `*` is every namespace.
    fn from(text: String) -> Self {
        match text.as_str() {
            "*" => Self::Every,
            _ => Self::Named(text),
        }
    }
}

impl Default for AgentRbac {
    fn default() -> Self {
        Self {
            namespace: "underpass-system".to_owned(),
            create_namespace: true,
            service_account: "underpass-agent".to_owned(),
            users: Vec::new(),
            groups: Vec::new(),
            extras: Vec::new(),
            service_account_namespaces: Vec::new(),
            constrained: false,
            access_reviewer: true,
            token_reviewer: false,
            services: Vec::new(),
            key_secret: None,
            registered_account: None,
        }
    }
}

/// Why there are no manifests.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RbacError {
    /// A namespace's name.
    #[error("{0:?} is no name of a namespace")]
    Namespace(String),
    /// The ServiceAccount's name.
    #[error("{0:?} is no name of a ServiceAccount")]
    ServiceAccount(String),
    /// The Secret's name.
    #[error("{0:?} is no name of a Secret")]
    Secret(String),
    /// An extra's key that no header can name, or that constrained impersonation does not take.
    #[error("{0:?} is no key of an extra that can be impersonated{1}")]
    Extra(String, &'static str),
    /// YAML could not be written.
    #[error("the manifests cannot be written")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl AgentRbac {
    /// The objects, those first that others name.
    ///
    /// # Errors
    /// A name that Kubernetes would not take.
    pub fn objects(&self) -> Result<Vec<Value>, RbacError> {
        self.check()?;
        let agent = Subject::Account(&self.namespace, &self.service_account);
        // Two agents in one cluster do not take each other's.
        let name = format!("{}:{}", self.namespace, self.service_account);
        let mut objects = Objects::default();
        if self.create_namespace {
            objects.namespace(&self.namespace)?;
        }
        self.impersonator(&mut objects, &self.service_account)?;
        if let Some(account) = &self.registered_account {
            if *account != self.service_account {
                self.impersonator(&mut objects, account)?;
            }
            let role = format!("{}:registered-token", self.service_account);
            objects.role(&self.namespace, &role, rules::tokens_of(account), agent)?;
        }
        let role = format!("{name}:services");
        match self.named_services() {
            None => objects.cluster_role(&role, rules::services(), agent)?,
            Some(namespaces) => {
                for namespace in namespaces {
                    objects.role(namespace, &role, rules::services(), agent)?;
                }
            }
        }
        if let Some(secret) = &self.key_secret {
            let role = format!("{}:key", self.service_account);
            objects.secret(&self.namespace, secret)?;
            objects.role(&self.namespace, &role, rules::key(secret), agent)?;
        }
        for (user, group, resource) in self.reviewers() {
            let rule = PolicyRule {
                api_groups: Some(vec![group.to_owned()]),
                resources: Some(vec![resource.to_owned()]),
                verbs: vec!["create".to_owned()],
                ..PolicyRule::default()
            };
            objects.cluster_role(user, vec![rule], Subject::User(user))?;
        }
        Ok(objects.into())
    }

    /// A ServiceAccount that may impersonate.
    fn impersonator(&self, objects: &mut Objects, account: &str) -> Result<(), RbacError> {
        let subject = Subject::Account(&self.namespace, account);
        let name = format!("{}:{account}", self.namespace);
        objects.account(&self.namespace, account)?;
        objects.cluster_role(&name, rules::impersonation(self), subject)?;
        for namespace in &self.service_account_namespaces {
            objects.role(namespace, &name, vec![rules::accounts()], subject)?;
        }
        Ok(())
    }

    /// The objects as YAML, for `kubectl apply -f -`.
    ///
    /// # Errors
    /// A name that Kubernetes would not take.
    pub fn to_yaml(&self) -> Result<String, RbacError> {
        let mut yaml = String::new();
        for object in self.objects()? {
            let document = serde_saphyr::to_string(&object);
            yaml.push_str("---\n");
            yaml.push_str(&document.map_err(|error| RbacError::Write(Box::new(error)))?);
        }
        Ok(yaml)
    }

    fn check(&self) -> Result<(), RbacError> {
        let namespaces = [&self.namespace]
            .into_iter()
            .chain(&self.service_account_namespaces)
            .chain(self.named_services().into_iter().flatten());
        for namespace in namespaces {
            if !is_label(namespace) {
                return Err(RbacError::Namespace(namespace.clone()));
            }
        }
        let accounts = [&self.service_account].into_iter();
        let mut accounts = accounts.chain(&self.registered_account);
        if let Some(name) = accounts.find(|name| !is_subdomain(name)) {
            return Err(RbacError::ServiceAccount(name.clone()));
        }
        if let Some(secret) = self.key_secret.as_ref().filter(|name| !is_subdomain(name)) {
            return Err(RbacError::Secret(secret.clone()));
        }
        for key in &self.extras {
            if key.is_empty()
                || key
                    .chars()
                    .any(|c| c.is_ascii_uppercase() || c.is_control())
            {
                return Err(RbacError::Extra(key.clone(), ": it has to be lower-case"));
            }
            let domain = key.split_once('/').map(|(domain, _)| domain);
            if self.constrained && !domain.is_some_and(is_subdomain) {
                let why =
                    ": constrained impersonation wants a domain and a path, like example.org/team";
                return Err(RbacError::Extra(key.clone(), why));
            }
        }
        Ok(())
    }

    /// The namespaces whose services the agent may look up; `None` for every namespace.
    fn named_services(&self) -> Option<Vec<&String>> {
        let names = self.services.iter().map(|namespace| match namespace {
            ServiceNamespace::Every => None,
            ServiceNamespace::Named(name) => Some(name),
        });
        names.collect()
    }

    /// The users as which the server asks the cluster, and their requests.
    fn reviewers(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        let access = (
            ACCESS_REVIEWER,
            "authorization.k8s.io",
            "subjectaccessreviews",
        );
        let token = (TOKEN_REVIEWER, "authentication.k8s.io", "tokenreviews");
        let access = self.access_reviewer.then_some(access);
        access
            .into_iter()
            .chain(self.token_reviewer.then_some(token))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules_of(rbac: &AgentRbac, kind: &str, name: &str) -> Value {
        let objects = rbac.objects().unwrap();
        let found = objects
            .iter()
            .find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
        found.unwrap()["rules"].clone()
    }

    fn impersonation(rbac: &AgentRbac) -> Value {
        rules_of(rbac, "ClusterRole", "underpass-system:underpass-agent")
    }

    #[test]
    fn the_agents_key_is_one_secret_of_its_own_namespace() {
        let rbac = AgentRbac {
            key_secret: Some("agent-key".to_owned()),
            ..AgentRbac::default()
        };
        let objects = rbac.objects().unwrap();
        let role = objects.iter().find(|object| object["kind"] == "Role");
        let role = role.unwrap();
        assert_eq!(role["metadata"]["namespace"], "underpass-system");
        let expected = json!([{
            "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["agent-key"],
            "verbs": ["get", "update", "patch"],
        }]);
        assert_eq!(role["rules"], expected);
        // It is there before the agent, and applying it again leaves the key alone.
        let secret = objects.iter().find(|object| object["kind"] == "Secret");
        let secret = secret.unwrap();
        assert_eq!(secret["metadata"]["name"], "agent-key");
        assert_eq!(secret["metadata"]["namespace"], "underpass-system");
        assert_eq!(secret["type"], "Opaque");
        assert!(secret.get("data").is_none() && secret.get("stringData").is_none());
        let bad = AgentRbac {
            key_secret: Some("Not/A/Name".to_owned()),
            ..AgentRbac::default()
        };
        assert!(matches!(bad.objects(), Err(RbacError::Secret(_))));
    }

    #[test]
    fn the_agent_may_impersonate_and_nothing_else() {
        let rbac = AgentRbac::default();
        let kinds: Vec<_> = rbac
            .objects()
            .unwrap()
            .iter()
            .map(|object| object["kind"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            kinds,
            [
                "Namespace",
                "ServiceAccount",
                "ClusterRole",
                "ClusterRoleBinding",
                "ClusterRole",
                "ClusterRoleBinding",
            ]
        );
        let expected = json!([
            { "apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"] },
            { "apiGroups": [""], "resources": ["groups"], "verbs": ["impersonate"] },
            { "apiGroups": ["authentication.k8s.io"], "resources": ["*"], "verbs": ["impersonate"] },
        ]);
        assert_eq!(impersonation(&rbac), expected);
        let expected = json!([{
            "apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"],
            "verbs": ["create"],
        }]);
        assert_eq!(rules_of(&rbac, "ClusterRole", ACCESS_REVIEWER), expected);
    }

    #[test]
    fn services_are_looked_up_where_it_is_stated() {
        let services = |names: &[&str]| AgentRbac {
            services: names.iter().map(|name| (*name).to_owned().into()).collect(),
            ..AgentRbac::default()
        };
        let expected = json!([
            { "apiGroups": [""], "resources": ["services"], "verbs": ["get"] },
            { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list"] },
        ]);
        let name = "underpass-system:underpass-agent:services";
        assert_eq!(rules_of(&services(&["prod"]), "Role", name), expected);
        let all = services(&["prod", "*"]);
        assert_eq!(rules_of(&all, "ClusterRole", name), expected);
        let kinds = all.objects().unwrap();
        assert!(kinds.iter().all(|object| object["kind"] != "Role"));
        let bad = services(&["Prod"]).objects().unwrap_err();
        assert!(matches!(bad, RbacError::Namespace(_)), "{bad}");
    }

    #[test]
    fn rule_17_service_accounts_only_of_stated_namespaces() {
        let rbac = AgentRbac {
            service_account_namespaces: vec!["ci".to_owned()],
            ..AgentRbac::default()
        };
        assert!(!impersonation(&rbac).to_string().contains("serviceaccounts"));
        let expected = json!([
            { "apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"] },
        ]);
        let name = "underpass-system:underpass-agent";
        assert_eq!(rules_of(&rbac, "Role", name), expected);
    }

    #[test]
    fn rule_17_constrained_has_no_verb_for_nodes_and_accounts() {
        let rbac = AgentRbac {
            constrained: true,
            ..AgentRbac::default()
        };
        let rules = impersonation(&rbac);
        let everything = json!({
            "apiGroups": ["authentication.k8s.io"], "resources": ["*"],
            "verbs": ["impersonate:user-info"],
        });
        assert_eq!(rules[0], everything);
        for rule in &rules.as_array().unwrap()[1..] {
            for verb in rule["verbs"].as_array().unwrap() {
                let verb = verb.as_str().unwrap();
                assert!(verb.starts_with("impersonate-on:user-info:"), "{verb}");
            }
        }
    }

    #[test]
    fn restrictions_hold_in_both_forms() {
        for (constrained, group, verb) in [
            (false, "", "impersonate"),
            (true, "authentication.k8s.io", "impersonate:user-info"),
        ] {
            let rbac = AgentRbac {
                users: vec!["alice".to_owned()],
                groups: vec!["dev".to_owned()],
                extras: vec!["example.org/team".to_owned()],
                constrained,
                ..AgentRbac::default()
            };
            let rules = impersonation(&rbac);
            // Underpass itself is not locked out.
            let users = json!({
                "apiGroups": [group], "resources": ["users"], "verbs": [verb],
                "resourceNames": ["alice", ACCESS_REVIEWER],
            });
            assert_eq!(rules[0], users);
            let groups = json!({
                "apiGroups": [group], "resources": ["groups"], "verbs": [verb],
                "resourceNames": ["dev"],
            });
            assert_eq!(rules[1], groups);
            let more = json!({
                "apiGroups": ["authentication.k8s.io"],
                "resources": [
                    "uids", "userextras/underpass.dev/original-user",
                    "userextras/example.org/team",
                ],
                "verbs": [verb],
            });
            assert_eq!(rules[2], more);
        }
        // A wildcard would be one for users and groups as well: they are of that group in the constrained form.
        let rbac = AgentRbac {
            users: vec!["alice".to_owned()],
            constrained: true,
            ..AgentRbac::default()
        };
        let rules = impersonation(&rbac);
        for rule in rules.as_array().unwrap() {
            let on_request = rule["verbs"].to_string().contains("impersonate-on:");
            let wildcard = rule["resources"].to_string().contains('*');
            assert!(on_request || !wildcard, "{rule}");
        }
    }

    #[test]
    fn names_that_kubernetes_would_not_take_are_refused() {
        let check = |change: fn(&mut AgentRbac)| {
            let mut rbac = AgentRbac::default();
            change(&mut rbac);
            rbac.to_yaml()
        };
        for bad in [
            check(|rbac| rbac.namespace = "Upper".to_owned()),
            check(|rbac| rbac.service_account = "a b".to_owned()),
            check(|rbac| rbac.service_account_namespaces.push(String::new())),
            check(|rbac| rbac.extras.push("Team".to_owned())),
            check(|rbac| {
                rbac.constrained = true;
                rbac.extras.push("team".to_owned());
            }),
        ] {
            bad.unwrap_err();
        }
        let yaml = check(|_| {}).unwrap();
        assert!(
            yaml.starts_with("---\napiVersion: v1\nkind: Namespace\n"),
            "{yaml}"
        );
    }
}
