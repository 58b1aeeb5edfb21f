//! Byte streams.

use tokio::io::{AsyncRead, AsyncWrite};

/// A bidirectional byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A stream to an agent, or to an API server. Its contract: `poll_shutdown` is a half-close; dropping it
/// before the end resets it, so that the other side cancels; the peer's reset is a read error, never a
/// clean end. A stream of which the other side did not say that it takes it fails with `NotConnected`, one that it
/// declined with `ConnectionRefused`.
pub type BoxedIo = Box<dyn Io>;
