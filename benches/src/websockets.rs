//! WebSockets over TLS on loopback, at each level.

use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use underpass_tunnel::transport::websocket::{self, Subprotocol};
use underpass_tunnel::transport::{Transport, tcp};

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

/// Both ends of a WebSocket that carries one of `offers`: the agent's and the server's.
pub async fn websockets(
    certificate: &Certificate,
    offers: &[Subprotocol],
) -> (Arc<dyn Transport>, Arc<dyn Transport>) {
    let (client, mut server) = tls_pair(certificate).await;
    let offers = offers.to_vec();
    tokio::join!(
        at_agent(async move {
            websocket::connect(client, "localhost", None, &offers)
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
