//! A stream that ends when what allows it ends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A stream, until it is not allowed any more: then reads and writes fail, as for one whose agent is lost.
pub(crate) struct WhileAllowed<S> {
    /// `None` once it is not allowed: dropping it resets it.
    stream: Option<S>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S: Unpin> WhileAllowed<S> {
    pub(crate) fn new(stream: S, allowed: CancellationToken) -> Self {
        Self {
            stream: Some(stream),
            ended: Box::pin(allowed.cancelled_owned()),
        }
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Result<Pin<&mut S>, io::Error> {
        if self.stream.is_some() && self.ended.as_mut().poll(cx).is_ready() {
            self.stream = None;
        }
        let stream = self.stream.as_mut().map(Pin::new);
        stream.ok_or_else(|| {
            let why = "nodes may not stand in for the cluster's agents any more";
            io::Error::new(io::ErrorKind::ConnectionReset, why)
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WhileAllowed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_stream(cx)?.poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WhileAllowed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_stream(cx)?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_stream(cx)?.poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        let stream = self.stream.as_ref();
        stream.is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_stream(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_stream(cx)?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn rule_12_a_stream_ends_with_what_allows_it() {
        let allowed = CancellationToken::new();
        let (here, mut there) = tokio::io::duplex(64);
        let mut stream = WhileAllowed::new(here, allowed.clone());
        stream.write_all(b"before").await.unwrap();
        let mut read = [0; 6];
        there.read_exact(&mut read).await.unwrap();
        // It waits for bytes, and hears of the end all the same.
        let reading = tokio::spawn(async move {
            let ended = stream.read(&mut [0; 1]).await;
            (ended, stream)
        });
        tokio::task::yield_now().await;
        allowed.cancel();
        let (ended, mut stream) = reading.await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        stream.write_all(b"after").await.unwrap_err();
        assert_eq!(there.read(&mut [0; 1]).await.unwrap(), 0);
    }
}
