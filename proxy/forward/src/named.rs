//! Clients that name their targets: by SOCKS5 (RFC 1928), or by HTTP CONNECT, on the same port. The first byte tells them apart.

mod http;
mod socks;

use std::io;

use tokio::{io::AsyncWrite, net::TcpStream};
use underpass_core::Target;

use crate::error::OpenError;

/// How a client has named its target, and is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    Socks,
    Http,
}

/// Reads the target that the client names. `None`: the client was told that it asks for something else.
///
/// Nothing behind the request is read: those bytes are the target's.
pub(crate) async fn read(tcp: &mut TcpStream) -> io::Result<Option<(Target, Asked)>> {
    let mut first = [0];
    if tcp.peek(&mut first).await? == 0 {
        return Ok(None);
    }
    let (target, asked) = match first {
        [socks::VERSION] => (socks::read(tcp).await?, Asked::Socks),
        _ => (http::read(tcp).await?, Asked::Http),
    };
    Ok(target.map(|target| (target, asked)))
}

impl Asked {
    pub(crate) async fn accept(self, tcp: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        match self {
            Self::Socks => socks::accept(tcp).await,
            Self::Http => http::accept(tcp).await,
        }
    }

    pub(crate) async fn refuse(
        self,
        tcp: &mut (impl AsyncWrite + Unpin),
        error: &OpenError,
    ) -> io::Result<()> {
        match self {
            Self::Socks => socks::refuse(tcp, error).await,
            Self::Http => http::refuse(tcp, error).await,
        }
    }
}
