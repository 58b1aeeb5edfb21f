//! One port: TCP for users and WebSocket agents, UDP for QUIC agents.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use quinn::Endpoint;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use underpass_proxy::front::{ConnectionInfo, Front, Peer, Protocol};
use underpass_tunnel::transport::quic::{self, QuicConfig};
use underpass_tunnel::transport::tcp;
use underpass_tunnel::{Acceptor, chain};

use crate::hops::Hops;
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
        quic_config: &QuicConfig,
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
            match quic::server(address, tls.clone(), reset_key, quic_config) {
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
    hops: Hops,
    front: Arc<Front>,
    connections: TaskTracker,
    stop: CancellationToken,
) {
    let mut tls = tls;
    tls.alpn_protocols = Protocol::ALPN.map(<[u8]>::to_vec).to_vec();
    let tls = TlsAcceptor::from(Arc::new(tls));
    let door = Door::new(limits::TLS_HANDSHAKES, limits::CONNECTIONS);
    loop {
        let accepted = tokio::select! {
            accepted = door.next(&listener) => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((tcp, remote, places)) => {
                let (tls, hops, front) = (tls.clone(), hops.clone(), Arc::clone(&front));
                connections.spawn(async move {
                    let served = serve_connection(tcp, remote, places, &hops, &tls, &front);
                    if let Err(error) = served.await {
                        tracing::debug!(%remote, "connection ended: {error:#}");
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

/// Lets as many clients in as there are places for. The others wait in the kernel's queue, where they
/// cost nothing here.
struct Door {
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// What a client takes up, and gives back when these are dropped.
struct Places {
    handshake: OwnedSemaphorePermit,
    connection: OwnedSemaphorePermit,
}

impl Door {
    fn new(handshakes: usize, connections: usize) -> Self {
        Self {
            handshakes: Arc::new(Semaphore::new(handshakes)),
            connections: Arc::new(Semaphore::new(connections)),
        }
    }

    async fn next(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr, Places)> {
        let places = Places {
            handshake: place(&self.handshakes).await?,
            connection: place(&self.connections).await?,
        };
        let (tcp, client) = listener.accept().await?;
        Ok((tcp, client, places))
    }
}

async fn place(places: &Arc<Semaphore>) -> io::Result<OwnedSemaphorePermit> {
    Arc::clone(places)
        .acquire_owned()
        .await
        .map_err(io::Error::other)
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
    places: Places,
    hops: &Hops,
    tls: &TlsAcceptor,
    front: &Arc<Front>,
) -> Result<()> {
    // Responses are written whole, and so are an agent's frames.
    tcp::tune(&socket)?;
    let _connection = places.connection;
    let (peer, tls) = handshake(socket, remote, places.handshake, hops, tls).await?;
    let protocol = Protocol::from_alpn(tls.get_ref().1.alpn_protocol());
    let shown = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let info = ConnectionInfo {
        peer,
        protocol,
        certificates: shown.to_vec(),
    };
    if let Err(error) = front.serve_connection(tls, info).await {
        tracing::debug!(%remote, "{}", chain(&error));
    }
    Ok(())
}

/// What precedes HTTP: a load balancer's header, where one is due, and TLS.
async fn handshake(
    mut tcp: TcpStream,
    remote: SocketAddr,
    place: OwnedSemaphorePermit,
    hops: &Hops,
    tls: &TlsAcceptor,
) -> Result<(Peer, TlsStream<TcpStream>)> {
    // Responses are written whole; waiting for more would delay watch events.
    tcp.set_nodelay(true)?;
    let peer = hops.peer(&mut tcp, remote).await?;
    let tls = tokio::time::timeout(limits::TLS_TIME, tls.accept(tcp))
        .await
        .context("TLS took too long")?;
    drop(place);
    Ok((peer, tls.context("TLS failed")?))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::Ipv4Addr;
    use std::task::Poll;
    use std::time::Duration;

    use clap::Parser as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::cli::{Cli, Command};

    const DEADLINE: Duration = Duration::from_secs(20);

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn acceptor() -> TlsAcceptor {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = made.signing_key.serialize_der().try_into().unwrap();
        let config = underpass_tunnel::tls::server(vec![made.cert.der().clone()], key).unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Lets two clients in, and the third one once `give_back` was done with the first one's places.
    async fn the_third_waits(door: Door, give_back: impl FnOnce(Places) -> Option<Places>) {
        let (listener, address) = listener().await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        let (_tcp, _, first) = door.next(&listener).await.unwrap();
        let (_tcp, _, _second) = door.next(&listener).await.unwrap();
        let mut third = Box::pin(door.next(&listener));
        let waits = poll_fn(|cx| Poll::Ready(third.as_mut().poll(cx).is_pending())).await;
        assert!(waits, "a third client was let in");
        let _kept = give_back(first);
        let third = tokio::time::timeout(DEADLINE, third).await;
        third.expect("there is a place again").unwrap();
    }

    #[tokio::test]
    async fn handshakes_beyond_the_limit_wait_outside() {
        the_third_waits(
            Door::new(2, 9),
            |Places {
                 handshake,
                 connection,
             }| {
                drop(handshake);
                // A client whose handshake is done still counts as a connection.
                Some(Places {
                    handshake: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap(),
                    connection,
                })
            },
        )
        .await;
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_wait_outside() {
        the_third_waits(Door::new(9, 2), |places| {
            drop(places);
            None
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_cut_off_and_gives_its_place_back() {
        let (listener, address) = listener().await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let door = Door::new(1, 1);
        let (tcp, remote, places) = door.next(&listener).await.unwrap();
        let start = tokio::time::Instant::now();
        let (hops, tls) = (Hops::default(), acceptor());
        let handshake = handshake(tcp, remote, places.handshake, &hops, &tls);
        let error = handshake.await.unwrap_err();
        assert_eq!(error.to_string(), "TLS took too long");
        assert!(start.elapsed() >= limits::TLS_TIME);
        assert_eq!(door.handshakes.available_permits(), 1);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_client_that_speaks_something_else_gives_its_place_back() {
        let (listener, address) = listener().await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let door = Door::new(1, 1);
        let (tcp, remote, places) = door.next(&listener).await.unwrap();
        let (hops, tls) = (Hops::default(), acceptor());
        let handshake = handshake(tcp, remote, places.handshake, &hops, &tls);
        let error = tokio::time::timeout(DEADLINE, handshake).await.unwrap();
        assert_eq!(error.unwrap_err().to_string(), "TLS failed");
        assert_eq!(door.handshakes.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn rule_11_a_load_balancer_that_says_nothing_gives_its_place_back() {
        let serve = ["x", "serve", "--proxy-protocol-from", "127.0.0.0/8"];
        let Command::Serve(options) = Cli::parse_from(serve).command else {
            panic!("it says serve");
        };
        let (listener, address) = listener().await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let door = Door::new(1, 1);
        let (tcp, remote, places) = door.next(&listener).await.unwrap();
        let (hops, tls) = (options.hops.into(), acceptor());
        let handshake = handshake(tcp, remote, places.handshake, &hops, &tls);
        let error = handshake.await.unwrap_err();
        assert!(format!("{error:#}").ends_with("did not come in time"));
        assert_eq!(door.handshakes.available_permits(), 1);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }
}
