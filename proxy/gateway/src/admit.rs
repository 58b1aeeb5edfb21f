//! Authentication, authorization and impersonation, decided before anything is opened (security rules 4, 5, 8, 16).

use std::sync::Arc;

use bytes::Bytes;
use http::Request;

use super::{
    Connection, Front, Recognised, RequestBody, audit::Record, impersonation, route::Route,
};
use underpass_authenticate::{Authenticated, Caller};
use underpass_core::{
    Access, AuthorizeError, BoxError, ClusterName, Identity, NeverImpersonated, OutOfScope,
    Rejection, Revocation,
    body::{Guard, Guarded},
    names::ORIGINAL_USER_EXTRA,
};
use underpass_http::{
    call::{Asked, Call},
    exchange::Until,
};

/// A request that may happen.
pub(super) struct Admitted {
    pub(super) cluster: ClusterName,
    /// The client's path of the cluster's root.
    pub(super) base: String,
    /// The request that was decided about, and is forwarded.
    pub(super) call: Arc<Call>,
    /// The real caller.
    pub(super) caller: String,
    /// The identity it runs as.
    pub(super) identity: Identity,
    pub(super) decisions: Decisions,
    /// A browser may have attached the credential by itself.
    pub(super) ambient: bool,
    /// Its connection is the caller's for as long as it is in flight.
    pub(super) recognised: Recognised,
}

/// The caller of a request.
pub(super) struct Known {
    pub(super) authenticated: Authenticated,
    /// Its connection is the caller's for as long as it is in flight.
    pub(super) recognised: Recognised,
    is_led_from_elsewhere: bool,
}

impl Known {
    /// Rule 27: a page of another origin leads a browser to no workload with a credential that the browser attached by itself.
    pub(super) fn check_navigation(&self) -> Result<(), Rejection> {
        match self.authenticated.is_ambient() && self.is_led_from_elsewhere {
            true => Err(Rejection::ForeignNavigation),
            false => Ok(()),
        }
    }
}

/// The decisions that a request rests on: authentication, authorization, impersonation.
#[derive(Clone, Default)]
pub(super) struct Decisions([Revocation; 3]);

impl Decisions {
    /// Those of a caller who acts as nobody else.
    pub(super) fn of(authenticated: &Authenticated, authorized: Revocation) -> Self {
        let caller = authenticated.revocation().clone();
        Self([caller, authorized, Revocation::never()])
    }

    /// All of them as one.
    pub(super) fn together(&self) -> Revocation {
        let [caller, access, acting] = self.0.clone();
        caller.and(access).and(acting)
    }

    /// Puts `guard` over a body, which also aborts once one of them is taken back. Both bodies of an exchange need one: hyper asks
    /// neither while its own reader or writer waits. A body without a byte needs none, and most requests have no other.
    pub(super) fn guarding<B, T>(&self, body: B, guard: T) -> Guarded<B, Until<T>>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        T: Guard,
    {
        let guard = match body.is_end_stream() {
            true => Until::never(guard),
            false => {
                let revoked = self.clone().revoked();
                Until::new(guard, "revoked", async {
                    Box::new(revoked.await) as BoxError
                })
            }
        };
        Guarded::new(body, guard)
    }

    /// Waits until one of them is taken back.
    pub(super) async fn revoked(self) -> Revoked {
        let [caller, access, acting] = self.0;
        tokio::select! {
            () = caller.revoked() => Revoked::Caller,
            () = access.revoked() => Revoked::Access,
            () = acting.revoked() => Revoked::Access,
        }
    }
}

/// A request in flight was ended because a decision was taken back.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum Revoked {
    /// The credential counts no longer.
    #[error("the credential was revoked, or has expired")]
    Caller,
    /// The caller may not do this any more, or not as this identity.
    #[error("access was revoked")]
    Access,
}

impl From<Revoked> for Rejection {
    fn from(revoked: Revoked) -> Self {
        match revoked {
            Revoked::Caller => Self::Unauthorized,
            Revoked::Access => Self::Revoked,
        }
    }
}

