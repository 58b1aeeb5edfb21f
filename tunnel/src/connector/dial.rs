//! One attempt to reach a server.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustls::client::danger::ServerCertVerifier;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use underpass_dial::{ADDRESS_DELAY, Resolve, interleaved, staggered};
use underpass_http_proxy::{ProxyDialer, ProxyEnvError};

use super::error::{AttemptError, DialError, Route, RouteError, Step};
use super::race::race;
use super::server::{Rotation, Server};
use super::{ConfigError, ConnectorConfig, Transports};
use crate::limits;
use crate::role::ConnectorRole;
use crate::telemetry;
use crate::tls::{self, CertificateError, Trust, Witness};
use crate::transport::quic::{self, QuicConfig, QuicTransport};
use crate::transport::websocket::{self, Subprotocol};
use crate::transport::{Transport, TransportKind, tcp};

/// The TLS alert for an ALPN mismatch, as QUIC carries it (RFC 9001, section 4.8; RFC 7301).
const NO_APPLICATION_PROTOCOL: u8 = 120;

type Connected = Arc<dyn Transport>;

/// Boxed: handshakes are large.
type Attempts<'a> = Vec<BoxFuture<'a, Result<Connected, AttemptError>>>;

/// Knows where the servers are and how to reach them.
pub(super) struct ServerDialer {
    servers: Rotation,
    resolver: Arc<dyn Resolve>,
    transports: Transports,
    head_start: Duration,
    quic: QuicConfig,
    role: ConnectorRole,
    proxy: Option<ProxyDialer>,
    trusted: Mutex<Trusted>,
}

/// How servers are verified, from the next handshake on.
#[derive(Clone)]
struct Trusted {
    verifier: Arc<dyn ServerCertVerifier>,
    tls: rustls::ClientConfig,
}

impl Trusted {
    fn new(trust: &Trust) -> Result<Self, ConfigError> {
        let verifier = tls::verifier(trust)?;
        let tls = tls::client_with(Arc::clone(&verifier))?;
        Ok(Self { verifier, tls })
    }
}

impl ServerDialer {
    /// `random` is drawn evenly from all its values: it chooses the server to begin with.
    pub(super) fn new(config: &ConnectorConfig, random: u32) -> Result<Self, ConfigError> {
        let trusted = Trusted::new(&config.trust)?;
        // Made anew for each attempt; whether it can be made is known now.
        quic::client_config_as(config.role, trusted.tls.clone(), &config.quic)?;
        Ok(Self {
            servers: Rotation::new(&config.servers, random)?,
            resolver: Arc::clone(&config.resolver),
            transports: config.transports,
            head_start: config.quic_head_start,
            quic: config.quic.clone(),
            role: config.role,
            proxy: config.proxy.clone().map(ProxyDialer::new).transpose()?,
            trusted: Mutex::new(trusted),
        })
    }

    /// Verifies servers otherwise from the next handshake on.
    pub(super) fn trust(&self, trust: &Trust) -> Result<(), ConfigError> {
        let trusted = Trusted::new(trust)?;
        *self.trusted.lock().unwrap_or_else(PoisonError::into_inner) = trusted;
        Ok(())
    }

