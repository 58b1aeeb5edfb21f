//! The side that dials: finds a transport that works, and keeps a session.

mod dial;
mod race;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rand::Rng;
use thiserror::Error;

pub use self::dial::DialError;
use crate::control::{ControlError, HandshakeStream};
use crate::error::chain;
use crate::proto::backoff::Backoff;
use crate::proto::code::CloseCode;
use crate::proto::handshake::{ConnectorHandshake, ConnectorStep, HandshakeError, Local};
use crate::proto::key::AgentKey;
use crate::proto::limits;
use crate::proto::session::Agreed;
use crate::proto::stream_id::Role;
use crate::random::random;
use crate::session::{Info, Session, SessionId};
use crate::tls::{self, TlsError};
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
    /// The server's DNS name or IP address, which its certificate must carry.
    pub host: String,
    /// The server's port, UDP and TCP alike.
    pub port: u16,
    /// The CA that signs the server's certificate, as PEM. No other is trusted.
    pub ca_pem: Vec<u8>,
    /// Who this is.
    pub key: AgentKey,
    /// Which protocols to dial with.
    pub transports: Transports,
    /// How long QUIC may try before WebSocket starts beside it. Longer favours QUIC on slow
    /// paths; it is the delay of every reconnect where UDP is dropped.
    pub quic_head_start: Duration,
    /// How QUIC uses its sockets and its memory.
    pub quic: QuicConfig,
    /// The ceiling of the first wait after a failure; doubled by each further failure.
    pub backoff_initial: Duration,
    /// The ceiling of any wait.
    pub backoff_max: Duration,
    /// Streams that the server may have open at once, [`limits::STREAMS_MAX`] at most; each costs
    /// about 4 KiB when idle.
    pub max_streams: u32,
    /// Name and version of the software, for the server's logs.
    pub software: String,
}

