//! Users' sessions: the tunnel's, dialled by users (PROTOCOL.md, "User sessions").
//!
//! A session of a user's never leaves this module: no registry of clusters, and no stream to an agent, can have it. A stream
//! in it is an HTTP connection to the front ([`Streams`]), and nothing is ever opened towards the user.

mod grants;
mod streams;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all, ready};
use rand::RngExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use underpass_core::NetworkLogShare;
use underpass_gateway::Standing;
use underpass_tunnel::transport::websocket::Subprotocol;
use underpass_tunnel::{
    AcceptError, Accepted, Acceptor, AcceptorConfig, Admission, AgentName, CloseCode, Denied,
    Proven, QuicPeer, Registry, ResumeWindow, Session, Share, StreamLimit, chain,
};

use self::grants::Granted;
pub(crate) use self::grants::{Grants, NotGranted, Shown};
pub(crate) use self::streams::Streams;
use crate::limits;

/// The sessions of users.
#[derive(Clone)]
pub(crate) struct UserSessions(Arc<Shared>);

struct Shared {
    grants: Arc<Grants>,
    acceptor: Acceptor,
    /// Of users alone: nobody looks for a cluster here.
    sessions: Registry,
    begun: mpsc::UnboundedSender<Begun>,
    refusals: NetworkLogShare,
    ended: CancellationToken,
}

/// A session that has begun. There are no more than the acceptor lets in.
struct Begun {
    session: Session,
    granted: Granted,
}

impl UserSessions {
    /// The sessions of users who have registered their keys in `grants`, beside those of `agents`; and their streams.
    pub(crate) fn new(
        agents: &Acceptor,
        grants: Arc<Grants>,
        resume_window: ResumeWindow,
    ) -> (Self, Streams) {
        let admission = Arc::new(Keys(Arc::clone(&grants)));
        let (begun, next) = mpsc::unbounded_channel();
        let shared = Shared {
            grants,
            acceptor: agents.for_users(config(resume_window), admission),
            sessions: Registry::new(),
            begun,
            refusals: NetworkLogShare::default(),
            ended: CancellationToken::new(),
        };
        (Self(Arc::new(shared)), Streams::new(next))
    }

    /// Takes a QUIC connection of a user's.
    pub(crate) async fn serve_quic(&self, peer: QuicPeer, remote: IpAddr) {
        let accepted = self.0.acceptor.accept_peer(peer).await;
        self.serve(accepted, remote);
    }

    /// Takes a WebSocket of a user's, whose connection is theirs from then on.
    pub(crate) async fn serve_websocket<S>(
        &self,
        io: S,
        subprotocol: Subprotocol,
        remote: SocketAddr,
        standing: Standing,
    ) where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let accepting = self
            .0
            .acceptor
            .accept_websocket(io, subprotocol, Some(remote));
        // A client that upgrades and then says nothing is a stranger like any other.
        let accepted = tokio::select! {
            accepted = accepting => accepted,
            () = standing.closed() => return,
        };
        let key = accepted.as_ref().ok().map(|accepted| accepted.info().key);
        let holder = key.and_then(|key| self.0.grants.holder(&key));
        if let Some(holder) = holder {
            standing.recognise(holder).for_good();
        }
        self.serve(accepted, remote.ip());
    }

    fn serve(&self, accepted: Result<Accepted, AcceptError>, remote: IpAddr) {
        let session = match accepted {
            Ok(Accepted::New(session)) => session,
            Ok(Accepted::Resumed(info) | Accepted::Lane(info) | Accepted::Standby(info)) => {
                tracing::debug!(
                    user = info.agent.as_str(), session = %info.id, transport = %info.transport,
                    remote = info.remote.map(tracing::field::display), "a user's session has another connection"
                );
                return;
            }
            Err(error) => return self.refused(&error, remote),
        };
        let info = session.info();
        tracing::debug!(
            user = info.agent.as_str(), session = %info.id, transport = %info.transport,
            remote = info.remote.map(tracing::field::display), software = info.software, "a user's session begins"
        );
        let Some(granted) = self.0.grants.begin(info.key) else {
            // The credential was revoked since the key was looked up.
            return session.close(CloseCode::Revoked, REVOKED);
        };
        metrics::counter!("underpass_user_sessions_total").increment(1);
        self.0.sessions.insert(session.clone());
        if self.0.ended.is_cancelled() {
            return end(&session);
        }
        // The server has ended where nobody takes it: the session ends with its last handle.
        let _ = self.0.begun.send(Begun { session, granted });
    }

    fn refused(&self, error: &AcceptError, remote: IpAddr) {
        if matches!(error, AcceptError::AddressUnproven) {
            return;
        }
        metrics::counter!("underpass_user_sessions_refused_total").increment(1);
        if let Some(suppressed) = self.0.refusals.take(remote) {
            tracing::info!(suppressed = (suppressed > 0).then_some(suppressed), %remote, "no session of a user: {}", chain(error));
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.sessions.sessions().len()
    }

    /// Asks every user's session to leave and to come back, spread over a second, and waits for their streams' end or the deadline.
    pub(crate) async fn drain(&self, deadline: Duration) {
        let sessions = self.0.sessions.sessions().into_iter();
        let drains = sessions.map(|session| async move {
            let return_after = Duration::from_millis(rand::rng().random_range(0..1000));
            session
                .drain(deadline, return_after, "the server is shutting down")
                .await;
        });
        join_all(drains).await;
    }

    /// Ends every session at once, and those whose handshakes are under way as well.
    pub(crate) fn end(&self) {
        self.0.ended.cancel();
        self.0.sessions.sessions().iter().for_each(end);
    }
}

/// Lets users in by the keys that they have registered.
struct Keys(Arc<Grants>);

impl Admission for Keys {
    fn admit<'a>(&'a self, proven: &'a Proven) -> BoxFuture<'a, Result<AgentName, Denied>> {
        let user = self.0.user(&proven.key);
        ready(user.ok_or_else(unknown).and_then(|user| peer_name(&user))).boxed()
    }

    /// All keys of a user count together.
    fn share(&self, proven: &Proven, name: &AgentName) -> Share {
        let holder = self.0.holder(&proven.key);
        let name = holder.map_or_else(|| name.to_string(), |holder| format!("{holder:?}"));
        // A session that was lost and its successor, for a moment.
        Share::of(name).bounded(2, 2 * limits::SESSIONS_OF_USER)
    }
}

/// The user's name, as far as WELCOME has room for it.
fn peer_name(user: &str) -> Result<AgentName, Denied> {
    let room = user.floor_char_boundary(underpass_tunnel::limits::PEER_NAME);
    Ok(user.get(..room).unwrap_or_default().try_into()?)
}

fn unknown() -> Denied {
    Denied {
        reason: "this key is not registered here, or the credential that has registered it counts no more: register it again"
            .to_owned(),
        ..Denied::unknown_key()
    }
}

fn config(resume_window: ResumeWindow) -> AcceptorConfig {
    AcceptorConfig {
        max_streams: StreamLimit::try_from(limits::SESSION_STREAMS).unwrap_or_default(),
        max_sessions: limits::SESSIONS_OF_USERS,
        resume_window,
        software: concat!("underpass-server/", env!("CARGO_PKG_VERSION")).to_owned(),
        ..AcceptorConfig::default()
    }
}

fn end(session: &Session) {
    session.close(CloseCode::Shutdown, "the server has stopped");
}

/// For the user.
const REVOKED: &str = "the credential that this session rests on has expired, or was revoked";
