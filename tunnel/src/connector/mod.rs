//! The side that dials: finds a transport that works, and keeps a session.

mod dial;
mod error;
mod proxy;
mod race;
mod resolve;
mod server;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rand::{Rng, RngExt};
use thiserror::Error;

pub use self::error::{AttemptError, DialError, Step, Way, WayError};
pub use self::proxy::{
    NoProxy, Proxy, ProxyConfigError, ProxyEnvError, ProxyError, ProxyUrl, ProxyUrlError,
};
pub use self::resolve::{Resolve, SystemResolver};
pub use self::server::ServerAddress;
use crate::control::{ControlError, HandshakeStream};
use crate::error::chain;
use crate::proto::backoff::Backoff;
use crate::proto::code::CloseCode;
use crate::proto::frame::Welcome;
use crate::proto::handshake::{
    ConnectorHandshake, ConnectorStep, HandshakeError, Local, Resumption,
};
use crate::proto::key::AgentKey;
use crate::proto::limits;
use crate::proto::session::{Agreed, LinkId, LinkRefused};
use crate::proto::stream_id::Role;
use crate::random::random;
use crate::session::{Info, Joining, Session, SessionId};
use crate::tls::{TlsError, Trust};
use crate::transport::quic::{EndpointError, QuicConfig};
use crate::transport::{Transport, TransportError};

/// Which protocols to dial with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transports {
    /// QUIC first, WebSocket where it does not get through.
    #[default]
    Auto,
    /// QUIC only.
    Quic,
    /// WebSocket only.
    WebSocket,
}

/// Where and as whom to connect.
#[derive(Debug)]
pub struct ConnectorConfig {
    /// The servers, of which one is used at a time; at least one. A connector starts with any of them,
    /// keeps to it, and goes on to the next one when an attempt fails.
    pub servers: Vec<ServerAddress>,
    /// What a server's certificate must prove.
    pub trust: Trust,
    /// Who this is.
    pub key: AgentKey,
    /// Which protocols to dial with.
    pub transports: Transports,
    /// The HTTP proxy that WebSockets go through. None unless set: the environment is not asked, see
    /// [`Proxy::from_env`].
    pub proxy: Option<Proxy>,
    /// Finds the addresses of the servers and of the proxy.
    pub resolver: Arc<dyn Resolve>,
    /// How long QUIC may try before WebSocket starts beside it. Longer favours QUIC on slow
    /// paths; it is the delay of every reconnect where UDP is dropped.
    pub quic_head_start: Duration,
    /// How QUIC uses its sockets and its memory.
    pub quic: QuicConfig,
    /// The ceiling of the first wait after a failure; doubled by each further failure.
    pub backoff_initial: Duration,
    /// The ceiling of any wait.
    pub backoff_max: Duration,
    /// How long a session waits for its next transport when it has lost the last, an hour at the
    /// most; the server's own limit may be shorter. Zero ends sessions with their transport.
    pub resume_window: Duration,
    /// Streams that the server may have open at once, [`limits::STREAMS_MAX`] at most; each costs
    /// about 4 KiB when idle.
    pub max_streams: u32,
    /// Name and version of the software, for the server's logs.
    pub software: String,
}

