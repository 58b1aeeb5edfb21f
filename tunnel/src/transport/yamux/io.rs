//! The byte stream under yamux, with additions that neither has.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{AsyncRead, AsyncWrite};

use crate::transport::heard::LastHeard;

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
            self.heard.touch();
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
    /// closed with unread bytes in it sends RST, which destroys bytes that the peer has not read:
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use futures_util::{AsyncWriteExt as _, FutureExt};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_util::compat::TokioAsyncReadCompatExt;

    const PIPE: usize = 1024;

    #[tokio::test]
    async fn a_close_reads_on_until_the_peer_has_closed() {
        let (here, mut there) = tokio::io::duplex(PIPE);
        let mut io = Io::new(here.compat(), LastHeard::new());
        there.write_all(&[7; PIPE]).await.unwrap();
        io.write_all(b"last words").await.unwrap();
        let mut close = io.close();
        assert!(
            (&mut close).now_or_never().is_none(),
            "the peer has not closed"
        );
        // There is room again: the unwanted bytes were read.
        there.write_all(&[7; PIPE]).await.unwrap();
        let mut words = Vec::new();
        there.read_to_end(&mut words).await.unwrap();
        assert_eq!(words, b"last words");
        assert!((&mut close).now_or_never().is_none(), "it still has not");
        drop(there);
        close.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn hearing_is_remembered() {
        let (here, mut there) = tokio::io::duplex(PIPE);
        let heard = LastHeard::new();
        let mut io = Io::new(here.compat(), heard.clone());
        let start = heard.get();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(heard.get(), start);
        there.write_all(b"x").await.unwrap();
        futures_util::AsyncReadExt::read(&mut io, &mut [0; 8])
            .await
            .unwrap();
        assert_eq!(heard.get(), start + Duration::from_secs(3));
    }
}
