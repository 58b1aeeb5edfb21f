//! One stream of a session: the bytes it keeps until the peer has them, and the peer's credit.

mod recv;
mod send;

pub use recv::{Due, Pace, Receiver, RecvEnd};
pub use send::{Chunk, SendBuffer, SendEnd};

use thiserror::Error;

/// Offsets that an honest peer never names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OffsetError {
    /// It acknowledges bytes that were not sent to it.
    #[error("{received} bytes are acknowledged, {sent} were sent")]
    NeverSent {
        /// The bytes it says it has.
        received: u64,
        /// The bytes it can have.
        sent: u64,
    },
    /// It asks again for bytes that it has acknowledged.
    #[error("bytes from {received} on are wanted, those before {acknowledged} are forgotten")]
    Forgotten {
        /// Where it wants to go on, in bytes.
        received: u64,
        /// The bytes it has acknowledged.
        acknowledged: u64,
    },
    /// It sent more than it was allowed.
    #[error("{received} bytes were sent, {limit} were allowed")]
    Overrun {
        /// The bytes that came.
        received: u64,
        /// The bytes that were allowed.
        limit: u64,
    },
    /// It says that it has an end that was not sent.
    #[error("an end is acknowledged that was not sent")]
    NotFinished,
}
