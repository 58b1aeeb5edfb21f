//! Streams to clusters: through an agent of the role `cluster`, else through a node that may stand in.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use underpass_core::StreamClass;
use underpass_core::{BoxedIo, ClusterName};
use underpass_core::{Clusters, ConnectError, Decline, Identity, NodeName, Open, Target};
use underpass_directory::Snapshot;
use underpass_tunnel::limits::AWAY_GRACE;
use underpass_tunnel::{
    Class, Dialer, DialerError, OpenError, OpenRequest, ResetCode, Session, SessionId, Stream,
    StreamError, chain,
};

use super::repeatable::{Repeatable, Ways};
use super::{Tunnel, is_there, line_about, may_stand_in, through};
use crate::limits;
use crate::shells::Keeping;
use crate::stand_in::{NoStandIn, StandIn};
use crate::targets;

impl Tunnel {
    /// The stream to a target, once its agent has accepted it. Where that agent turns out to be gone, another one of the cluster's is
    /// asked, each once: nothing was asked of the target yet.
    async fn accepted(
        &self,
        cluster: &ClusterName,
        (mut session, mut stream): (Session, Stream),
        open: &Open,
        request: &OpenRequest,
    ) -> Result<BoxedIo, ConnectError> {
        let mut asked = HashSet::from([session.info().id]);
        loop {
            self.note(&session, open);
            let Err(error) = stream.accepted().await else {
                return Ok(self.until_better(cluster, open, session, stream));
            };
            tracing::debug!(%cluster, "{}", chain(&error));
            if matches!(error, StreamError::Refused { code, .. } if code != ResetCode::GoingAway) {
                return Err(declined(error));
            }
            let next = self.next_agent(cluster, &mut asked, request).await;
            (session, stream) = next.ok_or_else(|| declined(error))?;
        }
    }

    /// A stream through another agent of the role `cluster` than these, which is there; `None` where there is none. It is one of these then.
    async fn next_agent(
        &self,
        cluster: &ClusterName,
        asked: &mut HashSet<SessionId>,
        request: &OpenRequest,
    ) -> Option<(Session, Stream)> {
        loop {
            let is_next =
                |session: &Session| is_there(session) && !asked.contains(&session.info().id);
            let session = self.registry.pick_where(cluster.as_str(), is_next)?;
            asked.insert(session.info().id);
            match session.open(request.clone()).await {
                Ok(stream) => return Some((session, stream)),
                Err(error) => tracing::debug!(%cluster, "{}", chain(&error)),
            }
        }
    }

    /// Leaves the agent for the audit log.
    fn note(&self, session: &Session, open: &Open) {
        if let Some(through) = through(session, &self.directory.snapshot()) {
            open.via.set(through);
        }
    }

    /// A stream through an agent of the role `cluster`; `None` where none is connected.
    async fn through_agent(
        &self,
        cluster: &ClusterName,
        request: &OpenRequest,
    ) -> Result<Option<(Session, Stream)>, ConnectError> {
        let target = request.target.as_str();
        let dialer = Dialer::to_agent(self.registry.clone(), cluster.as_str(), target)
            .header(request.header.clone())
            .class(request.class);
        match dialer.dial_session().await {
            Ok(found) => Ok(Some(found)),
            Err(DialerError::NotConnected(_)) => Ok(None),
            Err(DialerError::Open(OpenError::TooLarge { .. })) => Err(ConnectError::HeaderTooLarge),
            Err(error) => {
                if let Some(suppressed) = line_about(&self.cluster_lines, cluster.as_str()) {
                    tracing::warn!(suppressed, %cluster, "{}", chain(&error));
                }
                Err(ConnectError::TooManyStreams)
            }
        }
    }

    /// Is an agent of the role `cluster` connected, at this moment, and not silent?
    fn has_attached(&self, cluster: &ClusterName) -> bool {
        self.registry
            .pick_where(cluster.as_str(), is_there)
            .is_some()
    }

    /// Waits until there is one.
    async fn until_attached(&self, cluster: &ClusterName) {
        let mut attached = self.attached.subscribe();
        // `self` has the sender, so that it does not end.
        while !self.has_attached(cluster) && attached.changed().await.is_ok() {}
    }

