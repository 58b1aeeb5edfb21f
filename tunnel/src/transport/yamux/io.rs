//! The byte stream under yamux, with what neither of them does.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::{AsyncRead, AsyncWrite};

use crate::session::now;

/// When bytes last came from the peer.
#[derive(Debug, Clone)]
pub(super) struct LastHeard {
    start: Instant,
    /// Milliseconds after `start`.
    at: Arc<AtomicU64>,
}

impl LastHeard {
    pub(super) fn new() -> Self {
        Self {
            start: now(),
            at: Arc::default(),
        }
    }

    pub(super) fn get(&self) -> Instant {
        self.start + Duration::from_millis(self.at.load(Ordering::Relaxed))
    }

    fn now(&self) {
        let passed = u64::try_from(now().saturating_duration_since(self.start).as_millis())
            .unwrap_or(u64::MAX);
        self.at.store(passed, Ordering::Relaxed);
    }
}

/// Notes when the peer was heard, and closes so that the peer can read everything that was sent.
pub(super) struct Io<T> {
    inner: T,
    heard: LastHeard,
    closed: bool,
}

impl<T> Io<T> {
    pub(super) fn new(inner: T, heard: LastHeard) -> Self {
        Self {
            inner,
            heard,
            closed: false,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Io<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        if result.is_ok() {
            self.heard.now();
        }
        Poll::Ready(result)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Io<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    /// Ends the writing direction, then reads until the peer has ended the other. A socket that is
    /// closed with unread bytes in it sends RST, which takes from the peer what it has not read:
    /// the reason of the close before all (RFC 9112, section 9.6).
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            ready!(Pin::new(&mut self.inner).poll_close(cx))?;
            self.closed = true;
        }
        let mut discarded = [0; 4096];
        while ready!(Pin::new(&mut self.inner).poll_read(cx, &mut discarded))? > 0 {}
        Poll::Ready(Ok(()))
    }
}
