//! One port: TCP for users and WebSocket agents, UDP for QUIC agents.

mod connections;
mod door;
mod handshake;
mod not_tls;
mod sockets;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, bail};
use quinn::Endpoint;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use underpass_authenticate::CertificateRequest;
use underpass_core::{ConnectionInfo, Protocol};
use underpass_gateway::{Front, Standing};
use underpass_tunnel::transport::tcp;
use underpass_tunnel::{Acceptor, ConnectorRole, chain};

use self::door::ConnectionPermit;
use self::handshake::Handshakes;
pub(crate) use self::{connections::Connections, door::Door, sockets::Sockets};
use crate::limits;
use crate::occasional::Occasional;
use crate::proxies::TrustedProxies;
use crate::sessions::UserSessions;
use crate::supervise::Children;
use crate::tunnel::Tunnel;
use crate::vanished::{self, Upgrades};

/// Serves agents, and users' sessions, over QUIC until the endpoint is closed.
pub(crate) async fn serve_quic(
    endpoint: Endpoint,
    acceptor: Arc<Acceptor>,
    tunnel: Tunnel,
    users: UserSessions,
) {
    let mut handshakes = Children::default();
    while let Some(incoming) = endpoint.accept().await {
        let (acceptor, tunnel, users) = (Arc::clone(&acceptor), tunnel.clone(), users.clone());
        let remote = incoming.remote_address().ip().to_canonical();
        handshakes.spawn(async move {
            match acceptor.connect_quic(incoming).await {
                Ok(peer) if peer.role() == ConnectorRole::User => {
                    users.serve_quic(peer, remote).await;
                }
                Ok(peer) => tunnel.serve(acceptor.accept_peer(peer).await, remote),
                Err(error) => tunnel.serve(Err(error), remote),
            }
        });
    }
}

/// Serves users, and agents on WebSocket, until `stop`. Connections go on in `connections`.
pub(crate) async fn serve_tcp(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    proxies: TrustedProxies,
    front: Arc<Front>,
    door: Door,
    connections: Connections,
    stop: CancellationToken,
) {
    let mut tls = tls;
    tls.alpn_protocols = Protocol::ALPN.map(<[u8]>::to_vec).to_vec();
    let tls = TlsAcceptor::from(Arc::new(tls));
    let handshakes = Arc::new(Handshakes::new(proxies, tls));
    let refused = Occasional::default();
    loop {
        let accepted = tokio::select! {
            accepted = door.next(&listener) => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((tcp, remote, place)) => {
                let (handshakes, front) = (Arc::clone(&handshakes), Arc::clone(&front));
                connections.spawn(async move {
                    let served = serve_connection(tcp, remote, place, &handshakes, &front);
                    if let Err(error) = served.await {
                        tracing::debug!(%remote, "connection ended: {error:#}");
                    }
                });
            }
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                if refused.is_news() {
                    tracing::error!("cannot accept: {error}");
                }
                let pause = if door.strangers.make_room() {
                    limits::ROOM_PAUSE
                } else {
                    limits::ACCEPT_PAUSE
                };
                tokio::time::sleep(pause).await;
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
    remote: SocketAddr,
    place: ConnectionPermit,
    handshakes: &Handshakes,
    front: &Arc<Front>,
) -> Result<()> {
    // Responses are written whole, and so are an agent's frames.
    tcp::tune(&socket)?;
    let standing = &place.standing;
    let (upgrades, vanished) = vanished::watch();
    let accepted = (socket, remote, upgrades);
    tokio::select! {
        served = serve_stranger(accepted, standing, handshakes, front) => served,
        () = vanished.wait(Arc::clone(&place.places)) => bail!("the client is gone, and the target takes nothing of what it has sent"),
        () = standing.closed() => bail!("closed to make room for others"),
    }
}

async fn serve_stranger(
    accepted: (TcpStream, SocketAddr, Upgrades),
    standing: &Standing,
    handshakes: &Handshakes,
    front: &Arc<Front>,
) -> Result<()> {
    let remote = accepted.1;
    let (peer, tls) = handshakes.shake(accepted, standing).await?;
    let protocol = Protocol::from_alpn(tls.get_ref().1.alpn_protocol());
    let shown = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let (certificates, unusable_certificate) = CertificateRequest::shown(shown);
    let info = ConnectionInfo {
        peer,
        protocol,
        server_name: tls.get_ref().1.server_name().map(Into::into),
        certificates,
        unusable_certificate,
    };
    let serving = front.serve_stranger(tls, info, standing.clone());
    if let Err(error) = serving.await {
        tracing::debug!(%remote, "{}", chain(&error));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
