//! A request's body that can be sent again, until the answer begins, as long as all of it is kept.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use underpass_core::{Body, BoxError, limits};

/// Bytes that the requests to one API server may keep, together.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(limits::REPLAY_BYTES_IN_ALL)))
    }
}

/// The body, between attempts.
pub(super) struct Replay(Arc<Mutex<Shared>>);

struct Shared {
    /// Not taken yet.
    body: Body,
    ended: bool,
    /// Taken, and kept for another attempt.
    kept: Vec<u8>,
    /// Of those, how many the current attempt has taken.
    taken: usize,
    /// `kept` and `body` are all of it.
    whole: bool,
    room: Room,
    place: Option<OwnedSemaphorePermit>,
    attempt: usize,
}

/// The body of one attempt. A newer attempt ends it.
pub(super) struct Attempt {
    shared: Arc<Mutex<Shared>>,
    number: usize,
}

/// A former attempt was polled again.
#[derive(Debug, thiserror::Error)]
#[error("the request is being sent again")]
struct Superseded;

impl Replay {
    pub(super) fn new(body: Body, room: Room) -> Self {
        Self(Arc::new(Mutex::new(Shared {
            body,
            ended: false,
            kept: Vec::new(),
            taken: 0,
            whole: true,
            room,
            place: None,
            attempt: 0,
        })))
    }

    /// The whole body; `None` if a part of it is gone.
    pub(super) fn attempt(&self) -> Option<Attempt> {
        let mut shared = lock(&self.0);
        if !shared.whole {
            return None;
        }
        shared.attempt += 1;
        shared.taken = 0;
        Some(Attempt {
            shared: Arc::clone(&self.0),
            number: shared.attempt,
        })
    }
}

/// There is no other attempt. The last one, whose answer may have begun before all of the body was taken, goes on.
impl Drop for Replay {
    fn drop(&mut self) {
        lock(&self.0).forget();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Keeps no more than the current attempt still needs.
    fn forget(&mut self) {
        self.whole = false;
        if self.taken == self.kept.len() {
            self.kept = Vec::new();
            self.taken = 0;
            self.place = None;
        }
    }

    /// The kept bytes that the current attempt has not taken yet.
    fn again(&mut self) -> Option<Bytes> {
        let rest = self.kept.get(self.taken..).unwrap_or_default();
        let rest = (!rest.is_empty()).then(|| Bytes::copy_from_slice(rest));
        self.taken = self.kept.len();
        if !self.whole {
            self.forget();
        }
        rest
    }

    /// Notes what the current attempt takes of the body.
    fn pass(&mut self, frame: &Result<Frame<Bytes>, BoxError>) {
        if !self.whole {
            return;
        }
        let data = frame.as_ref().ok().and_then(Frame::data_ref);
        match data {
            Some(data) if self.make_place(data.len()) => {
                // A copy: a few bytes may be a part of a large buffer, which would be kept with them.
                self.kept.extend_from_slice(data);
                self.taken = self.kept.len();
            }
            // Trailers, too: no client of Kubernetes sends them.
            _ => self.forget(),
        }
    }

    fn make_place(&mut self, bytes: usize) -> bool {
        let fits = self.kept.len().saturating_add(bytes) <= limits::REPLAY_BYTES;
        let Some(bytes) = u32::try_from(bytes).ok().filter(|_| fits) else {
            return false;
        };
        match Arc::clone(&self.room.0).try_acquire_many_owned(bytes) {
            Err(_) => false,
            Ok(more) => {
                match &mut self.place {
                    Some(place) => place.merge(more),
                    None => self.place = Some(more),
                }
                true
            }
        }
    }
}

impl http_body::Body for Attempt {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut shared = lock(&self.shared);
        if shared.attempt != self.number {
            return Poll::Ready(Some(Err(Box::new(Superseded))));
        }
        if let Some(again) = shared.again() {
            return Poll::Ready(Some(Ok(Frame::data(again))));
        }
        if shared.ended {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut shared.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(frame)) => shared.pass(frame),
            Poll::Ready(None) => shared.ended = true,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let shared = lock(&self.shared);
        shared.taken == shared.kept.len() && (shared.ended || shared.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let shared = lock(&self.shared);
        let again = (shared.kept.len() - shared.taken) as u64;
        let rest = shared.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(again));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(again));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    /// A body of these pieces.
    fn body(pieces: Vec<Bytes>) -> Body {
        let frames = stream::iter(pieces).map(|piece| Ok::<_, BoxError>(Frame::data(piece)));
        underpass_core::body::boxed(StreamBody::new(frames))
    }

