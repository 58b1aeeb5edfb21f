//! One stream of a session: what it keeps until the peer has it, and what it lets the peer send.

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
        /// What it says it has, in bytes.
        received: u64,
        /// What it can have, in bytes.
        sent: u64,
    },
    /// It asks again for bytes that it has acknowledged.
    #[error("bytes from {received} on are wanted, those before {acknowledged} are forgotten")]
    Forgotten {
        /// Where it wants to go on, in bytes.
        received: u64,
        /// What it has acknowledged, in bytes.
        acknowledged: u64,
    },
    /// It sent more than it was allowed.
    #[error("{received} bytes were sent, {limit} were allowed")]
    Overrun {
        /// What came, in bytes.
        received: u64,
        /// What was allowed, in bytes.
        limit: u64,
    },
    /// It says that it has an end that was not sent.
    #[error("an end is acknowledged that was not sent")]
    NotFinished,
}
