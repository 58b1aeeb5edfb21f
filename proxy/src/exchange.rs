//! One HTTP/1.1 request on one byte stream: how the server's half speaks to an agent, and how the agent
//! speaks to an API server when it upgrades.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

use crate::{BoxError, body::Guard, limits};

/// Why an exchange brought no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// The peer sent something that is no HTTP response.
    #[error("the answer is not valid HTTP/1.1")]
    Malformed(#[source] hyper::Error),
    /// The other side did not say that it takes the stream. Most likely it is gone, and did nothing; its word
    /// may also be late.
    #[error("nobody took the stream")]
    NotTaken(#[source] hyper::Error),
    /// The other side declined the stream: nothing was done.
    #[error("the stream was declined")]
    Declined(#[source] hyper::Error),
    /// The stream ended or failed before the response's head. Something may have been done.
    #[error("the stream was lost before the answer")]
    Lost(#[source] hyper::Error),
}

impl From<hyper::Error> for ExchangeError {
    fn from(error: hyper::Error) -> Self {
        if error.is_parse() {
            return Self::Malformed(error);
        }
        match io_kind(&error) {
            Some(io::ErrorKind::NotConnected) => Self::NotTaken(error),
            Some(io::ErrorKind::ConnectionRefused) => Self::Declined(error),
            _ => Self::Lost(error),
        }
    }
}

/// What the stream itself said, where it was the stream that failed.
fn io_kind(error: &hyper::Error) -> Option<io::ErrorKind> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<io::Error>().map(io::Error::kind)
}

/// The task that moves an exchange's bytes. Dropping it drops the stream at once, so that whoever waits
/// at the other end learns it; after [`Exchange::finish`] it closes the stream in an orderly way.
#[derive(Debug)]
pub(crate) struct Exchange {
    driver: Option<AbortOnDropHandle<()>>,
}

impl Exchange {
    /// Lets the stream close by itself, within a grace period.
    pub(crate) fn finish(&mut self) {
        if let Some(driver) = self.driver.take() {
            let mut driver = driver;
            tokio::spawn(async move {
                let _ = tokio::time::timeout(limits::SHUTDOWN_GRACE, &mut driver).await;
            });
        }
    }
}

impl Guard for Exchange {
    fn poll_abort(&mut self, _cx: &mut Context<'_>) -> Poll<BoxError> {
        Poll::Pending
    }

    fn finished(&mut self) {
        self.finish();
    }
}

/// hyper's client, with limits as wide as kube-apiserver's.
pub(crate) fn client() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_headers(limits::HEADER_COUNT)
        .max_header_size(limits::HEADER_BYTES)
        .max_buf_size(limits::HTTP1_BUFFER_BYTES);
    builder
}

/// Sends `request` on `io` and waits for the response's head.
///
/// # Cancel safety
/// Dropping the future drops `io`.
pub(crate) async fn send<I, B>(
    io: I,
    request: Request<B>,
) -> Result<(Response<Incoming>, Exchange), ExchangeError>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (mut sender, connection) = client().handshake(TokioIo::new(io)).await?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "exchange ended early"
            );
        }
    });
    let driver = Some(AbortOnDropHandle::new(driver));
    let response = sender.send_request(request).await?;
    Ok((response, Exchange { driver }))
}

/// Adds an abort condition to another guard.
pub(crate) struct Until<G> {
    inner: G,
    why: &'static str,
    condition: Pin<Box<dyn Future<Output = BoxError> + Send>>,
}

impl<G: Guard> Until<G> {
    /// `why` names the condition for the log.
    pub(crate) fn new<F>(inner: G, why: &'static str, condition: F) -> Self
    where
        F: Future<Output = BoxError> + Send + 'static,
    {
        Self {
            inner,
            why,
            condition: Box::pin(condition),
        }
    }
}

impl<G: Guard> Guard for Until<G> {
    fn poll_abort(&mut self, cx: &mut Context<'_>) -> Poll<BoxError> {
        if let Poll::Ready(error) = self.inner.poll_abort(cx) {
            return Poll::Ready(error);
        }
        let error = ready!(self.condition.as_mut().poll(cx));
        self.inner.failed(self.why);
        Poll::Ready(error)
    }

    fn passed(&mut self, data: &Bytes) {
        self.inner.passed(data);
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.poll_cut(cx)
    }

    fn failed(&mut self, why: &'static str) {
        self.inner.failed(why);
    }

    fn finished(&mut self) {
        self.inner.finished();
    }
}
