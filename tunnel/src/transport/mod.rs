//! Transports, which carry a session's streams between two processes.
//!
//! A transport gives reliable byte streams in both directions, each half of which ends in a clean
//! end (FIN) or in a reset with a code, and can be stopped by its reader with a code. It knows
//! nothing of sessions. A transport adds what its protocol lacks (yamux has no codes, and takes
//! a reset for a clean end).

#[cfg(test)]
mod document;
mod heard;
pub mod memory;
mod mux;
pub mod quic;
mod stats;
pub mod tcp;
pub mod websocket;
mod yamux;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use thiserror::Error;
use underpass_proto::DecodeError;
use underpass_proto::code::{CloseCode, ResetCode};
use underpass_proto::frame::Class;

use crate::limits;

pub use self::mux::{MuxError, MuxTransport};
pub use self::stats::PathStats;
pub use self::yamux::YamuxTransport;
pub use underpass_proto::mux::Violation as MuxViolation;
pub use underpass_proto::websocket::FramingError;

/// One connection to a peer.
///
/// # Cancel safety
/// [`open`](Self::open) and [`accept`](Self::accept) may be dropped at any point: no stream is
/// lost, an unfinished open leaves nothing behind.
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Opens a stream. The peer sees it once something was written.
    fn open(&self) -> BoxFuture<'_, Result<BiStream, TransportError>>;

    /// Waits for the peer's next stream.
    fn accept(&self) -> BoxFuture<'_, Result<BiStream, TransportError>>;

    /// Ends the connection: bytes of finished streams are sent if the peer still reads,
    /// within about a second. Then every call, and every stream, gives
    /// [`TransportError::ClosedHere`].
    fn close(&self, code: CloseCode, reason: &str);

    /// Waits until either side has ended the connection.
    fn closed(&self) -> BoxFuture<'_, TransportError>;

    /// The peer is authenticated. Until then it gets one stream and little memory.
    fn authenticated(&self) {}

    /// When the last byte came from the peer, where the transport keeps account of it: bytes of any
    /// stream prove that the peer is there.
    fn last_heard(&self) -> Option<Instant> {
        None
    }

    /// The path's smoothed round-trip time, where the transport measures one.
    fn round_trip(&self) -> Option<Duration>;

    /// Whether the transport has no more in flight than its path holds, however much is written: keystrokes need no
    /// protection from a queue on the path. Not so over TCP, whose congestion control is the system's.
    fn keeps_queue_short(&self) -> bool {
        false
    }

    /// Whether the dialling side's transport asks its peer for a sign of life after [`KEEPALIVE_MAX`] of silence, and both sides' end
    /// where none comes.
    ///
    /// [`KEEPALIVE_MAX`]: underpass_proto::limits::KEEPALIVE_MAX
    fn keeps_itself_alive(&self) -> bool {
        false
    }

    /// The path's statistics; after the transport's end, the last ones. Costs a short lock:
    /// for metrics, not for each stream.
    fn stats(&self) -> PathStats {
        PathStats {
            round_trip: self.round_trip(),
            ..PathStats::default()
        }
    }

    /// Which protocol this is.
    fn kind(&self) -> TransportKind;

    /// The peer's address, where there is one.
    fn remote(&self) -> Option<SocketAddr>;
}

/// The protocols that carry sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransportKind {
    /// QUIC version 1 (RFC 9000), a native stream for each stream.
    Quic,
    /// WebSocket (RFC 6455) over TLS, whose messages carry a multiplexer.
    WebSocket,
    /// Within one process, for tests.
    Memory,
}

impl TransportKind {
    /// In lower case, for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::WebSocket => "websocket",
            Self::Memory => "memory",
        }
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Both halves of a stream.
pub struct BiStream {
    /// The half that this side writes.
    pub send: Box<dyn SendStream>,
    /// The half that this side reads.
    pub recv: Box<dyn RecvStream>,
}

impl fmt::Debug for BiStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BiStream").finish_non_exhaustive()
    }
}

/// The writing half of a stream.
///
/// Dropping it before [`poll_finish`](Self::poll_finish) was ready resets it with
/// [`ResetCode::Cancelled`].
pub trait SendStream: Send + Sync {
    /// Takes bytes from the front of `data`, at least one. Ready without room is an error.
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, HalfError>>;

    /// Takes bytes from the front of `data` without copying where the transport can, and advances
    /// it past them; at least one byte.
    fn poll_write_bytes(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
    ) -> Poll<Result<(), HalfError>>;

    /// Hands everything taken so far to the connection.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HalfError>>;

    /// Ends this half cleanly (FIN) after everything taken so far. Ready once that is handed to
    /// the connection; being called again afterwards changes nothing.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HalfError>>;

    /// Ends this half at once: bytes the peer has not read may never arrive.
    fn reset(&mut self, code: ResetCode);

    /// How urgent this half's bytes are beside those of other streams, from now on; before, they are
    /// of [`Class::Default`]. Bytes of one stream never overtake each other. A transport that has
    /// no order of its own among streams takes no notice, as this default does.
    fn prioritize(&mut self, class: Class) {
        let _ = class;
    }
}

/// The reading half of a stream.
///
/// Dropping it before its end stops it with [`ResetCode::Cancelled`].
pub trait RecvStream: Send + Sync {
    /// The next bytes, `max` at most; `None` at the clean end.
    fn poll_read_bytes(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, HalfError>>;

    /// Puts received bytes into `chunks`, from the first one on, and gives how many it filled; `None` at
    /// the clean end. `chunks` must not be empty. A transport that receives small pieces takes one lock for all of
    /// them, not one for each.
    fn poll_read_chunks(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, HalfError>> {
        let bytes = ready!(self.poll_read_bytes(cx, limits::READ_CHUNK))?;
        Poll::Ready(Ok(bytes.map(|bytes| {
            chunks
                .iter_mut()
                .zip([bytes])
                .map(|(chunk, bytes)| *chunk = bytes)
                .count()
        })))
    }

    /// Tells the peer that nothing more will be read: its writes fail with
    /// [`HalfError::Stopped`].
    fn stop(&mut self, code: ResetCode);
}

/// Why a transport ended, or an operation failed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum TransportError {
    /// This side closed it.
    #[error("connection closed")]
    ClosedHere,
    /// The peer closed it.
    #[error("connection closed by the peer: {code}: {reason}")]
    ClosedByPeer {
        /// Why, for programs.
        code: CloseCode,
        /// Why, for people.
        reason: String,
    },
    /// It broke, or the peer broke its protocol.
    #[error("connection lost")]
    Lost(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

impl TransportError {
    pub(crate) fn lost(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Lost(Arc::new(error))
    }
}

/// Why a stream's half ended before its clean end.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum HalfError {
    /// The peer reset its writing half, or this side reset its own.
    #[error("stream reset: {0}")]
    Reset(ResetCode),
    /// The peer reads no more.
    #[error("stream stopped by the peer: {0}")]
    Stopped(ResetCode),
    /// This side has finished this half already.
    #[error("stream already finished")]
    Finished,
    /// The peer's bytes are none of this transport's frames.
    #[error("malformed stream")]
    Malformed(#[source] DecodeError),
    /// The transport ended under it.
    #[error("stream lost with its connection")]
    Transport(#[source] TransportError),
}
