//! HTTP/1.1 connections, for an API server that offers no HTTP/2.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use tokio_util::{io::InspectReader, task::AbortOnDropHandle};

use super::{clock::Moment, endpoint::ConnectError, error::SendError, replay::Attempt};
use underpass_core::{BoxError, BoxedIo, body::Guard, limits};
use underpass_http::exchange::{self, EarlyAnswer, Stopped};

/// Connections without a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Idle(Arc<Mutex<Vec<(Connection, Moment)>>>);

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Attempt>,
    /// The API server took no more of a request: the connection is its answer's only.
    stopped: Stopped,
    heard: Heard,
    /// Dropping the connection closes it.
    _driver: AbortOnDropHandle<()>,
}

/// A connection with one request, until its response's body is gone. It returns to the idle ones only if that
/// body came to its end.
pub(super) struct Lane {
    connection: Option<Connection>,
    /// The connection had a request before.
    reused: bool,
    idle: Idle,
}

/// Whether anything was read from a connection, since this was last set back.
#[derive(Clone, Debug, Default)]
struct Heard(Arc<AtomicBool>);

impl Idle {
    /// Takes a connection that was used before.
    pub(super) fn take(&self) -> Option<Lane> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(connection, since)| {
            since.elapsed() < limits::UPSTREAM_IDLE_HTTP1_TIMEOUT && connection.sender.is_ready()
        });
        let (connection, _) = idle.pop()?;
        Some(Lane {
            connection: Some(connection),
            reused: true,
            idle: self.clone(),
        })
    }

    /// Closes all of them: one had ended, and others are as old.
    pub(super) fn close(&self) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.clear();
    }

    /// Speaks HTTP/1.1 on a new connection.
    pub(super) async fn open(&self, io: BoxedIo) -> Result<Lane, ConnectError> {
        let heard = Heard::default();
        let told = heard.clone();
        let io = InspectReader::new(io, move |came: &[u8]| {
            if !came.is_empty() {
                told.0.store(true, Ordering::Release);
            }
        });
        let (io, stopped) = EarlyAnswer::new(io);
        let handshake = exchange::client().handshake(TokioIo::new(io)).await;
        let (sender, driver) = handshake.map_err(ConnectError::Http)?;
        let driver = tokio::spawn(async move {
            // Without upgrades: an upgraded connection never comes from, or returns to, a pool.
            if let Err(error) = driver.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "connection lost");
            }
        });
        let _driver = AbortOnDropHandle::new(driver);
        Ok(Lane {
            connection: Some(Connection {
                sender,
                stopped,
                heard,
                _driver,
            }),
            reused: false,
            idle: self.clone(),
        })
    }

    async fn put(self, mut connection: Connection) {
        let ready = tokio::select! {
            // A connection that is ready all the same has bytes of a request before it.
            biased;
            () = connection.stopped.set() => return,
            ready = tokio::time::timeout(limits::SHUTDOWN_GRACE, connection.sender.ready()) => ready,
        };
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(ready, Ok(Ok(()))) && idle.len() < limits::UPSTREAM_IDLE_HTTP1 {
            idle.push((connection, Moment::now()));
        }
    }
}

impl Lane {
    /// Sends the request.
    pub(super) async fn send(
        &mut self,
        mut request: Request<Attempt>,
    ) -> Result<Response<Incoming>, SendError> {
        exchange::announce_chunks(&mut request);
        let connection = self.connection.as_mut().ok_or(SendError::Full)?;
        // RFC 9110, section 9.2.1: the user is not accountable for what such a request changes.
        let may_repeat = self.reused && request.method().is_safe();
        let heard = connection.heard.clone();
        heard.0.store(false, Ordering::Release);
        connection
            .sender
            .try_send_request(request)
            .await
            .map_err(|mut failed| {
                let unsent = failed.take_message().is_some();
                let error = failed.into_error();
                if unsent {
                    SendError::Unprocessed(error)
                } else if may_repeat && !heard.0.load(Ordering::Acquire) {
                    SendError::Stale(error)
                } else {
                    SendError::Failed(error)
                }
            })
    }
}

impl Guard for Lane {
    fn poll_abort(&mut self, _: &mut Context<'_>) -> Poll<BoxError> {
        Poll::Pending
    }

    fn finished(&mut self) {
        if let Some(connection) = self.connection.take() {
            tokio::spawn(self.idle.clone().put(connection));
        }
    }
}
