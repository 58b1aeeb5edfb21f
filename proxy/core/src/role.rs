//! Roles, and the permissions that they give.

use std::{fmt, str::FromStr};

use http::Method;
use serde::{Deserialize, Serialize};

use crate::{Access, RequestInfo, ShellKind, Target};

/// A user's role in a cluster, at this server. A role lets requests reach the cluster; the cluster's own RBAC decides about
/// them.
///
/// | role | reads | writes | shells | services | operations | node targets and shells | administers |
/// |---|---|---|---|---|---|---|---|
/// | view | x | | | | | | |
/// | access | x | x | | | | | |
/// | shell | x | x | x | | | | |
/// | services | x | x | | x | | | |
/// | operate | x | x | x | x | | | |
/// | operations | x | x | | | x | | |
/// | admin | x | x | x | x | x | x | x |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look at everything, change nothing, enter nothing.
    View,
    /// The API, without a way into workloads.
    Access,
    /// And exec and attach.
    Shell,
    /// The API, port-forwards, and proxied pods and services.
    Services,
    /// All of that.
    Operate,
    /// The API, and operations on nodes.
    Operations,
    /// Everything, and the cluster's agents and bindings. On all clusters: the whole directory.
    Admin,
}

/// One thing that a role allows or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Permission {
    /// Requests that change nothing: get, list, watch, logs.
    Read,
    /// Every other request to the API server itself.
    Write,
    /// exec and attach, every upgrade of which nothing better is known (KubeVirt's `console` and `vnc`), and shells at agents in which
    /// kubectl is the caller.
    Shell,
    /// Shells of a node itself, as far as the policy of its agent allows them.
    NodeShell,
    /// Connections to workloads: port-forward, and the API server's proxy.
    Services,
    /// The API server's proxy to a node, whose kubelet runs commands and reads every log.
    Node,
    /// Operations on nodes, as far as the policies of their agents name them.
    Operations,
    /// Connections to sockets and ports at a node, as far as the policy of its agent names them. The socket of a container runtime is
    /// root on the node, and no RBAC of the cluster decides about it.
    NodeTargets,
    /// The cluster's agents and bindings.
    Administer,
}

impl Role {
    /// Every role, from the least.
    pub const ALL: [Self; 7] = [
        Self::View,
        Self::Access,
        Self::Shell,
        Self::Services,
        Self::Operate,
        Self::Operations,
        Self::Admin,
    ];