    /// Waits until no agent of the role `cluster` may be on its way back, which takes as long as a session's grace at the most.
    async fn until_given_up(&self, cluster: &ClusterName) {
        let may_come_back = || self.registry.pick_where(cluster.as_str(), |_| true);
        let given_up = async {
            while may_come_back().is_some() {
                sleep(limits::AGENT_AWAY_LOOK).await;
            }
        };
        // One that flaps delays a call no longer.
        let _ = timeout(AWAY_GRACE + limits::AGENT_AWAY_LOOK, given_up).await;
    }

    /// A stream to the API server through an agent on a node, where one may.
    async fn through_node(
        &self,
        cluster: &ClusterName,
        open: &Open,
        request: &OpenRequest,
    ) -> Result<BoxedIo, ConnectError> {
        let snapshot = self.directory.snapshot();
        if !snapshot.has_cluster(cluster) {
            return Err(ConnectError::UnknownCluster);
        }
        if !self.is_for_nodes(cluster, open, &snapshot) {
            return Err(ConnectError::NoAgent);
        }
        let connecting = self.stand_ins.connect(&self.nodes, cluster, request).await;
        let StandIn { session, stream } = connecting.map_err(|none| match none {
            NoStandIn::NoAgent => ConnectError::NoAgent,
            NoStandIn::HeaderTooLarge => ConnectError::HeaderTooLarge,
        })?;
        let snapshot = self.directory.snapshot();
        // It may have been forbidden while the agent was asked (rule 25).
        self.stand_ins
            .enforce(|cluster| may_stand_in(cluster, &snapshot));
        self.note(&session, open);
        metrics::counter!("underpass_stand_in_streams_total").increment(1);
        Ok(self.until_better(cluster, open, session, stream))
    }

    /// The stream, in this session, of a call.
    fn until_better<S>(
        &self,
        cluster: &ClusterName,
        open: &Open,
        session: Session,
        stream: S,
    ) -> BoxedIo
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        if !open.may_be_repeated {
            return Box::new(stream);
        }
        let by_nodes = self.is_for_nodes(cluster, open, &self.directory.snapshot());
        let ways = Ways {
            cluster: cluster.clone(),
            agents: self.registry.clone(),
            nodes: by_nodes.then(|| (self.nodes.clone(), Arc::clone(&self.stand_ins))),
        };
        Box::new(Repeatable::new(stream, session, ways))
    }

    /// A stream where no agent of the role `cluster` is connected: through one on a node, or else to the API server itself, with a
    /// credential that an agent has registered.
    async fn without_agent(
        &self,
        cluster: &ClusterName,
        open: &Open,
        request: &OpenRequest,
    ) -> Result<BoxedIo, ConnectError> {
        let answered = self.through_node(cluster, open, request).await;
        let Some(registrations) = &self.registrations else {
            return answered;
        };
        match answered {
            Err(ConnectError::NoAgent) => {
                let clusters = &registrations.clusters;
                let is_api = open.target == Target::KubeApi;
                if is_api && clusters.through(cluster).is_some() {
                    // Nothing is connected at first, so that this answer would win over an agent that is back in a moment.
                    self.until_given_up(cluster).await;
                }
                let connecting = clusters.connect(cluster, open);
                let connected = connecting.await.unwrap_or(Err(ConnectError::NoAgent));
                if connected.is_ok() {
                    metrics::counter!("underpass_registered_credential_streams_total").increment(1);
                }
                connected
            }
            answered => answered,
        }
    }

    /// Ends a shell that has a viewer with the viewer's permission, where nothing else does.
    fn keep_shell(
        &self,
        session: &Session,
        cluster: &ClusterName,
        node: Option<&NodeName>,
        open: &Open,
    ) {
        let Target::Shell(kind, id) = &open.target else {
            return;
        };
        let Ok(identity) = Identity::decode(&open.identity) else {
            return;
        };
        let keeping = Keeping {
            identity,
            cluster: cluster.clone(),
            place: match node {
                Some(node) => format!("node:{cluster}/{node}"),
                None => format!("cluster:{cluster}"),
            },
            permission: open.permission.clone(),
            api: open.api.clone(),
            audit: self.audit.clone(),
            sessions: Arc::new(self.clone()),
        };
        self.keepers.keep_viewed(session, *kind, id, keeping);
    }

    /// May a node of the cluster take this stream?
    fn is_for_nodes(&self, cluster: &ClusterName, open: &Open, snapshot: &Snapshot) -> bool {
        let is_a_users = open.target == Target::KubeApi && !self.without_nodes;
        is_a_users && may_stand_in(cluster, snapshot)
    }
}

