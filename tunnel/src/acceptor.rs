//! The side that is dialled: turns transports into sessions.

mod admission;
mod handshake;
#[cfg(test)]
mod rush;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use underpass_proto::code::CloseCode;
use underpass_proto::frame::Wish;
use underpass_proto::handshake::HandshakeError;
use underpass_proto::session::{LinkId, LinkRefused, LinkRole};
use underpass_proto::settings::{KeepaliveInterval, ResumeWindow, StreamLimit};

pub use self::admission::{Admission, Denied, Share};
use self::handshake::{Admitted, Failed, Within, close_words, tell};
use crate::control::{ControlError, HandshakeStream};
use crate::handshake_limiter::{Bounds, Closed, HandshakeLimiter, HandshakePermit};
use crate::limits;
use crate::role::ConnectorRole;
use crate::session::{Info, Joining, Session, Shared};
use crate::session_limiter::{NoRoom, SessionLimiter};
use crate::telemetry;
use crate::transport::quic::{self, QuicTransport};
use crate::transport::websocket::{self, Subprotocol};
use crate::transport::{Transport, TransportError};

/// An acceptor's settings.
#[derive(Debug, Clone)]
pub struct AcceptorConfig {
    /// Streams that a connector may have open at once.
    pub max_streams: StreamLimit,
    /// Sessions that one agent may have at once, by its [owner](Admission::owner): its replicas, and a rollout.
    pub max_sessions_of_agent: usize,
    /// Sessions of all agents of one name, with all of their keys.
    pub max_sessions_of_name: usize,
    /// Sessions of all agents.
    pub max_sessions: usize,
    /// Silence after which a PING is sent. Shorter finds a lost agent sooner and costs a packet each way per
    /// agent and interval.
    pub keepalive: KeepaliveInterval,
    /// How long a session waits for its connector when its last transport is lost; zero ends it at once. Both sides
    /// keep unacknowledged bytes meanwhile.
    pub resume_window: ResumeWindow,
    /// Name and version of the software, for the peers' logs.
    pub software: String,
}

