//! Authorization: the clusters that a caller may reach, and the identities that they may impersonate there.

use async_trait::async_trait;

use crate::{
    BoxError, ClusterName, Identity, NodeName, Permission, Rejection, RequestInfo, Revocation,
    Target,
};

/// One access to be decided, before a stream is opened (security rules 5 and 8).
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    identity: &'a Identity,
    cluster: &'a ClusterName,
    node: Option<&'a NodeName>,
    target: &'a Target,
    request: Option<&'a RequestInfo>,
}

impl<'a> Access<'a> {
    /// An access of this caller to this cluster's API server.
    pub fn new(identity: &'a Identity, cluster: &'a ClusterName, request: &'a RequestInfo) -> Self {
        Self {
            identity,
            cluster,
            node: None,
            target: &Target::KubeApi,
            request: Some(request),
        }
    }

    /// An access to anything else there. One to the API server states its request ([`Access::new`]), and is allowed nothing
    /// without.
    pub fn to(identity: &'a Identity, cluster: &'a ClusterName, target: &'a Target) -> Self {
        Self {
            identity,
            cluster,
            node: None,
            target,
            request: None,
        }
    }

    /// The same at a node of the cluster, whose own agent connects.
    #[must_use]
    pub fn at_node(self, node: Option<&'a NodeName>) -> Self {
        Self { node, ..self }
    }

    /// The authenticated caller; never the user they want to act as.
    pub fn identity(&self) -> &'a Identity {
        self.identity
    }

    /// The cluster.
    pub fn cluster(&self) -> &'a ClusterName {
        self.cluster
    }

    /// The node whose agent the stream goes to; `None` for the cluster's own agent. A target at a node is another one than the same text
    /// in the cluster: an authorizer that allows the latter has not allowed the former.
    pub fn node(&self) -> Option<&'a NodeName> {
        self.node
    }

    /// The stream's target.
    pub fn target(&self) -> &'a Target {
        self.target
    }

    /// The request to the API server; `None` for other targets. [`RequestInfo::verb`] of exec, attach and port-forward is
    /// `create`.
    pub fn request(&self) -> Option<&'a RequestInfo> {
        self.request
    }

    /// A readable verb: the verb of a request, and `connect` for other targets.
    pub fn verb(&self) -> &'a str {
        self.request.map_or("connect", RequestInfo::verb)
    }
}

/// Decides by the server's own policy, never by the RBAC of the cluster in question (rule 5): the cluster's
/// API server decides again for itself.
#[async_trait]
pub trait Authorizer: Send + Sync {
    /// May this access happen? The answer stands until its [`Revocation`].
    ///
    /// A cluster that the identity may not reach must look the same whether it exists or not: answer
    /// [`AuthorizeError::Denied`] for both.
    ///
    /// # Errors
    /// Denied, or not to be decided now.
    async fn authorize(&self, access: &Access<'_>) -> Result<Revocation, AuthorizeError>;
}

/// The permissions to a cluster's API server that a caller has there, and their life, which ends with the first of them: for a shell at an
/// agent, whose requests to the API server no authorizer sees.
///
/// The authorizer is asked about one request for each permission ([`Permission::example`]). One that tells requests of the same permission
/// apart, by their namespace for example, must let its callers have no shell.
///
/// # Errors
/// It cannot decide now.
///
/// # Cancel safety
/// May be dropped.
pub async fn api_permissions(
    authorizer: &dyn Authorizer,
    caller: &Identity,
    cluster: &ClusterName,
) -> Result<(Vec<Permission>, Revocation), AuthorizeError> {
    let (mut permissions, mut life) = (Vec::new(), Revocation::never());
    for permission in Permission::OF_API_SERVER {
        let Some(request) = permission.example() else {
            continue;
        };
        let access = Access::new(caller, cluster, &request);
        match authorizer.authorize(&access).await {
            Ok(right) => {
                permissions.push(permission);
                life = life.and(right);
            }
            Err(AuthorizeError::Denied { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((permissions, life))
}

/// Decides about impersonation (`kubectl --as`, security rule 16), once [`Authorizer::authorize`] has let the caller reach the
/// cluster. `AccessReviews` of the gateway leaves it to the cluster's RBAC.
#[async_trait]
pub trait ImpersonationAuthorizer: Send + Sync {
    /// May the caller act as `target` there? The answer stands until its [`Revocation`].
    ///
    /// # Errors
    /// The answer for the caller. Its cause is in the log already.
    async fn may(&self, access: &Access<'_>, target: &Identity) -> Result<Revocation, Rejection>;
}

/// No caller may impersonate.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

#[async_trait]
impl ImpersonationAuthorizer for Nobody {
    async fn may(&self, access: &Access<'_>, _: &Identity) -> Result<Revocation, Rejection> {
        Err(Rejection::Forbidden {
            user: access.identity().user().to_owned(),
            cluster: access.cluster().clone(),
            verb: "impersonate".into(),
            reason: Some("nobody may act as somebody else here".to_owned()),
        })
    }
}

/// Why an access does not happen.
#[derive(Debug, thiserror::Error)]
pub enum AuthorizeError {
    /// It is not allowed.
    #[error("denied")]
    Denied {
        /// A reason that the caller may know.
        reason: Option<String>,
    },
    /// The policy's source cannot be reached.
    #[error("the authorizer is not available")]
    Unavailable(#[source] BoxError),
}
