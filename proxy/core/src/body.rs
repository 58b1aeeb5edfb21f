//! Message bodies, and values that live exactly as long as one.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};

/// A failure inside a body. hyper turns it into an aborted connection or a reset stream.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of every message that this crate hands out: streamed, never collected.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body without bytes.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of bytes that are at hand.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// The same bytes, which keep `with` until they are gone: bytes that hyper has taken of a body and not sent yet cost memory,
/// and a client may read as slowly as it likes.
pub fn tied<T: Send + Sync + 'static>(bytes: Bytes, with: T) -> Bytes {
    Bytes::from_owner(Tied { bytes, _with: with })
}

struct Tied<T> {
    bytes: Bytes,
    _with: T,
}

impl<T> AsRef<[u8]> for Tied<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body in pieces of so many bytes at the most.
#[derive(Debug)]
pub struct Pieces<B> {
    body: B,
    most: usize,
    /// Of the last piece of `body`.
    rest: Bytes,
}

impl<B: http_body::Body<Data = Bytes> + Unpin> Pieces<B> {
    /// Splits what is larger. No byte is copied.
    pub fn new(body: B, most: usize) -> Self {
        let rest = Bytes::new();
        Self { body, most, rest }
    }
}

impl<B: http_body::Body<Data = Bytes> + Unpin> http_body::Body for Pieces<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.rest.is_empty() {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let size = self.rest.len().min(self.most);
        let piece = self.rest.split_to(size);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let hint = self.body.size_hint();
        let mut whole = SizeHint::new();
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper.saturating_add(rest));
        }
        whole.set_lower(hint.lower().saturating_add(rest));
        whole
    }
}

/// Boxes a foreign body.
pub fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// Watches over a body while it streams.
pub trait Guard: Send + Unpin + 'static {
    /// An error ends the body at once, in the middle.
    fn poll_abort(&mut self, cx: &mut Context<'_>) -> Poll<BoxError>;

    /// Pending lets the body wait: too many of its pieces are not sent yet.
    fn poll_room(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// Sees each piece of payload, and may tie something to it ([`tied`]).
    fn passed(&mut self, _data: &mut Bytes) {}

    /// Sees the trailers, and may change them.
    fn trailers(&mut self, _trailers: &mut HeaderMap) {}

    /// Ready ends the body now, as if it had come to its end. Asked between two pieces.
    fn poll_cut(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// The last bytes of a body that [`Guard::poll_abort`] ends, where it can end properly here. Without any it ends in the middle.
    fn last_words(&mut self, _why: &BoxError) -> Option<Bytes> {
        None
    }

    /// The same of a body that its sender does not bring to its end.
    fn lost(&mut self, _why: &BoxError) -> Option<Bytes> {
        None
    }

    /// The body fails: by its sender (`lost`), or by an abort.
    fn failed(&mut self, _why: &'static str) {}

    /// The body came to its proper end. A guard that is dropped without this saw an abort.
    fn finished(&mut self) {}
}

/// No condition.
impl Guard for () {
    fn poll_abort(&mut self, _: &mut Context<'_>) -> Poll<BoxError> {
        Poll::Pending
    }
}

/// A body and its guard, which is dropped with it.
pub struct Guarded<B, G: Guard> {
    body: B,
    guard: G,
    finished: bool,
    cut: bool,
}

impl<B, G> Guarded<B, G>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    G: Guard,
{
    /// Puts the guard over the body. A guard of a body without a piece is told at once that it came to its end.
    pub fn new(body: B, guard: G) -> Self {
        let (finished, cut) = (false, false);
        let mut guarded = Self {
            body,
            guard,
            finished,
            cut,
        };
        // hyper does not poll a body that says it has ended.
        if guarded.body.is_end_stream() {
            guarded.finish();
        }
        guarded
    }

    fn abort(&mut self, error: BoxError) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let last = self.guard.last_words(&error);
        self.cut(error, last)
    }

    /// The body's end is proper where there are last words.
    fn cut(
        &mut self,
        error: BoxError,
        last: Option<Bytes>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(last) = last else {
            return Poll::Ready(Some(Err(error)));
        };
        self.cut = true;
        Poll::Ready((!last.is_empty()).then(|| Ok(Frame::data(last))))
    }

    fn finish(&mut self) {
        if !self.finished {
            self.finished = true;
            self.guard.finished();
        }
    }
}

impl<B, G> http_body::Body for Guarded<B, G>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
    G: Guard,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if !this.finished
            && !this.cut
            && let Poll::Ready(error) = this.guard.poll_abort(cx)
        {
            return this.abort(error);
        }
        if this.cut || (!this.finished && this.guard.poll_cut(cx).is_ready()) {
            this.cut = true;
            return Poll::Ready(None);
        }
        if !this.finished {
            ready!(this.guard.poll_room(cx));
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let mut polled = polled.map_err(Into::into);
        match &mut polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    this.guard.trailers(trailers);
                }
                if let Some(data) = frame.data_mut() {
                    this.guard.passed(data);
                }
                if this.body.is_end_stream() {
                    this.finish();
                }
            }
            Poll::Ready(None) => this.finish(),
            Poll::Ready(Some(Err(_))) if !this.finished => {
                // A revocation may end the body's sender at the same moment.
                if let Poll::Ready(error) = this.guard.poll_abort(cx) {
                    return this.abort(error);
                }
                this.guard.failed("lost");
                if let Poll::Ready(Some(Err(error))) = polled {
                    let last = this.guard.lost(&error);
                    return this.cut(error, last);
                }
            }
            Poll::Ready(Some(Err(_))) => this.guard.failed("lost"),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.cut || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
