//! One HTTP/2 connection to the API server.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::{clock::Moment, endpoint::ConnectError, error::SendError, replay::Attempt};
use underpass_core::{BoxError, BoxedIo, body::Guard, limits};
use underpass_http::scheduling::in_task::{InTask, Spawner};

type Driver = InTask<http2::Connection<TokioIo<BoxedIo>, Attempt, Spawner>>;

/// A connection as the pool holds it.
#[derive(Debug)]
pub(super) struct Http2 {
    sender: http2::SendRequest<Attempt>,
    load: Arc<Load>,
}

/// How busy a connection is. `closed` and a reservation exclude each other, since both happen under the lock: an
/// idle connection is never closed under a request.
#[derive(Debug)]
struct Load(Mutex<State>);

#[derive(Debug)]
struct State {
    in_flight: usize,
    limit: usize,
    closed: bool,
    idle_since: Moment,
}

impl Load {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
    }

    fn close_if_idle(&self) -> bool {
        let mut state = self.lock();
        let idle = state.idle_since.elapsed() >= limits::UPSTREAM_IDLE_TIMEOUT;
        state.closed |= state.in_flight == 0 && idle;
        state.closed
    }
}

impl Http2 {
    /// Speaks HTTP/2 on `io`. The connection lives until its pool drops it, it was idle for long, or the API server
    /// says so; requests in flight outlive the first and the last.
    pub(super) async fn open(io: BoxedIo) -> Result<Self, ConnectError> {
        let spawner = Spawner::default();
        let (sender, driver) = builder(spawner.clone())
            .handshake(TokioIo::new(io))
            .await
            .map_err(ConnectError::Http)?;
        let load = Arc::new(Load(Mutex::new(State {
            in_flight: 0,
            limit: limits::UPSTREAM_STREAMS,
            closed: false,
            idle_since: Moment::now(),
        })));
        let driver = InTask::new(driver, spawner);
        tokio::spawn(drive(driver, Arc::clone(&load)));
        metrics::counter!("underpass_proxy_upstream_connections_total").increment(1);
        Ok(Self { sender, load })
    }

    /// It takes no more requests. One that was idle for too long is among them: where the machine has slept, no task has
    /// closed it yet, and its peer has.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.load.close_if_idle()
    }

    /// Requests in flight, if there is room for another.
    pub(super) fn room(&self) -> Option<usize> {
        let state = self.load.lock();
        (!state.closed && state.in_flight < state.limit).then_some(state.in_flight)
    }

    /// Takes a place for one request.
    pub(super) fn reserve(&self) -> Option<Slot> {
        let mut state = self.load.lock();
        if state.closed || state.in_flight >= state.limit {
            return None;
        }
        state.in_flight += 1;
        Some(Slot {
            sender: self.sender.clone(),
            load: Arc::clone(&self.load),
        })
    }
}

fn builder(spawner: Spawner) -> http2::Builder<Spawner> {
    let mut builder = http2::Builder::new(spawner);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits::UPSTREAM_STREAM_WINDOW)
        .initial_connection_window_size(limits::UPSTREAM_CONNECTION_WINDOW)
        .initial_max_send_streams(limits::UPSTREAM_STREAMS)
        .max_header_list_size(u32::try_from(limits::HEADER_BYTES).unwrap_or(u32::MAX))
        .max_concurrent_reset_streams(limits::UPSTREAM_RESET_STREAMS)
        .max_local_error_reset_streams(limits::UPSTREAM_STRAY_FRAMES)
        .keep_alive_interval(limits::UPSTREAM_KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::UPSTREAM_KEEPALIVE_TIMEOUT);
    builder
}

/// Moves the connection until it drains (GOAWAY), fails, or was idle for long.
async fn drive(mut driver: Driver, load: Arc<Load>) {
    let mut check = tokio::time::interval(limits::UPSTREAM_IDLE_TIMEOUT / 4);
    loop {
        let ended = poll_fn(|cx| {
            let ended = Pin::new(&mut driver).poll(cx);
            let peer = driver.connection().current_max_send_streams();
            load.lock().limit = peer.min(limits::UPSTREAM_STREAMS);
            ended
        });
        tokio::select! {
            ended = ended => {
                if let Err(error) = ended {
                    tracing::debug!(error = &error as &dyn std::error::Error, "connection lost");
                }
                break;
            }
            _ = check.tick() => if load.close_if_idle() { break },
        }
    }
    load.close();
    driver.finish_tasks().await;
}

/// A place for one request on a connection, until its response's body is gone.
pub(super) struct Slot {
    sender: http2::SendRequest<Attempt>,
    load: Arc<Load>,
}

impl Slot {
    /// Sends the request.
    pub(super) async fn send(
        &mut self,
        request: Request<Attempt>,
    ) -> Result<Response<Incoming>, SendError> {
        self.sender
            .try_send_request(request)
            .await
            .map_err(|mut failed| {
                // The request came back: it never left.
                let unsent = failed.take_message().is_some();
                let error = failed.into_error();
                if unsent || unprocessed(&error) {
                    self.load.close_unless_refused(&error);
                    SendError::Unprocessed(error)
                } else {
                    SendError::Failed(error)
                }
            })
    }
}

impl Load {
    /// After GOAWAY the connection takes no more requests; after REFUSED_STREAM it does.
    fn close_unless_refused(&self, error: &hyper::Error) {
        if !h2_error(error).is_some_and(h2::Error::is_reset) {
            self.close();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.load.lock();
        state.in_flight = state.in_flight.saturating_sub(1);
        state.idle_since = Moment::now();
    }
}

impl Guard for Slot {
    fn poll_abort(&mut self, _: &mut Context<'_>) -> Poll<BoxError> {
        Poll::Pending
    }
}

/// Did the API server say that it has not acted on the request? RFC 9113, section 8.7: REFUSED_STREAM, or a GOAWAY
/// whose last stream is below ours. h2 reports a *remote* GOAWAY only to streams above that one; those below end
/// with an I/O error if the connection goes away under them.
fn unprocessed(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|error| {
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        error.is_remote() && (error.is_go_away() || refused)
    })
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::testing::sleep;

    #[test]
    fn a_machine_that_slept_has_no_idle_connection() {
        let load = Load(Mutex::new(State {
            in_flight: 1,
            limit: 2,
            closed: false,
            idle_since: Moment::now(),
        }));
        sleep(limits::UPSTREAM_IDLE_TIMEOUT);
        assert!(!load.close_if_idle(), "it has a request");
        load.lock().in_flight = 0;
        load.lock().idle_since = Moment::now();
        assert!(!load.close_if_idle(), "it had one just now");
        sleep(limits::UPSTREAM_IDLE_TIMEOUT);
        assert!(load.close_if_idle());
        assert!(load.lock().closed, "no request takes it between");
    }
}
