//! The end of a watch at the agent: between two events, and not in the middle of a stream.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;

use underpass_core::{
    Body, BoxError, Rejection,
    body::{self, Guard, Guarded},
};
use underpass_http::watch_end::{Draining, WatchEnd};

struct Watch(WatchEnd);

/// Ends the watch when its session drains, and tells its client where the API server is lost.
pub(super) fn follow(response: Response<Body>, draining: &Draining) -> Response<Body> {
    let end = WatchEnd::new(draining.clone(), &response);
    response.map(|events| body::boxed(Guarded::new(events, Watch(end))))
}

impl Guard for Watch {
    fn poll_abort(&mut self, _: &mut Context<'_>) -> Poll<BoxError> {
        Poll::Pending
    }

    fn passed(&mut self, data: &mut Bytes) {
        self.0.passed(data);
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll(cx)
    }

    fn lost(&mut self, why: &BoxError) -> Option<Bytes> {
        tracing::warn!(error = &**why as &dyn std::error::Error, "a watch is lost");
        let lost = Rejection::ApiServerUnreachable("the connection was lost");
        self.0.last_words(&lost)
    }
}
