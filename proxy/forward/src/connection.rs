//! One HTTP/2 connection to the server.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong,
    client::{Connection as Http2, SendRequest},
};
use tokio::sync::oneshot;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use underpass_https::Socket;

use crate::{error::DialError, limits, server::Server};

/// Why a connection has ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The server closed it, as one that is idle or when it shuts down.
    Closed,
    /// It failed.
    Failed,
    /// The server fell silent.
    Silent,
}

type Driver = Http2<TlsStream<Socket>, Bytes>;

/// Where streams are opened. Its last clone ends with its last stream, once what that has written is sent.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Bytes>,
    open: Arc<AtomicUsize>,
    used: Arc<DropGuard>,
}

/// A stream's place on a connection, which it gives back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) sender: SendRequest<Bytes>,
    /// Of which connection.
    pub(crate) number: u64,
    open: Arc<AtomicUsize>,
    /// The connection lives as long as its streams.
    _used: Arc<DropGuard>,
}

impl Connection {
    /// Connects. The second value says why the connection has ended, once it has.
    pub(crate) async fn dial(server: &Server) -> Result<(Self, oneshot::Receiver<End>), DialError> {
        let shown = server.to_string();
        let connecting = server.connector.connect(&server.host, server.port);
        let socket = connecting.await;
        let socket = socket.map_err(|error| DialError::Connect(shown.clone(), error))?;
        let handshake = tokio::time::timeout(limits::HANDSHAKE, handshake(server, socket));
        let late = |_| DialError::TooSlow(shown, limits::HANDSHAKE);
        let (sender, driver) = handshake.await.map_err(late)??;
        let (ended, end) = oneshot::channel();
        let unused = CancellationToken::new();
        let used = Arc::new(unused.clone().drop_guard());
        tokio::spawn(async move {
            let last_words = async {
                unused.cancelled().await;
                tokio::time::sleep(limits::LAST_WORDS).await;
                End::Closed
            };
            let end = tokio::select! {
                end = drive(driver) => end,
                end = last_words => end,
            };
            // Its receiver may be gone.
            let _ = ended.send(end);
        });
        let connection = Self {
            sender,
            open: Arc::default(),
            used,
        };
        Ok((connection, end))
    }

    /// Whether it has streams.
    pub(crate) fn is_used(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// A place for one more stream, where the server allows it.
    pub(crate) fn place(&self, number: u64) -> Option<Place> {
        let most = self.sender.current_max_send_streams();
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        let place = Place {
            sender: self.sender.clone(),
            number,
            open: Arc::clone(&self.open),
            _used: Arc::clone(&self.used),
        };
        (open < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn handshake(
    server: &Server,
    socket: Socket,
) -> Result<(SendRequest<Bytes>, Driver), DialError> {
    let shown = || server.to_string();
    let tls = TlsConnector::from(Arc::clone(&server.tls));
    let stream = tls.connect(server.name.clone(), socket).await;
    let stream = stream.map_err(|error| DialError::Tls(shown(), error))?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(DialError::NoHttp2(shown()));
    }
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW);
    let shaken = builder.handshake(stream).await;
    shaken.map_err(|error| DialError::Http2(shown(), error))
}

/// Moves the connection until it ends; why it did.
async fn drive(mut driver: Driver) -> End {
    let pings = driver.ping_pong();
    let silence = async move {
        match pings {
            Some(pings) => silent(pings).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = &mut driver => match ended {
            Ok(()) => End::Closed,
            Err(error) => {
                tracing::debug!(%error, "a connection to the server failed");
                End::Failed
            }
        },
        () = silence => End::Silent,
    }
}

/// Waits until the server is silent.
async fn silent(mut pings: PingPong) {
    loop {
        tokio::time::sleep(limits::PING_INTERVAL).await;
        let answered = tokio::time::timeout(limits::PING_TIMEOUT, pings.ping(Ping::opaque())).await;
        match answered {
            Ok(Ok(_)) => {}
            // The driver says why.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// A random part of the wait before an attempt.
pub(crate) fn jittered(wait: Duration) -> Duration {
    use rand::RngExt;

    wait.mul_f64(rand::rng().random_range(0.5..1.0))
}
