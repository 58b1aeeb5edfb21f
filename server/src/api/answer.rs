//! Answers while they are sent (security rule 23). A client may read as slowly as it likes, or not at all. An answer has a place
//! of its user's ([`Seat`]) until all of it is sent, in pieces: hyper gets the next piece when the last one is gone, and the end
//! when all are. So the answer can be cut off when its time is over, and little of it waits in hyper or in h2.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http::Response;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use metrics::counter;
use thiserror::Error;
use tokio::task::AbortHandle;
use underpass_core::body::tied;
use underpass_core::{Body, BoxError};

use super::share::Seat;
use crate::limits;

/// Marks an answer whose body is read as it is sent, and gives up where its client takes nothing for [`limits::API_ANSWER_TIME`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Streamed;

/// The body of an answer that takes a place.
struct Answer {
    sending: Sending,
    end: AbortHandle,
}

/// An answer that is being sent.
#[derive(Clone)]
struct Sending(Arc<Mutex<State>>);

struct State {
    /// Bytes that hyper has not asked for yet.
    rest: Bytes,
    /// A piece that hyper has and has not sent.
    has_piece: bool,
    is_over: bool,
    /// `None` when all is sent.
    place: Option<Seat>,
    /// Waits for the piece to be sent.
    waker: Option<Waker>,
}

/// Exists while hyper has the piece.
struct Piece(Sending);

impl Sending {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more is sent of it. A piece that is with hyper keeps the place.
    fn end(&self) -> bool {
        let mut state = self.lock();
        let was_whole = state.is_over || (state.rest.is_empty() && !state.has_piece);
        state.is_over = true;
        state.rest = Bytes::new();
        let place = (!state.has_piece).then(|| state.place.take());
        let waker = state.waker.take();
        drop(state);
        drop(place);
        if let Some(waker) = waker {
            waker.wake();
        }
        !was_whole
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.has_piece = false;
        let place = state.is_over.then(|| state.place.take());
        let waker = state.waker.take();
        drop(state);
        drop(place);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[derive(Debug, Error)]
#[error("the answer was not read within {} seconds", limits::API_ANSWER_TIME.as_secs())]
struct Unread;

/// Lets a response keep its place until all of it is sent, or its time is over. The operator's answers have none, and no
/// bound. A reader in this process takes each piece before it asks for the next one.
pub(super) async fn hold(response: Response<Body>, place: Option<Seat>) -> Response<Body> {
    let (head, body) = response.into_parts();
    if head.extensions.get::<Streamed>().is_some() {
        // It sees to its own time, and has little in memory.
        let body = body.map_frame(move |frame| {
            let _kept = &place;
            frame
        });
        return Response::from_parts(head, body.boxed_unsync());
    }
    // It is in memory already: no other handler streams.
    let bytes = match body.collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) => {
            tracing::error!("an answer of the API fails: {error}");
            Bytes::new()
        }
    };
    let Some(place) = place.filter(|_| !bytes.is_empty()) else {
        return Response::from_parts(head, underpass_core::full(bytes));
    };
    let sending = Sending(Arc::new(Mutex::new(State {
        rest: bytes,
        has_piece: false,
        is_over: false,
        place: Some(place),
        waker: None,
    })));
    let timed = sending.clone();
    let end = tokio::spawn(async move {
        tokio::time::sleep(limits::API_ANSWER_TIME).await;
        if timed.end() {
            counter!("underpass_api_turned_away_total", "for" => "unread").increment(1);
        }
    });
    let end = end.abort_handle();
    Response::from_parts(head, Answer { sending, end }.boxed_unsync())
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut state = self.sending.lock();
        if state.is_over {
            return Poll::Ready(Some(Err(Unread.into())));
        }
        if state.has_piece {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if state.rest.is_empty() {
            let place = state.place.take();
            drop(state);
            drop(place);
            return Poll::Ready(None);
        }
        let size = state.rest.len().min(limits::API_ANSWER_PIECE);
        // A copy: as long as somebody holds a slice, all of it is there.
        let piece = Bytes::copy_from_slice(state.rest.get(..size).unwrap_or_default());
        state.rest.advance(size);
        state.has_piece = true;
        let piece = tied(piece, Piece(self.sending.clone()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    /// hyper asks for the end, and gets it when all is sent.
    fn is_end_stream(&self) -> bool {
        false
    }

    /// With a length hyper would let go of the body before the last piece is sent, and nobody could cut it off.
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.sending.end();
        // The task ends a little later, and holds nothing of the answer until then.
        self.end.abort();
    }
}