    fn trusted(&self) -> Trusted {
        let trusted = self.trusted.lock();
        trusted.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A transport to the server whose turn it is, by the first of its addresses that answers. A server
    /// that cannot be reached loses its turn to the next one.
    pub(super) async fn dial(&self) -> Result<Connected, DialError> {
        let turn = self.servers.current();
        // Boxed: it holds handshakes, and an agent rarely dials.
        let dialled = Box::pin(self.dial_server(turn.server, self.transports)).await;
        telemetry::dialled(dialled.is_ok());
        dialled.map_err(|attempts| {
            self.servers.end(turn);
            DialError {
                server: turn.server.address.clone(),
                attempts,
            }
        })
    }

    /// Another transport to the server that was dialled last, which keeps its turn: there is one already.
    pub(super) async fn dial_beside(&self, transports: Transports) -> Result<Connected, DialError> {
        let server = self.servers.current().server;
        let dialled = Box::pin(self.dial_server(server, transports)).await;
        telemetry::dialled(dialled.is_ok());
        dialled.map_err(|attempts| DialError {
            server: server.address.clone(),
            attempts,
        })
    }

    /// The protocols that may be dialled with.
    pub(super) fn transports(&self) -> Transports {
        self.transports
    }

    /// The next attempt goes to another server, if there is one: that which was dialled last can be
    /// reached, but is of no use now.
    pub(super) fn elsewhere(&self) {
        self.servers.end(self.servers.current());
    }

    async fn dial_server(
        &self,
        server: &Server,
        transports: Transports,
    ) -> Result<Connected, Vec<AttemptError>> {
        let proxy = self.proxy.as_ref();
        if let Some(proxy) = proxy.filter(|proxy| proxy.proxy().applies_to(&server.address)) {
            // Behind a proxy the server's name may be one that only the proxy can resolve.
            let quic = async {
                let addresses = self
                    .resolve(&server.address.host, server.address.port)
                    .await?;
                self.quic(server, &addresses).await
            };
            let websocket = self.proxied(proxy, server);
            return self.either(transports, quic, websocket).await;
        }
        let addresses = self
            .resolve(&server.address.host, server.address.port)
            .await?;
        let quic = self.quic(server, &addresses);
        let websocket = self.websocket(server, &addresses);
        self.either(transports, quic, websocket).await
    }

    async fn either(
        &self,
        transports: Transports,
        quic: impl Future<Output = Result<Connected, Vec<AttemptError>>>,
        websocket: impl Future<Output = Result<Connected, Vec<AttemptError>>>,
    ) -> Result<Connected, Vec<AttemptError>> {
        match transports {
            Transports::Quic => quic.await,
            Transports::WebSocket => websocket.await,
            Transports::Auto => {
                race(quic, websocket, self.head_start)
                    .await
                    .map_err(|(mut quic, websocket)| {
                        quic.extend(websocket);
                        quic
                    })
            }
        }
    }

    /// The addresses of a name, in the order in which to try them; at least one.
    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Vec<AttemptError>> {
        let failed = |source| {
            let host = host.to_owned();
            vec![AttemptError::Resolve { host, source }]
        };
        let resolving = self.resolver.resolve(host, port);
        let addresses = tokio::time::timeout(limits::CONNECT_TIME, resolving)
            .await
            .map_err(|elapsed| failed(elapsed.into()))?
            .map_err(failed)?;
        let addresses = interleaved(addresses);
        if addresses.is_empty() {
            let host = host.to_owned();
            return Err(vec![AttemptError::NoAddress { host }]);
        }
        Ok(addresses)
    }

    async fn quic(
        &self,
        server: &Server,
        addresses: &[SocketAddr],
    ) -> Result<Connected, Vec<AttemptError>> {
        let attempts: Attempts<'_> = addresses
            .iter()
            .map(|&address| {
                let kind = TransportKind::Quic;
                let route = Route::Direct { kind, address };
                attempt(route, self.dial_quic(server, address)).boxed()
            })
            .collect();
        staggered(attempts, ADDRESS_DELAY).await
    }

    async fn websocket(
        &self,
        server: &Server,
        addresses: &[SocketAddr],
    ) -> Result<Connected, Vec<AttemptError>> {
        let attempts: Attempts<'_> = addresses
            .iter()
            .map(|&address| {
                let kind = TransportKind::WebSocket;
                let route = Route::Direct { kind, address };
                attempt(route, self.dial_websocket(server, address)).boxed()
            })
            .collect();
        staggered(attempts, ADDRESS_DELAY).await
    }

    async fn proxied(
        &self,
        proxy: &ProxyDialer,
        server: &Server,
    ) -> Result<Connected, Vec<AttemptError>> {
        let unusable = |error: &ProxyEnvError| vec![AttemptError::Proxy(error.clone())];
        let url = proxy.proxy().url().map_err(unusable)?;
        let (host, port) = proxy.place().map_err(unusable)?;
        let addresses = self.resolve(host, port).await?;
        let attempts: Attempts<'_> = addresses
            .iter()
            .map(|&address| {
                let route = Route::Proxied {
                    proxy: url.clone(),
                    address,
                };
                attempt(route, self.dial_proxied(proxy, server, address)).boxed()
            })
            .collect();
        staggered(attempts, ADDRESS_DELAY).await
    }

    async fn dial_quic(
        &self,
        server: &Server,
        address: SocketAddr,
    ) -> Result<Connected, RouteError> {
        let deadline = Deadline::new();
        let Trusted { verifier, mut tls } = self.trusted();
        let witness = Witness::of(&mut tls, &verifier);
        let config = quic::client_config_as(self.role, tls, &self.quic);
        let config = config.map_err(RouteError::Endpoint)?;
        let endpoint = quic::client(address, &self.quic).map_err(RouteError::Endpoint)?;
        // quinn names IP addresses without brackets, as ServerName does.
        let connecting = endpoint
            .connect_with(config, address, &server.name.to_str())
            .map_err(RouteError::QuicStart)?;
        let connection = deadline
            .step(Step::Quic, connecting)
            .await?
            .map_err(|source| untrusted(&witness).unwrap_or_else(|| quic_error(source)))?;
        Ok(Arc::new(QuicTransport::new(connection)))
    }

    async fn dial_websocket(
        &self,
        server: &Server,
        address: SocketAddr,
    ) -> Result<Connected, RouteError> {
        let deadline = Deadline::new();
        let socket = deadline.tcp(address).await?;
        self.upgrade(server, socket, Some(address), deadline).await
    }

    async fn dial_proxied(
        &self,
        proxy: &ProxyDialer,
        server: &Server,
        address: SocketAddr,
    ) -> Result<Connected, RouteError> {
        let deadline = Deadline::new();
        let socket = deadline.tcp(address).await?;
        let io = deadline
            .step(Step::Proxy, proxy.open(socket, &server.address))
            .await?
            .map_err(RouteError::Proxy)?;
        // The server's address is known to the proxy alone.
        self.upgrade(server, io, None, deadline).await
    }

    /// TLS and WebSocket on a connection that leads to the server.
    async fn upgrade<S>(
        &self,
        server: &Server,
        io: S,
        remote: Option<SocketAddr>,
        deadline: Deadline,
    ) -> Result<Connected, RouteError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let Trusted { verifier, mut tls } = self.trusted();
        // The WebSocket upgrade is HTTP/1.1's (RFC 6455, section 4.1).
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let witness = Witness::of(&mut tls, &verifier);
        let connecting = TlsConnector::from(Arc::new(tls)).connect(server.name.clone(), io);
        let tls = deadline
            .step(Step::Tls, connecting)
            .await?
            .map_err(|source| untrusted(&witness).unwrap_or(RouteError::Tls(source)))?;
        let host = server.address.to_string();
        let connecting = websocket::connect_as(self.role, tls, &host, remote, &Subprotocol::ALL);
        deadline
            .step(Step::WebSocket, connecting)
            .await?
            .map_err(RouteError::WebSocket)
    }
}