fn request(open: &Open) -> OpenRequest {
    let class = match open.class {
        StreamClass::Interactive => Class::Interactive,
        StreamClass::Bulk => Class::Bulk,
        _ => Class::Default,
    };
    OpenRequest {
        target: open.target.to_string(),
        class,
        header: open.identity.clone(),
    }
}

#[async_trait]
impl Clusters for Tunnel {
    async fn connect(&self, cluster: &ClusterName, open: &Open) -> Result<BoxedIo, ConnectError> {
        let request = request(open);
        if let Target::Shell(..) = open.target {
            let (snapshot, asked) = (self.directory.snapshot(), (open, &request));
            let connecting = targets::at_cluster(&self.registry, &snapshot, cluster, asked);
            let (session, stream) = connecting.await?;
            self.keep_shell(&session, cluster, None, open);
            return Ok(stream);
        }
        // A stream waits in the session of an agent that has lost its transport, which is hardly ever back in time if it was killed.
        if !self.has_attached(cluster) {
            let without_agent = self.without_agent(cluster, open, &request);
            tokio::select! {
                answered = without_agent => match answered {
                    Err(ConnectError::NoAgent | ConnectError::RegisteredExpired) => {}
                    answered => return answered,
                },
                () = self.until_attached(cluster) => {}
            }
        }
        let through_agent = self.through_agent(cluster, &request);
        let Some((session, stream)) = through_agent.await? else {
            let answered = self.without_agent(cluster, open, &request).await;
            let is_missed = matches!(answered, Err(ConnectError::NoAgent));
            if is_missed && self.is_for_nodes(cluster, open, &self.directory.snapshot()) {
                metrics::counter!("underpass_stand_in_misses_total").increment(1);
            }
            return answered.map_err(|error| match error {
                ConnectError::NoAgent if self.connected(cluster) > 0 => ConnectError::AgentAway,
                error => error,
            });
        };
        if open.target == Target::KubeApi {
            self.note(&session, open);
            return Ok(self.until_better(cluster, open, session, stream));
        }
        self.accepted(cluster, (session, stream), open, &request)
            .await
    }

    fn has_another_way(&self, cluster: &ClusterName) -> bool {
        let agents = self.registry.count(cluster.as_str());
        let with_nodes = || {
            let may = !self.without_nodes && may_stand_in(cluster, &self.directory.snapshot());
            may && agents + self.nodes.count(cluster.as_str()) > 1
        };
        agents > 1 || with_nodes()
    }

    async fn connect_node(
        &self,
        cluster: &ClusterName,
        node: &NodeName,
        open: &Open,
    ) -> Result<BoxedIo, ConnectError> {
        let (snapshot, asked) = (self.directory.snapshot(), request(open));
        let asked = (open, &asked);
        let connecting = targets::at_node(&self.nodes, &snapshot, cluster, node, asked);
        let (session, stream) = connecting.await?;
        self.keep_shell(&session, cluster, Some(node), open);
        Ok(stream)
    }
}

/// The agent's answer, for the client: only that it declined the target, and in its own words, is its own to say.
pub(crate) fn declined(error: StreamError) -> ConnectError {
    match error {
        StreamError::Refused { code, reason } => {
            let decline = match code {
                ResetCode::Forbidden => Decline::Forbidden,
                ResetCode::UnknownTarget | ResetCode::TargetUnreachable => Decline::Unreachable,
                ResetCode::Overloaded => Decline::Overloaded,
                ResetCode::GoingAway => return ConnectError::NoAgent,
                _ => return ConnectError::AgentRefused { reason },
            };
            ConnectError::Declined { decline, reason }
        }
        error @ StreamError::NoAnswer(_) => ConnectError::NoAnswer(error.into()),
        error => ConnectError::Lost(error.into()),
    }
}