impl Front {
    /// Rules 4, 5, 8 and 16: authenticates and authorizes, before anything is opened.
    pub(super) async fn admit(
        &self,
        request: &Request<RequestBody>,
        connection: &Connection,
        route: Option<Route>,
        asked: Asked,
        record: &mut Record,
    ) -> Result<Admitted, Rejection> {
        let known = self.recognise(request, connection, record).await?;
        let route = route.ok_or(Rejection::NotFound)?;
        let real = known.authenticated.identity().clone();
        record.asks_api(&route);
        let base = route.base();
        let Route { cluster, path, .. } = route;
        let call = Arc::new(Call::read(request.method(), Some(&path), asked)?);
        record.asks(call.info());
        if call.info().is_proxied() {
            known.check_navigation()?;
        }
        let access = Access::new(&real, &cluster, call.info());
        let authorized = self.authorize(&access).await?;
        let acting = self.act_as(&access, request, record).await?;
        let caller = real.user().to_owned();
        let (identity, acting) = acting.unwrap_or_else(|| (real, Revocation::never()));
        let ready = self.config.audit.ready().await;
        ready.map_err(|_stuck| Rejection::Unavailable)?;
        record.admitted();
        let decisions = Decisions([known.authenticated.revocation().clone(), authorized, acting]);
        Ok(Admitted {
            cluster,
            base,
            call,
            caller,
            identity,
            decisions,
            ambient: known.authenticated.is_ambient(),
            recognised: known.recognised,
        })
    }

    /// Rule 4: the caller, by a credential of the request's or the connection's.
    pub(super) async fn recognise(
        &self,
        request: &Request<RequestBody>,
        connection: &Connection,
        record: &mut Record,
    ) -> Result<Known, Rejection> {
        let headers = request.headers();
        let caller = Caller::read(headers, connection.info());
        let caller = caller.ok_or(Rejection::Unauthorized)?.at(request.uri());
        let head = connection.hold(headers)?;
        let found = self.config.authenticator.authenticate(&caller).await;
        let authenticated = found
            .map_err(|error| Rejection::from(&error))?
            .ok_or(Rejection::Unauthorized)?;
        let recognised = connection.standing().recognise(authenticated.identity());
        drop(head);
        record.known(authenticated.identity());
        Ok(Known {
            authenticated,
            recognised,
            is_led_from_elsewhere: caller.is_led_from_elsewhere(),
        })
    }

    /// Rules 5 and 8: may the caller do this, with this credential?
    pub(super) async fn authorize(&self, access: &Access<'_>) -> Result<Revocation, Rejection> {
        let real = access.identity();
        if let Some(provenance) = real.provenance() {
            let allowed = provenance.scope().check_access(access);
            allowed.map_err(|limit| out_of_scope(limit, access))?;
        }
        let authorized = self.config.authorizer.authorize(access).await;
        let authorized = authorized.map_err(|error| forbidden(&error, access))?;
        // Also of a caller that acts as another: an identity that nobody may be must not count for anything in a cluster.
        self.config
            .policy
            .check_caller(real)
            .map_err(|never| never_impersonated(real, &never))?;
        Ok(authorized)
    }

    /// Rule 16: the identity to act as, if the caller may.
    async fn act_as(
        &self,
        access: &Access<'_>,
        request: &Request<RequestBody>,
        record: &mut Record,
    ) -> Result<Option<(Identity, Revocation)>, Rejection> {
        let Some(target) = impersonation::target(request.headers())? else {
            return Ok(None);
        };
        record.impersonation(&target);
        self.config
            .policy
            .check_target(&target)
            .map_err(|never| never_impersonated(&target, &never))?;
        let allowed = self.config.impersonation.may(access, &target).await?;
        let named = target
            .with_extra(ORIGINAL_USER_EXTRA, access.identity().user())
            .map_err(|_| Rejection::BadRequest("the Impersonate headers are too large"))?;
        Ok(Some((named, allowed)))
    }
}

fn never_impersonated(identity: &Identity, never: &NeverImpersonated) -> Rejection {
    Rejection::IdentityForbidden {
        user: identity.user().to_owned(),
        reason: never.to_string(),
    }
}

fn out_of_scope(limit: OutOfScope, access: &Access<'_>) -> Rejection {
    Rejection::Forbidden {
        user: access.identity().user().to_owned(),
        cluster: access.cluster().clone(),
        verb: access.verb().to_owned().into(),
        reason: Some(limit.to_string()),
    }
}

fn forbidden(error: &AuthorizeError, access: &Access<'_>) -> Rejection {
    match error {
        AuthorizeError::Denied { reason } => Rejection::Forbidden {
            user: access.identity().user().to_owned(),
            cluster: access.cluster().clone(),
            verb: access.verb().to_owned().into(),
            reason: reason.clone(),
        },
        AuthorizeError::Unavailable(source) => {
            tracing::error!(
                error = &**source as &dyn std::error::Error,
                "cannot authorize"
            );
            Rejection::Unavailable
        }
    }
}
