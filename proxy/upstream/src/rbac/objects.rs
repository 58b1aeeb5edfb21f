//! Kubernetes' objects.

use k8s_openapi::{
    api::{
        core::v1::{Namespace, Secret, ServiceAccount},
        rbac::v1::{self as rbac, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::Serialize;
use serde_json::Value;

use super::RbacError;

const RBAC: &str = "rbac.authorization.k8s.io";

/// The subject that a role is bound to.
#[derive(Clone, Copy)]
pub(super) enum Subject<'a> {
    /// A ServiceAccount by namespace and name.
    Account(&'a str, &'a str),
    User(&'a str),
}

impl From<Subject<'_>> for rbac::Subject {
    fn from(subject: Subject<'_>) -> Self {
        match subject {
            Subject::Account(namespace, name) => Self {
                kind: "ServiceAccount".to_owned(),
                name: name.to_owned(),
                namespace: Some(namespace.to_owned()),
                api_group: None,
            },
            Subject::User(name) => Self {
                kind: "User".to_owned(),
                name: name.to_owned(),
                namespace: None,
                api_group: Some(RBAC.to_owned()),
            },
        }
    }
}

/// A list of them.
#[derive(Default)]
pub(super) struct Objects(Vec<Value>);

impl From<Objects> for Vec<Value> {
    fn from(objects: Objects) -> Self {
        objects.0
    }
}

impl Objects {
    fn add(&mut self, object: impl Serialize) -> Result<(), RbacError> {
        let value = serde_json::to_value(object);
        self.0
            .push(value.map_err(|error| RbacError::Write(Box::new(error)))?);
        Ok(())
    }

    pub(super) fn namespace(&mut self, name: &str) -> Result<(), RbacError> {
        self.add(Namespace {
            metadata: metadata(None, name),
            ..Namespace::default()
        })
    }

    pub(super) fn account(&mut self, namespace: &str, name: &str) -> Result<(), RbacError> {
        self.add(ServiceAccount {
            metadata: metadata(Some(namespace), name),
            ..ServiceAccount::default()
        })
    }

    /// An empty Secret. `kubectl apply` of it leaves entries alone that it has not written.
    pub(super) fn secret(&mut self, namespace: &str, name: &str) -> Result<(), RbacError> {
        self.add(Secret {
            metadata: metadata(Some(namespace), name),
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        })
    }

    /// A ClusterRole, bound to one subject.
    pub(super) fn cluster_role(
        &mut self,
        name: &str,
        rules: Vec<PolicyRule>,
        to: Subject<'_>,
    ) -> Result<(), RbacError> {
        self.add(ClusterRole {
            metadata: metadata(None, name),
            rules: Some(rules),
            ..ClusterRole::default()
        })?;
        self.add(ClusterRoleBinding {
            metadata: metadata(None, name),
            role_ref: role_ref("ClusterRole", name),
            subjects: Some(vec![to.into()]),
        })
    }

    /// A Role, bound to one subject.
    pub(super) fn role(
        &mut self,
        namespace: &str,
        name: &str,
        rules: Vec<PolicyRule>,
        to: Subject<'_>,
    ) -> Result<(), RbacError> {
        self.add(Role {
            metadata: metadata(Some(namespace), name),
            rules: Some(rules),
        })?;
        self.add(RoleBinding {
            metadata: metadata(Some(namespace), name),
            role_ref: role_ref("Role", name),
            subjects: Some(vec![to.into()]),
        })
    }
}

fn metadata(namespace: Option<&str>, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.map(str::to_owned),
        ..ObjectMeta::default()
    }
}

fn role_ref(kind: &str, name: &str) -> rbac::RoleRef {
    rbac::RoleRef {
        api_group: RBAC.to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
    }
}
