//! One port: TCP for users and WebSocket agents, UDP for QUIC agents.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use quinn::Endpoint;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use underpass_proxy::front::{ConnectionInfo, Front, Protocol};
use underpass_tunnel::transport::{quic, tcp};
use underpass_tunnel::{Acceptor, chain};

use crate::limits;
use crate::tunnel::Tunnel;

/// How often another port is tried where the system chose one for TCP that is taken for UDP.
const PORT_ATTEMPTS: usize = 16;

/// The server's sockets.
pub(crate) struct Sockets {
    pub(crate) tcp: TcpListener,
    pub(crate) quic: Endpoint,
    pub(crate) address: SocketAddr,
}

impl Sockets {
    /// Binds both protocols to the same port. Port 0 is one that is free for both.
    pub(crate) async fn bind(
        address: SocketAddr,
        tls: &rustls::ServerConfig,
        reset_key: &quic::ResetKey,
    ) -> Result<Self> {
        let mut attempts = if address.port() == 0 {
            PORT_ATTEMPTS
        } else {
            1
        };
        loop {
            attempts -= 1;
            let tcp = TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on TCP {address}"))?;
            let address = tcp.local_addr()?;
            match quic::server(address, tls.clone(), reset_key) {
                Ok(quic) => return Ok(Self { tcp, quic, address }),
                Err(_) if attempts > 0 => {}
                Err(error) => return Err(error).context("cannot listen for QUIC"),
            }
        }
    }
}

/// Serves QUIC agents until the endpoint is closed.
pub(crate) async fn serve_quic(endpoint: Endpoint, acceptor: Arc<Acceptor>, tunnel: Tunnel) {
    while let Some(incoming) = endpoint.accept().await {
        let (acceptor, tunnel) = (Arc::clone(&acceptor), tunnel.clone());
        let remote = incoming.remote_address().ip().to_canonical();
        tokio::spawn(async move { tunnel.serve(acceptor.accept_quic(incoming).await, remote) });
    }
}

/// Serves users, and agents on WebSocket, until `stop`. Connections go on in `connections`.
pub(crate) async fn serve_tcp(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    front: Arc<Front>,
    connections: TaskTracker,
    stop: CancellationToken,
) {
    let mut tls = tls;
    tls.alpn_protocols = Protocol::ALPN.map(<[u8]>::to_vec).to_vec();
    let tls = TlsAcceptor::from(Arc::new(tls));
    let handshakes = Arc::new(Semaphore::new(limits::TLS_HANDSHAKES));
    loop {
        let accept = async {
            let place = Arc::clone(&handshakes)
                .acquire_owned()
                .await
                .map_err(io::Error::other)?;
            let (tcp, client) = listener.accept().await?;
            Ok::<_, io::Error>((tcp, client, place))
        };
        let accepted = tokio::select! {
            accepted = accept => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((tcp, client, place)) => {
                let (tls, front) = (tls.clone(), Arc::clone(&front));
                connections.spawn(async move {
                    if let Err(error) = serve_connection(tcp, client, place, &tls, &front).await {
                        tracing::debug!(%client, "connection ended: {error:#}");
                    }
                });
            }
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                tracing::error!("cannot accept: {error}");
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Errors of a connection that was given up before it was accepted: `accept(2)`.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

async fn serve_connection(
    socket: TcpStream,
    client: SocketAddr,
    handshaking: OwnedSemaphorePermit,
    tls: &TlsAcceptor,
    front: &Arc<Front>,
) -> Result<()> {
    // Responses are written whole, and so are an agent's frames.
    tcp::tune(&socket)?;
    let tls = tokio::time::timeout(limits::TLS_TIME, tls.accept(socket))
        .await
        .context("TLS took too long")?;
    drop(handshaking);
    let tls = tls.context("TLS failed")?;
    let protocol = Protocol::from_alpn(tls.get_ref().1.alpn_protocol());
    let info = ConnectionInfo {
        client: client.ip().to_canonical(),
        protocol,
        certificates: Vec::new(),
    };
    if let Err(error) = front.serve_connection(tls, info).await {
        tracing::debug!(%client, "{}", chain(&error));
    }
    Ok(())
}
