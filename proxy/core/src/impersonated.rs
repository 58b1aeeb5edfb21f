//! The attributes that RBAC checks for impersonation.

use std::fmt;

use serde::Serialize;

use crate::{Identity, service_account};

const AUTHENTICATION: &str = "authentication.k8s.io";

/// One part of an identity, as RBAC names it: a `users`, a `groups`, ….
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Impersonated {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    subresource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    name: String,
}

impl Impersonated {
    fn new(group: &'static str, resource: &'static str, name: &str) -> Self {
        Self {
            verb: "impersonate",
            group,
            resource,
            subresource: String::new(),
            namespace: String::new(),
            name: name.to_owned(),
        }
    }

    /// All parts of `target`, the user first.
    pub fn parts(target: &Identity) -> Vec<Self> {
        let user = match service_account::split(target.user()) {
            Some((namespace, name)) => Self {
                namespace: namespace.to_owned(),
                ..Self::new("", "serviceaccounts", name)
            },
            None => Self::new("", "users", target.user()),
        };
        let uid = target
            .uid()
            .map(|uid| Self::new(AUTHENTICATION, "uids", uid));
        let groups = target.groups().iter();
        let groups = groups.map(|group| Self::new("", "groups", group));
        let extra = target.extra().iter().flat_map(|(key, values)| {
            values.iter().map(|value| Self {
                subresource: key.clone(),
                ..Self::new(AUTHENTICATION, "userextras", value)
            })
        });
        [user]
            .into_iter()
            .chain(uid)
            .chain(groups)
            .chain(extra)
            .collect()
    }

    /// With everything by which RBAC decides.
    pub fn long(&self) -> String {
        let slash = if self.subresource.is_empty() { "" } else { "/" };
        let scope = match self.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        format!(
            "resource \"{}{slash}{}\" in API group \"{}\" {scope}",
            self.resource, self.subresource, self.group
        )
    }
}

impl fmt::Display for Impersonated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.group.is_empty() { "" } else { "." };
        write!(f, "{}{dot}{} \"{}\"", self.resource, self.group, self.name)
    }
}
