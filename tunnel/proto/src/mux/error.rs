//! A peer's violations of the multiplexer's rules, and the errors of streams.

use thiserror::Error;

use super::number::Number;
use crate::code::{CloseCode, ResetCode};
use crate::limits;

/// A peer's error that ends the connection (PROTOCOL.md, "Streams over underpass.v1").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// No frame begins with this byte.
    #[error("unknown frame type {0:#04x}")]
    Kind(u8),
    /// A DATA frame above its limit.
    #[error("a DATA frame of {len} bytes, the limit is {}", limits::MUX_DATA)]
    DataTooLong {
        /// The length in its header, in bytes.
        len: u64,
    },
    /// A DATA frame without payload that is no FIN either.
    #[error("an empty DATA frame")]
    EmptyData,
    /// A frame of a stream that this side would have to open, and has not.
    #[error("a frame of stream {0}, which this side has not opened")]
    NotOpened(Number),
    /// Payload or an end behind the end of a direction.
    #[error("a frame behind the end of stream {0}")]
    AfterEnd(Number),
    /// A second STOP.
    #[error("stream {0} was stopped twice")]
    StoppedTwice(Number),
    /// More streams than a session can make use of.
    #[error("more than {0} streams at once")]
    TooManyStreams(usize),
    /// More than one stream may hold for its reader: the peer goes beyond its credit.
    #[error("more than {max} unread bytes on stream {number}")]
    StreamOverflow {
        /// The stream.
        number: Number,
        /// The limit in bytes.
        max: usize,
    },
    /// More than all streams together may hold for their readers.
    #[error("more than {max} unread bytes on one connection")]
    ConnectionOverflow {
        /// The limit in bytes.
        max: usize,
    },
}

impl Violation {
    /// The code for the peer.
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::Kind(_) | Self::EmptyData => CloseCode::FrameEncoding,
            Self::DataTooLong { .. } => CloseCode::FrameTooLarge,
            Self::NotOpened(_) => CloseCode::StreamId,
            Self::AfterEnd(_) | Self::StoppedTwice(_) => CloseCode::UnexpectedFrame,
            Self::TooManyStreams(_)
            | Self::StreamOverflow { .. }
            | Self::ConnectionOverflow { .. } => CloseCode::Overloaded,
        }
    }
}

/// Why a stream takes or gives no more bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Ended {
    /// The writer was reset: by the peer where it is the reading half that asks, by this side else.
    #[error("stream reset: {0}")]
    Reset(ResetCode),
    /// The peer reads no more.
    #[error("stream stopped by the peer: {0}")]
    Stopped(ResetCode),
    /// This side has finished it.
    #[error("stream already finished")]
    Finished,
}
