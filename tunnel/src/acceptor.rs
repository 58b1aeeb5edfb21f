//! The side that is dialled: turns transports into sessions.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::sync::{Semaphore, TryAcquireError};

use crate::control::{ControlError, HandshakeStream};
use crate::proto::code::CloseCode;
use crate::proto::handshake::{
    self, AcceptorHandshake, AcceptorStep, HandshakeError, Local, Proven,
};
use crate::proto::limits;
use crate::proto::session::Agreed;
use crate::proto::stream_id::Role;
use crate::random::random;
use crate::session::{Info, Session, SessionId};
use crate::transport::quic::QuicTransport;
use crate::transport::websocket::{self, Subprotocol};
use crate::transport::{Transport, TransportError};

/// Decides which keys are whose.
///
/// Asked once for each session, after the connector has proven that it owns the key.
pub trait Admission: Send + Sync + 'static {
    /// The name of the agent that `proven` belongs to, or why it is not let in.
    fn admit<'a>(&'a self, proven: &'a Proven) -> BoxFuture<'a, Result<String, Denied>>;
}

/// Why a connector is not let in. Both parts are told to it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{code}: {reason}")]
pub struct Denied {
    /// For programs.
    pub code: CloseCode,
    /// For people.
    pub reason: String,
}

impl Denied {
    /// The key is nobody's.
    pub fn unknown_key() -> Self {
        Self {
            code: CloseCode::Unauthenticated,
            reason: "this agent token is not known here".to_owned(),
        }
    }
}

/// What an acceptor tells its connectors.
#[derive(Debug, Clone)]
pub struct AcceptorConfig {
    /// Streams that a connector may have open at once, [`limits::STREAMS_MAX`] at most; each costs
    /// about 4 KiB when idle.
    pub max_streams: u32,
    /// Silence after which a PING is sent: one to twenty seconds, other values are taken for the
    /// nearer of these. Shorter finds a lost agent sooner and costs a packet each way per agent and
    /// interval.
    pub keepalive: Duration,
    /// Name and version of the software, for the peers' logs.
    pub software: String,
}

impl Default for AcceptorConfig {
    fn default() -> Self {
        Self {
            max_streams: limits::STREAMS,
            keepalive: limits::KEEPALIVE,
            software: concat!("underpass-tunnel/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Why a connection did not become a session.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// Too many connections are in their handshakes.
    #[error(
        "more than {} connections are not authenticated yet",
        limits::UNAUTHENTICATED
    )]
    Overloaded,
    /// The QUIC handshake failed.
    #[error("QUIC handshake failed")]
    Quic(#[source] quinn::ConnectionError),
    /// The connection ended meanwhile.
    #[error("connection ended in the session handshake")]
    Transport(#[source] TransportError),
    /// The connector broke the handshake, or could not prove its key.
    #[error("session handshake failed")]
    Handshake(#[source] HandshakeError),
    /// The handshake took too long.
    #[error("no session within {} s", limits::HANDSHAKE_TIME.as_secs())]
    Timeout,
    /// The key is not let in.
    #[error("agent refused")]
    Denied(#[source] Denied),
}

/// Turns transports into sessions, within bounds.
pub struct Acceptor {
    config: AcceptorConfig,
    admission: Arc<dyn Admission>,
    unauthenticated: Semaphore,
}

impl Acceptor {
    /// An acceptor that lets in whom `admission` knows.
    pub fn new(config: AcceptorConfig, admission: Arc<dyn Admission>) -> Self {
        let config = AcceptorConfig {
            max_streams: config.max_streams.min(limits::STREAMS_MAX),
            keepalive: config
                .keepalive
                .clamp(limits::KEEPALIVE_MIN, limits::KEEPALIVE_MAX),
            ..config
        };
        Self {
            config,
            admission,
            unauthenticated: Semaphore::new(limits::UNAUTHENTICATED),
        }
    }

    /// Accepts a QUIC connection.
    ///
    /// # Errors
    /// Where no session comes of it; the peer was told why.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub async fn accept_quic(&self, incoming: quinn::Incoming) -> Result<Session, AcceptError> {
        let permit = match self.unauthenticated.try_acquire() {
            Ok(permit) => permit,
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                incoming.refuse();
                return Err(AcceptError::Overloaded);
            }
        };
        let handshake = async { incoming.accept()?.await };
        let connection = match tokio::time::timeout(limits::CONNECT_TIME, handshake).await {
            Ok(connection) => connection.map_err(AcceptError::Quic)?,
            Err(_) => return Err(AcceptError::Timeout),
        };
        let session = self
            .accept_bounded(Arc::new(QuicTransport::new(connection)))
            .await;
        drop(permit);
        session
    }

    /// Accepts a WebSocket whose upgrade was answered with [`websocket::respond`], which chose
    /// `subprotocol`.
    ///
    /// # Errors
    /// Where no session comes of it; the peer was told why.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub async fn accept_websocket<S>(
        &self,
        io: S,
        subprotocol: Subprotocol,
        remote: Option<SocketAddr>,
    ) -> Result<Session, AcceptError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        self.accept(websocket::accept(io, subprotocol, remote).await)
            .await
    }

    /// Accepts a session on any transport.
    ///
    /// # Errors
    /// Where no session comes of it; the peer was told why.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub async fn accept(&self, transport: Arc<dyn Transport>) -> Result<Session, AcceptError> {
        let Ok(_permit) = self.unauthenticated.try_acquire() else {
            transport.close(CloseCode::Overloaded, "too many handshakes");
            return Err(AcceptError::Overloaded);
        };
        self.accept_bounded(transport).await
    }

