//! The protocol without input or output: what `docs/PROTOCOL.md` says, and nothing else.
//!
//! Nothing here reads a clock, draws randomness, spawns or blocks. Time and random bytes are
//! arguments; bytes and frames go in, bytes, frames and events come out. That is why the whole
//! protocol can be driven by a simulated pair with a virtual clock, from a seed.

pub mod backoff;
#[cfg(any(test, feature = "fuzzing"))]
#[allow(clippy::expect_used, reason = "what tests use")]
mod choices;
pub mod code;
#[cfg(test)]
mod document;
pub mod frame;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod handshake;
pub mod keepalive;
pub mod key;
pub mod limits;
pub mod mux;
pub mod secret;
pub mod session;
#[cfg(any(test, feature = "fuzzing"))]
#[allow(
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::panic,
    reason = "a simulation for tests: a panic is its finding"
)]
mod simulation;
pub mod stream;
pub mod stream_id;
pub mod websocket;
pub(crate) mod wire;

pub use wire::{DecodeError, VarInt, VarIntRange};