    /// Does it allow this?
    pub fn allows(self, permission: Permission) -> bool {
        match permission {
            Permission::Read => true,
            Permission::Write => self != Self::View,
            Permission::Shell => matches!(self, Self::Shell | Self::Operate | Self::Admin),
            Permission::Services => matches!(self, Self::Services | Self::Operate | Self::Admin),
            Permission::Node => matches!(self, Self::Operate | Self::Admin),
            Permission::Operations => matches!(self, Self::Operations | Self::Admin),
            Permission::NodeShell | Permission::NodeTargets | Permission::Administer => {
                self == Self::Admin
            }
        }
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Access => "access",
            Self::Shell => "shell",
            Self::Services => "services",
            Self::Operate => "operate",
            Self::Operations => "operations",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not the name of a role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role; they are view, access, shell, services, operate, operations and admin")]
pub struct UnknownRole(String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

impl Permission {
    /// Those that [`needed_for`](Self::needed_for) gives.
    pub const OF_API_SERVER: [Self; 5] = [
        Self::Read,
        Self::Write,
        Self::Shell,
        Self::Services,
        Self::Node,
    ];

    /// A request to an API server that needs it; `None` where none does.
    pub fn example(self) -> Option<RequestInfo> {
        let (method, path) = match self {
            Self::Read => (Method::GET, "/version"),
            Self::Write => (Method::POST, "/api/v1/namespaces"),
            Self::Shell => (Method::POST, "/api/v1/namespaces/default/pods/p/exec"),
            Self::Services => (
                Method::POST,
                "/api/v1/namespaces/default/pods/p/portforward",
            ),
            Self::Node => (Method::GET, "/api/v1/nodes/n/proxy/"),
            _ => return None,
        };
        Some(RequestInfo::parse(&method, path, None, false))
    }

    /// The permission that an access needs; `None` where no role allows it.
    pub fn needed_by(access: &Access<'_>) -> Option<Self> {
        match access.target() {
            Target::KubeApi => access.request().map(Self::needed_for),
            Target::Tcp(_) | Target::Unix(_) => Some(match access.node() {
                Some(_) => Self::NodeTargets,
                None => Self::Services,
            }),
            Target::Shells(kind) | Target::Shell(kind, _) => Some(match kind {
                ShellKind::Kubectl => Self::Shell,
                ShellKind::Node => Self::NodeShell,
            }),
            Target::Operation => Some(Self::Operations),
            // Between the server and its agents.
            _ => None,
        }
    }

    /// The permission that a request to the API server needs.
    pub fn needed_for(request: &RequestInfo) -> Self {
        if request.is_proxied() {
            return match request.resource() {
                "pods" | "services" => Self::Services,
                // `nodes`, and resources that may learn to proxy: the kubelet's API has `/exec` and `/run`.
                _ => Self::Node,
            };
        }
        match request.subresource() {
            "exec" | "attach" => Self::Shell,
            "portforward" => Self::Services,
            _ if request.is_upgrade() => Self::Shell,
            _ if request.changes_nothing() => Self::Read,
            _ => Self::Write,
        }
    }

    /// Its name in refusals.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "reading",
            Self::Write => "changing anything",
            Self::Shell => "a shell",
            Self::NodeShell => "a shell of a node",
            Self::Services => "a connection to a workload",
            Self::Node => "a connection to a node",
            Self::Operations => "operations on nodes",
            Self::NodeTargets => "a connection to a socket or a port at a node",
            Self::Administer => "administering",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(method: &str, path: &str) -> Permission {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let (path, query) = path
            .split_once('?')
            .map_or((path, None), |(p, q)| (p, Some(q)));
        Permission::needed_for(&RequestInfo::parse(&method, path, query, false))
    }

    #[test]
    fn rule_8_each_target_needs_its_ability() {
        let user = crate::Identity::new("u".into(), None, vec![], Default::default());
        let (user, cluster) = (user.unwrap(), crate::ClusterName::new("c").unwrap());
        for (target, permission) in [
            ("tcp:db.prod:5432", Some(Permission::Services)),
            ("unix:/run/x.sock", Some(Permission::Services)),
            ("shell", Some(Permission::Shell)),
            (
                "shell:0123456789abcdef0123456789abcdef",
                Some(Permission::Shell),
            ),
            ("node-shell", Some(Permission::NodeShell)),
            (
                "node-shell:0123456789abcdef0123456789abcdef",
                Some(Permission::NodeShell),
            ),
            ("operation", Some(Permission::Operations)),
            ("state", None),
            // No stream to the API server without a request.
            ("kube-api", None),
        ] {
            let target = target.parse().unwrap();
            let access = Access::to(&user, &cluster, &target);
            let needed = Permission::needed_by(&access);
            assert_eq!(needed, permission, "{target}");
            // The same text at a node is another target.
            let node = "worker-1".parse().unwrap();
            let needed = Permission::needed_by(&access.at_node(Some(&node)));
            let permission = match permission {
                Some(Permission::Services) => Some(Permission::NodeTargets),
                other => other,
            };
            assert_eq!(needed, permission, "{target} at a node");
        }
        let request = RequestInfo::parse(&Method::GET, "/api/v1/pods", None, false);
        let access = Access::new(&user, &cluster, &request);
        assert_eq!(Permission::needed_by(&access), Some(Permission::Read));
    }

    #[test]
    fn rule_8_each_request_needs_its_ability() {
        for (method, path, permission) in [
            ("GET", "/api/v1/pods?watch=1", Permission::Read),
            ("GET", "/version", Permission::Read),
            (
                "GET",
                "/api/v1/namespaces/a/pods/b/log?follow=true",
                Permission::Read,
            ),
            (
                "POST",
                "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
                Permission::Read,
            ),
            (
                "POST",
                "/apis/authentication.k8s.io/v1/selfsubjectreviews",
                Permission::Read,
            ),
            (
                "POST",
                "/apis/authorization.k8s.io/v1/subjectaccessreviews",
                Permission::Write,
            ),
            ("POST", "/api/v1/namespaces/a/pods", Permission::Write),
            ("DELETE", "/api/v1/pods", Permission::Write),
            ("DELETE", "/api/v1/watch/pods", Permission::Write),
            ("POST", "/version", Permission::Write),
            (
                "POST",
                "/api/v1/namespaces/a/serviceaccounts/b/token",
                Permission::Write,
            ),
            (
                "PATCH",
                "/api/v1/namespaces/a/pods/b/ephemeralcontainers",
                Permission::Write,
            ),
            (
                "GET",
                "/api/v1/namespaces/a/pods/b/exec?command=sh",
                Permission::Shell,
            ),
            (
                "POST",
                "/api/v1/namespaces/a/pods/b/%65xec",
                Permission::Shell,
            ),
            (
                "POST",
                "/api/v1/namespaces/a/pods/b/attach",
                Permission::Shell,
            ),
            (
                "GET",
                "/api/v1/namespaces/a/pods/b/portforward",
                Permission::Services,
            ),
            (
                "GET",
                "/api/v1/namespaces/a/services/b/proxy/x",
                Permission::Services,
            ),
            (
                "GET",
                "/api/v1/proxy/namespaces/a/pods/b/x",
                Permission::Services,
            ),
            (
                "GET",
                "/api/v1/nodes/n/proxy/run/a/b/c?cmd=id",
                Permission::Node,
            ),
            ("GET", "/api/v1/proxy/nodes/n/logs", Permission::Node),
        ] {
            assert_eq!(needed(method, path), permission, "{method} {path}");
        }
    }

    #[test]
    fn rule_26_an_unknown_upgrade_is_a_shell() {
        let vmi = "/apis/subresources.kubevirt.io/v1/namespaces/a/virtualmachineinstances/v";
        let pod = "/api/v1/namespaces/a/pods/p";
        for (path, query, permission) in [
            (format!("{vmi}/console"), "", Permission::Shell),
            (format!("{vmi}/vnc"), "watch=true", Permission::Shell),
            (format!("{vmi}/vnc"), "watch=", Permission::Shell),
            (
                format!("{vmi}/portforward/22/tcp"),
                "",
                Permission::Services,
            ),
            (pod.to_owned(), "watch=1", Permission::Shell),
            (format!("{pod}/log"), "follow=1", Permission::Shell),
            (
                format!("{pod}/portforward"),
                "watch=1",
                Permission::Services,
            ),
            (format!("{pod}/proxy/x"), "watch=1", Permission::Services),
            ("/api/v1/nodes/n/proxy/run".to_owned(), "", Permission::Node),
            ("/api/v1/watch/pods".to_owned(), "", Permission::Shell),
            ("/version".to_owned(), "", Permission::Shell),
            (
                "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews".to_owned(),
                "",
                Permission::Shell,
            ),
        ] {
            for method in [Method::GET, Method::POST] {
                let read = RequestInfo::parse(&method, &path, Some(query), true);
                assert_eq!(Permission::needed_for(&read), permission, "{path}?{query}");
            }
        }
        assert!(!Role::View.allows(Permission::Shell) && !Role::Access.allows(Permission::Shell));
    }

    #[test]
    fn rule_8_each_permission_to_an_api_server_has_a_request_that_needs_it() {
        for permission in Permission::OF_API_SERVER {
            let example = permission.example().unwrap();
            assert_eq!(Permission::needed_for(&example), permission);
        }
        assert!(Permission::NodeShell.example().is_none());
        let word = serde_json::to_string(&Permission::NodeShell).unwrap();
        assert_eq!(word, r#""node-shell""#);
    }

    #[test]
    fn a_role_allows_what_its_table_says() {
        let permissions = [
            Permission::Read,
            Permission::Write,
            Permission::Shell,
            Permission::Services,
            Permission::Node,
            Permission::Operations,
            Permission::NodeTargets,
            Permission::NodeShell,
            Permission::Administer,
        ];
        let table = [
            (Role::View, "x........"),
            (Role::Access, "xx......."),
            (Role::Shell, "xxx......"),
            (Role::Services, "xx.x....."),
            (Role::Operate, "xxxxx...."),
            (Role::Operations, "xx...x..."),
            (Role::Admin, "xxxxxxxxx"),
        ];
        for (role, row) in table {
            let allowed: String = permissions
                .iter()
                .map(|&permission| if role.allows(permission) { 'x' } else { '.' })
                .collect();
            assert_eq!(allowed, row, "{role}");
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        assert!("root".parse::<Role>().is_err());
    }
}
