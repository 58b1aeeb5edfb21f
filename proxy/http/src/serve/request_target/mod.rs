//! Request targets with bytes that RFC 3986 forbids and Go's servers take, as in `?query=up{job="a"}>0`.
//!
//! The `http` crate refuses them. Then hyper answers 400 without a body over HTTP/1.1, and `h2` resets the stream, before anybody
//! sees the request. So they are percent-encoded before hyper reads them, in a request line ([`http1`]) or in the value of `:path`
//! ([`http2`]). No byte that delimits anything is among them, neither of a line nor of a target, so that a proxy in front reads
//! the same requests (security rule 3). Where it is not certain that a byte belongs to a target, nothing is changed.

mod hpack;
mod http1;
mod http2;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(super) use http1::Place;
pub use http2::Heads;

/// A part of a request target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Nothing of the target has come.
    Start,
    Path,
    Query,
    /// Neither: an authority.
    Other,
}

impl Part {
    /// The part to which the byte behind `byte` belongs.
    fn behind(self, byte: u8) -> Self {
        match (self, byte) {
            (_, b'?') => Self::Query,
            (Self::Start, b'/') => Self::Path,
            (Self::Start, _) => Self::Other,
            (part, _) => part,
        }
    }

    /// The percent-encoding of a byte that Go's servers take in this part, and the `http` crate does not.
    fn encodes(self, byte: u8) -> Option<[u8; 3]> {
        let forbidden = match self {
            Self::Start | Self::Other => false,
            Self::Path => matches!(byte, b'<' | b'>' | b'`' | 0x80..),
            Self::Query => matches!(byte, b'"' | b'<' | b'>' | 0x80..),
        };
        forbidden.then(|| [b'%', digit(byte >> 4), digit(byte & 0xf)])
    }
}

fn digit(value: u8) -> u8 {
    match value {
        0..10 => b'0'.wrapping_add(value),
        _ => b'A'.wrapping_add(value).wrapping_sub(10),
    }
}

/// The bytes of a connection as they come.
pub(super) trait Encode {
    /// Follows the bytes that came. Gives those that are to be read in their place, where these are others.
    fn came(&mut self, bytes: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// The connection has ended. Gives the bytes that were kept back.
    fn ended(&mut self) -> Vec<u8> {
        Vec::new()
    }
}

/// A connection whose targets hyper can read.
#[derive(Debug)]
pub(super) struct Targets<I, E> {
    io: I,
    encode: E,
    /// Bytes to be read that found no room.
    rest: Bytes,
}

impl<I, E> Targets<I, E> {
    pub(super) fn new(io: I, encode: E) -> Self {
        Self {
            io,
            encode,
            rest: Bytes::new(),
        }
    }
}

impl<I: AsyncRead + Unpin, E: Encode + Unpin> AsyncRead for Targets<I, E> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        while self.rest.is_empty() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
            let came = buf.filled().get(before..).unwrap_or_default();
            if came.is_empty() {
                self.rest = self.encode.ended().into();
                break;
            }
            let Some(others) = self.encode.came(came)? else {
                return Poll::Ready(Ok(()));
            };
            buf.set_filled(before);
            self.rest = others.into();
        }
        let room = buf.remaining().min(self.rest.len());
        buf.put_slice(&self.rest.split_to(room));
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin, E: Unpin> AsyncWrite for Targets<I, E> {
    underpass_core::pass_on!(io: poll_write, poll_write_vectored, is_write_vectored, poll_flush, poll_shutdown);
}

/// Bytes that are given in the place of others: as they are, but for some.
#[derive(Debug, Default)]
struct Others {
    bytes: Vec<u8>,
    /// Of the bytes that came, those that are in `bytes`, as they are or replaced.
    copied: usize,
}

impl Others {
    /// The bytes of `came` in `range` are given as `by`.
    fn replace(&mut self, came: &[u8], range: std::ops::Range<usize>, by: &[u8]) {
        let as_they_are = came.get(self.copied..range.start).unwrap_or_default();
        self.bytes.extend_from_slice(as_they_are);
        self.bytes.extend_from_slice(by);
        self.copied = range.end;
    }

    fn is_untouched(&self) -> bool {
        self.copied == 0
    }

    /// The bytes in the place of `came`.
    fn finish(mut self, came: &[u8]) -> Vec<u8> {
        let as_they_are = came.get(self.copied..).unwrap_or_default();
        self.bytes.extend_from_slice(as_they_are);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_its_own_forbidden_bytes() {
        for byte in 0..=u8::MAX {
            let text = String::from_utf8(vec![byte]);
            let parses = |prefix: &str| match &text {
                Ok(text) => format!("{prefix}{text}")
                    .parse::<http::uri::PathAndQuery>()
                    .is_ok(),
                Err(_) => false,
            };
            // Control characters are refused by Go as well, and a space ends a request line.
            let go_takes = byte > b' ' && byte != 0x7f;
            let expected = |parses: bool| go_takes && !parses;
            assert_eq!(
                Part::Path.encodes(byte).is_some(),
                expected(parses("/")),
                "{byte:#x}"
            );
            assert_eq!(
                Part::Query.encodes(byte).is_some(),
                expected(parses("/?")),
                "{byte:#x}"
            );
            assert_eq!(Part::Other.encodes(byte), None);
        }
        assert_eq!(Part::Query.encodes(b'>'), Some(*b"%3E"));
        assert_eq!(Part::Path.encodes(0xff), Some(*b"%FF"));
    }

    #[test]
    fn what_is_not_replaced_stays_in_its_place() {
        let mut others = Others::default();
        assert!(others.is_untouched());
        others.replace(b"abcdef", 1..2, b"BB");
        others.replace(b"abcdef", 4..5, b"");
        assert_eq!(others.finish(b"abcdef"), b"aBBcdf");
    }
}