impl fmt::Debug for ServerDialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerDialer")
            .field("servers", &self.servers)
            .field("transports", &self.transports)
            .field("proxy", &self.proxy.as_ref().map(ProxyDialer::proxy))
            .finish_non_exhaustive()
    }
}

async fn attempt(
    route: Route,
    dialling: impl Future<Output = Result<Connected, RouteError>>,
) -> Result<Connected, AttemptError> {
    dialling
        .await
        .inspect(|_| tracing::debug!(%route, "connected"))
        .map_err(|error| AttemptError::Failed { route, error })
}

/// When an address has had its time.
#[derive(Clone, Copy)]
struct Deadline(Instant);

impl Deadline {
    fn new() -> Self {
        Self(Instant::now() + limits::CONNECT_TIME)
    }

    async fn step<T>(self, step: Step, doing: impl Future<Output = T>) -> Result<T, RouteError> {
        timeout_at(self.0, doing)
            .await
            .map_err(|_| RouteError::Timeout { step })
    }

    async fn tcp(self, address: SocketAddr) -> Result<TcpStream, RouteError> {
        let connecting = TcpStream::connect(address);
        let socket = self
            .step(Step::Tcp, connecting)
            .await?
            .map_err(RouteError::Tcp)?;
        tcp::tune(&socket).map_err(RouteError::Tcp)?;
        Ok(socket)
    }
}

fn untrusted(witness: &Witness) -> Option<RouteError> {
    let error = witness.error()?;
    let certificate = error.into();
    // rustls has no words for errors of others.
    let source = match certificate {
        CertificateError::NotPinned(_) => None,
        _ => Some(error.clone()),
    };
    Some(RouteError::Untrusted {
        certificate,
        source,
    })
}

fn quic_error(error: quinn::ConnectionError) -> RouteError {
    use quinn::ConnectionError::{ConnectionClosed, TransportError};
    let code = match &error {
        TransportError(error) => error.code,
        ConnectionClosed(close) => close.error_code,
        _ => return RouteError::Quic(error),
    };
    if code == quinn::TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL) {
        return RouteError::Alpn;
    }
    RouteError::Quic(error)
}
