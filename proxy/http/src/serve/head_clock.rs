//! A bound on the time of an HTTP/1.1 head that has begun.
//!
//! hyper has one bound, from the moment when a connection waits for a head. A load balancer keeps a connection idle for minutes
//! and may use it at any moment (RFC 9112, section 9.5), and a client that sends a head byte by byte must not have minutes. So
//! hyper's clock runs here from a head's first byte on.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use hyper::rt::{Sleep, Timer};
use tokio::io::AsyncRead;
use tokio_util::io::InspectReader;

use underpass_core::limits;

/// Whether a head has begun. Clones are of one connection.
#[derive(Clone, Debug)]
pub(super) struct HeadClock(Arc<State>);

#[derive(Debug)]
struct State {
    begun: AtomicBool,
    /// Bytes that come are of a request's body.
    body: AtomicBool,
}

impl HeadClock {
    /// The clock of a new connection. Its first head is due at once: nobody opens connections to keep them unused.
    pub(super) fn new() -> Self {
        Self(Arc::new(State {
            begun: AtomicBool::new(true),
            body: AtomicBool::new(false),
        }))
    }

    /// Follows the bytes that are read of the connection.
    pub(super) fn watch<I: AsyncRead>(self, io: I) -> InspectReader<I, impl FnMut(&[u8])> {
        let state = self.0;
        InspectReader::new(io, move |came: &[u8]| {
            // Empty lines before a head are no part of it (RFC 9112, section 2.2).
            let empty = came.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
            if !empty && !state.body.load(Ordering::Relaxed) {
                state.begun.store(true, Ordering::Relaxed);
            }
        })
    }

    /// A head has ended. A next one that is sent ahead of the answer counts as begun where its bytes are told from a body's;
    /// behind a body whose end is not known, the idle time is its bound.
    pub(super) fn head_ended(&self, body_follows: bool, next_has_begun: bool) {
        self.0.begun.store(next_has_begun, Ordering::Relaxed);
        self.0.body.store(body_follows, Ordering::Relaxed);
    }
}

/// hyper asks for a sleep when it begins to wait for a head, and polls it whenever the head is not complete.
impl Timer for HeadClock {
    fn sleep(&self, _: std::time::Duration) -> Pin<Box<dyn Sleep>> {
        self.0.body.store(false, Ordering::Relaxed);
        Box::pin(HeadTime {
            state: Arc::clone(&self.0),
            running: None,
        })
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(limits::HEADER_READ_TIMEOUT)
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }
}

/// Ready when a head has taken too long since its first byte.
struct HeadTime {
    state: Arc<State>,
    running: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Future for HeadTime {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.state.begun.load(Ordering::Relaxed) {
            // More bytes poll it again.
            return Poll::Pending;
        }
        let running = self
            .running
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limits::HEADER_READ_TIMEOUT)));
        ready!(running.as_mut().poll(cx));
        Poll::Ready(())
    }
}

impl Sleep for HeadTime {}
