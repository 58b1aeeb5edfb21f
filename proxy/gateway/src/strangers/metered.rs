//! A socket whose bytes are charged until it is known who sends them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::Standing;
use underpass_core::limits;

/// An accepted connection, below its TLS. It counts for as long as this is there, also after an upgrade, and
/// fails once it has to be closed.
#[derive(Debug)]
pub struct Metered<I> {
    io: I,
    standing: Standing,
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl<I> Metered<I> {
    /// Charges what is read from `io` to `standing`.
    pub fn new(io: I, standing: Standing) -> Self {
        let closing = standing.closing().map(Box::pin);
        Self {
            io,
            standing,
            closing,
        }
    }

    /// The connection itself. Nothing that is read of it is charged.
    pub fn get_ref(&self) -> &I {
        &self.io
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let closing = self.closing.as_mut();
        if closing.is_some_and(|closing| closing.as_mut().poll(cx).is_ready()) {
            self.closing = None;
        } else if !self.standing.is_closed() {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "it was closed to make room for others",
        ))
    }
}

impl<I> Metered<I> {
    /// A writer that waits for its peer is told as well: yamux reads nothing meanwhile.
    fn or_closed<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_pending() {
            self.poll_closed(cx)?;
        }
        polled
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Metered<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_closed(cx)?;
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let read = buf.filled().len().saturating_sub(before);
        let cost = read.saturating_mul(limits::STRANGER_BYTE);
        Poll::Ready(if self.standing.charge(cost) {
            Ok(())
        } else {
            Err(io::Error::other(
                "it has sent too much without saying who it is",
            ))
        })
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Metered<I> {
    underpass_core::pass_on!(io: is_write_vectored, poll_shutdown);

    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.or_closed(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.or_closed(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.or_closed(cx, polled)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::Strangers;

    #[tokio::test(start_paused = true)]
    async fn rule_23_a_connection_that_has_to_go_goes_while_it_writes() {
        let strangers = Strangers::default();
        let standing = strangers.enter(std::net::Ipv4Addr::LOCALHOST.into());
        let (io, _peer_that_does_not_read) = tokio::io::duplex(16);
        let mut io = Metered::new(io, standing);
        let writing = tokio::spawn(async move { io.write_all(&[0; 17]).await });
        tokio::task::yield_now().await;
        assert!(strangers.make_room());
        let written = tokio::time::timeout(Duration::from_secs(5), writing).await;
        let error = written.expect("it ends").unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
}
