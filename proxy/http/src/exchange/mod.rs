//! One HTTP/1.1 request on one byte stream: how the server's half speaks to an agent and to a service, and how the agent
//! speaks to an API server when it upgrades. [`send_http2`] is the same over HTTP/2, for services.

mod early;
mod framing;
mod heading;
mod http2;
mod whole;

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

use self::heading::Heading;
pub use self::{
    early::{EarlyAnswer, Stopped},
    framing::{announce_chunks, chunk_before_trailers},
    http2::send_http2,
    whole::Whole,
};
use crate::scheduling::{inline::Inline, on_wake::Condition};
use underpass_core::{BoxError, body::Guard, limits};

/// Why an exchange brought no response.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
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
    /// The caller's own body is not framed as it has to be, or has broken off. Something may have been done.
    #[error("the request's body failed")]
    Body(#[source] hyper::Error),
    /// The stream ended or failed before the response's head. Something may have been done.
    #[error("the stream was lost before the answer")]
    Lost(#[source] hyper::Error),
}

impl From<hyper::Error> for ExchangeError {
    fn from(error: hyper::Error) -> Self {
        if error.is_parse() {
            return Self::Malformed(error);
        }
        if is_of_the_body(&error) {
            return Self::Body(error);
        }
        match io_kind(&error) {
            Some(io::ErrorKind::InvalidData) => Self::Malformed(error),
            Some(io::ErrorKind::NotConnected) => Self::NotTaken(error),
            Some(io::ErrorKind::ConnectionRefused) => Self::Declined(error),
            _ => Self::Lost(error),
        }
    }
}

impl ExchangeError {
    /// Whether it was the stream itself that has failed, with what carries it, and nothing that the other end has done: by another way
    /// there may be an answer.
    pub fn is_of_the_way(&self) -> bool {
        let (Self::NotTaken(error) | Self::Lost(error)) = self else {
            return false;
        };
        let over_http2 = || {
            let source = std::error::Error::source(error)?;
            let error = source.downcast_ref::<h2::Error>()?;
            error.get_io().map(io::Error::kind)
        };
        io_kind(error)
            .or_else(over_http2)
            .is_some_and(is_of_the_way)
    }
}

/// The same of the kind of a stream's own error: nobody has taken it, or its session is over. One that the other end has reset is of
/// another kind.
pub fn is_of_the_way(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::NotConnected | io::ErrorKind::ConnectionAborted
    )
}

/// The request's body has failed where it was read: another reason to end it, such as a right that was taken back, is no error of
/// hyper's.
fn is_of_the_body(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    error.is_user() && source.is_some_and(|source| source.is::<hyper::Error>())
}

/// The stream's own error, if the stream failed.
fn io_kind(error: &hyper::Error) -> Option<io::ErrorKind> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<io::Error>().map(io::Error::kind)
}

/// Moves an exchange's bytes. Dropping it drops the stream at once, so that the other end learns it; after [`Exchange::finish`]
/// it closes the stream in an orderly way.
pub struct Exchange {
    driver: Option<Driver>,
    stopped: Stopped,
    kept: Option<Kept>,
}

/// Dropped when the bytes no longer move.
type Kept = Box<dyn Send + Sync>;

enum Driver {
    /// The reader of the answer.
    Inline(Inline),
    /// A task: an upgraded stream, or a request's body, moves also without a reader.
    Task(AbortOnDropHandle<()>),
}

impl Driver {
    fn inline(&self) -> Option<Inline> {
        match self {
            Self::Inline(inline) => Some(inline.clone()),
            Self::Task(_) => None,
        }
    }
}

impl Exchange {
    /// Keeps a value for as long as the exchange has its stream: an upload may go on after the end of its answer.
    pub fn keep(&mut self, kept: impl Send + Sync + 'static) {
        self.kept = Some(Box::new(kept));
    }

