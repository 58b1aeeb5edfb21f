//! An answer that comes before all of the request was taken.
//!
//! A server may answer a request before its end, and read no more of it (RFC 9112, section 9.6). Writing the rest then fails, often
//! before the answer was read. hyper's client ends its connection with that failure, and the answer is lost.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

/// A connection to an HTTP/1.1 server whose answer is read also where the server takes no more of the request.
///
/// From then on nothing is written, and a writer waits: the answer decides how the exchange ends. Such a connection must not carry
/// an upgraded stream.
#[derive(Debug)]
pub struct EarlyAnswer<I> {
    io: I,
    stopped: Stopped,
}

/// Whether the server takes no more. Clones are of one connection.
#[derive(Clone, Debug, Default)]
pub struct Stopped(CancellationToken);

impl Stopped {
    /// The rest of the request goes nowhere: nothing is to be waited for once the answer is complete.
    pub fn is_set(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until the server takes no more.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn set(&self) {
        self.0.cancelled().await;
    }
}

impl<I> EarlyAnswer<I> {
    /// Wraps a connection.
    pub fn new(io: I) -> (Self, Stopped) {
        let stopped = Stopped::default();
        let this = Self {
            io,
            stopped: stopped.clone(),
        };
        (this, stopped)
    }

    fn written<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(Err(error)) if is_stop(&error) => {
                self.stopped.0.cancel();
                Poll::Pending
            }
            other => other,
        }
    }
}

/// The peer reads no more, or its system has reset the connection for want of a reader.
fn is_stop(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

impl<I: AsyncRead + Unpin> AsyncRead for EarlyAnswer<I> {
    underpass_core::pass_on!(io: poll_read);
}

impl<I: AsyncWrite + Unpin> AsyncWrite for EarlyAnswer<I> {
    underpass_core::pass_on!(io: is_write_vectored);

    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.stopped.is_set() {
            // Reading wakes the connection.
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.written(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.stopped.is_set() {
            return Poll::Pending;
        }
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.written(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.stopped.is_set() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.stopped.is_set() {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.written(written)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{Request, StatusCode};
    use http_body_util::{BodyExt, Full};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::{ExchangeError, send};

    const LARGE: usize = 10 * 1024 * 1024;

    fn put() -> Request<Full<bytes::Bytes>> {
        let put = Request::put("/").header("host", "x");
        put.body(Full::new(vec![b'x'; LARGE].into())).unwrap()
    }

    /// Reads a little of the request, says `answer`, and reads no more.
    async fn refuse(mut io: tokio::io::DuplexStream, answer: &[u8]) {
        io.read_u8().await.unwrap();
        io.write_all(answer).await.unwrap();
        io.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn an_answer_before_the_requests_end_arrives() {
        let body = "x".repeat(8 * 1024);
        let answer = format!(
            "HTTP/1.1 413 Payload Too Large\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (near, far) = tokio::io::duplex(16 * 1024);
        let serving = tokio::spawn(async move { refuse(far, answer.as_bytes()).await });
        let (response, _exchange) = send(near, put()).await.unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let got = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(got, body.as_bytes());
        serving.await.unwrap();
    }

    /// The rest of the request is let go of together with the answer.
    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_not_kept() {
        let (near, far) = tokio::io::duplex(16 * 1024);
        let answer = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
        tokio::spawn(async move { refuse(far, answer).await });
        let (kept, mut gone) = tokio::sync::mpsc::channel::<()>(1);
        let body = underpass_core::body::Guarded::new(put().into_body(), Kept(kept));
        let (response, mut exchange) = send(near, put().map(|_| body)).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let begun = tokio::time::Instant::now();
        exchange.finish();
        assert_eq!(gone.recv().await, None);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    struct Kept(
        #[allow(dead_code, reason = "dropped with the body")] tokio::sync::mpsc::Sender<()>,
    );

    impl underpass_core::body::Guard for Kept {
        fn poll_abort(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<underpass_core::BoxError> {
            std::task::Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_server_that_only_goes_away_is_lost() {
        let (near, far) = tokio::io::duplex(16 * 1024);
        tokio::spawn(async move { refuse(far, b"").await });
        let error = send(near, put()).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, ExchangeError::Lost(_)), "{error:?}");
    }
}
