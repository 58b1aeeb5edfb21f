//! HTTP/1.1 connections, for an API server that offers no HTTP/2.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Instant,
};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use tokio_util::task::AbortOnDropHandle;

use super::{endpoint::ConnectError, error::SendError, replay::Attempt};
use underpass_core::{BoxError, BoxedIo, body::Guard, limits};
use underpass_http::exchange::{self, EarlyAnswer, Stopped};

/// Connections without a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Idle(Arc<Mutex<Vec<(Connection, Instant)>>>);

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Attempt>,
    /// The API server took no more of a request: the connection is its answer's only.
    stopped: Stopped,
    /// Dropping the connection closes it.
    _driver: AbortOnDropHandle<()>,
}

/// A connection with one request, until its response's body is gone. It returns to the idle ones only if that
/// body came to its end.
pub(super) struct Lane {
    connection: Option<Connection>,
    idle: Idle,
}

impl Idle {
    /// Takes a connection that was used before.
    pub(super) fn take(&self) -> Option<Lane> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(connection, since)| {
            since.elapsed() < limits::UPSTREAM_IDLE_TIMEOUT && connection.sender.is_ready()
        });
        let (connection, _) = idle.pop()?;
        Some(Lane {
            connection: Some(connection),
            idle: self.clone(),
        })
    }

    /// Speaks HTTP/1.1 on a new connection.
    pub(super) async fn open(&self, io: BoxedIo) -> Result<Lane, ConnectError> {
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
                _driver,
            }),
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
            idle.push((connection, Instant::now()));
        }
    }
}

impl Lane {
    /// Sends the request.
    pub(super) async fn send(
        &mut self,
        request: Request<Attempt>,
    ) -> Result<Response<Incoming>, SendError> {
        let connection = self.connection.as_mut().ok_or(SendError::Full)?;
        connection
            .sender
            .try_send_request(request)
            .await
            .map_err(|mut failed| {
                let unsent = failed.take_message().is_some();
                let error = failed.into_error();
                if unsent {
                    SendError::Unprocessed(error)
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
