//! Why an attempt came to nothing.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use thiserror::Error;
use underpass_http_proxy::{ProxyEnvError, ProxyError, ProxyUrl};
use underpass_proto::chain;
use underpass_proto::code::CloseCode;
use underpass_proto::handshake::HandshakeError;
use underpass_proto::session::LinkRefused;

use super::ServerAddress;
use crate::control::ControlError;
use crate::limits;
use crate::tls::CertificateError;
use crate::transport::quic::EndpointError;
use crate::transport::websocket::UpgradeError;
use crate::transport::{TransportError, TransportKind};

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

impl ConnectError {
    /// The code for the peer, if there is one.
    pub(super) fn close_code(&self) -> Option<CloseCode> {
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
                    CloseCode::Unauthenticated
                        | CloseCode::Version
                        | CloseCode::Revoked
                        | CloseCode::KeyReplaced
                )
            }
            Self::Handshake(_) => true,
            Self::Transport(_) | Self::Timeout | Self::Resume(_) => false,
        }
    }

    /// Whether the server answered that it knows no agent with this connector's key, or does not let it serve any more.
    pub fn is_unknown_key(&self) -> bool {
        matches!(
            self,
            Self::Handshake(HandshakeError::ClosedByPeer { code, .. })
            | Self::Transport(TransportError::ClosedByPeer { code, .. })
                if matches!(code, CloseCode::Unauthenticated | CloseCode::Revoked)
        )
    }

    /// Whether the server answered that another key has taken the place of this connector's.
    pub fn is_replaced_key(&self) -> bool {
        matches!(
            self,
            Self::Handshake(HandshakeError::ClosedByPeer { code, .. })
            | Self::Transport(TransportError::ClosedByPeer { code, .. })
                if *code == CloseCode::KeyReplaced
        )
    }

    /// Whether the server does not know what was asked for: it is older than this side.
    pub(super) fn is_not_understood(&self) -> bool {
        matches!(
            self,
            Self::Handshake(HandshakeError::ClosedByPeer { code, .. })
            | Self::Transport(TransportError::ClosedByPeer { code, .. })
                if *code == CloseCode::FrameEncoding
        )
    }

    /// Whether the server says that the session to resume cannot go on.
    pub(super) fn refuses_resumption(&self) -> bool {
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

impl From<ControlError> for ConnectError {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Decode(error) => Self::Handshake(error.into()),
            ControlError::Transport(error) => Self::Transport(error),
        }
    }
}

/// Why no transport to a server could be had.
#[derive(Debug, Error)]
#[error("no way to {server}: {}", each(.attempts))]
pub struct DialError {
    /// The server that was dialled.
    pub server: ServerAddress,
    /// The attempts and their errors.
    pub attempts: Vec<AttemptError>,
}

impl DialError {
    /// Whether a person has to mend something before another try can succeed.
    pub fn needs_attention(&self) -> bool {
        self.attempts.iter().any(|attempt| match attempt {
            AttemptError::Failed { error, .. } => error.needs_attention(),
            AttemptError::Proxy(_) => true,
            AttemptError::Resolve { .. } | AttemptError::NoAddress { .. } => false,
        })
    }

    /// Why each route failed that could be tried.
    pub fn route_errors(&self) -> impl Iterator<Item = &RouteError> {
        self.attempts.iter().filter_map(|attempt| match attempt {
            AttemptError::Failed { error, .. } => Some(error),
            AttemptError::Resolve { .. }
            | AttemptError::NoAddress { .. }
            | AttemptError::Proxy(_) => None,
        })
    }
}

fn each(attempts: &[AttemptError]) -> String {
    let attempts: Vec<_> = attempts.iter().map(|attempt| chain(attempt)).collect();
    attempts.join("; ")
}

/// One thing that was tried and failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AttemptError {
    /// The addresses of a name could not be found out.
    #[error("cannot resolve `{host}`")]
    Resolve {
        /// The name of the server, or of the proxy.
        host: String,
        /// The resolver's error.
        source: io::Error,
    },
    /// A name has no address.
    #[error("`{host}` has no address")]
    NoAddress {
        /// The name of the server, or of the proxy.
        host: String,
    },
    /// The way leads through a proxy, and the environment names none that can be used.
    #[error("WebSocket needs a proxy")]
    Proxy(#[source] ProxyEnvError),
    /// A route was tried.
    #[error("{route}")]
    Failed {
        /// Which one.
        route: Route,
        /// Why it failed.
        #[source]
        error: RouteError,
    },
}

/// A route to a server.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Route {
    /// To one of the server's addresses.
    Direct {
        /// The protocol.
        kind: TransportKind,
        /// The address.
        address: SocketAddr,
    },
    /// WebSocket through a proxy.
    Proxied {
        /// The proxy.
        proxy: ProxyUrl,
        /// The proxy's address.
        address: SocketAddr,
    },
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct { kind, address } => write!(f, "{kind} to {address}"),
            Self::Proxied { proxy, address } => {
                write!(
                    f,
                    "{} through {proxy} at {address}",
                    TransportKind::WebSocket
                )
            }
        }
    }
}

/// Why a route failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The server's certificate is not to be trusted.
    #[error("the server presents a certificate {certificate}")]
    Untrusted {
        /// Why it is not trusted.
        certificate: CertificateError,
        /// The TLS error, where that says more.
        source: Option<rustls::Error>,
    },
    /// No Underpass server, or one of a version that this side does not speak.
    #[error("what answers does not speak this version of the protocol (ALPN)")]
    Alpn,
    /// No socket for QUIC, or a configuration that does not fit it.
    #[error("no QUIC endpoint")]
    Endpoint(#[source] EndpointError),
    /// QUIC cannot be tried with that address.
    #[error("QUIC cannot be tried")]
    QuicStart(#[source] quinn::ConnectError),
    /// The QUIC handshake failed.
    #[error("no QUIC connection")]
    Quic(#[source] quinn::ConnectionError),
    /// There is no TCP connection.
    #[error("no TCP connection")]
    Tcp(#[source] io::Error),
    /// The proxy gave no way to the server.
    #[error("no way through the proxy")]
    Proxy(#[source] ProxyError),
    /// TLS failed.
    #[error("no TLS with the server")]
    Tls(#[source] io::Error),
    /// The server did not upgrade to WebSocket.
    #[error("no WebSocket")]
    WebSocket(#[source] UpgradeError),
    /// It took too long.
    #[error("{step} not done within {} s", limits::CONNECT_TIME.as_secs())]
    Timeout {
        /// The step that took too long.
        step: Step,
    },
}

impl RouteError {
    fn needs_attention(&self) -> bool {
        match self {
            Self::Untrusted { .. } => true,
            Self::Proxy(error) => matches!(
                error,
                ProxyError::Untrusted(_)
                    | ProxyError::Credentials { .. }
                    | ProxyError::SocksCredentials { .. }
                    | ProxyError::Forbidden
            ),
            _ => false,
        }
    }
}

/// A part of the route to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The QUIC handshake.
    Quic,
    /// The TCP connection.
    Tcp,
    /// The proxy's answer.
    Proxy,
    /// The TLS handshake with the server.
    Tls,
    /// The upgrade to WebSocket.
    WebSocket,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quic => "QUIC handshake",
            Self::Tcp => "TCP connection",
            Self::Proxy => "exchange with the proxy",
            Self::Tls => "TLS handshake",
            Self::WebSocket => "upgrade to WebSocket",
        })
    }
}
