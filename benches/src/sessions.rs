//! Our own sessions, over each transport.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use underpass_tunnel::transport::quic::{self, QuicConfig};
use underpass_tunnel::transport::{Transport, memory, websocket};
use underpass_tunnel::{
    Acceptor, AcceptorConfig, Admission, AgentKey, Connector, ConnectorConfig, Denied, OpenRequest,
    Proven, Session, Stream, Transports,
};

use crate::{Certificate, echo};

/// What carries a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// A pipe within the process.
    Memory,
    /// QUIC on loopback.
    Quic,
    /// WebSocket over TLS on loopback.
    WebSocket,
}

impl Carrier {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Quic, Self::WebSocket];

    /// For reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Quic => "quic",
            Self::WebSocket => "websocket",
        }
    }
}

/// Lets everybody in.
struct Anybody;

impl Admission for Anybody {
    fn admit<'a>(&'a self, _: &'a Proven) -> BoxFuture<'a, Result<String, Denied>> {
        Box::pin(async { Ok("bench".to_owned()) })
    }
}

/// Both ends of a session. The agent's end echoes every stream.
#[derive(Debug)]
pub struct Pair {
    server: Session,
    /// The session ends with its last handle.
    _agent: Session,
}

impl Pair {
    /// Connects both ends.
    pub async fn connect(carrier: Carrier) -> Self {
        let certificate = Certificate::new();
        let acceptor = Acceptor::new(AcceptorConfig::default(), Arc::new(Anybody));
        let (agent, server) = match carrier {
            Carrier::Memory => {
                let (here, there) = memory::pair();
                let connector = connector(&certificate, 0, Transports::Auto);
                tokio::join!(establish(&connector, Arc::new(here)), async {
                    acceptor
                        .accept(Arc::new(there))
                        .await
                        .expect("it is let in")
                        .into_session()
                        .expect("it is new")
                },)
            }
            Carrier::Quic => over_quic(&certificate, &acceptor).await,
            Carrier::WebSocket => over_websocket(&certificate, &acceptor).await,
        };
        tokio::spawn(serve(agent.clone()));
        Self {
            server,
            _agent: agent,
        }
    }

    /// Opens a stream from the server to the echoing agent.
    pub async fn open(&self) -> Stream {
        let request = OpenRequest {
            target: "echo".to_owned(),
            ..OpenRequest::default()
        };
        self.server.open(request).await.expect("the session lives")
    }
}

fn connector(certificate: &Certificate, port: u16, transports: Transports) -> Connector {
    let key = AgentKey::from_seed([7; 32]).expect("any seed makes a key");
    let ca = certificate.pem().as_bytes().to_vec();
    let mut config = ConnectorConfig::new("localhost", port, ca, key);
    config.transports = transports;
    Connector::new(config).expect("the configuration is usable")
}

async fn establish(connector: &Connector, transport: Arc<dyn Transport>) -> Session {
    connector.establish(transport).await.expect("it is let in")
}

async fn over_quic(certificate: &Certificate, acceptor: &Acceptor) -> (Session, Session) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let endpoint = quic::server(
        address,
        certificate.server(),
        &quic::ResetKey::random(),
        &QuicConfig::default(),
    )
    .expect("loopback has a free port");
    let port = endpoint
        .local_addr()
        .expect("a bound socket has an address")
        .port();
    let connector = connector(certificate, port, Transports::Quic);
    tokio::join!(
        async { connector.connect().await.expect("it is let in") },
        async {
            let incoming = endpoint.accept().await.expect("the endpoint is open");
            acceptor
                .accept_quic(incoming)
                .await
                .expect("the agent behaves")
                .into_session()
                .expect("it is new")
        },
    )
}

async fn over_websocket(certificate: &Certificate, acceptor: &Acceptor) -> (Session, Session) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("loopback has a free port");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    let connector = connector(certificate, address.port(), Transports::WebSocket);
    let server = async {
        let (tcp, remote) = listener.accept().await.expect("the client comes");
        tcp.set_nodelay(true).expect("TCP has this option");
        let tls = TlsAcceptor::from(Arc::new(certificate.server()));
        let mut tls = tls.accept(tcp).await.expect("the client trusts us");
        upgrade(&mut tls)
            .await
            .expect("the client asks for a WebSocket");
        acceptor
            .accept_websocket(tls, Some(remote))
            .await
            .expect("the agent behaves")
            .into_session()
            .expect("it is new")
    };
    tokio::join!(
        async { connector.connect().await.expect("it is let in") },
        server
    )
}

/// Answers the HTTP upgrade, as far as our own client needs it.
async fn upgrade(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    let mut request = http::Request::get(websocket::PATH);
    for line in head.lines().skip(1) {
        if let Some((name, value)) = line.split_once(": ") {
            request = request.header(name, value);
        }
    }
    let request = request.body(()).map_err(io::Error::other)?;
    let response = websocket::respond(&request).map_err(io::Error::other)?;
    let mut answer = String::from("HTTP/1.1 101 Switching Protocols\r\n");
    for (name, value) in response.headers() {
        let value = value.to_str().map_err(io::Error::other)?;
        answer.push_str(&format!("{name}: {value}\r\n"));
    }
    answer.push_str("\r\n");
    io.write_all(answer.as_bytes()).await?;
    io.flush().await
}

async fn serve(session: Session) {
    while let Ok(incoming) = session.accept().await {
        tokio::spawn(async move {
            if let Ok(stream) = incoming.accept().await {
                // A benchmark drops its streams when it has what it wants.
                let _ = echo(stream).await;
            }
        });
    }
}