impl Default for AcceptorConfig {
    fn default() -> Self {
        Self {
            max_streams: StreamLimit::default(),
            max_sessions_of_agent: limits::SESSIONS_OF_AGENT,
            max_sessions_of_name: limits::SESSIONS_OF_NAME,
            max_sessions: limits::SESSIONS,
            keepalive: KeepaliveInterval::default(),
            resume_window: ResumeWindow::default(),
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
    /// So many are that a QUIC peer first has to prove its address: it was told so, and comes again.
    #[error("the peer's address is not proven yet")]
    AddressUnproven,
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
    /// There are as many sessions as there may be.
    #[error("no room for another session")]
    NoRoom(#[from] NoRoom),
    /// The session that it was for does not take it.
    #[error("session not resumed")]
    Resume(#[source] LinkRefused),
    /// The session that it was for, and for no other, is not here.
    #[error("no such session here")]
    NoSession,
    /// The connector's role is another one than the acceptor's.
    #[error("no connector in the role {0:?} is served here")]
    Role(ConnectorRole),
}

/// A QUIC connection whose own handshake is done, and whose connector is not known yet.
#[derive(Debug)]
pub struct QuicPeer {
    role: ConnectorRole,
    connection: quinn::Connection,
    place: HandshakePermit,
}

impl QuicPeer {
    /// The role that the connector asks for.
    pub fn role(&self) -> ConnectorRole {
        self.role
    }
}

/// The outcome of a connection.
#[derive(Debug)]
pub enum Accepted {
    /// A session that is new.
    New(Session),
    /// A new transport of an existing session; its streams move to it. The [`Info`] has the
    /// protocol, the address and the key of that transport.
    Resumed(Box<Info>),
    /// A lane of an existing session, for its streams of the class bulk. The [`Info`] is the lane's.
    Lane(Box<Info>),
    /// A transport of an existing session that stands by, for when the other one falls silent. The [`Info`] is its own.
    Standby(Box<Info>),
}

impl Accepted {
    /// The peer.
    pub fn info(&self) -> &Info {
        match self {
            Self::New(session) => session.info(),
            Self::Resumed(info) | Self::Lane(info) | Self::Standby(info) => info,
        }
    }

    /// The session, where it is new.
    pub fn into_session(self) -> Option<Session> {
        match self {
            Self::New(session) => Some(session),
            Self::Resumed(_) | Self::Lane(_) | Self::Standby(_) => None,
        }
    }
}

/// The sessions that connectors may come back to.
#[derive(Default)]
struct Sessions {
    by_id: HashMap<[u8; 16], Weak<Shared>>,
    /// How many there may be before those that are over are looked for.
    sweep_at: usize,
}

impl Sessions {
    fn insert(&mut self, session: &Session) {
        if self.by_id.len() >= self.sweep_at {
            self.by_id.retain(|_, session| {
                let live = session.upgrade();
                live.is_some_and(|session| !session.core(|core| core.is_closed()))
            });
            self.sweep_at = 2 * self.by_id.len() + 64;
        }
        let shared = session.shared();
        self.by_id
            .insert(shared.info().id.0, Arc::downgrade(shared));
    }

    fn find(&self, id: &[u8; 16]) -> Option<Arc<Shared>> {
        self.by_id.get(id)?.upgrade()
    }
}

/// Turns transports into sessions, within bounds.
pub struct Acceptor {
    role: ConnectorRole,
    config: AcceptorConfig,
    admission: Arc<dyn Admission>,
    handshake_limiter: Arc<HandshakeLimiter>,
    session_limiter: SessionLimiter,
    sessions: Mutex<Sessions>,
}

impl Acceptor {
    /// An acceptor that lets in agents that `admission` knows.
    pub fn new(config: AcceptorConfig, admission: Arc<dyn Admission>) -> Self {
        let handshake_limiter = Arc::new(HandshakeLimiter::new(Bounds::default()));
        Self::of(ConnectorRole::Agent, config, admission, handshake_limiter)
    }

    /// An acceptor beside this one, for the sessions of users that `admission` knows. It has sessions, keys and bounds of its own:
    /// no key of an agent leads here, and none of a user to the agents. Connections that are not authenticated yet count together.
    #[must_use]
    pub fn for_users(&self, config: AcceptorConfig, admission: Arc<dyn Admission>) -> Self {
        let limiter = Arc::clone(&self.handshake_limiter);
        Self::of(ConnectorRole::User, config, admission, limiter)
    }

    fn of(
        role: ConnectorRole,
        config: AcceptorConfig,
        admission: Arc<dyn Admission>,
        handshake_limiter: Arc<HandshakeLimiter>,
    ) -> Self {
        Self {
            role,
            session_limiter: SessionLimiter::new(
                config.max_sessions_of_agent,
                config.max_sessions_of_name,
                config.max_sessions,
            ),
            config,
            admission,
            handshake_limiter,
            sessions: Mutex::default(),
        }
    }

    /// Accepts a QUIC connection.
    ///
    /// # Errors
    /// Where no session comes of it; the peer was told why.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub async fn accept_quic(&self, incoming: quinn::Incoming) -> Result<Accepted, AcceptError> {
        self.accept_peer(self.connect_quic(incoming).await?).await
    }

    /// Finishes a QUIC connection's own handshake, which tells the connector's role: which acceptor its session is for
    /// ([`Acceptor::accept_peer`]).
    ///
    /// # Errors
    /// Where no session can come of it; the peer was told why.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub async fn connect_quic(&self, incoming: quinn::Incoming) -> Result<QuicPeer, AcceptError> {
        let (incoming, mut place) = self.admit_quic(incoming)?;
        let closed = place.closed();
        let handshake = quic_handshake(incoming, &mut place);
        let connection = tokio::select! {
            connection = tokio::time::timeout(limits::CONNECT_TIME, handshake) => connection,
            () = closed.cancelled() => return Err(AcceptError::Overloaded),
        };
        let connection = match connection {
            Ok(connection) => connection.map_err(AcceptError::Quic)?,
            Err(_) => return Err(AcceptError::Timeout),
        };
        // The endpoint agrees on no other protocols than ours.
        let role = quic::role_of(&connection).unwrap_or_default();
        Ok(QuicPeer {
            role,
            connection,
            place,
        })
    }

    /// Accepts a QUIC connection whose own handshake is done.
    ///
    /// # Errors
    /// Where no session comes of it; the peer was told why.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub async fn accept_peer(&self, peer: QuicPeer) -> Result<Accepted, AcceptError> {
        let QuicPeer {
            role,
            connection,
            place,
        } = peer;
        let transport = Arc::new(QuicTransport::new(connection));
        if role != self.role {
            let error = AcceptError::Role(role);
            transport.close(CloseCode::Unauthenticated, &error.to_string());
            return Err(error);
        }
        let session = self.accept_bounded(transport, &place.closed()).await;
        drop(place);
        session
    }

    /// Before anything is computed for it.
    fn admit_quic(
        &self,
        incoming: quinn::Incoming,
    ) -> Result<(quinn::Incoming, HandshakePermit), AcceptError> {
        let source = incoming.remote_address().ip();
        match self
            .handshake_limiter
            .enter(Some(source), incoming.remote_address_validated())
        {
            Ok(place) => Ok((incoming, place)),
            Err(Closed::Unproven) => {
                // An error says that it is proven: that is not asked for twice.
                let _ = incoming.retry();
                Err(AcceptError::AddressUnproven)
            }
            Err(Closed::Full) => {
                incoming.refuse();
                Err(AcceptError::Overloaded)
            }
        }
    }

    /// Accepts a WebSocket whose upgrade was answered with [`websocket::respond`].
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
    ) -> Result<Accepted, AcceptError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        self.accept(websocket::accept(io, subprotocol, remote).await)
            .await
    }

    /// Accepts any transport.
    ///
    /// # Errors
    /// Where no session comes of it; the peer was told why.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub async fn accept(&self, transport: Arc<dyn Transport>) -> Result<Accepted, AcceptError> {
        // TCP's handshake has proven the address.
        let source = transport.remote().map(|remote| remote.ip());
        let Ok(place) = self.handshake_limiter.enter(source, true) else {
            transport.close(CloseCode::Overloaded, "too many handshakes");
            return Err(AcceptError::Overloaded);
        };
        self.accept_bounded(transport, &place.closed()).await
    }

    /// `closed`: another handshake needs the place.
    async fn accept_bounded(
        &self,
        transport: Arc<dyn Transport>,
        closed: &CancellationToken,
    ) -> Result<Accepted, AcceptError> {
        let begun = Instant::now();
        let bounds = Within {
            deadline: begun + limits::HANDSHAKE_TIME,
            closed,
        };
        let result = self.handshake(transport.as_ref(), bounds).await;
        let outcome = match &result {
            Ok((Admitted::New(..), _)) => "new",
            Ok((Admitted::Resumed(..), _)) => "resumed",
            Err(_) => "failed",
        };
        telemetry::handshake(transport.kind(), outcome, begun.elapsed());
        let Failed { error, control } = match result {
            Ok((admitted, control)) => return self.enter(admitted, transport, control),
            Err(failed) => failed,
        };
        tell(control, &error).await;
        let (code, reason) = close_words(&error);
        transport.close(code, &reason);
        Err(error)
    }

    fn enter(
        &self,
        admitted: Admitted,
        transport: Arc<dyn Transport>,
        control: HandshakeStream,
    ) -> Result<Accepted, AcceptError> {
        let (kind, remote) = (transport.kind(), transport.remote());
        let joining = |link, role, peer_has| Joining {
            transport,
            control: control.into(),
            link,
            role,
            peer_has,
        };
        match admitted {
            Admitted::New(agreed, secret, info, counted) => {
                let first = joining(LinkId::FIRST, LinkRole::Main, 0);
                let session = Session::start(first, &agreed, secret, info, counted);
                self.sessions().insert(&session);
                Ok(Accepted::New(session))
            }
            Admitted::Resumed(session, claim, key) => {
                let role = match claim.wish {
                    Wish::Lane => LinkRole::Lane,
                    Wish::Standby => LinkRole::Standby,
                    Wish::Main | Wish::MainOrNew => LinkRole::Main,
                };
                let joining = joining(LinkId(claim.attempt), role, claim.received);
                session.join(joining).map_err(AcceptError::Resume)?;
                session.proved(key);
                let info = Box::new(Info {
                    key,
                    transport: kind,
                    remote,
                    ..session.info().clone()
                });
                Ok(match role {
                    LinkRole::Main => Accepted::Resumed(info),
                    LinkRole::Lane => Accepted::Lane(info),
                    LinkRole::Standby => Accepted::Standby(info),
                })
            }
        }
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions> {
        // Nothing under the lock leaves the map half-changed.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn quic_handshake(
    incoming: quinn::Incoming,
    place: &mut HandshakePermit,
) -> Result<quinn::Connection, quinn::ConnectionError> {
    let mut connecting = incoming.accept()?;
    place.remember_for(limits::FAILED_HANDSHAKE_TIME);
    if connecting.handshake_data().await.is_err() {
        // A connection that its very first packet closes, quinn forgets when it has been idle.
        place.remember_for(limits::QUIC_IDLE);
    }
    let connection = connecting.await?;
    place.remember_for(Duration::ZERO);
    Ok(connection)
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor")
            .field("config", &self.config)
            .finish_non_exhaustive()
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