    async fn accept_bounded(&self, transport: Arc<dyn Transport>) -> Result<Session, AcceptError> {
        let mut control = None;
        let handshake = self.handshake(transport.as_ref(), &mut control);
        let result = tokio::time::timeout(limits::HANDSHAKE_TIME, handshake).await;
        let error = match (result.unwrap_or(Err(AcceptError::Timeout)), control.take()) {
            (Ok((agreed, info)), Some(control)) => {
                return Ok(Session::start(transport, control.into(), &agreed, info));
            }
            (Ok(_), None) => AcceptError::Transport(TransportError::ClosedHere),
            (Err(error), control) => {
                tell(control, &error).await;
                error
            }
        };
        let (code, reason) = close_words(&error);
        transport.close(code, &reason);
        Err(error)
    }

    /// Leaves the control stream in `control` however it ends, so that the peer can be told.
    async fn handshake(
        &self,
        transport: &dyn Transport,
        control: &mut Option<HandshakeStream>,
    ) -> Result<(Agreed, Info), AcceptError> {
        let stream = transport.accept().await.map_err(AcceptError::Transport)?;
        let control = control.insert(HandshakeStream::new(stream));
        self.converse(control, transport).await
    }

    async fn converse(
        &self,
        control: &mut HandshakeStream,
        transport: &dyn Transport,
    ) -> Result<(Agreed, Info), AcceptError> {
        let mut handshake = AcceptorHandshake::start(random());
        let proven = loop {
            let frame = control.receive().await?;
            match handshake.handle(frame).map_err(AcceptError::Handshake)? {
                AcceptorStep::Send(bytes) => control.send(bytes).await?,
                AcceptorStep::Proven(proven) => break proven,
            }
        };
        let agent = self
            .admission
            .admit(&proven)
            .await
            .and_then(nameable)
            .map_err(AcceptError::Denied)?;
        transport.authenticated();
        let id = random();
        control.send(self.welcome(id, &agent)).await?;
        let agreed = Agreed {
            local_streams: proven.max_streams,
            remote_streams: self.config.max_streams,
            keepalive: self.config.keepalive,
        };
        let info = Info {
            id: SessionId(id),
            agent,
            key: proven.key,
            instance: proven.instance,
            software: proven.software,
            role: Role::Acceptor,
            transport: transport.kind(),
            remote: transport.remote(),
        };
        Ok((agreed, info))
    }

    fn welcome(&self, id: [u8; 16], agent: &str) -> Bytes {
        let local = Local {
            max_streams: self.config.max_streams,
            software: self.config.software.clone(),
        };
        let keepalive_ms = u32::try_from(self.config.keepalive.as_millis()).unwrap_or(u32::MAX);
        handshake::welcome(&local, id, keepalive_ms, agent)
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// WELCOME has room for a DNS name; a longer one would look like the peer's fault there.
fn nameable(agent: String) -> Result<String, Denied> {
    if agent.len() <= limits::PEER_NAME {
        return Ok(agent);
    }
    Err(Denied {
        code: CloseCode::Internal,
        reason: format!("the agent's name has more than {} bytes", limits::PEER_NAME),
    })
}

fn close_words(error: &AcceptError) -> (CloseCode, String) {
    let code = match error {
        AcceptError::Overloaded => CloseCode::Overloaded,
        AcceptError::Quic(_) | AcceptError::Transport(_) => CloseCode::Shutdown,
        AcceptError::Handshake(error) => error.close_code().unwrap_or(CloseCode::Shutdown),
        AcceptError::Timeout => CloseCode::HandshakeTimeout,
        AcceptError::Denied(denied) => return (denied.code, denied.reason.clone()),
    };
    (code, crate::error::chain(error))
}

/// Sends the connector a CLOSE with the reason, as far as it still listens.
async fn tell(control: Option<HandshakeStream>, error: &AcceptError) {
    if matches!(error, AcceptError::Transport(_)) {
        return;
    }
    if let Some(control) = control {
        let (code, reason) = close_words(error);
        control.close(code, &reason).await;
    }
}

impl From<ControlError> for AcceptError {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Decode(error) => Self::Handshake(error.into()),
            ControlError::Transport(error) => Self::Transport(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_welcome_cannot_hold_is_this_sides_fault() {
        assert!(nameable("a".repeat(limits::PEER_NAME)).is_ok());
        let denied = nameable("a".repeat(limits::PEER_NAME + 1)).unwrap_err();
        assert_eq!(denied.code, CloseCode::Internal);
    }
}
