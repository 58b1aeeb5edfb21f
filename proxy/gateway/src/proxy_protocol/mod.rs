//! The PROXY protocol, versions 1 and 2 (`doc/proxy-protocol.txt` of HAProxy): a load balancer that forwards TCP says,
//! before the client's first byte, where the client is.
//!
//! Nothing in it is proved. A listener reads it from peers that are known to write it, from these always, and from
//! nobody else: "the receiver MUST not try to guess whether the protocol header is present".
//!
//! (Ours, and no crate's: the reader must take no byte beyond the header, so that the socket itself goes on to TLS.
//! Parsers at hand want to be given more until they are content.)

mod header;

use std::{io, net::IpAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

pub use self::header::Malformed;
use self::header::{Parsed, parse};
use underpass_core::limits;

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The peer left without a byte: it wanted to know whether anybody listens.
    #[error("the connection ended before it began")]
    Silent,
    /// The peer left in its midst.
    #[error("the connection ended within its PROXY protocol header")]
    Cut,
    /// The peer took longer than [`limits::PROXY_HEADER_TIME`].
    #[error("the PROXY protocol header did not come in time")]
    TooSlow,
    /// Its bytes are no header.
    #[error("no PROXY protocol header")]
    Malformed(#[source] Malformed),
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
}

/// Reads a header, and not a byte behind it. `None`: the peer speaks for itself (a health check), or for
/// a client without an address.
///
/// # Errors
/// There is none that can be read: the connection must not be used.
///
/// # Cancel safety
/// The bytes read are lost.
pub async fn read<R>(io: &mut R) -> Result<Option<IpAddr>, HeaderError>
where
    R: AsyncRead + Unpin,
{
    let reading = tokio::time::timeout(limits::PROXY_HEADER_TIME, read_whole(io));
    reading.await.unwrap_or(Err(HeaderError::TooSlow))
}

async fn read_whole<R>(io: &mut R) -> Result<Option<IpAddr>, HeaderError>
where
    R: AsyncRead + Unpin,
{
    let mut bytes = Vec::new();
    loop {
        let more = match parse(&bytes).map_err(HeaderError::Malformed)? {
            Parsed::Whole(client) => return Ok(client.map(|address| address.to_canonical())),
            Parsed::Needs(more) => u64::try_from(more).unwrap_or(u64::MAX),
        };
        let read = (&mut *io).take(more).read_buf(&mut bytes).await;
        match read.map_err(HeaderError::Io)? {
            0 if bytes.is_empty() => return Err(HeaderError::Silent),
            0 => return Err(HeaderError::Cut),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const HEADER: &[u8] = b"PROXY TCP6 ::ffff:192.0.2.1 ::1 4711 443\r\n";

    #[tokio::test]
    async fn what_follows_is_left_alone() {
        let (mut client, mut server) = tokio::io::duplex(1024);
        client.write_all(HEADER).await.unwrap();
        client.write_all(b"\x16\x03\x01").await.unwrap();
        drop(client);
        let said = read(&mut server).await.unwrap();
        assert_eq!(said, Some(IpAddr::from([192, 0, 2, 1])));
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"\x16\x03\x01");
    }

    #[tokio::test]
    async fn one_byte_at_a_time_is_a_header_too() {
        let (mut client, mut server) = tokio::io::duplex(1);
        let writing = tokio::spawn(async move {
            client.write_all(HEADER).await.unwrap();
            client
        });
        assert!(read(&mut server).await.unwrap().is_some());
        drop(writing.await.unwrap());
    }

    #[tokio::test]
    async fn an_end_is_told_from_a_cut() {
        for (sent, silent) in [(0, true), (1, false), (HEADER.len() - 1, false)] {
            let (mut client, mut server) = tokio::io::duplex(1024);
            client.write_all(&HEADER[..sent]).await.unwrap();
            drop(client);
            match read(&mut server).await.unwrap_err() {
                HeaderError::Silent => assert!(silent),
                HeaderError::Cut => assert!(!silent),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rule_11_a_slow_header_is_given_up() {
        for sent in [&b""[..], b"PROXY TCP4 1"] {
            let (mut client, mut server) = tokio::io::duplex(1024);
            client.write_all(sent).await.unwrap();
            let start = tokio::time::Instant::now();
            let error = read(&mut server).await.unwrap_err();
            assert!(matches!(error, HeaderError::TooSlow), "{error:?}");
            assert_eq!(start.elapsed(), limits::PROXY_HEADER_TIME);
        }
    }
}
