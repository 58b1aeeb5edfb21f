//! The end of connections that still have requests when a server's drain is over.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection that is told to end by an end of its client's bytes, which hyper takes for the client's own. An HTTP/2 connection
/// says what it has to say then, and closes: its client has had a GOAWAY, and says that the server has closed the connection. A
/// reset of each stream would say nothing of the reason.
#[derive(Debug)]
pub(super) struct Cuttable<I> {
    io: I,
    cut: Arc<AtomicBool>,
}

impl<I> Cuttable<I> {
    /// `cut` is set before the connection is polled again.
    pub(super) fn new(io: I, cut: Arc<AtomicBool>) -> Self {
        Self { io, cut }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Cuttable<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.cut.load(Ordering::Acquire) {
            true => Poll::Ready(Ok(())),
            false => Pin::new(&mut self.io).poll_read(cx, buf),
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Cuttable<I> {
    underpass_core::pass_on!(io: poll_write, poll_write_vectored, is_write_vectored, poll_flush, poll_shutdown);
}
