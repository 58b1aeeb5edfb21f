//! A server on loopback, as the real one is built: QUIC and HTTPS on the same port.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use underpass_tunnel::transport::quic::{self, QuicConfig};
use underpass_tunnel::transport::{tcp, websocket};
use underpass_tunnel::{
    AcceptError, Accepted, Acceptor, AcceptorConfig, CaPin, Connector, Session, tls,
};

use crate::harness::{acceptor, within};

/// The name that test servers' certificates carry beside this machine's.
pub(crate) const NAME: &str = "tunnel.test";

/// A CA and a server's certificate.
pub(crate) struct Pki {
    pub(crate) ca_pem: Vec<u8>,
    /// The server's own certificate and its CA's.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// With a server's certificate that differs.
    pub(crate) fn with(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Self {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let names = ["127.0.0.1", "::1", NAME].map(str::to_owned);
        let mut leaf = rcgen::CertificateParams::new(names).unwrap();
        change(&mut leaf);
        let certificate = leaf.signed_by(&key, &issuer).unwrap();
        Self {
            ca_pem: ca_certificate.pem().into_bytes(),
            chain: vec![certificate.der().clone(), ca_certificate.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }

    /// Of the CA.
    pub(crate) fn pin(&self) -> CaPin {
        CaPin::of(&tls::certificates(&self.ca_pem).unwrap()[0]).unwrap()
    }

    pub(crate) fn tls(&self) -> rustls::ServerConfig {
        tls::server(self.chain.clone(), self.key.clone_key()).unwrap()
    }
}

type Results = mpsc::UnboundedSender<Result<Accepted, AcceptError>>;

/// A listening server. Dropping it stops it, not its sessions.
pub(crate) struct Server {
    pub(crate) port: u16,
    sessions: mpsc::UnboundedReceiver<Result<Accepted, AcceptError>>,
    upgrade: Arc<AtomicBool>,
    endpoint: Option<quinn::Endpoint>,
    acceptor: Arc<Acceptor>,
    results: Results,
    tasks: JoinSet<()>,
}

/// A server's listeners.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listen {
    Both,
    WebSocketOnly,
}

impl Server {
    pub(crate) async fn start(pki: &Pki, config: AcceptorConfig) -> Self {
        Self::start_on(0, pki, config, Listen::Both).await
    }

    pub(crate) async fn start_on(
        port: u16,
        pki: &Pki,
        config: AcceptorConfig,
        listen: Listen,
    ) -> Self {
        Self::start_at(([127, 0, 0, 1], port).into(), pki, config, listen).await
    }

    pub(crate) async fn start_at(
        address: SocketAddr,
        pki: &Pki,
        config: AcceptorConfig,
        listen: Listen,
    ) -> Self {
        let (listener, endpoint) = bind(address, pki, listen).await;
        let port = listener.local_addr().unwrap().port();
        let (results, sessions) = mpsc::unbounded_channel();
        let upgrade = Arc::new(AtomicBool::new(true));
        let acceptor = acceptor(config);
        let mut tasks = JoinSet::new();
        let https = Https {
            acceptor: Arc::clone(&acceptor),
            results: results.clone(),
            upgrade: Arc::clone(&upgrade),
        };
        tasks.spawn(serve_https(listener, pki.tls(), Arc::new(https)));
        let mut server = Self {
            port,
            sessions,
            upgrade,
            endpoint,
            acceptor,
            results,
            tasks,
        };
        server.serve_quic();
        server
    }

    fn serve_quic(&mut self) {
        if let Some(endpoint) = self.endpoint.clone() {
            let (acceptor, results) = (Arc::clone(&self.acceptor), self.results.clone());
            self.tasks.spawn(serve_quic(endpoint, acceptor, results));
        }
    }

    /// From now on listens for QUIC, too.
    pub(crate) fn listen_quic(&mut self, pki: &Pki) {
        let address = ([127, 0, 0, 1], self.port).into();
        self.endpoint = Some(quic_endpoint(address, pki).unwrap());
        self.serve_quic();
    }

    pub(crate) async fn result(&mut self) -> Result<Accepted, AcceptError> {
        within("an agent connects", self.sessions.recv())
            .await
            .unwrap()
    }

    /// The next new session. The connector gives up attempts that come in second.
    pub(crate) async fn session(&mut self) -> Session {
        loop {
            if let Ok(Accepted::New(session)) = self.result().await {
                return session;
            }
        }
    }

    /// The server's end of the session that `agent` is the other end of.
    ///
    /// A connector that tries both transports may give up one whose session the server already has.
    pub(crate) async fn session_of(&mut self, agent: &Session) -> Session {
        loop {
            let session = self.session().await;
            if session.info().id == agent.info().id {
                return session;
            }
        }
    }

    /// Both ends of a session that `connector` makes, the connector's first.
    pub(crate) async fn connected(&mut self, connector: &Connector) -> (Session, Session) {
        let agent = within("the server is found", connector.connect())
            .await
            .unwrap();
        let session = self.session_of(&agent).await;
        (agent, session)
    }

    /// From now on answers upgrades like any web server that knows nothing of them.
    pub(crate) fn refuse_upgrades(&self) {
        self.upgrade.store(false, Ordering::Relaxed);
    }

    /// Stops listening, so that the port is free once this returns.
    pub(crate) async fn stop(mut self) {
        self.tasks.shutdown().await;
        if let Some(endpoint) = self.endpoint.take() {
            endpoint.close(0u32.into(), b"");
            within("the endpoint is idle", endpoint.wait_idle()).await;
        }
    }
}

/// TCP and UDP share a port: the first free TCP port whose UDP twin is free too.
async fn bind(
    address: SocketAddr,
    pki: &Pki,
    listen: Listen,
) -> (TcpListener, Option<quinn::Endpoint>) {
    within("a port is free for both", async {
        loop {
            if let Ok(listener) = TcpListener::bind(address).await {
                if listen == Listen::WebSocketOnly {
                    return (listener, None);
                }
                if let Ok(endpoint) = quic_endpoint(listener.local_addr().unwrap(), pki) {
                    return (listener, Some(endpoint));
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

fn quic_endpoint(address: SocketAddr, pki: &Pki) -> Result<quinn::Endpoint, quic::EndpointError> {
    let (reset_key, config) = (quic::ResetKey::random(), QuicConfig::default());
    quic::server(address, pki.tls(), &reset_key, &config)
}

async fn serve_quic(endpoint: quinn::Endpoint, acceptor: Arc<Acceptor>, results: Results) {
    let mut connections = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        let (acceptor, results) = (Arc::clone(&acceptor), results.clone());
        connections.spawn(async move {
            let _ = results.send(acceptor.accept_quic(incoming).await);
        });
    }
}

struct Https {
    acceptor: Arc<Acceptor>,
    results: Results,
    upgrade: Arc<AtomicBool>,
}

async fn serve_https(listener: TcpListener, tls: rustls::ServerConfig, https: Arc<Https>) {
    let mut tls = tls;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(tls));
    let mut connections = JoinSet::new();
    loop {
        let (tcp, remote) = listener.accept().await.unwrap();
        let (tls, https) = (tls.clone(), Arc::clone(&https));
        connections.spawn(async move {
            let _ = serve_connection(tls, tcp, remote, https).await;
        });
    }
}

async fn serve_connection(
    tls: TlsAcceptor,
    socket: TcpStream,
    remote: SocketAddr,
    https: Arc<Https>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    tcp::tune(&socket)?;
    let io = TokioIo::new(tls.accept(socket).await?);
    let service = service_fn(|request| {
        let answer = answer(request, remote, Arc::clone(&https));
        async { Ok::<_, Infallible>(answer) }
    });
    hyper::server::conn::http1::Builder::new()
        .serve_connection(io, service)
        .with_upgrades()
        .await?;
    Ok(())
}

fn answer(
    request: Request<Incoming>,
    remote: SocketAddr,
    https: Arc<Https>,
) -> Response<Full<Bytes>> {
    if request.uri().path() != websocket::PATH || !https.upgrade.load(Ordering::Relaxed) {
        return refusal(StatusCode::NOT_FOUND, "no such page");
    }
    let (parts, body) = request.into_parts();
    let head = Request::from_parts(parts.clone(), ());
    match websocket::respond(&head) {
        Ok((response, subprotocol)) => {
            let request = Request::from_parts(parts, body);
            tokio::spawn(async move {
                // The connector may have given up already.
                let Ok(upgraded) = hyper::upgrade::on(request).await else {
                    return;
                };
                let io = TokioIo::new(upgraded);
                let accepted = https
                    .acceptor
                    .accept_websocket(io, subprotocol, Some(remote));
                let result = accepted.await;
                let _ = https.results.send(result);
            });
            response.map(|()| Full::default())
        }
        Err(error) => refusal(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

fn refusal(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}
