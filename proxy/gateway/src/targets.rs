//! Streams to targets beside a cluster's API server: the decision about them, and their opening. CONNECT and the reverse proxy to
//! services both come through here.

use http::HeaderMap;

use super::{
    Front,
    admit::Decisions,
    audit::Record,
    budget::{Seat, SeatKind},
    forward::open,
};
use underpass_authenticate::Authenticated;
use underpass_core::{
    Access, BoxedIo, ClusterName, Clusters, ConnectError, Identity, NodeName, Open, Rejection,
    ShellKind, StreamClass, Target, api_permissions,
};
use underpass_http::headers;

/// Where a stream goes: into a cluster, or to a node of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Location<'a> {
    pub(super) cluster: &'a ClusterName,
    /// The node whose agent connects the stream; `None` for the cluster's own agent.
    pub(super) node: Option<&'a NodeName>,
}

impl<'a> From<&'a ClusterName> for Location<'a> {
    fn from(cluster: &'a ClusterName) -> Self {
        Self {
            cluster,
            node: None,
        }
    }
}

impl Location<'_> {
    pub(super) async fn connect(
        self,
        clusters: &dyn Clusters,
        open: &Open,
    ) -> Result<BoxedIo, ConnectError> {
        match self.node {
            Some(node) => clusters.connect_node(self.cluster, node, open).await,
            None => clusters.connect(self.cluster, open).await,
        }
    }

    /// The answer for the client where there is no stream.
    pub(super) fn rejection(self, error: &ConnectError) -> Rejection {
        match error.rejection(self.cluster) {
            Rejection::TargetDeclined {
                cluster,
                decline,
                reason,
                ..
            } => Rejection::TargetDeclined {
                cluster,
                node: self.node.cloned(),
                decline,
                reason,
            },
            rejection => rejection,
        }
    }

    /// The answer for the client where there was none in time.
    pub(super) fn too_late(self) -> Rejection {
        let cluster = self.cluster.clone();
        match self.node.cloned() {
            Some(node) => Rejection::NodeAway { cluster, node },
            None => Rejection::NoAgent(cluster),
        }
    }
}

impl Front {
    /// Rules 5 and 8: decides about a stream to a target, for a caller who is known. Nothing is opened.
    pub(super) async fn admit_to_target(
        &self,
        authenticated: &Authenticated,
        headers: &HeaderMap,
        location: Location<'_>,
        target: &Target,
        record: &mut Record,
    ) -> Result<Decisions, Rejection> {
        if headers::asks_impersonation(headers) {
            return Err(Rejection::BadRequest(
                "a connection is opened as the caller, and as nobody else: leave the Impersonate headers out",
            ));
        }
        let access = Access::to(authenticated.identity(), location.cluster, target);
        let authorized = self.authorize(&access.at_node(location.node)).await?;
        let ready = self.config.audit.ready().await;
        ready.map_err(|_stuck| Rejection::Unavailable)?;
        record.admitted();
        Ok(Decisions::of(authenticated, authorized))
    }

    /// Waits for a seat, and opens the stream. The agent has accepted it.
    pub(super) async fn open_target(
        &self,
        location: Location<'_>,
        target: Target,
        caller: &Identity,
        decisions: &Decisions,
        record: &Record,
    ) -> Result<(Seat, BoxedIo), Rejection> {
        let seat = self.target_seat(location.cluster, caller).await?;
        let mut open = open(target, caller, StreamClass::Default, record)?;
        open.permission = decisions.together();
        if let Target::Shell(ShellKind::Kubectl, _) = &open.target {
            let authorizer = &*self.config.authorizer;
            let permissions = api_permissions(authorizer, caller, location.cluster).await;
            let (api, life) = permissions.map_err(|error| {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "cannot authorize");
                Rejection::Unavailable
            })?;
            open.api = api;
            open.permission = open.permission.and(life);
        }
        Ok((seat, self.connect(location, &open).await?))
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
}
