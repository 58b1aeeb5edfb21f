//! The side that dials: finds a transport that works, and keeps a session.

mod config;
mod dial;
mod error;
mod handshake;
mod keep;
mod key;
mod lane;
mod plan;
mod race;
mod revive;
mod server;
mod standby;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use rand::Rng;
use underpass_proto::backoff::Backoff;
use underpass_proto::code::CloseCode;
use underpass_proto::frame::Welcome;
use underpass_proto::handshake::{Either, EitherSession, Local, NewSession, ThatSession};
use underpass_proto::key::AgentKey;
use underpass_proto::session::{Agreed, LinkId, LinkRole};
use underpass_proto::settings::{KeepaliveInterval, ResumeWindow};
use underpass_proto::stream_id::Role;

pub use self::config::{ConfigError, ConnectorConfig, LinkCount, Transports};
pub use self::error::{AttemptError, ConnectError, DialError, Route, RouteError, Step};
use self::handshake::Agreement;
pub use self::keep::Status;
use self::plan::Plan;
use crate::random::random;
use crate::session::{Info, Joining, MainAsk, Session, SessionId};
use crate::transport::Transport;
pub use underpass_dial::{Resolve, ServerAddress, SystemResolver};
pub use underpass_http_proxy::{
    NoProxy, Proxy, ProxyCaError, ProxyConfigError, ProxyEnvError, ProxyError, ProxyUrl,
    ProxyUrlError,
};

/// The outcome of a dial for an existing session.
#[derive(Debug)]
pub enum Reconnected {
    /// It goes on.
    Resumed,
    /// The server does not have it any more, and the connector has ended it. This one is new.
    New(Session),
}

/// Dials a server, and again when the session is lost.
pub struct Connector {
    dialer: dial::ServerDialer,
    key: Mutex<Arc<AgentKey>>,
    instance: [u8; 16],
    local: Local,
    backoff: Backoff,
    plan: Plan,
    lanes: bool,
    /// A session gets a second transport that stands by.
    stands_by: bool,
}

impl Connector {
    /// A connector that has not dialled yet.
    ///
    /// # Errors
    /// Where the configuration cannot work.
    pub fn new(config: ConnectorConfig) -> Result<Self, ConfigError> {
        Ok(Self {
            dialer: dial::ServerDialer::new(&config, rand::rng().next_u32())?,
            plan: Plan::new(&config),
            lanes: config.lanes,
            stands_by: config.links == LinkCount::Two && config.transports == Transports::Auto,
            key: Mutex::new(Arc::new(config.key)),
            instance: random(),
            local: Local {
                max_streams: config.max_streams,
                resume_window: config.resume_window,
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
        let transport = self.dialer.dial().await?;
        let session = self.establish(transport).await;
        if session.is_err() {
            self.dialer.elsewhere();
        }
        session
    }

    /// Dials once, to carry on `session`: where it has no transport, or to replace the one it has, which
    /// it leaves once its streams have moved.
    ///
    /// # Errors
    /// Where nothing comes of it. The session waits on, or stays where it is; where it has no transport and
    /// the server refuses it, it has ended.
    ///
    /// # Cancel safety
    /// Dropping the future ends the attempt.
    pub async fn reconnect(&self, session: &Session) -> Result<Reconnected, ConnectError> {
        let transport = self.dialer.dial().await?;
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
        let agreement = self.shake_hands(&transport, &NewSession).await?;
        Ok(self.start(agreement, transport))
    }

    /// Carries on `session` on a transport that was dialled elsewhere.
    ///
    /// # Errors
    /// As [`reconnect`](Self::reconnect).
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub async fn resume(
        &self,
        session: &Session,
        transport: Arc<dyn Transport>,
    ) -> Result<Reconnected, ConnectError> {
        match session.shared().ask_for_main() {
            MainAsk::That(ask) => {
                self.add(session, transport, &ask).await?;
                Ok(Reconnected::Resumed)
            }
            MainAsk::Either(ask) => self.resume_or_start(session, transport, &ask).await,
        }
    }

    /// Brings `session` a transport beside the one that it has.
    async fn add(
        &self,
        session: &Session,
        transport: Arc<dyn Transport>,
        ask: &ThatSession,
    ) -> Result<(), ConnectError> {
        let agreement = self.shake_hands(&transport, ask).await?;
        let joining = Joining {
            transport,
            control: agreement.control.into(),
            link: LinkId(ask.resumption.attempt),
            role: ask.role,
            peer_has: agreement.outcome.received,
        };
        let joined = session.shared().join(joining);
        joined.map_err(ConnectError::Resume)?;
        session.shared().proved(agreement.key);
        Ok(())
    }

    /// Brings `session` a transport, or starts a new session where the server has lost it.
    async fn resume_or_start(
        &self,
        session: &Session,
        transport: Arc<dyn Transport>,
        ask: &EitherSession,
    ) -> Result<Reconnected, ConnectError> {
        let result = self.shake_hands(&transport, ask).await;
        let Agreement {
            outcome,
            control,
            key,
        } = result.inspect_err(|error| {
            // Another server than the one that has it may have answered.
            if error.refuses_resumption() {
                session.close(CloseCode::ResumeRefused, "the server does not resume it");
            }
        })?;
        match outcome {
            Either::Resumed(resumed) => {
                let joining = Joining {
                    transport,
                    control: control.into(),
                    link: LinkId(ask.0.attempt),
                    role: LinkRole::Main,
                    peer_has: resumed.received,
                };
                let joined = session.shared().join(joining);
                joined.map_err(ConnectError::Resume)?;
                session.shared().proved(key);
                Ok(Reconnected::Resumed)
            }
            Either::New(welcome) => {
                let reason = "the server does not have it any more";
                session.close(CloseCode::ResumeRefused, reason);
                let agreement = Agreement {
                    outcome: welcome,
                    control,
                    key,
                };
                Ok(Reconnected::New(self.start(agreement, transport)))
            }
        }
    }

    fn start(&self, agreement: Agreement<Welcome>, transport: Arc<dyn Transport>) -> Session {
        let Agreement {
            outcome: welcome,
            control,
            key,
        } = agreement;
        let agreed = Agreed {
            local_streams: welcome.max_streams,
            remote_streams: self.local.max_streams,
            keepalive: KeepaliveInterval::of_peer(welcome.keepalive_ms),
            resume_window: ResumeWindow::of_peer(welcome.resume_window_ms),
        };
        let info = Info {
            id: SessionId(welcome.session),
            agent: welcome.peer,
            key,
            owner: key.to_string(),
            instance: self.instance,
            software: welcome.software,
            since: SystemTime::now(),
            role: Role::Connector,
            transport: transport.kind(),
            remote: transport.remote(),
        };
        let first = Joining {
            transport,
            control: control.into(),
            link: LinkId::FIRST,
            role: LinkRole::Main,
            peer_has: 0,
        };
        Session::start(first, &agreed, welcome.secret, info, ())
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("dialer", &self.dialer)
            .finish_non_exhaustive()
    }
}