impl ConnectorConfig {
    /// The usual configuration.
    pub fn new(host: impl Into<String>, port: u16, ca_pem: Vec<u8>, key: AgentKey) -> Self {
        Self {
            host: host.into(),
            port,
            ca_pem,
            key,
            transports: Transports::Auto,
            quic_head_start: Duration::from_millis(300),
            quic: QuicConfig::default(),
            backoff_initial: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
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
    /// The host is neither a DNS name nor an IP address.
    #[error("`{0}` is neither a DNS name nor an IP address")]
    Host(String),
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
}

impl ConnectError {
    /// What to tell the peer, if there is anything to tell.
    fn close_code(&self) -> Option<CloseCode> {
        match self {
            Self::Handshake(error) => error.close_code(),
            Self::Timeout => Some(CloseCode::HandshakeTimeout),
            Self::Dial(_) | Self::Transport(_) => None,
        }
    }

    /// Whether a person has to mend something before another try can succeed: the token is not
    /// known, the CA is another one, no version is in common.
    pub fn needs_attention(&self) -> bool {
        match self {
            Self::Dial(error) => error.is_untrusted(),
            Self::Handshake(HandshakeError::ClosedByPeer { code, .. })
            | Self::Transport(TransportError::ClosedByPeer { code, .. }) => {
                matches!(
                    code,
                    CloseCode::Unauthenticated | CloseCode::Version | CloseCode::Revoked
                )
            }
            Self::Handshake(_) => true,
            Self::Transport(_) | Self::Timeout => false,
        }
    }
}

/// What a connector is doing.
#[derive(Debug)]
pub enum Status<'a> {
    /// A session stands.
    Connected(&'a Info),
    /// An attempt failed; the next one follows after the wait.
    Failed(&'a ConnectError, Duration),
    /// The session ended; the next attempt follows after the wait.
    Ended(&'a crate::session::SessionError, Duration),
}

/// A session that lasted this long was no accident: the next failure waits from the start again.
const STABLE: Duration = Duration::from_secs(10);

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
        let tls = tls::pinned_client(&config.ca_pem)?;
        Ok(Self {
            dialler: dial::Dialler::new(&config, tls)?,
            key: config.key,
            instance: random(),
            local: Local {
                max_streams: config.max_streams.min(limits::STREAMS_MAX),
                software: config.software,
            },
            backoff: Backoff::new(config.backoff_initial, config.backoff_max),
        })
    }

    /// Dials once.
    ///
    /// # Errors
    /// Where no session comes of it.
    ///
    /// # Cancel safety
    /// Dropping the future ends the attempt.
    pub async fn connect(&self) -> Result<Session, ConnectError> {
        let transport = self.dialler.dial().await?;
        self.establish(transport).await
    }

    /// Makes a session on a transport that was dialled elsewhere.
    ///
    /// # Errors
    /// Where no session comes of it.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub async fn establish(&self, transport: Arc<dyn Transport>) -> Result<Session, ConnectError> {
        let mut control = None;
        let handshake = self.handshake(transport.as_ref(), &mut control);
        let result = tokio::time::timeout(limits::HANDSHAKE_TIME, handshake).await;
        let error = match (result.unwrap_or(Err(ConnectError::Timeout)), control.take()) {
            (Ok((agreed, info)), Some(control)) => {
                return Ok(Session::start(transport, control.into(), &agreed, info));
            }
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
        control: &mut Option<HandshakeStream>,
    ) -> Result<(Agreed, Info), ConnectError> {
        let stream = transport.open().await.map_err(ConnectError::Transport)?;
        let control = control.insert(HandshakeStream::new(stream));
        let (mut handshake, hello) =
            ConnectorHandshake::start(&self.local, &self.key, self.instance);
        control.send(hello).await?;
        let welcome = loop {
            let frame = control.receive().await?;
            match handshake
                .handle(frame, &self.key)
                .map_err(ConnectError::Handshake)?
            {
                ConnectorStep::Send(bytes) => control.send(bytes).await?,
                ConnectorStep::Established(welcome) => break welcome,
            }
        };
        let agreed = Agreed {
            local_streams: welcome.max_streams,
            remote_streams: self.local.max_streams,
            keepalive: Duration::from_millis(welcome.keepalive_ms.into()),
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
        Ok((agreed, info))
    }

    /// Keeps a session: dials, hands each session to `serve`, and dials again once it has ended.
    /// Never returns; drop the future to stop.
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
        loop {
            match self.connect().await {
                Ok(session) => {
                    let mut end = Box::pin(session.end());
                    let wait = self
                        .keep(session, &mut backoff, &mut serve, &mut status)
                        .await;
                    left = end.as_mut().now_or_never().is_none().then_some(end);
                    // In full, though the old session may end before: the server says when its
                    // agents come back, so that they do not come all at once.
                    tokio::time::sleep(wait).await;
                }
                Err(error) => {
                    let wait = backoff.failed(rand::rng().next_u32());
                    status(Status::Failed(&error, wait));
                    pause(wait, &mut left, &mut backoff).await;
                }
            }
        }
    }

    /// Waits for the session's end and gives the wait before the next attempt.
    async fn keep(
        &self,
        session: Session,
        backoff: &mut Backoff,
        serve: &mut impl FnMut(Session),
        status: &mut impl FnMut(Status<'_>),
    ) -> Duration {
        let since = tokio::time::Instant::now();
        status(Status::Connected(session.info()));
        serve(session.clone());
        let told = async {
            match session.going_away().await {
                Some(go_away) => Duration::from_millis(go_away.return_after_ms.into()),
                None => std::future::pending().await,
            }
        };
        let leaving = tokio::select! {
            // A server that leaves an idle session closes it in the same breath.
            biased;
            return_after = told => Ok(return_after),
            error = session.closed() => Err(error),
        };
        let stable = since.elapsed() >= STABLE;
        if stable {
            backoff.reset();
        }
        match leaving {
            // The old session goes on to its streams' end in the hands of `serve`.
            Ok(return_after) if stable => return_after,
            // A server that sends everyone away at once must not be asked again at once.
            Ok(return_after) => return_after.max(backoff.failed(rand::rng().next_u32())),
            Err(error) => {
                let wait = backoff.failed(rand::rng().next_u32());
                status(Status::Ended(&error, wait));
                wait
            }
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
        let (serve, status) = (&mut |_| {}, &mut |_: Status<'_>| {});
        let (wait, ()) = tokio::join!(
            connector.keep(agent.unwrap(), &mut backoff, serve, status),
            act(server.unwrap()),
        );
        wait
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
