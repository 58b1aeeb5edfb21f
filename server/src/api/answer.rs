//! Answers while they are sent (security rule 23). A client may read as slowly as it likes, or not at all; it has a place of
//! its user's meanwhile ([`Place`]), and the answer is gone when its time is over, whether somebody asks for more of it or not.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::Response;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use metrics::counter;
use thiserror::Error;
use tokio::task::AbortHandle;
use underpass_core::{Body, BoxError};

use super::share::Place;
use crate::limits;

/// The rest of an answer.
struct Held {
    bytes: Bytes,
    /// `None` for the operator, who has no bound.
    _place: Option<Place>,
}

/// The body of an answer that takes a place.
struct Answer {
    held: Arc<Mutex<Option<Held>>>,
    left: usize,
    end: AbortHandle,
}

#[derive(Debug, Error)]
#[error("the answer was not read within {} seconds", limits::API_ANSWER_TIME.as_secs())]
struct Unread;

/// Lets a response keep its place until its body is gone, which is no later than when its time is over.
pub(super) async fn hold(response: Response<Body>, place: Option<Place>) -> Response<Body> {
    let (head, body) = response.into_parts();
    // It is in memory already: no handler streams.
    let bytes = match body.collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) => {
            tracing::error!("an answer of the API fails: {error}");
            Bytes::new()
        }
    };
    if bytes.is_empty() {
        return Response::from_parts(head, underpass_core::empty());
    }
    let left = bytes.len();
    let held = Arc::new(Mutex::new(Some(Held {
        bytes,
        _place: place,
    })));
    let ending = Arc::clone(&held);
    let end = tokio::spawn(async move {
        tokio::time::sleep(limits::API_ANSWER_TIME).await;
        let ended = ending.lock().unwrap_or_else(PoisonError::into_inner).take();
        if ended.is_some() {
            counter!("underpass_api_turned_away_total", "for" => "unread").increment(1);
        }
    });
    let end = end.abort_handle();
    Response::from_parts(head, Answer { held, left, end }.boxed_unsync())
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let held = Arc::clone(&self.held);
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Held { bytes, .. }) = &mut *held else {
            return Poll::Ready(Some(Err(Unread.into())));
        };
        let size = bytes.len().min(limits::API_ANSWER_PIECE);
        // A copy: as long as somebody holds a slice, all of it is there. hyper keeps the piece until it is sent, however
        // small the client's window is.
        let piece = Bytes::copy_from_slice(bytes.get(..size).unwrap_or_default());
        bytes.advance(size);
        self.left = bytes.len();
        if self.left == 0 {
            *held = None;
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.left).unwrap_or(u64::MAX))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // The task ends a little later, and is not to keep the place until then.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held = None;
        self.end.abort();
    }
}
