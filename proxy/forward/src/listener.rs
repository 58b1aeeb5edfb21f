//! Ports of this machine.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration, time::Instant};

use tokio::{
    io::{AsyncWriteExt, copy_bidirectional_with_sizes},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use underpass_core::Target;

use crate::{
    error::OpenError,
    limits, named,
    rule::{ListenAddress, Rule},
    stream::Stream,
    tunnel::Tunnel,
};

/// News of a connection of a [`Listener`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A connection has reached its target.
    Opened {
        /// Of this machine's program.
        client: SocketAddr,
        /// The target.
        target: Target,
    },
    /// It has ended.
    Closed {
        /// Of this machine's program.
        client: SocketAddr,
        /// The target.
        target: Target,
        /// Bytes towards the target.
        sent: u64,
        /// Bytes from it.
        received: u64,
        /// How long it lasted.
        lasted: Duration,
        /// Both directions have ended; otherwise it was cut.
        complete: bool,
    },
    /// A connection has not reached its target.
    Refused {
        /// Of this machine's program.
        client: SocketAddr,
        /// The target.
        target: Target,
        /// Why not.
        error: OpenError,
    },
}

/// Hears of connections.
pub type Events = Arc<dyn Fn(Event) + Send + Sync>;

/// Why no connections are taken.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    address: ListenAddress,
    #[source]
    source: io::Error,
}

/// Where the connections of a listener go.
#[derive(Clone, Debug)]
enum Way {
    /// All of them to one target.
    To(Target),
    /// Each to the target that its client names, by SOCKS5 or HTTP CONNECT.
    Named,
}

/// Takes connections on this machine, and carries them to targets of a cluster.
pub struct Listener {
    listener: TcpListener,
    way: Way,
    tunnel: Tunnel,
    events: Events,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("listener", &self.listener)
            .field("way", &self.way)
            .finish_non_exhaustive()
    }
}

impl Listener {
    /// Listens for connections to one target.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn bind(rule: &Rule, tunnel: Tunnel, events: Events) -> Result<Self, ListenError> {
        let way = Way::To(rule.target.clone());
        Self::listen(rule.listen, way, tunnel, events).await
    }

    /// Listens for clients that name their targets: by SOCKS5 (RFC 1928) without authentication, command CONNECT, or by HTTP
    /// CONNECT. Names are the cluster's to resolve.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn bind_proxy(
        address: ListenAddress,
        tunnel: Tunnel,
        events: Events,
    ) -> Result<Self, ListenError> {
        Self::listen(address, Way::Named, tunnel, events).await
    }

    async fn listen(
        address: ListenAddress,
        way: Way,
        tunnel: Tunnel,
        events: Events,
    ) -> Result<Self, ListenError> {
        let bound = TcpListener::bind(address.0).await;
        let listener = bound.map_err(|source| ListenError { address, source })?;
        Ok(Self {
            listener,
            way,
            tunnel,
            events,
        })
    }

    /// The address, with the port that a port of 0 has become.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Carries connections.
    ///
    /// # Cancel safety
    /// Dropping the future resets its connections.
    pub async fn run(self) {
        let places = Arc::new(Semaphore::new(limits::LOCAL_CONNECTIONS));
        let mut carried = JoinSet::new();
        loop {
            // The others wait in the system's queue. The semaphore is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = carried.join_next() => continue,
            };
            let (tcp, client) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "no connection");
                    tokio::time::sleep(limits::ACCEPT_REST).await;
                    continue;
                }
            };
            let one = One {
                client,
                tunnel: self.tunnel.clone(),
                events: Arc::clone(&self.events),
            };
            let way = self.way.clone();
            carried.spawn(async move {
                let _place = place;
                one.carry(tcp, way).await;
            });
        }
    }
}

/// One connection of a listener.
struct One {
    client: SocketAddr,
    tunnel: Tunnel,
    events: Events,
}

impl One {
    async fn carry(self, mut tcp: TcpStream, way: Way) {
        // Nagle's algorithm waits for more keystrokes. Without it the connection works as well.
        let _ = tcp.set_nodelay(true);
        let (target, asked) = match way {
            Way::To(target) => (target, None),
            Way::Named => {
                let named = tokio::time::timeout(limits::NAMING, named::read(&mut tcp)).await;
                match named {
                    Ok(Ok(Some((target, asked)))) => (target, Some(asked)),
                    // It was told why, or says nothing.
                    Ok(Ok(None)) | Err(_) => return,
                    Ok(Err(error)) => return tracing::debug!(%error, "no target was named"),
                }
            }
        };
        let begun = Instant::now();
        let opened = self.open(&mut tcp, &target).await;
        let Some(opened) = opened else { return };
        let answered = match (&opened, asked) {
            (_, None) => Ok(()),
            (Ok(_), Some(asked)) => asked.accept(&mut tcp).await,
            (Err(error), Some(asked)) => asked.refuse(&mut tcp, error).await,
        };
        match opened {
            Ok(stream) if answered.is_ok() => self.pass(tcp, stream, target, begun).await,
            Ok(_) => {}
            Err(error) => {
                let client = self.client;
                (self.events)(Event::Refused {
                    client,
                    target,
                    error,
                });
                match answered {
                    Ok(()) => drop(tcp.shutdown().await),
                    Err(error) => tracing::debug!(%error, "the client did not hear the refusal"),
                }
            }
        }
    }

    /// `None`: the client has gone away meanwhile.
    async fn open(
        &self,
        tcp: &mut TcpStream,
        target: &Target,
    ) -> Option<Result<Stream, OpenError>> {
        tokio::select! {
            opened = self.tunnel.open(target) => Some(opened),
            () = gone(tcp) => None,
        }
    }

    async fn pass(&self, mut tcp: TcpStream, mut stream: Stream, target: Target, begun: Instant) {
        let client = self.client;
        (self.events)(Event::Opened {
            client,
            target: target.clone(),
        });
        let size = limits::COPY;
        let copied = copy_bidirectional_with_sizes(&mut tcp, &mut stream, size, size).await;
        if let Err(error) = &copied {
            tracing::debug!(%error, "a connection was cut");
            // A reset, and no clean end. A socket that is gone needs none.
            let _ = tcp.set_zero_linger();
        }
        drop(tcp);
        (self.events)(Event::Closed {
            client,
            target,
            sent: stream.sent(),
            received: stream.received(),
            lasted: begun.elapsed(),
            complete: copied.is_ok(),
        });
    }
}

/// Waits until the socket is gone. One whose client has only ended its half is not: it waits for an answer.
async fn gone(tcp: &TcpStream) {
    if tcp.ready(tokio::io::Interest::ERROR).await.is_err() {
        return;
    }
    if let Ok(None) = tcp.take_error() {
        std::future::pending::<()>().await;
    }
}
