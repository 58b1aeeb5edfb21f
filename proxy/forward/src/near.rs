//! This machine's end of connections: TCP or a Unix socket.

use std::{fmt, io, net::SocketAddr, path::Path, sync::Arc};

use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::either::Either;

use crate::{
    rule::{Listen, ListenAddress},
    socket::{Socket, SocketError},
};

/// Why no connections are taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// At an address.
    #[error("cannot listen on {0}")]
    Address(ListenAddress, #[source] io::Error),
    /// At a path.
    #[error("cannot listen on {0}")]
    Socket(Arc<Path>, #[source] SocketError),
}

/// A program of this machine that has connected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Client {
    /// By TCP, from this address.
    Tcp(SocketAddr),
    /// By the socket at this path.
    Socket(Arc<Path>),
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

/// One of its connections.
pub(crate) type Stream = Either<TcpStream, UnixStream>;

#[derive(Debug)]
pub(crate) enum Acceptor {
    Tcp(TcpListener),
    Socket(Socket),
}

impl Acceptor {
    pub(crate) async fn bind(listen: &Listen) -> Result<Self, ListenError> {
        match listen {
            Listen::Address(address) => {
                let bound = TcpListener::bind(address.0).await;
                let wrong = |error| ListenError::Address(*address, error);
                bound.map(Self::Tcp).map_err(wrong)
            }
            Listen::Socket(path) => {
                let bound = Socket::bind(path).await;
                let wrong = |error| ListenError::Socket(Arc::clone(path), error);
                bound.map(Self::Socket).map_err(wrong)
            }
        }
    }

    /// Where it listens, with the port that a port of 0 has become.
    pub(crate) fn place(&self) -> io::Result<Listen> {
        match self {
            Self::Tcp(listener) => {
                let address = listener.local_addr()?;
                Ok(Listen::Address(ListenAddress(address)))
            }
            Self::Socket(socket) => Ok(Listen::Socket(socket.path().into())),
        }
    }

    pub(crate) async fn accept(&self) -> io::Result<(Stream, Client)> {
        match self {
            Self::Tcp(listener) => {
                let (tcp, address) = listener.accept().await?;
                // Nagle's algorithm waits for more keystrokes. Without it the connection works as well.
                let _ = tcp.set_nodelay(true);
                Ok((Either::Left(tcp), Client::Tcp(address)))
            }
            Self::Socket(socket) => {
                let unix = socket.accept().await?;
                Ok((Either::Right(unix), Client::Socket(socket.path().into())))
            }
        }
    }
}

/// Waits until the program is gone. One that has only ended its half is not: it waits for an answer. A Unix socket does not tell the two
/// apart.
pub(crate) async fn gone(stream: &Stream) {
    if let Either::Left(tcp) = stream {
        let failed = tcp.ready(tokio::io::Interest::ERROR).await.is_err();
        if failed || !matches!(tcp.take_error(), Ok(None)) {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// Has the program see that its connection was cut. A Unix socket has no reset: its program sees an end.
pub(crate) fn cut(stream: &Stream) {
    if let Either::Left(tcp) = stream {
        // A socket that is gone needs none.
        let _ = tcp.set_zero_linger();
    }
}
