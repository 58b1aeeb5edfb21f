//! Places for clients' connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use underpass_gateway::{Standing, Strangers};

use crate::limits;

/// Lets as many clients in as there are places for. A newcomer always finds one: [`Strangers::make_room`] says whose
/// connection is closed for it.
#[derive(Clone)]
pub(crate) struct Door {
    pub(super) connections: Arc<Semaphore>,
    pub(super) strangers: Strangers,
}

/// A client's place, given back when it and its socket are dropped.
pub(crate) struct ConnectionPermit {
    pub(crate) standing: Standing,
    /// All of the port's.
    pub(super) places: Arc<Semaphore>,
}

impl Door {
    pub(crate) fn new(connections: usize, strangers: Strangers) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(connections)),
            strangers,
        }
    }

    pub(super) async fn next(
        &self,
        listener: &TcpListener,
    ) -> io::Result<(TcpStream, SocketAddr, ConnectionPermit)> {
        let (tcp, client) = listener.accept().await?;
        let place = self.enter(client.ip()).await?;
        Ok((tcp, client, place))
    }

    /// A place for a client's connection, of any kind.
    pub(crate) async fn enter(&self, client: IpAddr) -> io::Result<ConnectionPermit> {
        let connection = self.place().await?;
        Ok(ConnectionPermit {
            standing: self.strangers.enter_at(client, connection),
            places: Arc::clone(&self.connections),
        })
    }

    /// A place for somebody who is here already.
    async fn place(&self) -> io::Result<OwnedSemaphorePermit> {
        loop {
            let connections = Arc::clone(&self.connections);
            if let Ok(place) = connections.try_acquire_owned() {
                return Ok(place);
            }
            self.strangers.make_room();
            let freed = Arc::clone(&self.connections).acquire_owned();
            // The socket may be in use.
            if let Ok(place) = tokio::time::timeout(limits::ROOM_TIME, freed).await {
                return place.map_err(io::Error::other);
            }
        }
    }
}
