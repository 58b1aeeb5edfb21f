//! A connector's settings.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use underpass_dial::{Resolve, ServerAddress, SystemResolver};
use underpass_http_proxy::{Proxy, ProxyConfigError};
use underpass_proto::key::AgentKey;
use underpass_proto::settings::{ResumeWindow, StreamLimit};

use crate::role::ConnectorRole;
use crate::tls::{TlsError, Trust};
use crate::transport::quic::{EndpointError, QuicConfig};

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

/// How many transports a session keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LinkCount {
    /// The one that carries it.
    One,
    /// One over QUIC and one over WebSocket, where both get through. Bytes that the peer does not answer on one of them go
    /// over the other within some round trips, so that a path that dies without a word costs no more than that.
    #[default]
    Two,
}

/// Where and as whom to connect.
#[derive(Debug)]
pub struct ConnectorConfig {
    /// The servers, of which one is used at a time; at least one. A connector starts with any of them,
    /// keeps to it, and goes on to the next one when an attempt fails.
    pub servers: Vec<ServerAddress>,
    /// How the server's certificate is verified.
    pub trust: Trust,
    /// This connector's key.
    pub key: AgentKey,
    /// Whether it is an agent, or a user's.
    pub role: ConnectorRole,
    /// Which protocols to dial with.
    pub transports: Transports,
    /// How many transports a session keeps. Two need [`Transports::Auto`].
    pub links: LinkCount,
    /// The HTTP proxy that WebSockets go through. None unless set: the environment is not asked, see
    /// [`Proxy::from_env`].
    ///
    /// QUIC cannot go through an HTTP proxy. With [`Transports::Auto`] it is tried directly all the same: where the
    /// network lets it through it is the better way, and where it does not, the WebSocket through the proxy starts after
    /// QUIC's head start.
    pub proxy: Option<Proxy>,
    /// Finds the addresses of the servers and of the proxy.
    pub resolver: Arc<dyn Resolve>,
    /// How long QUIC may try before WebSocket starts beside it. Longer favours QUIC on slow
    /// paths; it is the delay of every reconnect where UDP is dropped.
    pub quic_head_start: Duration,
    /// How long a session that had to take WebSocket stays there before QUIC is tried again; half of it at
    /// the least. Doubled by each failure, up to ten minutes. Zero: for good.
    pub quic_probe: Duration,
    /// How old a WebSocket becomes before the session moves to a new one; half of it at the least, so that
    /// agents that came together do not move together. Set it below the age at which load balancers
    /// cut connections: streams do not wait for a new one then. Zero: any age.
    pub websocket_max_age: Duration,
    /// Whether streams of the class bulk get a second WebSocket to themselves while the session is on
    /// WebSocket and they last: packets that a copy loses do not delay keystrokes then.
    pub lanes: bool,
    /// How QUIC uses its sockets and its memory.
    pub quic: QuicConfig,
    /// The ceiling of the first wait after a failure; doubled by each further failure.
    pub backoff_initial: Duration,
    /// The ceiling of any wait.
    pub backoff_max: Duration,
    /// How long a session waits for its next transport when it has lost the last; the server's own limit may be
    /// shorter. Zero ends sessions with their transport.
    pub resume_window: ResumeWindow,
    /// Streams that the server may have open at once.
    pub max_streams: StreamLimit,
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
            role: ConnectorRole::default(),
            transports: Transports::Auto,
            links: LinkCount::default(),
            proxy: None,
            resolver: Arc::new(SystemResolver),
            quic_head_start: Duration::from_millis(300),
            quic_probe: Duration::from_secs(30),
            websocket_max_age: Duration::from_secs(50 * 60),
            lanes: true,
            quic: QuicConfig::default(),
            backoff_initial: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            resume_window: ResumeWindow::default(),
            max_streams: StreamLimit::default(),
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
