//! The requester, and their rights.

use std::collections::BTreeSet;

use axum::extract::FromRequestParts;
use http::request::Parts;
use underpass_authenticate::Authenticated;
use underpass_core::{ClusterName, Identity, Provenance, Revocation, Scope};
use underpass_directory::{AccessToken, EffectiveRoles, Name, Named, Owner, Role, Snapshot};

use super::problem::Problem;
use super::share::Whose;

/// The authenticated sender of a request.
#[derive(Debug, Clone)]
pub(crate) enum Requester {
    /// The owner of the data directory: they could change its files as well.
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
    /// The directory's token that authenticated them, and its id; `None` where something else did. The authenticator
    /// says which token it was (rule 21): the request's other credentials are ignored.
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

    /// Their identity; `None` for the operator.
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

    /// Their rights in this state of the directory: for several questions.
    pub(super) fn rights<'a>(&'a self, snapshot: &'a Snapshot) -> Rights<'a> {
        let identity = self.identity();
        let reach = identity.map(|identity| snapshot.effective_roles(Named::from(identity)));
        let scope = self.scope();
        Rights {
            // An administrator of everything needs a credential for everything.
            is_administrator: match &reach {
                None => true,
                Some(reach) => scope.clusters.is_none() && reach.is_administrator(),
            },
            reach,
            scope,
            snapshot,
        }
    }

    /// May they change the whole directory?
    pub(super) fn is_administrator(&self, snapshot: &Snapshot) -> bool {
        self.rights(snapshot).is_administrator()
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
        let rights = self.rights(snapshot);
        if rights.administers(cluster) || rights.is_administrator() {
            return Ok(());
        }
        Err(not_of_the_cluster())
    }
}

/// A requester's rights, in one state of the directory. Their bindings are looked up once, however many objects of a list
/// are asked about.
pub(super) struct Rights<'a> {
    snapshot: &'a Snapshot,
    /// `None` for the operator.
    reach: Option<EffectiveRoles<'a>>,
    scope: Scope,
    is_administrator: bool,
}

impl<'a> Rights<'a> {
    pub(super) fn snapshot(&self) -> &'a Snapshot {
        self.snapshot
    }

    /// May they change the whole directory?
    pub(super) fn is_administrator(&self) -> bool {
        self.is_administrator
    }

    /// May they change the cluster's agents and bindings?
    pub(super) fn administers(&self, cluster: &ClusterName) -> bool {
        self.may(cluster, |reach| reach.has(Role::Admin, cluster))
    }

    /// May they know of the cluster?
    pub(super) fn sees(&self, cluster: &ClusterName) -> bool {
        self.may(cluster, |reach| reach.includes(cluster))
    }

    /// Their roles there.
    pub(super) fn roles(&self, cluster: &ClusterName) -> BTreeSet<Role> {
        match &self.reach {
            None => BTreeSet::from([Role::Admin]),
            Some(reach) => reach.roles(cluster),
        }
    }

    /// Do they administer any cluster that there is?
    pub(super) fn administers_some(&self) -> bool {
        let mut administered = self
            .reach
            .iter()
            .flat_map(|reach| reach.clusters(Role::Admin));
        self.is_administrator || administered.any(|name| self.scope.includes(&name))
    }

    fn may(
        &self,
        cluster: &ClusterName,
        reaches: impl FnOnce(&EffectiveRoles<'a>) -> bool,
    ) -> bool {
        match &self.reach {
            None => true,
            Some(reach) => self.scope.includes(cluster) && reaches(reach),
        }
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
