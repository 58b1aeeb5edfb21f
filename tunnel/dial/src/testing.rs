//! Names and addresses for tests of callers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::Resolve;

const QUICK: Duration = Duration::from_millis(500);

/// A resolver that finds these addresses for any name.
#[derive(Clone, Debug)]
pub struct Addresses(pub Vec<SocketAddr>);

impl Resolve for Addresses {
    fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async { Ok(self.0.clone()) })
    }
}

/// An address that answers no SYN, as one whose packets are dropped: its queue of connections is full, and stays so.
#[derive(Debug)]
pub struct SilentAddress {
    address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl SilentAddress {
    /// Fills the queue.
    ///
    /// # Errors
    /// The system's.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub async fn new() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(([127, 0, 0, 1], 0).into())?;
        let listener = socket.listen(1)?;
        let address = listener.local_addr()?;
        let mut queued = Vec::new();
        // Loopback answers in microseconds, or a second later to the next SYN.
        while let Ok(connected) = timeout(QUICK, TcpStream::connect(address)).await {
            queued.push(connected?);
        }
        Ok(Self {
            address,
            _listener: listener,
            _queued: queued,
        })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