    async fn next(attempt: &mut Attempt) -> Bytes {
        let frame = attempt.frame().await.unwrap().unwrap();
        frame.into_data().unwrap()
    }

    async fn all(attempt: Attempt) -> Bytes {
        attempt.collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn a_body_is_sent_again_from_its_beginning() {
        let room = Room::default();
        let pieces = ["ab", "c", "de"].map(Bytes::from).to_vec();
        let replay = Replay::new(body(pieces), room.clone());
        let mut first = replay.attempt().unwrap();
        assert_eq!(next(&mut first).await, "ab");
        assert_eq!(next(&mut first).await, "c");
        let mut second = replay.attempt().unwrap();
        assert!(first.frame().await.unwrap().is_err(), "superseded");
        assert_eq!(http_body::Body::size_hint(&second).lower(), 3);
        assert_eq!(next(&mut second).await, "abc");
        assert_eq!(all(second).await, "de");
        let third = replay.attempt().unwrap();
        assert!(!http_body::Body::is_end_stream(&third));
        assert_eq!(all(third).await, "abcde");
        drop(replay);
        assert_eq!(room.0.available_permits(), limits::REPLAY_BYTES_IN_ALL);
    }

    /// An answer may begin before a second attempt has taken all that is kept.
    #[tokio::test]
    async fn the_last_attempt_goes_on_when_the_answer_begins() {
        let room = Room::default();
        let replay = Replay::new(body(["ab", "c"].map(Bytes::from).to_vec()), room.clone());
        let mut first = replay.attempt().unwrap();
        assert_eq!(next(&mut first).await, "ab");
        let second = replay.attempt().unwrap();
        drop(replay);
        assert_eq!(all(second).await, "abc");
        assert_eq!(room.0.available_permits(), limits::REPLAY_BYTES_IN_ALL);
    }

    #[tokio::test]
    async fn rule_23_no_more_of_a_body_is_kept_than_its_bound() {
        let room = Room::default();
        let piece = Bytes::from(vec![7; limits::REPLAY_BYTES]);
        let replay = Replay::new(body(vec![piece, "x".into()]), room.clone());
        let mut first = replay.attempt().unwrap();
        assert_eq!(next(&mut first).await.len(), limits::REPLAY_BYTES);
        let mut second = replay.attempt().unwrap();
        assert_eq!(next(&mut second).await.len(), limits::REPLAY_BYTES);
        assert_eq!(next(&mut second).await, "x");
        assert!(replay.attempt().is_none());
        assert_eq!(room.0.available_permits(), limits::REPLAY_BYTES_IN_ALL);
    }

    #[tokio::test]
    async fn rule_23_bodies_that_are_kept_have_one_bound() {
        let room = Room::default();
        let mut kept = Vec::new();
        let most = limits::REPLAY_BYTES_IN_ALL / limits::REPLAY_BYTES;
        for number in 0..=most {
            let piece = Bytes::from(vec![7; limits::REPLAY_BYTES]);
            let replay = Replay::new(body(vec![piece]), room.clone());
            let attempt = replay.attempt().unwrap();
            assert_eq!(all(attempt).await.len(), limits::REPLAY_BYTES);
            assert_eq!(replay.attempt().is_some(), number < most, "{number}");
            kept.push(replay);
        }
        drop(kept);
        assert_eq!(room.0.available_permits(), limits::REPLAY_BYTES_IN_ALL);
    }
}
