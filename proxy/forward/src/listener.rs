//! Ports and sockets of this machine.

use std::{fmt, io, sync::Arc, time::Duration, time::Instant};

use tokio::{
    io::{AsyncWriteExt, copy_bidirectional_with_sizes},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::either::Either;
use underpass_core::Target;

use crate::{
    error::OpenError,
    limits, named,
    near::{self, Acceptor, Client, ListenError},
    rule::{Listen, ListenAddress, Rule},
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
        client: Client,
        /// The target.
        target: Target,
    },
    /// It has ended.
    Closed {
        /// Of this machine's program.
        client: Client,
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
        client: Client,
        /// The target.
        target: Target,
        /// Why not.
        error: OpenError,
    },
}

/// Hears of connections.
pub type Events = Arc<dyn Fn(Event) + Send + Sync>;

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
    acceptor: Acceptor,
    way: Way,
    tunnel: Tunnel,
    events: Events,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("acceptor", &self.acceptor)
            .field("way", &self.way)
            .finish_non_exhaustive()
    }
}

impl Listener {
    /// Listens for connections to one target.
    ///
    /// # Errors
    /// The address or the path cannot be listened on.
    pub async fn bind(rule: &Rule, tunnel: Tunnel, events: Events) -> Result<Self, ListenError> {
        let way = Way::To(rule.target.clone());
        Self::listen(&rule.listen, way, tunnel, events).await
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
        let listen = Listen::Address(address);
        Self::listen(&listen, Way::Named, tunnel, events).await
    }

    async fn listen(
        listen: &Listen,
        way: Way,
        tunnel: Tunnel,
        events: Events,
    ) -> Result<Self, ListenError> {
        Ok(Self {
            acceptor: Acceptor::bind(listen).await?,
            way,
            tunnel,
            events,
        })
    }

    /// Where it listens, with the port that a port of 0 has become.
    ///
    /// # Errors
    /// The system does not say.
    pub fn place(&self) -> io::Result<Listen> {
        self.acceptor.place()
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
                accepted = self.acceptor.accept() => accepted,
                Some(_) = carried.join_next() => continue,
            };
            let (stream, client) = match accepted {
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
                one.carry(stream, way).await;
            });
        }
    }
}

/// One connection of a listener.
struct One {
    client: Client,
    tunnel: Tunnel,
    events: Events,
}

impl One {
    async fn carry(self, mut near: near::Stream, way: Way) {
        let (target, asked) = match (way, &mut near) {
            (Way::To(target), _) => (target, None),
            // Clients that name their targets come by TCP.
            (Way::Named, Either::Right(_)) => return,
            (Way::Named, Either::Left(tcp)) => {
                let named = tokio::time::timeout(limits::NAMING, named::read(tcp)).await;
                match named {
                    Ok(Ok(Some((target, asked)))) => (target, Some(asked)),
                    // It was told why, or says nothing.
                    Ok(Ok(None)) | Err(_) => return,
                    Ok(Err(error)) => return tracing::debug!(%error, "no target was named"),
                }
            }
        };
        let begun = Instant::now();
        let opened = self.open(&near, &target).await;
        let Some(opened) = opened else { return };
        let answered = match (&opened, asked) {
            (_, None) => Ok(()),
            (Ok(_), Some(asked)) => asked.accept(&mut near).await,
            (Err(error), Some(asked)) => asked.refuse(&mut near, error).await,
        };
        match opened {
            Ok(stream) if answered.is_ok() => self.pass(near, stream, target, begun).await,
            Ok(_) => {}
            Err(error) => {
                let client = self.client.clone();
                (self.events)(Event::Refused {
                    client,
                    target,
                    error,
                });
                match answered {
                    Ok(()) => drop(near.shutdown().await),
                    Err(error) => tracing::debug!(%error, "the client did not hear the refusal"),
                }
            }
        }
    }

    /// `None`: the client has gone away meanwhile.
    async fn open(
        &self,
        near: &near::Stream,
        target: &Target,
    ) -> Option<Result<Stream, OpenError>> {
        tokio::select! {
            opened = self.tunnel.open(target) => Some(opened),
            () = near::gone(near) => None,
        }
    }

    async fn pass(
        &self,
        mut near: near::Stream,
        mut stream: Stream,
        target: Target,
        begun: Instant,
    ) {
        let client = self.client.clone();
        (self.events)(Event::Opened {
            client: client.clone(),
            target: target.clone(),
        });
        let size = limits::COPY;
        let copied = copy_bidirectional_with_sizes(&mut near, &mut stream, size, size).await;
        if let Err(error) = &copied {
            tracing::debug!(%error, "a connection was cut");
            // A reset, and no clean end.
            near::cut(&near);
        }
        drop(near);
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
