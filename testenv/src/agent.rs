//! The ServiceAccount that an Underpass agent runs as.

use serde_json::{Value, json};

pub(crate) const NAMESPACE: &str = "underpass-system";
pub(crate) const NAME: &str = "underpass-agent";

/// The ServiceAccount and what it may do: impersonate, and nothing else.
///
/// RBAC has no wildcard for the keys of `userextras/<key>`, hence every resource of that group.
pub(crate) fn manifest() -> Value {
    let role = "underpass-agent-impersonate";
    json!({
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } },
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": { "name": NAME, "namespace": NAMESPACE },
            },
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRole",
                "metadata": { "name": role },
                "rules": [
                    {
                        "apiGroups": [""],
                        "resources": ["users", "groups", "serviceaccounts"],
                        "verbs": ["impersonate"],
                    },
                    {
                        "apiGroups": ["authentication.k8s.io"],
                        "resources": ["*"],
                        "verbs": ["impersonate"],
                    },
                ],
            },
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": { "name": role },
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": role,
                },
                "subjects": [
                    { "kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE },
                ],
            },
        ],
    })
}
