//! How the front reaches a cluster. The tunnel's owner implements it.

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    BoxError, BoxedIo, ClusterName, NodeName, Permission, Rejection, Revocation, StreamClass,
    Target, Via,
};

/// The purpose of a stream.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Open {
    /// The target, to which the agent connects it.
    pub target: Target,
    /// [`Identity::encode`](crate::Identity::encode): put it into the stream's open header as it is.
    pub identity: Bytes,
    /// How urgent.
    pub class: StreamClass,
    /// The request's `Audit-ID`, for the tunnel's own log lines.
    pub audit_id: String,
    /// The agent that it goes through, once that is known.
    pub via: Via,
    /// It carries one call, which may be made again. Before the first byte of the answer, such a stream fails once its agent has been
    /// away for some seconds and there is another way, instead of waiting for the agent's return.
    pub may_be_repeated: bool,
    /// The life of the permission for it. The front ends the stream with it; a target that outlives its streams, a shell, has to end by
    /// itself.
    pub permission: Revocation,
    /// For a shell whose kubectl is the caller: the permissions that the caller has at the API server.
    pub api: Vec<Permission>,
}

impl Open {
    /// A stream to this target for the call of this id, with its identity encoded.
    pub fn new(
        target: Target,
        identity: Bytes,
        class: StreamClass,
        audit_id: impl Into<String>,
    ) -> Self {
        Self {
            target,
            identity,
            class,
            audit_id: audit_id.into(),
            via: Via::default(),
            may_be_repeated: false,
            permission: Revocation::never(),
            api: Vec::new(),
        }
    }
}

/// Opens streams to clusters.
#[async_trait]
pub trait Clusters: Send + Sync {
    /// Opens a stream to a target at `cluster`'s agent, which hands one to the API server to `ApiServer::serve_stream` of
    /// `underpass-upstream`. An agent that serves no such target says so on the stream.
    ///
    /// It may wait for an agent that is reconnecting; the front gives up after
    /// [`limits::STREAM_CONNECT_TIMEOUT`](crate::limits::STREAM_CONNECT_TIMEOUT). It must be cancel safe: the front drops the
    /// future when the client goes away.
    ///
    /// A stream to another target than the API server is one that the agent has accepted: its client is told so, and may then
    /// wait for the target's first bytes for as long as it likes.
    ///
    /// # Errors
    /// Why there is no stream.
    async fn connect(&self, cluster: &ClusterName, open: &Open) -> Result<BoxedIo, ConnectError>;

    /// May there be more than one way into the cluster, so that a call which is left without an answer may find another? Without an
    /// implementation there is not.
    fn has_another_way(&self, cluster: &ClusterName) -> bool {
        let _ = cluster;
        false
    }

    /// Opens a stream to a target at a node of `cluster`, through the agent of that node and no other. Else it is as
    /// [`connect`](Self::connect) to a target that is not the API server. Without an implementation there are no targets at nodes.
    ///
    /// # Errors
    /// Why there is no stream.
    async fn connect_node(
        &self,
        cluster: &ClusterName,
        node: &NodeName,
        open: &Open,
    ) -> Result<BoxedIo, ConnectError> {
        let _ = (cluster, node);
        Err(ConnectError::NoTarget(open.target.clone()))
    }
}

/// Why there is no stream. Sources and reasons go to the log, not to the client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No cluster of that name.
    #[error("the cluster is not known")]
    UnknownCluster,
    /// The cluster exists, but no agent serves it now.
    #[error("the cluster has no agent connected")]
    NoAgent,
    /// There is an agent, whose connection is lost or silent at the moment.
    #[error("the agent's connection is lost or silent")]
    AgentAway,
    /// No agent serves it, and the credential that one has registered counts no more.
    #[error("the cluster has no agent connected, and its registered credential has expired")]
    RegisteredExpired,
    /// No agent of a node of that name has joined the cluster.
    #[error("the cluster has no node {0}")]
    UnknownNode(NodeName),
    /// The node's agent has no connection now, or does not answer.
    #[error("the agent of node {0} is not connected")]
    NodeAway(NodeName),
    /// The agent declined the stream.
    #[error("the agent refused the stream: {reason}")]
    AgentRefused {
        /// In the agent's words.
        reason: String,
    },
    /// The agent declined a stream to another target than the API server, in words for the client.
    #[error("the agent declined the target: {reason}")]
    Declined {
        /// The kind of the reason.
        decline: Decline,
        /// In the agent's words.
        reason: String,
    },
    /// The agent did not say in time whether it accepts the stream.
    #[error("the agent did not answer")]
    NoAnswer(#[source] BoxError),
    /// The cluster is reached in a way that has no such target.
    #[error("the cluster has no target {0}")]
    NoTarget(Target),
    /// The open header is larger than the agent reads.
    #[error("the stream's open header is too large")]
    HeaderTooLarge,
    /// The settings by which the cluster is reached are unusable.
    #[error("the cluster cannot be reached as it is configured")]
    Unusable(#[source] BoxError),
    /// The agent, or this server, has no room for another stream.
    #[error("too many streams")]
    TooManyStreams,
    /// The session was lost while the stream was being opened.
    #[error("the session was lost")]
    Lost(#[source] BoxError),
}

/// An agent's reason to decline a stream to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decline {
    /// Its policy does not allow the target.
    Forbidden,
    /// It does not know the target, or cannot reach it.
    Unreachable,
    /// It has too many streams of the kind.
    Overloaded,
}

impl ConnectError {
    /// The answer for the client, without details.
    pub fn rejection(&self, cluster: &ClusterName) -> Rejection {
        match self {
            Self::UnknownCluster => Rejection::UnknownCluster(cluster.clone()),
            Self::NoAgent => Rejection::NoAgent(cluster.clone()),
            Self::AgentAway => Rejection::AgentAway(cluster.clone()),
            Self::RegisteredExpired => Rejection::RegisteredExpired(cluster.clone()),
            Self::UnknownNode(node) => Rejection::UnknownNode {
                cluster: cluster.clone(),
                node: node.clone(),
            },
            Self::NodeAway(node) => Rejection::NodeAway {
                cluster: cluster.clone(),
                node: node.clone(),
            },
            Self::AgentRefused { .. } => Rejection::AgentRefused(cluster.clone()),
            Self::Declined { decline, reason } => Rejection::TargetDeclined {
                cluster: cluster.clone(),
                node: None,
                decline: *decline,
                reason: reason.clone(),
            },
            Self::NoAnswer(_) => Rejection::Timeout("the agent's answer"),
            Self::NoTarget(_) => Rejection::NoTargets(cluster.clone()),
            Self::Unusable(_) => Rejection::Unusable(cluster.clone()),
            Self::HeaderTooLarge => Rejection::HeadersTooLarge,
            Self::TooManyStreams => Rejection::TooManyRequests,
            Self::Lost(_) => Rejection::AgentLost(cluster.clone()),
        }
    }
}
