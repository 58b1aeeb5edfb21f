//! `underpass.v1` over one WebSocket: our own multiplexer, and our own framing below it.
//!
//! [`underpass_proto::mux`] and [`underpass_proto::websocket`] define the wire format. Here is the
//! task that does the I/O ([`driver`]) and the streams' halves, which share the multiplexer with it.

mod driver;
mod shared;
mod stream;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};
use underpass_proto::code::CloseCode;
use underpass_proto::mux::{Mux, Violation};
use underpass_proto::stream_id::Role;
use underpass_proto::websocket::{Closing, FramingError};

use self::driver::Driver;
use self::shared::Shared;
use super::heard::LastHeard;
use super::{BiStream, Transport, TransportError, TransportKind};

/// Why a connection that carries `underpass.v1` was lost: the source of a
/// [`TransportError::Lost`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MuxError {
    /// The connection below failed.
    #[error("connection failed")]
    Io(#[source] std::io::Error),
    /// The connection below ended without a Close.
    #[error("connection ended without a WebSocket Close")]
    Eof,
    /// Something closed the WebSocket that is no session: a proxy, in the ordinary case.
    #[error("WebSocket closed: {}: {reason}", in_words(*.status))]
    Closed {
        /// The status code, where there was one.
        status: Option<u16>,
        /// For people.
        reason: String,
    },
    /// The peer's bytes are no WebSocket.
    #[error("the peer broke the WebSocket protocol")]
    Framing(#[source] FramingError),
    /// The peer broke the multiplexer's rules.
    #[error("the peer broke the multiplexer's rules")]
    Violation(#[source] Violation),
}

fn in_words(status: Option<u16>) -> String {
    status.map_or_else(|| "without a status".to_owned(), |code| code.to_string())
}

/// A connection that carries `underpass.v1`, driven by a task of its own.
///
/// Dropping it closes the connection.
#[derive(Debug)]
pub struct MuxTransport {
    kind: TransportKind,
    remote: Option<SocketAddr>,
    shared: Arc<Shared>,
    /// Taken by the first close.
    close: Mutex<Option<oneshot::Sender<Closing>>>,
    /// Set once the driver is gone.
    closed: watch::Receiver<bool>,
    heard: LastHeard,
}

impl MuxTransport {
    /// Starts on `io`, on which a WebSocket handshake is done; `received` came behind it.
    pub(crate) fn start<S>(
        io: S,
        received: Bytes,
        role: Role,
        kind: TransportKind,
        remote: Option<SocketAddr>,
    ) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let shared = Arc::new(Shared::new(Mux::new(role)));
        let heard = LastHeard::new();
        let (close, closing) = oneshot::channel();
        let (ending, closed) = watch::channel(false);
        let driver = Driver::new(io, received, role, Arc::clone(&shared), heard.clone());
        tokio::spawn(driver.run(closing, ending));
        Self {
            kind,
            remote,
            shared,
            close: Mutex::new(Some(close)),
            closed,
            heard,
        }
    }

    fn ended(&self) -> TransportError {
        let ended = self.shared.ended().cloned();
        // The driver sets an ending before it goes, unless its runtime is shut down.
        ended.unwrap_or(TransportError::ClosedHere)
    }
}

impl Transport for MuxTransport {
    fn open(&self) -> BoxFuture<'_, Result<BiStream, TransportError>> {
        async {
            if let Some(error) = self.shared.ended() {
                return Err(error.clone());
            }
            match self.shared.with(|state| state.mux.open()) {
                Some(key) => Ok(stream::bi_stream(&self.shared, key)),
                None => Err(TransportError::lost(NumbersUsedUp)),
            }
        }
        .boxed()
    }

    fn accept(&self) -> BoxFuture<'_, Result<BiStream, TransportError>> {
        async {
            loop {
                // Made before the look, so that nothing between the two is missed.
                let opened = self.shared.opened.notified();
                if let Some(key) = self.shared.with(|state| state.mux.accept()) {
                    return Ok(stream::bi_stream(&self.shared, key));
                }
                if let Some(error) = self.shared.ended() {
                    return Err(error.clone());
                }
                opened.await;
            }
        }
        .boxed()
    }

    fn close(&self, code: CloseCode, reason: &str) {
        self.shared.end(TransportError::ClosedHere);
        let mut close = self.close.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(close) = close.take() {
            // Where the driver is gone, there is nothing left to close.
            let _ = close.send(Closing::new(code, reason));
        }
    }

    fn closed(&self) -> BoxFuture<'_, TransportError> {
        async {
            let mut closed = self.closed.clone();
            // An error says that the driver's runtime is shut down.
            let _ = closed.wait_for(|closed| *closed).await;
            self.ended()
        }
        .boxed()
    }

    fn authenticated(&self) {
        self.shared.with(|state| state.mux.authenticated());
    }

    fn last_heard(&self) -> Option<Instant> {
        Some(self.heard.get())
    }

    fn round_trip(&self) -> Option<Duration> {
        None
    }

    fn kind(&self) -> TransportKind {
        self.kind
    }

    fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }
}

impl Drop for MuxTransport {
    fn drop(&mut self) {
        self.close(CloseCode::Shutdown, "");
    }
}

/// This side has opened 2^61 streams on one connection.
#[derive(Debug, Error)]
#[error("the connection's stream numbers are used up: a new connection is needed")]
struct NumbersUsedUp;
