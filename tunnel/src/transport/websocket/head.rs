//! Keeps tungstenite from reading beyond the response's head.
//!
//! It reads as much as there is, and does not give out the bytes behind the head: the server's first
//! frames. So a good head ends a read, and the bytes behind it are held back.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const END: &[u8] = b"\r\n\r\n";

/// The beginning of a response that upgrades. The body of any other is for the user's eyes.
const UPGRADES: &[u8] = b"HTTP/1.1 101";

/// A connection on which a response is awaited.
pub(super) struct Head<S> {
    io: S,
    /// The response's beginning, as far as it matters.
    begin: Vec<u8>,
    /// How much of `END` the last bytes are.
    ending: usize,
    /// The head is over.
    over: bool,
    /// Bytes behind it.
    behind: BytesMut,
}

impl<S> Head<S> {
    pub(super) fn new(io: S) -> Self {
        Self {
            io,
            begin: Vec::new(),
            ending: 0,
            over: false,
            behind: BytesMut::new(),
        }
    }

    /// The connection, and the bytes held back.
    pub(super) fn into_parts(self) -> (S, Bytes) {
        (self.io, self.behind.freeze())
    }

    /// How many of the bytes that were just read belong to the head.
    fn advance(&mut self, read: &[u8]) -> usize {
        for (index, byte) in read.iter().enumerate() {
            if self.begin.len() < UPGRADES.len() {
                self.begin.push(*byte);
            }
            self.ending = match END.get(self.ending) {
                Some(expected) if expected == byte => self.ending + 1,
                _ => usize::from(*byte == b'\r'),
            };
            if self.ending == END.len() {
                self.over = true;
                return if self.begin == UPGRADES {
                    index + 1
                } else {
                    read.len()
                };
            }
        }
        read.len()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Head<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.over && !self.behind.is_empty() {
            let len = self.behind.len().min(buf.remaining());
            buf.put_slice(&self.behind.split_to(len));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if !self.over {
            let read = buf.filled().get(before..).unwrap_or_default();
            let head = self.advance(read);
            self.behind
                .extend_from_slice(read.get(head..).unwrap_or_default());
            buf.set_filled(before + head);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Head<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn read(pieces: &[&[u8]]) -> (Vec<u8>, Bytes) {
        let (here, mut there) = tokio::io::duplex(1024);
        let mut head = Head::new(here);
        let mut seen = Vec::new();
        for piece in pieces {
            there.write_all(piece).await.unwrap();
            head.read_buf(&mut seen).await.unwrap();
        }
        (seen, head.into_parts().1)
    }

    #[tokio::test]
    async fn what_stands_behind_an_upgrade_is_held_back() {
        let good: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nA: \r\r\n\r\n";
        for cut in 1..good.len() {
            let (first, second) = good.split_at(cut);
            let second = [second, b"frames"].concat();
            let (seen, behind) = read(&[first, &second]).await;
            assert_eq!(
                (&seen[..], &behind[..]),
                (good, &b"frames"[..]),
                "cut at {cut}"
            );
        }
    }

    #[tokio::test]
    async fn the_body_of_a_refusal_is_not() {
        let refusal = b"HTTP/1.1 403 Forbidden\r\n\r\nno\r\n\r\n!";
        assert_eq!(read(&[refusal]).await, (refusal.to_vec(), Bytes::new()));
    }
}
