//! An answer that breaks off behind hyper's buffers.
//!
//! Where a body fails, hyper's server over HTTP/1.1 ends its connection and forgets the bytes that it has not flushed: often all of the
//! answer, its head too. Over HTTP/2, h2 forgets what it has queued of the stream when it resets it. A client would hear of nothing but an
//! end. So a body's failure waits here until the bytes before it are sent.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
    time::Sleep,
};

use underpass_core::{
    Body, BoxError,
    body::{self, tied},
    limits,
};

/// Whether a failure has to be passed on at once, with the loss of the bytes before it.
type AtOnce = fn(&BoxError) -> bool;

/// The sender of one HTTP/1.1 connection's answers. It has the connection itself once hyper has dropped it.
#[derive(Debug)]
pub struct Sender<I>(Arc<Shared<I>>);

#[derive(Debug)]
struct Shared<I> {
    flushes: Arc<Flushes>,
    left: Mutex<Option<I>>,
}

/// The connection, for hyper.
#[derive(Debug)]
pub struct Sent<I> {
    /// `None` while it is dropped.
    io: Option<I>,
    flushes: Arc<Flushes>,
    sender: Weak<Shared<I>>,
}

/// Tells a body of the next flush.
#[derive(Debug, Default)]
struct Flushes {
    /// Of [`IDLE`], [`AWAITED`], [`CAME`].
    state: AtomicU8,
    waker: AtomicWaker,
    broken_off: AtomicBool,
}

const IDLE: u8 = 0;
const AWAITED: u8 = 1;
const CAME: u8 = 2;

impl Flushes {
    /// Waits for a flush of everything that hyper has now.
    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        let first = self
            .state
            .compare_exchange(IDLE, AWAITED, Ordering::AcqRel, Ordering::Acquire);
        match first {
            Err(CAME) => Poll::Ready(()),
            // hyper flushes after it has polled a body that is pending.
            _ => Poll::Pending,
        }
    }

    fn came(&self) {
        let awaited =
            self.state
                .compare_exchange(AWAITED, CAME, Ordering::AcqRel, Ordering::Acquire);
        if awaited.is_ok() {
            self.waker.wake();
        }
    }
}

impl<I> Sender<I> {
    /// Of a connection, which hyper gets in its place.
    pub fn new(io: I) -> (Self, Sent<I>) {
        let flushes = Arc::<Flushes>::default();
        let shared = Arc::new(Shared {
            flushes: Arc::clone(&flushes),
            left: Mutex::new(None),
        });
        let sent = Sent {
            io: Some(io),
            flushes,
            sender: Arc::downgrade(&shared),
        };
        (Self(shared), sent)
    }

    /// An answer over the connection. `framed`: its client tells an end in the middle from a proper one by HTTP, as it does where there is
    /// a length, or chunks.
    pub fn answer(
        &self,
        response: Response<Body>,
        framed: bool,
        at_once: AtOnce,
    ) -> Response<Body> {
        let flushes = Arc::clone(&self.0.flushes);
        response.map(|body| holding(body, at_once, Way::Http1 { flushes, framed }))
    }

    /// The connection, once hyper has dropped it.
    pub fn left(&self) -> Option<I> {
        self.0.left().take()
    }

    /// The same where an answer has broken off that its client can tell from a whole one. A proper close behind it, in place of a drop,
    /// lets the bytes before it arrive.
    pub fn broken_off(&self) -> Option<I> {
        let broken_off = self.0.flushes.broken_off.load(Ordering::Acquire);
        broken_off.then(|| self.left()).flatten()
    }
}

impl<I> Shared<I> {
    fn left(&self) -> MutexGuard<'_, Option<I>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer over HTTP/2.
pub fn answer_http2(response: Response<Body>, at_once: AtOnce) -> Response<Body> {
    response.map(|body| holding(body, at_once, Way::Http2(None)))
}

/// A body without bytes cannot break off.
fn holding(body: Body, at_once: AtOnce, way: Way) -> Body {
    match body.is_end_stream() {
        true => body,
        false => body::boxed(Holding {
            body,
            at_once,
            way,
            failure: None,
        }),
    }
}

/// A body whose failure waits.
struct Holding {
    body: Body,
    at_once: AtOnce,
    way: Way,
    failure: Option<Failure>,
}

struct Failure {
    error: Option<BoxError>,
    /// A client that does not read is not waited for any longer.
    stall: Pin<Box<Sleep>>,
}

/// The way to know that hyper has sent everything.
enum Way {
    Http1 {
        flushes: Arc<Flushes>,
        framed: bool,
    },
    /// h2 drops a piece when it has written it, behind everything else of the stream.
    Http2(Option<oneshot::Receiver<()>>),
}

impl Way {
    /// Ready without a piece: all is sent.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match self {
            Self::Http1 { flushes, framed } => {
                ready!(flushes.poll(cx));
                flushes.broken_off.store(*framed, Ordering::Release);
            }
            Self::Http2(Some(written)) => {
                // It sends nothing; an error is its end.
                let _ = ready!(Pin::new(written).poll(cx));
            }
            Self::Http2(written) => {
                let (piece, dropped) = oneshot::channel();
                *written = Some(dropped);
                // hyper sends an empty frame without waiting for the client's window.
                return Poll::Ready(Some(tied(Bytes::new(), piece)));
            }
        }
        Poll::Ready(None)
    }
}

impl Holding {
    fn poll_failure(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(Failure { error, stall }) = &mut self.failure else {
            return Poll::Ready(None);
        };
        if stall.as_mut().poll(cx).is_pending()
            && let Some(last) = ready!(self.way.poll_sent(cx))
        {
            return Poll::Ready(Some(Ok(Frame::data(last))));
        }
        Poll::Ready(error.take().map(Err))
    }
}

impl http_body::Body for Holding {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.failure.is_none() {
            let error = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Err(error)) if !(self.at_once)(&error) => error,
                other => return Poll::Ready(other),
            };
            let stall = tokio::time::sleep(limits::ANSWER_STALL);
            self.failure = Some(Failure {
                error: Some(error),
                stall: Box::pin(stall),
            });
        }
        self.poll_failure(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.failure.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<I> Drop for Sent<I> {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.upgrade() {
            *sender.left() = self.io.take();
        }
    }
}

/// The connection of a [`Sent`], which has it until it is dropped.
fn there<I>(io: Option<&mut I>) -> io::Result<&mut I> {
    io.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
}

impl<I: AsyncRead + Unpin> AsyncRead for Sent<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(there(self.io.as_mut())?).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Sent<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(there(self.io.as_mut())?).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(there(self.io.as_mut())?).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(I::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(there(self.io.as_mut())?).poll_flush(cx))?;
        // hyper flushes when it has handed over all it had.
        self.flushes.came();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(there(self.io.as_mut())?).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
