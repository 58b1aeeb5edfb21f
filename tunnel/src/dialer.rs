//! Targets by name, for callers that want connections and not sessions.

#[cfg(feature = "hyper")]
mod hyper;

use bytes::Bytes;
use thiserror::Error;
use underpass_proto::chain;
use underpass_proto::frame::Class;

#[cfg(feature = "hyper")]
pub use self::hyper::HttpIo;
use crate::registry::Registry;
use crate::session::{OpenError, OpenRequest, Session};
use crate::stream::Stream;

/// Opens streams to one target at the other end of a tunnel.
///
/// With the feature `hyper` it is a connector for hyper, and for libraries built on that: a
/// `tower_service::Service` of `http::Uri`, which ignores the URI and connects to the target.
/// The caller adds TLS, where the target wants it, as for TCP.
#[derive(Debug, Clone)]
pub struct Dialer {
    peer: Peer,
    request: OpenRequest,
}

#[derive(Debug, Clone)]
enum Peer {
    Session(Session),
    Agent { registry: Registry, agent: String },
}

/// Why there is no stream to a target.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum DialerError {
    /// The agent has no session here, or none whose peer answers.
    #[error("agent `{0}` is not connected")]
    NotConnected(String),
    /// A session takes no new stream.
    #[error("no stream through the tunnel")]
    Open(#[from] OpenError),
}

impl Dialer {
    /// Opens streams in `session`, to its peer's `target`.
    pub fn new(session: Session, target: impl Into<String>) -> Self {
        Self::on(Peer::Session(session), target)
    }

    /// Opens streams in a session that `agent` has at the time.
    pub fn to_agent(
        registry: Registry,
        agent: impl Into<String>,
        target: impl Into<String>,
    ) -> Self {
        let agent = agent.into();
        Self::on(Peer::Agent { registry, agent }, target)
    }

    fn on(peer: Peer, target: impl Into<String>) -> Self {
        let request = OpenRequest {
            target: target.into(),
            ..OpenRequest::default()
        };
        Self { peer, request }
    }

    /// With a header for the target: 256 KiB at most.
    #[must_use]
    pub fn header(mut self, header: Bytes) -> Self {
        self.request.header = header;
        self
    }

    /// With another urgency than [`Class::Default`].
    #[must_use]
    pub fn class(mut self, class: Class) -> Self {
        self.request.class = class;
        self
    }

    /// Opens a stream, as [`Session::open`] does. Of an agent's several sessions, the next one is asked
    /// where one turns out to be gone, or its peer to be silent.
    ///
    /// # Errors
    /// Where there is no session, or it takes no stream.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the stream.
    pub async fn dial(&self) -> Result<Stream, DialerError> {
        Ok(self.dial_session().await?.1)
    }

    /// The same, with the session that the stream is in.
    ///
    /// # Errors
    /// As [`dial`](Self::dial).
    ///
    /// # Cancel safety
    /// Dropping the future cancels the stream.
    pub async fn dial_session(&self) -> Result<(Session, Stream), DialerError> {
        let (registry, agent) = match &self.peer {
            Peer::Session(session) => {
                let stream = session.open(self.request.clone()).await?;
                return Ok((session.clone(), stream));
            }
            Peer::Agent { registry, agent } => (registry, agent),
        };
        // It is not picked again then, and nothing was asked of the peer yet.
        while let Some(session) = registry.pick_for(agent, &self.request.target) {
            match session.open(self.request.clone()).await {
                Ok(stream) => return Ok((session, stream)),
                Err(error @ OpenError::TooLarge { .. }) => return Err(error.into()),
                Err(error) if session.is_open() && session.is_reachable() => {
                    return Err(error.into());
                }
                Err(error) => {
                    tracing::debug!(agent, session = %session.info().id, "{}", chain(&error));
                }
            }
        }
        Err(DialerError::NotConnected(agent.clone()))
    }
}
