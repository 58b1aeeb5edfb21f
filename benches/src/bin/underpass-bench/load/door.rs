//! Where users go in.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

/// An answer to CONNECT that is longer is none.
const HEAD_MAX: usize = 4096;

/// How long a connection may take, on a machine that is busy with the load.
const DEADLINE: Duration = Duration::from_secs(20);

/// Where a user connects.
#[derive(Debug, Clone)]
pub(crate) enum Door {
    /// Behind it is the target.
    Tcp(SocketAddr),
    /// A proxy on a unix socket, which is asked for the target with CONNECT (RFC 9110, section 9.3.6).
    Connect {
        /// The socket.
        socket: PathBuf,
        /// The target.
        target: SocketAddr,
    },
}

/// A user's connection.
pub(crate) type Connection = Box<dyn Io>;

/// Both halves.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Door {
    /// Goes in.
    ///
    /// # Errors
    /// Where nobody answers.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        tokio::time::timeout(DEADLINE, self.connect_at_last())
            .await
            .context("nobody lets a user in")?
    }

    async fn connect_at_last(&self) -> Result<Connection> {
        match self {
            Self::Tcp(address) => {
                let connection = TcpStream::connect(address).await?;
                connection.set_nodelay(true)?;
                Ok(Box::new(connection))
            }
            Self::Connect { socket, target } => {
                let mut connection = UnixStream::connect(socket).await?;
                let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
                connection.write_all(request.as_bytes()).await?;
                let head = head(&mut connection).await?;
                let code = head.split_ascii_whitespace().nth(1);
                if code != Some("200") {
                    bail!("CONNECT was answered with {head:?}");
                }
                Ok(Box::new(connection))
            }
        }
    }
}

/// Byte by byte: the bytes behind the head are the target's.
async fn head(connection: &mut UnixStream) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD_MAX {
            bail!("the answer to CONNECT has no end");
        }
        head.push(connection.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
