//! Who asks, and what they may.

use axum::extract::FromRequestParts;
use http::request::Parts;
use underpass_authenticate::Authenticated;
use underpass_core::{ClusterName, Identity, Provenance, Revocation, Scope};
use underpass_directory::{AccessToken, Cluster, Name, Named, Owner, Role, Snapshot};

use super::problem::Problem;
use super::share::Whose;

/// Somebody whom the listener has authenticated.
#[derive(Debug, Clone)]
pub(crate) enum Requester {
    /// Whoever owns the data directory: they could change its files as well.
    Operator,
    /// A caller, and the life of the decision that it is they.
    User {
        identity: Box<Identity>,
        revocation: Revocation,
    },
}

impl From<&Authenticated> for Requester {
    fn from(authenticated: &Authenticated) -> Self {
        Self::User {
            identity: Box::new(authenticated.identity().clone()),
            revocation: authenticated.revocation().clone(),
        }
    }
}

impl Requester {
    /// The directory's token that authenticated them, and its id; `None` where something else did. Whoever was
    /// authenticated says which token it was (rule 21): what else the request carried is not looked at.
    pub(super) fn token<'a>(&self, snapshot: &'a Snapshot) -> Option<(&'a str, &'a AccessToken)> {
        let id = self.identity()?.provenance()?.token()?;
        let (id, entry) = snapshot.all::<AccessToken>().get_key_value(id)?;
        Some((id, &entry.object))
    }

    /// The user of the directory that they are.
    pub(super) fn user<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Name> {
        match &self.token(snapshot)?.1.owner {
            Owner::User(name) => Some(name),
            Owner::Login(_) => None,
        }
    }

    /// Does their credential still count? A request is read for a while after its credential was checked, and a change
    /// waits for others; so each change asks again, once no other can come before it (rule 25).
    ///
    /// # Errors
    /// It was taken back, or has expired.
    pub(super) fn must_count(&self) -> Result<(), Problem> {
        match self {
            Self::User { revocation, .. } if revocation.is_revoked() => Err(Problem::new(
                http::StatusCode::UNAUTHORIZED,
                "the credential was taken back meanwhile",
            )),
            _ => Ok(()),
        }
    }

    /// The user whose share of the API they use; `None` for the operator.
    pub(super) fn whose(&self) -> Option<Whose> {
        let identity = self.identity()?;
        let by = identity.provenance().map(Provenance::authority);
        Some(Whose {
            by: by.map(ToString::to_string).unwrap_or_default(),
            name: identity.user().to_owned(),
        })
    }

    /// May they ask for tokens? Those are made with a token of the directory's, with which they end (rule 24): everything that takes
    /// another credential's rights away would not end them.
    pub(super) fn must_have_logged_in(&self, snapshot: &Snapshot) -> Result<(), Problem> {
        let Some(identity) = self.identity() else {
            return Ok(());
        };
        if self.token(snapshot).is_some() {
            return Ok(());
        }
        if identity.provenance().and_then(Provenance::token).is_some() {
            return Err(Problem::new(
                http::StatusCode::UNAUTHORIZED,
                "the token that asks for another one was removed meanwhile",
            ));
        }
        Err(Problem::forbidden(
            "log in first: tokens are made with a token of a login",
        ))
    }

    /// Their name, for logs.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Operator => "underpass:operator",
            Self::User { identity, .. } => identity.user(),
        }
    }

    /// Who it is, where it is somebody.
    pub(super) fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Operator => None,
            Self::User { identity, .. } => Some(identity),
        }
    }

    pub(super) fn scope(&self) -> Scope {
        match self {
            Self::Operator => Scope::default(),
            Self::User { identity, .. } => identity
                .provenance()
                .map(|provenance| provenance.scope().clone())
                .unwrap_or_default(),
        }
    }

    /// May they change the whole directory?
    pub(super) fn is_administrator(&self, snapshot: &Snapshot) -> bool {
        match self {
            Self::Operator => true,
            Self::User { identity, .. } => {
                // Who administers everything does so with a credential for everything.
                self.scope().clusters.is_none()
                    && snapshot.is_administrator(Named::from(&**identity))
            }
        }
    }

    /// May they change the cluster's agents and bindings?
    pub(super) fn administers(&self, snapshot: &Snapshot, cluster: &ClusterName) -> bool {
        match self {
            Self::Operator => true,
            Self::User { identity, .. } => {
                let roles = snapshot.roles(Named::from(&**identity), cluster);
                self.scope().includes(cluster) && roles.contains(&Role::Admin)
            }
        }
    }

    /// May they know of the cluster?
    pub(super) fn sees(&self, snapshot: &Snapshot, cluster: &ClusterName) -> bool {
        match self {
            Self::Operator => true,
            Self::User { identity, .. } => {
                let roles = snapshot.roles(Named::from(&**identity), cluster);
                self.scope().includes(cluster) && !roles.is_empty()
            }
        }
    }

    /// Do they administer any cluster that there is?
    pub(super) fn administers_some(&self, snapshot: &Snapshot) -> bool {
        let names = snapshot.all::<Cluster>().keys();
        self.is_administrator(snapshot)
            || names
                .filter_map(|name| ClusterName::new(name).ok())
                .any(|name| self.administers(snapshot, &name))
    }

    pub(super) fn must_administer(&self, snapshot: &Snapshot) -> Result<(), Problem> {
        if self.is_administrator(snapshot) {
            return Ok(());
        }
        Err(Problem::forbidden(
            "this needs the role admin on all clusters, and a credential that is not limited to some",
        ))
    }

    pub(super) fn must_administer_cluster(
        &self,
        snapshot: &Snapshot,
        cluster: &ClusterName,
    ) -> Result<(), Problem> {
        if self.administers(snapshot, cluster) || self.is_administrator(snapshot) {
            return Ok(());
        }
        Err(not_of_the_cluster())
    }
}

/// The same answer whether there is such a cluster or not.
pub(super) fn not_of_the_cluster() -> Problem {
    Problem::forbidden("this needs the role admin on the cluster")
}

/// A request without one came in past the listener: nobody is nobody.
impl<S: Sync> FromRequestParts<S> for Requester {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let requester = parts.extensions.get::<Self>().cloned();
        let requester = requester
            .ok_or_else(|| Problem::new(http::StatusCode::UNAUTHORIZED, "Unauthorized"))?;
        if requester.scope().read_only && !parts.method.is_safe() {
            return Err(Problem::forbidden("this credential is read-only"));
        }
        Ok(requester)
    }
}