    /// Lets the stream close by itself, within a grace period.
    pub fn finish(&mut self) {
        let kept = self.kept.take();
        match self.driver.take() {
            None => {}
            Some(Driver::Inline(inline)) => inline.finish(kept),
            // The rest of the request goes nowhere.
            Some(Driver::Task(_)) if self.stopped.is_set() => {}
            Some(Driver::Task(mut task)) => {
                let stopped = self.stopped.clone();
                tokio::spawn(async move {
                    let _kept = kept;
                    tokio::select! {
                        _ = tokio::time::timeout(limits::SHUTDOWN_GRACE, &mut task) => {}
                        () = stopped.set() => {}
                    }
                });
            }
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(Driver::Inline(inline)) = &self.driver {
            inline.abort();
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

/// The body of an exchange's answer.
pub struct Answered {
    incoming: Incoming,
    inline: Option<Inline>,
}

impl Body for Answered {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self { incoming, inline } = &mut *self;
        poll_driven(inline.as_ref(), cx, |cx| {
            Pin::new(&mut *incoming).poll_frame(cx)
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// hyper's client, with limits as wide as kube-apiserver's.
pub fn client() -> http1::Builder {
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
pub async fn send<I, B>(
    io: I,
    mut request: Request<B>,
) -> Result<(Response<Answered>, Exchange), ExchangeError>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    announce_chunks(&mut request);
    let (io, head) = Heading::new(io);
    let has_body = !request.body().is_end_stream();
    let upgrades = request.headers().contains_key(header::UPGRADE);
    let mut stopped = Stopped::default();
    let (mut sender, driver) = if has_body && !upgrades {
        let (io, early) = EarlyAnswer::new(io);
        stopped = early;
        connect(io, true).await?
    } else {
        connect(io, upgrades).await?
    };
    let inline = driver.inline();
    let exchange = Exchange {
        driver: Some(driver),
        stopped,
        kept: None,
    };
    let mut sending = pin!(sender.send_request(request));
    let response = poll_fn(|cx| poll_driven(inline.as_ref(), cx, |cx| sending.as_mut().poll(cx)));
    let response = response.await?;
    head.has_come();
    Ok((
        response.map(|incoming| Answered { incoming, inline }),
        exchange,
    ))
}

/// Speaks HTTP/1.1 on `io`, in a task of its own where it `moves_by_itself`.
async fn connect<I, B>(
    io: I,
    moves_by_itself: bool,
) -> hyper::Result<(http1::SendRequest<B>, Driver)>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (sender, connection) = client().handshake(TokioIo::new(io)).await?;
    let work = async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "exchange ended early"
            );
        }
    };
    let driver = match moves_by_itself {
        true => Driver::Task(AbortOnDropHandle::new(tokio::spawn(work))),
        false => Driver::Inline(Inline::new(work)),
    };
    Ok((sender, driver))
}

/// Polls `wanted`, and moves a connection that runs in the caller's task.
fn poll_driven<T>(
    inline: Option<&Inline>,
    cx: &mut Context<'_>,
    mut wanted: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    match inline {
        Some(inline) => inline.poll(cx, wanted),
        None => wanted(cx),
    }
}

/// Adds an abort condition to another guard.
pub struct Until<G> {
    inner: G,
    why: &'static str,
    /// None that is never met.
    condition: Option<Condition<BoxError>>,
}

impl<G: Guard> Until<G> {
    /// `why` names the condition for the log.
    pub fn new<F>(inner: G, why: &'static str, condition: F) -> Self
    where
        F: Future<Output = BoxError> + Send + 'static,
    {
        Self {
            inner,
            why,
            condition: Some(Condition::boxed(condition)),
        }
    }

    /// No condition, for a body that ends where it begins: nothing is allocated.
    pub fn never(inner: G) -> Self {
        Self {
            inner,
            why: "never",
            condition: None,
        }
    }
}

impl<G: Guard> Guard for Until<G> {
    fn poll_abort(&mut self, cx: &mut Context<'_>) -> Poll<BoxError> {
        if let Poll::Ready(error) = self.inner.poll_abort(cx) {
            return Poll::Ready(error);
        }
        let Some(condition) = &mut self.condition else {
            return Poll::Pending;
        };
        let error = ready!(condition.poll(cx));
        self.inner.failed(self.why);
        Poll::Ready(error)
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.poll_room(cx)
    }

    fn passed(&mut self, data: &mut Bytes) {
        self.inner.passed(data);
    }

    fn trailers(&mut self, trailers: &mut HeaderMap) {
        self.inner.trailers(trailers);
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.poll_cut(cx)
    }

    fn last_words(&mut self, why: &BoxError) -> Option<Bytes> {
        self.inner.last_words(why)
    }

    fn lost(&mut self, why: &BoxError) -> Option<Bytes> {
        self.inner.lost(why)
    }

    fn failed(&mut self, why: &'static str) {
        self.inner.failed(why);
    }

    fn finished(&mut self) {
        self.inner.finished();
    }
}
