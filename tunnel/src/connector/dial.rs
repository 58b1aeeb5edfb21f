//! One attempt to reach the server.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::race::race;
use super::{ConfigError, ConnectorConfig, Transports};
use crate::error::chain;
use crate::proto::limits;
use crate::tls;
use crate::transport::quic::{self, EndpointError, QuicTransport};
use crate::transport::websocket::{self, Subprotocol, UpgradeError};
use crate::transport::{Kind, Transport, tcp};

/// The TLS alert for an ALPN mismatch, as QUIC carries it (RFC 9001, section 4.8; RFC 7301).
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// Why no transport could be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DialError {
    /// The server's name has no address.
    #[error("cannot resolve `{host}`")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The server's certificate is not signed by the pinned CA.
    #[error("{address} presents a certificate that the pinned CA did not sign")]
    Untrusted {
        /// The server's address.
        address: SocketAddr,
        /// What TLS said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What answers there is no Underpass server of a version that this side speaks.
    #[error("{address} does not speak this version of the protocol (ALPN)")]
    Alpn {
        /// The server's address.
        address: SocketAddr,
    },
    /// No socket for QUIC.
    #[error("no UDP socket")]
    Endpoint(#[source] EndpointError),
    /// QUIC cannot be tried with that address.
    #[error("QUIC to {address} cannot be tried")]
    QuicStart {
        /// The server's address.
        address: SocketAddr,
        /// Why.
        source: quinn::ConnectError,
    },
    /// The QUIC handshake failed.
    #[error("QUIC to {address} failed")]
    Quic {
        /// The server's address.
        address: SocketAddr,
        /// Why.
        source: quinn::ConnectionError,
    },
    /// TCP or TLS failed.
    #[error("TLS over TCP to {address} failed")]
    Tls {
        /// The server's address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The server did not upgrade to WebSocket.
    #[error("WebSocket to {address} failed")]
    WebSocket {
        /// The server's address.
        address: SocketAddr,
        /// Why.
        source: UpgradeError,
    },
    /// It took too long.
    #[error("{kind} to {address}: nothing within {} s", limits::CONNECT_TIME.as_secs())]
    Timeout {
        /// The protocol.
        kind: Kind,
        /// The server's address.
        address: SocketAddr,
    },
    /// Every protocol failed.
    #[error("QUIC: {}; WebSocket: {}", chain(.quic), chain(.websocket))]
    Both {
        /// Why QUIC did.
        quic: Box<DialError>,
        /// Why WebSocket did.
        websocket: Box<DialError>,
    },
}

impl DialError {
    pub(super) fn is_untrusted(&self) -> bool {
        match self {
            Self::Untrusted { .. } => true,
            Self::Both { quic, websocket } => quic.is_untrusted() || websocket.is_untrusted(),
            _ => false,
        }
    }
}

/// Knows where the server is and how to reach it.
pub(super) struct Dialler {
    host: String,
    port: u16,
    server_name: ServerName<'static>,
    transports: Transports,
    head_start: Duration,
    quic: quinn::ClientConfig,
    tls: TlsConnector,
}

impl Dialler {
    pub(super) fn new(
        config: &ConnectorConfig,
        tls: rustls::ClientConfig,
    ) -> Result<Self, ConfigError> {
        let server_name = ServerName::try_from(config.host.clone())
            .map_err(|_| ConfigError::Host(config.host.clone()))?;
        let quic = quic::client_config(tls.clone())?;
        let mut tls = tls;
        // The WebSocket upgrade is HTTP/1.1's (RFC 6455, section 4.1).
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            host: config.host.clone(),
            port: config.port,
            server_name,
            transports: config.transports,
            head_start: config.quic_head_start,
            quic,
            tls: TlsConnector::from(Arc::new(tls)),
        })
    }

    /// A transport to the first of the server's addresses that answers.
    pub(super) async fn dial(&self) -> Result<Arc<dyn Transport>, DialError> {
        let resolve_error = |source| DialError::Resolve {
            host: self.host.clone(),
            source,
        };
        let addresses: Vec<_> = tokio::net::lookup_host((self.host.as_str(), self.port))
            .await
            .map_err(resolve_error)?
            .collect();
        let mut last = resolve_error(io::ErrorKind::NotFound.into());
        for address in addresses {
            match self.dial_address(address).await {
                Ok(transport) => return Ok(transport),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn dial_address(&self, address: SocketAddr) -> Result<Arc<dyn Transport>, DialError> {
        // Boxed: a TLS handshake's future is large, and an agent rarely dials.
        let quic = within(Kind::Quic, address, self.dial_quic(address)).boxed();
        let websocket = within(Kind::WebSocket, address, self.dial_websocket(address)).boxed();
        match self.transports {
            Transports::Quic => quic.await,
            Transports::WebSocket => websocket.await,
            Transports::Auto => {
                race(quic, websocket, self.head_start)
                    .await
                    .map_err(|(quic, websocket)| DialError::Both {
                        quic: Box::new(quic),
                        websocket: Box::new(websocket),
                    })
            }
        }
    }

    async fn dial_quic(&self, address: SocketAddr) -> Result<Arc<dyn Transport>, DialError> {
        let endpoint = quic::client(address).map_err(DialError::Endpoint)?;
        // quinn names IP addresses without brackets, as ServerName does.
        let connecting = endpoint
            .connect_with(self.quic.clone(), address, &self.server_name.to_str())
            .map_err(|source| DialError::QuicStart { address, source })?;
        let connection = connecting
            .await
            .map_err(|source| quic_error(address, source))?;
        Ok(Arc::new(QuicTransport::new(connection)))
    }

    async fn dial_websocket(&self, address: SocketAddr) -> Result<Arc<dyn Transport>, DialError> {
        let tls_error = |source| tls_error(address, source);
        let socket = TcpStream::connect(address).await.map_err(tls_error)?;
        tcp::tune(&socket).map_err(tls_error)?;
        let tls = self
            .tls
            .connect(self.server_name.clone(), socket)
            .await
            .map_err(tls_error)?;
        let host = match &self.server_name {
            ServerName::IpAddress(rustls::pki_types::IpAddr::V6(_)) => {
                format!("[{}]:{}", self.host, self.port)
            }
            _ => format!("{}:{}", self.host, self.port),
        };
        websocket::connect(tls, &host, Some(address), &Subprotocol::ALL)
            .await
            .map_err(|source| DialError::WebSocket { address, source })
    }
}

impl fmt::Debug for Dialler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialler")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("transports", &self.transports)
            .finish_non_exhaustive()
    }
}

async fn within<T>(
    kind: Kind,
    address: SocketAddr,
    dial: impl Future<Output = Result<T, DialError>>,
) -> Result<T, DialError> {
    tokio::time::timeout(limits::CONNECT_TIME, dial)
        .await
        .unwrap_or(Err(DialError::Timeout { kind, address }))
}

fn tls_error(address: SocketAddr, source: io::Error) -> DialError {
    let rustls = source
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    if rustls.is_some_and(tls::is_untrusted) {
        return DialError::Untrusted {
            address,
            source: Box::new(source),
        };
    }
    DialError::Tls { address, source }
}

fn quic_error(address: SocketAddr, source: quinn::ConnectionError) -> DialError {
    use quinn::ConnectionError::{ConnectionClosed, TransportError};
    let (code, local) = match &source {
        TransportError(error) => (error.code, true),
        ConnectionClosed(close) => (close.error_code, false),
        _ => return DialError::Quic { address, source },
    };
    if code == quinn::TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL) {
        return DialError::Alpn { address };
    }
    // rustls raises unknown_ca (48) or, for a bad signature, decrypt_error (51) on this side.
    let untrusted = [48, 51]
        .map(quinn::TransportErrorCode::crypto)
        .contains(&code);
    if local && untrusted {
        return DialError::Untrusted {
            address,
            source: Box::new(source),
        };
    }
    DialError::Quic { address, source }
}
