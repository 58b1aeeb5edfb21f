//! Connections on loopback: bare TLS, and all that carry sessions.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use underpass_tunnel::transport::quic::{self, QuicConfig, QuicTransport, ResetKey};
use underpass_tunnel::transport::websocket::{self, Subprotocol};
use underpass_tunnel::transport::{Transport, memory, tcp};

use crate::Certificate;

static AGENT: OnceLock<Runtime> = OnceLock::new();

/// Runs `work` where the agent is: in a runtime of its own, as it is a process of its own. In one
/// runtime, tasks of both ends would be moved between the threads by whom they wake.
pub async fn at_agent<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let agent = AGENT.get_or_init(|| Runtime::new().expect("a runtime"));
    agent.spawn(work).await.expect("it runs")
}

/// Both ends of a TLS connection whose sockets are set up as a tunnel's are: client and server.
pub async fn tls_pair(certificate: &Certificate) -> (TlsStream<TcpStream>, TlsStream<TcpStream>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("loopback has a free port");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    let server = async {
        let (socket, _) = listener.accept().await.expect("the client comes");
        tcp::tune(&socket).expect("TCP has these options");
        let tls = TlsAcceptor::from(Arc::new(certificate.server()));
        tls.accept(socket).await.expect("the client trusts us")
    };
    let tls = TlsConnector::from(Arc::new(certificate.client()));
    let client = at_agent(async move {
        let socket = TcpStream::connect(address).await.expect("it listens");
        tcp::tune(&socket).expect("TCP has these options");
        let name = ServerName::try_from("localhost").expect("localhost is a name");
        tls.connect(name, socket).await.expect("it is trusted")
    });
    let (client, server) = tokio::join!(client, server);
    (client.into(), server.into())
}

/// The transports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// A pipe within the process.
    Memory,
    /// QUIC on loopback.
    Quic,
    /// Our own multiplexer in a WebSocket over TLS on loopback.
    WebSocket,
    /// yamux in the same.
    Yamux,
}

impl Carrier {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Memory, Self::Quic, Self::WebSocket, Self::Yamux];

    /// For reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Quic => "quic",
            Self::WebSocket => "websocket",
            Self::Yamux => "yamux",
        }
    }
}

/// Both ends of a connection, set up as a tunnel's is, before anybody has proven anything: the agent's
/// and the server's.
pub async fn transports(
    carrier: Carrier,
    certificate: &Certificate,
) -> (Arc<dyn Transport>, Arc<dyn Transport>) {
    match carrier {
        Carrier::Memory => {
            let (agent, server) = memory::pair();
            (Arc::new(agent), Arc::new(server))
        }
        Carrier::Quic => quic_pair(certificate).await,
        Carrier::WebSocket => websockets(certificate, Subprotocol::Underpass).await,
        Carrier::Yamux => websockets(certificate, Subprotocol::Yamux).await,
    }
}

async fn quic_pair(certificate: &Certificate) -> (Arc<dyn Transport>, Arc<dyn Transport>) {
    let config = QuicConfig::default();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listening = quic::server(address, certificate.server(), &ResetKey::random(), &config)
        .expect("loopback has a free port");
    let address = listening
        .local_addr()
        .expect("a bound socket has an address");
    let tls = certificate.client();
    let agent = at_agent(async move {
        let endpoint = quic::client(address, &config).expect("there are sockets");
        let config = quic::client_config(tls, &config).expect("TLS 1.3 fits QUIC");
        let connecting = endpoint.connect_with(config, address, "localhost");
        connecting
            .expect("the address is usable")
            .await
            .expect("it is trusted")
    });
    let server = async {
        let incoming = listening.accept().await.expect("the endpoint is open");
        incoming.await.expect("the client is what it should be")
    };
    let (agent, server) = tokio::join!(agent, server);
    (
        Arc::new(QuicTransport::new(agent)),
        Arc::new(QuicTransport::new(server)),
    )
}

async fn websockets(
    certificate: &Certificate,
    offer: Subprotocol,
) -> (Arc<dyn Transport>, Arc<dyn Transport>) {
    let (client, mut server) = tls_pair(certificate).await;
    tokio::join!(
        at_agent(async move {
            websocket::connect(client, "localhost", None, &[offer])
                .await
                .expect("the server upgrades")
        }),
        async {
            let subprotocol = upgrade(&mut server)
                .await
                .expect("the client asks for a WebSocket");
            websocket::accept(server, subprotocol, None).await
        }
    )
}

/// Answers the HTTP upgrade, as far as our own client needs it.
async fn upgrade(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<Subprotocol> {
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
    let (response, subprotocol) = websocket::respond(&request).map_err(io::Error::other)?;
    let mut answer = String::from("HTTP/1.1 101 Switching Protocols\r\n");
    for (name, value) in response.headers() {
        let value = value.to_str().map_err(io::Error::other)?;
        answer.push_str(&format!("{name}: {value}\r\n"));
    }
    answer.push_str("\r\n");
    io.write_all(answer.as_bytes()).await?;
    io.flush().await?;
    Ok(subprotocol)
}
