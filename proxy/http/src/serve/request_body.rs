//! The body of a client's request, whose rest is discarded for a while where its handler has left it.
//!
//! A refusal is often sent before its request's body has come. Over HTTP/2 the stream is reset then (RFC 9113, section 8.1), which
//! common clients take for a failure: curl 7.88 forgets the complete answer that came before the reset. So the rest is
//! read as [`linger`](super::linger) reads it over HTTP/1.1, within the same bounds, and the stream is reset behind them. The
//! client ends its body meanwhile, or has read the answer and gives its request up.
//!
//! Over HTTP/1.1 such an answer is its connection's last, and says so (RFC 9112, section 9.6), unless the rest is little and has come.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::{Charge, Served};
use crate::scheduling::in_task::Turns;
use underpass_core::limits;

/// The body of a request over HTTP/1.1, once its answer is ready.
#[derive(Clone, Debug, Default)]
pub(super) struct Rest(Arc<Mutex<Reading>>);

#[derive(Debug, Default)]
enum Reading {
    /// It goes on, or has failed.
    #[default]
    Unended,
    /// Its handler has left it.
    Left(Unread),
    Ended,
}

impl Rest {
    fn lock(&self) -> MutexGuard<'_, Reading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the answer is its connection's last, since bytes of the body are to come that belong to no other request. A small one that
    /// has come already is read: hyper would do so as well. `expects`: the client waits for a 100 before it sends any of it.
    pub(super) async fn ends_its_connection(&self, expects: bool) -> bool {
        let left = match std::mem::take(&mut *self.lock()) {
            Reading::Ended => return false,
            Reading::Unended => return true,
            Reading::Left(left) => left,
        };
        expects || !left.has_come().await
    }
}

/// The body of a request. It tells its connection's budget how much of it is read.
#[derive(Debug)]
pub struct RequestBody {
    unread: Option<Unread>,
    /// The tasks of its connection, which may discard the rest: over HTTP/2 only.
    turns: Option<Turns>,
    /// Over HTTP/1.1 only.
    rest: Option<Rest>,
}

#[derive(Debug)]
struct Unread {
    incoming: Incoming,
    /// None of a request without a body, or where nothing counts.
    charged: Option<Box<dyn Charge>>,
}

impl RequestBody {
    /// Of a request that came on a connection. `charge` is asked where a body follows.
    pub(super) fn new(
        incoming: Incoming,
        served: &Served,
        charge: impl FnOnce() -> Option<Box<dyn Charge>>,
    ) -> Self {
        let follows = !incoming.is_end_stream();
        let charged = follows.then(charge).flatten();
        let turns = served.turns().filter(|_| follows).cloned();
        Self {
            unread: Some(Unread { incoming, charged }),
            turns,
            rest: None,
        }
    }

    /// The same, of which is known how far it was read.
    pub(super) fn followed(mut self) -> (Self, Rest) {
        let rest = Rest::default();
        if self.is_end_stream() {
            *rest.lock() = Reading::Ended;
        } else {
            self.rest = Some(rest.clone());
        }
        (self, rest)
    }

    fn ended(&mut self) {
        if let Some(rest) = self.rest.take() {
            *rest.lock() = Reading::Ended;
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(Unread { incoming, charged }) = &mut self.unread else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(incoming).poll_frame(cx));
        match (&frame, charged) {
            (Some(Ok(frame)), Some(charged)) => {
                charged.read(frame.data_ref().map_or(0, Bytes::len));
            }
            (Some(Ok(_)), None) => {}
            // The client has given the request up, or has sent all of it.
            (Some(Err(_)) | None, _) => self.turns = None,
        }
        match &frame {
            Some(Err(_)) => self.rest = None,
            None => self.ended(),
            Some(Ok(_)) if self.is_end_stream() => self.ended(),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let unread = self.unread.as_ref();
        unread.is_none_or(|unread| unread.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let unread = self.unread.as_ref();
        unread.map_or_else(
            || SizeHint::with_exact(0),
            |unread| unread.incoming.size_hint(),
        )
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let left = self.unread.take();
        let left = left.filter(|unread| !unread.incoming.is_end_stream());
        match (left, self.turns.take(), self.rest.take()) {
            (Some(unread), Some(turns), _) => turns.spawn(unread.discard()),
            (Some(unread), None, Some(rest)) => *rest.lock() = Reading::Left(unread),
            _ => {}
        }
    }
}

impl Unread {
    /// Whether all of it has come, and little is left. It is read.
    async fn has_come(mut self) -> bool {
        let mut left = limits::LEFT_BODY_BYTES;
        // hyper reads what there is in its connection's next turn.
        for _ in 0..limits::LEFT_BODY_TURNS {
            while let Some(came) = frame(&mut self.incoming).now_or_never() {
                let Some(Ok(frame)) = came else {
                    return came.is_none();
                };
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                let charged = self.charged.as_ref();
                let may_go_on = charged.is_none_or(|charged| charged.discarded(bytes));
                left = left.saturating_sub(bytes);
                if left == 0 || !may_go_on {
                    return false;
                }
                if self.incoming.is_end_stream() {
                    return true;
                }
            }
            tokio::task::yield_now().await;
        }
        false
    }

    /// Reads what comes, and gives its window back. Its stream is reset when this is dropped.
    async fn discard(mut self) {
        let end = Instant::now() + limits::LINGER_TIME;
        let mut left = limits::LINGER_BYTES;
        loop {
            let silence = Instant::now() + limits::LINGER_SILENCE;
            let came = timeout_at(silence.min(end), frame(&mut self.incoming)).await;
            let Ok(Some(Ok(frame))) = came else { return };
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            let charged = self.charged.as_ref();
            let may_go_on = charged.is_none_or(|charged| charged.discarded(bytes));
            left = left.saturating_sub(bytes);
            if left == 0 || !may_go_on || Instant::now() >= end {
                return;
            }
        }
    }
}

async fn frame(incoming: &mut Incoming) -> Option<hyper::Result<Frame<Bytes>>> {
    poll_fn(|cx| Pin::new(&mut *incoming).poll_frame(cx)).await
}
