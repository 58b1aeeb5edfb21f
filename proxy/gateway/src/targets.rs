//! Streams to targets beside a cluster's API server: the decision about them, and their opening. CONNECT and the reverse proxy to
//! services both come through here.

use http::HeaderMap;

use super::{
    Front,
    admit::Decisions,
    audit::Record,
    budget::{Seat, SeatKind},
};
use underpass_authenticate::Authenticated;
use underpass_core::{Access, BoxedIo, ClusterName, Identity, Rejection, StreamClass, Target};
use underpass_http::headers;

impl Front {
    /// Rules 5 and 8: decides about a stream to a target, for a caller who is known. Nothing is opened.
    pub(super) async fn admit_to_target(
        &self,
        authenticated: &Authenticated,
        headers: &HeaderMap,
        cluster: &ClusterName,
        target: &Target,
        record: &mut Record,
    ) -> Result<Decisions, Rejection> {
        if headers::asks_impersonation(headers) {
            return Err(Rejection::BadRequest(
                "a connection is opened as the caller, and as nobody else: leave the Impersonate headers out",
            ));
        }
        let access = Access::to(authenticated.identity(), cluster, target);
        let authorized = self.authorize(&access).await?;
        let ready = self.config.audit.ready().await;
        ready.map_err(|_stuck| Rejection::Unavailable)?;
        record.admitted();
        Ok(Decisions::of(authenticated, authorized))
    }

    /// Waits for a seat, and opens the stream. The agent has accepted it.
    pub(super) async fn open_target(
        &self,
        cluster: &ClusterName,
        target: Target,
        caller: &Identity,
        record: &Record,
    ) -> Result<(Seat, BoxedIo), Rejection> {
        let seat = self.target_seat(cluster, caller).await?;
        let stream = self.connect_target(cluster, target, caller, record).await?;
        Ok((seat, stream))
    }

    /// Waits for the seat of a stream.
    pub(super) async fn target_seat(
        &self,
        cluster: &ClusterName,
        caller: &Identity,
    ) -> Result<Seat, Rejection> {
        let kind = SeatKind::Stream;
        let seat = self.config.budgets.seat(caller.user(), cluster, kind);
        seat.await
    }

    /// Opens the stream of a caller who has a seat.
    pub(super) async fn connect_target(
        &self,
        cluster: &ClusterName,
        target: Target,
        caller: &Identity,
        record: &Record,
    ) -> Result<BoxedIo, Rejection> {
        let class = StreamClass::Default;
        self.connect(cluster, target, caller, class, record).await
    }
}
