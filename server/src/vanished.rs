//! Upgraded connections whose client is gone while their upload stalls.
//!
//! A target that takes no more bytes stops the relay from reading its client, and a socket that is not read reports no reset and no failed
//! keepalive to anybody. So the socket's error is waited for beside the relay, through a descriptor of its own: one more open file for each
//! connection that was upgraded over HTTP/1.1, and none for others. It takes a place of the port's as a connection does, so that both have
//! room among the files that the system gives. HTTP/2 has no such stall, since its connections are always read.

use std::future::pending;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use underpass_gateway::Standing;

use crate::limits;

/// The connection's end of the watch. The watch ends with it.
#[derive(Debug)]
pub(crate) struct Upgrades {
    socket: Option<oneshot::Sender<OwnedFd>>,
    _life: DropGuard,
}

/// The watcher's.
#[derive(Debug)]
pub(crate) struct Vanished {
    socket: oneshot::Receiver<OwnedFd>,
    /// The connection was closed here.
    closed: CancellationToken,
}

/// A watch of a connection that is accepted.
pub(crate) fn watch() -> (Upgrades, Vanished) {
    let (sender, socket) = oneshot::channel();
    let closed = CancellationToken::new();
    let upgrades = Upgrades {
        socket: Some(sender),
        _life: closed.clone().drop_guard(),
    };
    (upgrades, Vanished { socket, closed })
}

impl Upgrades {
    /// Begins to watch the connection once it is upgraded.
    pub(crate) fn look(&mut self, tcp: &TcpStream, standing: &Standing) {
        if self.socket.is_none() || !standing.is_shell() {
            return;
        }
        match tcp.as_fd().try_clone_to_owned() {
            // The watcher may have ended with its connection.
            Ok(socket) => drop(self.socket.take().map(|watcher| watcher.send(socket))),
            // No file is free: the next look tries again.
            Err(error) => tracing::debug!(%error, "an upgraded connection is not watched yet"),
        }
    }
}

impl Vanished {
    /// Waits until the client is gone, and the relay has had [`limits::VANISHED_GRACE`] to notice it by itself: it may have bytes left
    /// to pass on. Never ready for a connection that is not upgraded, or that was closed here. Holds one of `places` for the descriptor,
    /// and watches also before one is free.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub(crate) async fn wait(self, places: Arc<Semaphore>) {
        let Self { socket, closed } = self;
        let vanished = async {
            let Ok(socket) = socket.await else {
                return false;
            };
            // Non-blocking as the connection's own descriptor, whose flags it shares.
            let failed = match TcpStream::from_std(socket.into()) {
                Ok(socket) => tokio::select! {
                    failed = socket.ready(Interest::ERROR) => failed.is_ok(),
                    () = hold(places) => false,
                },
                Err(error) => {
                    tracing::debug!(%error, "an upgraded connection is not watched");
                    false
                }
            };
            if failed {
                tokio::time::sleep(limits::VANISHED_GRACE).await;
            }
            failed
        };
        let vanished = tokio::select! {
            vanished = vanished => vanished,
            () = closed.cancelled() => false,
        };
        if !vanished {
            pending().await
        }
    }
}

/// Waits for a place, and keeps it. Never ready.
async fn hold(places: Arc<Semaphore>) {
    let _place = places.acquire_owned().await;
    pending().await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;
    use underpass_core::Authority;
    use underpass_gateway::{Holder, Strangers};

    use super::*;

    async fn until(what: &str, condition: impl Fn() -> bool) {
        let reached = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let reached = tokio::time::timeout(Duration::from_secs(20), reached);
        reached.await.unwrap_or_else(|_| panic!("in vain: {what}"));
    }

    #[tokio::test]
    async fn rule_23_the_second_file_of_an_upgraded_connection_has_a_place() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (tcp, address) = listener.accept().await.unwrap();
        let standing = Strangers::default().enter(address.ip());
        let places = Arc::new(Semaphore::new(2));
        let connection = Arc::clone(&places).try_acquire_owned().unwrap();
        let (mut upgrades, vanished) = watch();
        let watching = tokio::spawn(vanished.wait(Arc::clone(&places)));
        upgrades.look(&tcp, &standing);
        tokio::task::yield_now().await;
        assert_eq!(places.available_permits(), 1, "it is not upgraded");
        let alice = Holder::User(Authority::Directory, "alice".into());
        standing.recognise(alice).upgraded();
        upgrades.look(&tcp, &standing);
        until("both files have a place", || {
            places.available_permits() == 0
        })
        .await;
        drop((tcp, upgrades, connection));
        until("both places are free", || places.available_permits() == 2).await;
        watching.abort();
        drop(client);
    }
}
