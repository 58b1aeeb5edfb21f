//! The protocol of `docs/PROTOCOL.md` without input or output, and nothing else.
//!
//! Nothing here reads a clock, draws randomness, spawns or blocks. Time and random bytes are
//! arguments; bytes and frames go in, bytes, frames and events come out. That is why the whole
//! protocol can be driven by a simulated pair with a virtual clock, from a seed.
//!
//! `underpass-tunnel` drives it, and gives its users the types that they meet: they need not depend
//! on this crate.
//!
//! # Where to begin
//!
//! - [`handshake`]: a connection's first frames, which prove the agent's key.
//! - [`join`]: how an agent proves that it holds the key that it registers.
//! - [`session`]: a session's streams, the transports that carry them, and its end.
//! - [`frame`]: the frames of control streams, and those that begin a stream.
//! - [`mux`] over [`websocket`], and [`yamux`]: streams over one connection of bytes.
//! - [`settings`]: the values that both ends agree on, within their ranges.
//! - [`limits`]: the costs that a peer can cause, with the reasons.

pub mod agent_name;
pub mod backoff;
#[cfg(any(test, feature = "fuzzing"))]
#[allow(clippy::expect_used, reason = "what tests use")]
mod choices;
pub mod code;
#[cfg(test)]
mod document;
mod error;
pub mod frame;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod handshake;
pub mod join;
pub mod keepalive;
pub mod key;
pub mod limits;
pub mod mux;
pub mod rotation;
pub mod secret;
pub mod session;
pub mod settings;
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
mod wire;
pub mod yamux;

pub use error::chain;
pub use wire::{DecodeError, VarInt, VarIntRange};
