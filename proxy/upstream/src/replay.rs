//! A request's body that can be sent again as long as nothing of it was taken.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use underpass_core::{Body, BoxError};

/// The body, between attempts.
pub(super) struct Replay(Arc<Mutex<Shared>>);

struct Shared {
    body: Body,
    /// A frame was taken: it may be on its way, so that the body is no longer whole.
    started: bool,
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
    pub(super) fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(Shared {
            body,
            started: false,
            attempt: 0,
        })))
    }

    /// The whole body; `None` if a part of it is gone.
    pub(super) fn attempt(&self) -> Option<Attempt> {
        let mut shared = lock(&self.0);
        if shared.started {
            return None;
        }
        shared.attempt += 1;
        Some(Attempt {
            shared: Arc::clone(&self.0),
            number: shared.attempt,
        })
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
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
        let polled = Pin::new(&mut shared.body).poll_frame(cx);
        if let Poll::Ready(Some(_)) = polled {
            shared.started = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.shared).body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.shared).body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn only_an_untouched_body_is_sent_again() {
        let replay = Replay::new(underpass_core::full("abc"));
        let mut first = replay.attempt().unwrap();
        let mut second = replay.attempt().unwrap();
        assert!(first.frame().await.unwrap().is_err(), "superseded");
        assert_eq!(
            second.frame().await.unwrap().unwrap().into_data().unwrap(),
            "abc"
        );
        assert!(replay.attempt().is_none());
    }
}
