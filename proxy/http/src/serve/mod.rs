//! Serves the connections of HTTP clients: of a server's front, and of a listener on a user's machine.
//!
//! hyper alone leaves clients without an answer in cases that kubectl, curl and browsers meet. Each has a module here:
//!
//! - `request_target`: bytes in a request target that the `http` crate refuses are percent-encoded before hyper reads them.
//! - `unreadable`: a head that hyper cannot read gets a `Status`.
//! - `linger` and `request_body`: the rest of a body that was refused is discarded, so that its client reads the refusal; `refusal`: its
//!   head is sent with its body.
//! - [`broken_off`](crate::broken_off): an answer that breaks off arrives as far as it came.
//! - `head_clock` and `idle`: a head that has begun has a bound, and a connection between two requests another one.
//! - `cut`: a connection is told to end while it has requests.
//!
//! [`http1`] and [`http2`] serve a connection for its [`Owner`], within the bounds of [`limits`](underpass_core::limits).

mod client_ends;
mod cut;
mod drive;
mod head_clock;
mod idle;
mod linger;
mod refusal;
mod request_body;
mod request_target;
mod unreadable;
mod written;

use std::{
    fmt::Debug,
    sync::{Arc, OnceLock, atomic::AtomicBool},
};

use http::{Request, Response, StatusCode};

use crate::scheduling::in_task::Turns;
use underpass_core::{Body, BoxError};

pub use self::{
    client_ends::{ClientEnd, ClientEnds},
    drive::{http1, http2},
    idle::{Active, Activity, IdleTimeout, IdleTimeoutError},
    linger::Lingering,
    request_body::RequestBody,
    request_target::Heads,
    written::refusal as written_refusal,
};

/// The owner of a connection, which answers its requests.
pub trait Owner: Send + Sync + 'static {
    /// The state of the connection.
    fn served(&self) -> &Served;

    /// Answers a request.
    fn handle(&self, request: Request<RequestBody>) -> impl Future<Output = Response<Body>> + Send;

    /// Waits until the connection takes no more requests, and ends after those in flight.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    fn finish(&self) -> impl Future<Output = ()> + Send;

    /// Waits, after [`Owner::finish`], until the connection ends with the requests in flight.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    fn cut(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// The charge of a body that is to come, where its bytes count.
    fn charge(&self) -> Option<Box<dyn Charge>> {
        None
    }

    /// Bytes of the connection are discarded from now on.
    fn discards(&self) {}

    /// Whether an answer that fails so breaks off at once, with the loss of its bytes that are on their way.
    fn breaks_off_at_once(_: &BoxError) -> bool {
        false
    }
}

/// Counts the bytes of a request's body, until it is dropped.
pub trait Charge: Debug + Send + Sync {
    /// So much of it was read.
    fn read(&self, bytes: usize);

    /// So much of it was read and discarded. False: no more of it may be.
    fn discarded(&self, bytes: usize) -> bool;
}

/// The state of a connection that is served.
#[derive(Debug, Default)]
pub struct Served {
    activity: Arc<Activity>,
    /// It ends, with its requests.
    cut: Arc<AtomicBool>,
    /// Of the tasks of an HTTP/2 connection.
    turns: OnceLock<Turns>,
    /// Of the streams of an HTTP/2 connection.
    client_ends: ClientEnds,
}

impl Served {
    /// Its requests in flight.
    pub fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// True once it is cut.
    pub fn is_cut(&self) -> &Arc<AtomicBool> {
        &self.cut
    }

    /// The turns of its tasks, while it is served over HTTP/2.
    pub fn turns(&self) -> Option<&Turns> {
        self.turns.get()
    }

    /// How its client ends the streams of CONNECTs over HTTP/2.
    pub fn client_ends(&self) -> &ClientEnds {
        &self.client_ends
    }
}

/// Do raw bytes follow an answer of this status, to a CONNECT or to another request? (RFC 9110, sections 9.3.6 and 15.2.2.)
pub fn becomes_bytes(connects: bool, status: StatusCode) -> bool {
    match connects {
        true => status.is_success(),
        false => status == StatusCode::SWITCHING_PROTOCOLS,
    }
}