impl ConnectorConfig {
    /// The usual configuration, for one server, without a proxy. `trust` may be the server's CA as PEM
    /// or its [pin](crate::tls::CaPin).
    pub fn new(host: impl Into<String>, port: u16, trust: impl Into<Trust>, key: AgentKey) -> Self {
        Self {
            servers: vec![ServerAddress::new(host, port)],
            trust: trust.into(),
            key,
            transports: Transports::Auto,
            proxy: None,
            resolver: Arc::new(SystemResolver),
            quic_head_start: Duration::from_millis(300),
            quic: QuicConfig::default(),
            backoff_initial: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            resume_window: limits::RESUME_WINDOW,
            max_streams: limits::STREAMS,
            software: concat!("underpass-tunnel/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Why a connector cannot be made of its configuration.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The CA is not usable.
    #[error("the server's CA cannot be used")]
    Ca(#[from] TlsError),
    /// TLS and QUIC do not fit together.
    #[error("QUIC cannot be configured")]
    Quic(#[from] EndpointError),
    /// The list of servers is empty.
    #[error("no server is named")]
    NoServer,
    /// The host is neither a DNS name nor an IP address.
    #[error("`{0}` is neither a DNS name nor an IP address")]
    Host(String),
    /// The proxy is not usable.
    #[error("the proxy cannot be used")]
    Proxy(#[from] ProxyConfigError),
}

/// Why no session came about.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No transport could be had.
    #[error("cannot reach the server")]
    Dial(#[from] DialError),
    /// The connection ended meanwhile.
    #[error("connection ended in the session handshake")]
    Transport(#[source] TransportError),
    /// The server did not let us in, or broke the handshake.
    #[error("session handshake failed")]
    Handshake(#[source] HandshakeError),
    /// The handshake took too long.
    #[error("no session within {} s", limits::HANDSHAKE_TIME.as_secs())]
    Timeout,
    /// The session to resume does not take the transport.
    #[error("session not resumed")]
    Resume(#[source] LinkRefused),
}

/// What became of a dial for a session that was there.
#[derive(Debug)]
pub enum Reconnected {
    /// It goes on.
    Resumed,
    /// The server does not have it any more, and the connector has ended it. This one is new.
    New(Session),
}

impl ConnectError {
    /// What to tell the peer, if there is anything to tell.
    fn close_code(&self) -> Option<CloseCode> {
        match self {
            Self::Handshake(error) => error.close_code(),
            Self::Timeout => Some(CloseCode::HandshakeTimeout),
            Self::Resume(_) => Some(CloseCode::ResumeRefused),
            Self::Dial(_) | Self::Transport(_) => None,
        }
    }

    /// Whether a person has to mend something before another try can succeed: the token is not
    /// known, the CA is another one, no version is in common.
    pub fn needs_attention(&self) -> bool {
        match self {
            Self::Dial(error) => error.needs_attention(),
            Self::Handshake(HandshakeError::ClosedByPeer { code, .. })
            | Self::Transport(TransportError::ClosedByPeer { code, .. }) => {
                matches!(
                    code,
                    CloseCode::Unauthenticated | CloseCode::Version | CloseCode::Revoked
                )
            }
            Self::Handshake(_) => true,
            Self::Transport(_) | Self::Timeout | Self::Resume(_) => false,
        }
    }

    /// Whether the server says that the session to resume cannot go on.
    fn refuses_resumption(&self) -> bool {
        match self {
            Self::Resume(_) => true,
            Self::Handshake(HandshakeError::ClosedByPeer { code, .. })
            | Self::Transport(TransportError::ClosedByPeer { code, .. }) => {
                *code == CloseCode::ResumeRefused
            }
            _ => false,
        }
    }
}

/// What a connector is doing.
#[derive(Debug)]
pub enum Status<'a> {
    /// A session stands.
    Connected(&'a Info),
    /// The session has lost its transport, and its streams wait; the next attempt follows after the
    /// wait.
    Detached(&'a Session, Duration),
    /// The session goes on, on another transport.
    Resumed(&'a Session),
    /// An attempt failed; the next one follows after the wait.
    Failed(&'a ConnectError, Duration),
    /// The session ended; the next attempt follows after the wait.
    Ended(&'a crate::session::SessionError, Duration),
}

/// A session that lasted this long was no accident: the next failure waits from the start again.
const STABLE: Duration = Duration::from_secs(10);

/// Over how long the agents of a server spread that all lose it at once, when each had a session
/// that was stable: their streams wait.
const RESUME_SPREAD: Duration = Duration::from_millis(100);

/// The same where the transport did not last: a path that cuts every connection soon must not be
/// filled with handshakes.
const RESUME_SPREAD_UNSTABLE: Duration = Duration::from_secs(1);

/// Dials a server, and again when the session is lost.
pub struct Connector {
    dialler: dial::Dialler,
    key: AgentKey,
    instance: [u8; 16],
    local: Local,
    backoff: Backoff,
}

impl Connector {
    /// A connector that has not dialled yet.
    ///
    /// # Errors
    /// Where the configuration cannot work.
    pub fn new(config: ConnectorConfig) -> Result<Self, ConfigError> {
        Ok(Self {
            dialler: dial::Dialler::new(&config, rand::rng().next_u32())?,
            key: config.key,
            instance: random(),
            local: Local {
                max_streams: config.max_streams.min(limits::STREAMS_MAX),
                resume_window_ms: config
                    .resume_window
                    .min(limits::RESUME_WINDOW_MAX)
                    .as_millis()
                    .try_into()
                    .unwrap_or(u32::MAX),
                software: config.software,
            },
            backoff: Backoff::new(config.backoff_initial, config.backoff_max),
        })
    }

    /// Dials once. When the session loses its transport, [`reconnect`](Self::reconnect) brings
    /// another one; [`run`](Self::run) does both, for ever.
    ///
    /// # Errors
    /// Where no session comes of it.
    ///
    /// # Cancel safety
    /// Dropping the future ends the attempt.
    pub async fn connect(&self) -> Result<Session, ConnectError> {
        let transport = self.dialler.dial().await?;
        let session = self.establish(transport).await;
        if session.is_err() {
            self.dialler.elsewhere();
        }
        session
    }

    /// Dials once, to carry on `session`: where it has no transport, or to replace the one it has.
    ///
    /// # Errors
    /// Where nothing comes of it. The session waits on.
    ///
    /// # Cancel safety
    /// Dropping the future ends the attempt.
    pub async fn reconnect(&self, session: &Session) -> Result<Reconnected, ConnectError> {
        let transport = self.dialler.dial().await?;
        self.resume(session, transport).await
    }

    /// Makes a session on a transport that was dialled elsewhere.
    ///
    /// # Errors
    /// Where no session comes of it.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub async fn establish(&self, transport: Arc<dyn Transport>) -> Result<Session, ConnectError> {
        let (outcome, control) = self.shake_hands(&transport, None).await?;
        match outcome {
            ConnectorStep::Established(welcome) => Ok(self.start(welcome, transport, control)),
            // Neither comes out of a handshake that asked for a session.
            ConnectorStep::Resumed(_) | ConnectorStep::Send(_) => {
                Err(ConnectError::Transport(TransportError::ClosedHere))
            }
        }
    }

    /// Carries on `session` on a transport that was dialled elsewhere.
    ///
    /// # Errors
    /// Where nothing comes of it. The session waits on.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub async fn resume(
        &self,
        session: &Session,
        transport: Arc<dyn Transport>,
    ) -> Result<Reconnected, ConnectError> {
        let resumption = session.shared().resumption();
        let result = self.shake_hands(&transport, Some(&resumption)).await;
        let (outcome, control) = result.inspect_err(|error| {
            if error.refuses_resumption() {
                session.close(CloseCode::ResumeRefused, "the server does not resume it");
            }
        })?;
        match outcome {
            ConnectorStep::Resumed(resumed) => {
                let joining = Joining {
                    transport,
                    control: control.into(),
                    link: LinkId(resumption.attempt),
                    peer_has: resumed.received,
                };
                session
                    .shared()
                    .join(joining)
                    .map_err(ConnectError::Resume)?;
                Ok(Reconnected::Resumed)
            }
            ConnectorStep::Established(welcome) => {
                let reason = "the server does not have it any more";
                session.close(CloseCode::ResumeRefused, reason);
                Ok(Reconnected::New(self.start(welcome, transport, control)))
            }
            ConnectorStep::Send(_) => Err(ConnectError::Transport(TransportError::ClosedHere)),
        }
    }

    /// Shakes hands to the end, and tells the peer where that is a bad one.
    async fn shake_hands(
        &self,
        transport: &Arc<dyn Transport>,
        resumption: Option<&Resumption>,
    ) -> Result<(ConnectorStep, HandshakeStream), ConnectError> {
        let mut control = None;
        let handshake = self.handshake(transport.as_ref(), resumption, &mut control);
        let result = tokio::time::timeout(limits::HANDSHAKE_TIME, handshake).await;
        let error = match (result.unwrap_or(Err(ConnectError::Timeout)), control.take()) {
            (Ok(outcome), Some(control)) => return Ok((outcome, control)),
            (Ok(_), None) => ConnectError::Transport(TransportError::ClosedHere),
            (Err(error), control) => {
                if let (Some(code), Some(control)) = (error.close_code(), control) {
                    control.close(code, &chain(&error)).await;
                }
                error
            }
        };
        let code = error.close_code().unwrap_or(CloseCode::Shutdown);
        transport.close(code, &chain(&error));
        Err(error)
    }

    /// Leaves the control stream in `control` however it ends, so that the peer can be told.
    async fn handshake(
        &self,
        transport: &dyn Transport,
        resumption: Option<&Resumption>,
        control: &mut Option<HandshakeStream>,
    ) -> Result<ConnectorStep, ConnectError> {
        let stream = transport.open().await.map_err(ConnectError::Transport)?;
        let control = control.insert(HandshakeStream::new(stream));
        let (mut handshake, hello) =
            ConnectorHandshake::start(&self.local, &self.key, self.instance, resumption);
        control.send(hello).await?;
        loop {
            let frame = control.receive().await?;
            match handshake
                .handle(frame, &self.key)
                .map_err(ConnectError::Handshake)?
            {
                ConnectorStep::Send(bytes) => control.send(bytes).await?,
                outcome => return Ok(outcome),
            }
        }
    }

    fn start(
        &self,
        welcome: Welcome,
        transport: Arc<dyn Transport>,
        control: HandshakeStream,
    ) -> Session {
        let agreed = Agreed {
            local_streams: welcome.max_streams,
            remote_streams: self.local.max_streams,
            keepalive: Duration::from_millis(welcome.keepalive_ms.into()),
            resume_window: Duration::from_millis(welcome.resume_window_ms.into()),
        };
        let info = Info {
            id: SessionId(welcome.session),
            agent: welcome.peer,
            key: self.key.public_key(),
            instance: self.instance,
            software: welcome.software,
            role: Role::Connector,
            transport: transport.kind(),
            remote: transport.remote(),
        };
        let first = Joining {
            transport,
            control: control.into(),
            link: LinkId::FIRST,
            peer_has: 0,
        };
        Session::start(first, &agreed, welcome.secret, info)
    }

    /// Keeps a session: dials, hands each session to `serve`, brings the session another transport
    /// when it loses the last, and dials anew once it has ended. Never returns; drop the future to
    /// stop.
    ///
    /// `serve` is called once per session and should return soon; `status` hears of every change.
    ///
    /// # Cancel safety
    /// Dropping the future drops this side's handle on the session; `serve` may hold another.
    pub async fn run(
        &self,
        mut serve: impl FnMut(Session),
        mut status: impl FnMut(Status<'_>),
    ) -> std::convert::Infallible {
        let mut backoff = self.backoff.clone();
        let mut left = None;
        let mut detached = None;
        loop {
            let attempt = match &detached {
                None => self.connect().await.map(Reconnected::New),
                Some(session) => self.reconnect(session).await,
            };
            let session = match (attempt, detached.take()) {
                (Ok(Reconnected::New(session)), _) => {
                    status(Status::Connected(session.info()));
                    serve(session.clone());
                    session
                }
                (Ok(Reconnected::Resumed), Some(session)) => {
                    backoff.reset();
                    status(Status::Resumed(&session));
                    session
                }
                // Only a session that was there is resumed.
                (Ok(Reconnected::Resumed), None) => continue,
                (Err(error), waiting) => {
                    let wait = backoff.failed(rand::rng().next_u32());
                    status(Status::Failed(&error, wait));
                    pause(wait, &mut left, &mut backoff).await;
                    detached = waiting.filter(|session| still_waits(session, &mut status));
                    continue;
                }
            };
            let mut end = Box::pin(session.end());
            match self.keep(session, &mut backoff, &mut status).await {
                Kept::Detached(session, wait) => {
                    tokio::time::sleep(wait).await;
                    detached = still_waits(&session, &mut status).then_some(session);
                }
                Kept::Left(wait) => {
                    left = end.as_mut().now_or_never().is_none().then_some(end);
                    // In full, though the old session may end before: the server says when its
                    // agents come back, so that they do not come all at once.
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Waits until the session has no transport any more, or is over, or to be left.
    async fn keep(
        &self,
        session: Session,
        backoff: &mut Backoff,
        status: &mut impl FnMut(Status<'_>),
    ) -> Kept {
        let since = tokio::time::Instant::now();
        let told = async {
            match session.going_away().await {
                Some(go_away) => Duration::from_millis(go_away.return_after_ms.into()),
                None => std::future::pending().await,
            }
        };
        enum Woken {
            Leave(Duration),
            Ended(crate::session::SessionError),
            Detached,
        }
        let woken = tokio::select! {
            // A server that leaves an idle session closes it in the same breath.
            biased;
            return_after = told => Woken::Leave(return_after),
            error = session.closed() => Woken::Ended(error),
            () = session.detached() => Woken::Detached,
        };
        let stable = since.elapsed() >= STABLE;
        if stable {
            backoff.reset();
        }
        if matches!(woken, Woken::Leave(_)) {
            self.dialler.elsewhere();
        }
        match woken {
            // The old session goes on to its streams' end in the hands of `serve`.
            Woken::Leave(return_after) if stable => Kept::Left(return_after),
            // A server that sends everyone away at once must not be asked again at once.
            Woken::Leave(return_after) => {
                Kept::Left(return_after.max(backoff.failed(rand::rng().next_u32())))
            }
            Woken::Ended(error) => {
                let wait = backoff.failed(rand::rng().next_u32());
                status(Status::Ended(&error, wait));
                Kept::Left(wait)
            }
            Woken::Detached => {
                // The server took this side the last time: it is the path that fails.
                let spread = if stable {
                    RESUME_SPREAD
                } else {
                    RESUME_SPREAD_UNSTABLE
                };
                let wait = rand::rng().random_range(Duration::ZERO..spread);
                status(Status::Detached(&session, wait));
                Kept::Detached(session, wait)
            }
        }
    }
}

/// How a session that was kept came to need something.
enum Kept {
    /// It wants another transport, after the wait.
    Detached(Session, Duration),
    /// Another session is wanted, after the wait.
    Left(Duration),
}

/// Whether a session still waits for a transport; says so where it has ended meanwhile.
fn still_waits(session: &Session, status: &mut impl FnMut(Status<'_>)) -> bool {
    match session.closed().now_or_never() {
        None => true,
        Some(error) => {
            status(Status::Ended(&error, Duration::ZERO));
            false
        }
    }
}

/// Waits before the next attempt; less long if `left`, a session that the server asked to leave, ends
/// meanwhile. Then that server has gone, and what takes its place is about to come: the failures until now
/// say nothing about it.
async fn pause<E>(wait: Duration, left: &mut Option<E>, backoff: &mut Backoff)
where
    E: Future<Output = ()> + Unpin,
{
    let Some(end) = left else {
        return tokio::time::sleep(wait).await;
    };
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = end => {
            *left = None;
            backoff.reset();
            let wait = wait.min(backoff.failed(rand::rng().next_u32()));
            tokio::time::sleep(wait).await;
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("dialler", &self.dialler)
            .finish_non_exhaustive()
    }
}

impl From<ControlError> for ConnectError {
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
    use crate::acceptor::{Acceptor, AcceptorConfig, Admission, Denied};
    use crate::proto::handshake::Proven;
    use crate::transport::memory;
    use futures_util::future::BoxFuture;

    struct Everyone;

    impl Admission for Everyone {
        fn admit<'a>(&'a self, _: &'a Proven) -> BoxFuture<'a, Result<String, Denied>> {
            Box::pin(async { Ok("edge-1".to_owned()) })
        }
    }

    fn connector() -> Connector {
        let ca = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
        let key = AgentKey::from_seed([7; 32]).unwrap();
        let ca_pem = ca.cert.pem().into_bytes();
        Connector::new(ConnectorConfig::new("127.0.0.1", 1, ca_pem, key)).unwrap()
    }

    /// How long the connector waits after `act` was done to the other end of its session.
    async fn wait_after(connector: &Connector, act: impl AsyncFnOnce(Session)) -> Duration {
        let acceptor = Acceptor::new(AcceptorConfig::default(), Arc::new(Everyone));
        let (here, there) = memory::pair();
        let (agent, server) = tokio::join!(
            connector.establish(Arc::new(here)),
            acceptor.accept(Arc::new(there))
        );
        let mut backoff = connector.backoff.clone();
        let status = &mut |_: Status<'_>| {};
        let server = server.unwrap().into_session().unwrap();
        let (kept, ()) = tokio::join!(
            connector.keep(agent.unwrap(), &mut backoff, status),
            act(server),
        );
        match kept {
            Kept::Left(wait) => wait,
            Kept::Detached(..) => panic!("the transport is there"),
        }
    }

    /// A server that drains for long does not listen meanwhile: the attempts that it refuses must not
    /// delay the one that its successor would take.
    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_session_that_was_left_starts_the_backoff_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        for _ in 0..10 {
            backoff.failed(u32::MAX);
        }
        let start = tokio::time::Instant::now();
        let drain = Duration::from_secs(3);
        let mut left = Some(Box::pin(tokio::time::sleep(drain)));
        pause(Duration::from_secs(30), &mut left, &mut backoff).await;
        assert!(left.is_none());
        let took = start.elapsed();
        assert!(
            took >= drain && took <= drain + Duration::from_millis(510),
            "{took:?}"
        );
        assert!(
            backoff.failed(u32::MAX) <= Duration::from_secs(1),
            "starts anew"
        );
    }

    /// A server that leaves an idle session sends GOAWAY and CLOSE in one packet.
    #[tokio::test(start_paused = true)]
    async fn a_go_away_counts_though_the_session_ends_at_once() {
        let connector = connector();
        let pause = Duration::from_secs(7);
        for _ in 0..20 {
            let drain = async |server: Session| {
                server.drain(Duration::from_secs(5), pause, "moving").await;
            };
            assert_eq!(wait_after(&connector, drain).await, pause);
        }
    }

    /// Else a server that sends everyone away at once would be asked without end.
    #[tokio::test(start_paused = true)]
    async fn a_go_away_from_a_young_session_backs_off() {
        let connector = connector();
        let young = async |server: Session| {
            server
                .drain(Duration::ZERO, Duration::ZERO, "not here")
                .await;
        };
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            longest = longest.max(wait_after(&connector, young).await);
        }
        assert!(longest > Duration::ZERO && longest <= Duration::from_millis(500));
        let old = async |server: Session| {
            tokio::time::sleep(STABLE).await;
            server
                .drain(Duration::ZERO, Duration::ZERO, "new version")
                .await;
        };
        assert_eq!(wait_after(&connector, old).await, Duration::ZERO);
    }
}
