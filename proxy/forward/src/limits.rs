//! Every bound of this crate, each with its reason.

use std::time::Duration;

/// Receive window of one stream: 1 MiB under way is 80 Mbit/s at 100 ms.
pub(crate) const STREAM_WINDOW: u32 = 1024 * 1024;

/// Receive window of one connection: those of all streams that a server allows on one (250). Programs that do not read keep a window
/// each, and leave every other stream its own: a smaller window would be all taken by sixteen of them. At worst that many bytes of the
/// user's own programs are in memory.
pub(crate) const CONNECTION_WINDOW: u32 = 256 * STREAM_WINDOW;

/// Bytes that are handed to HTTP/2 at once.
pub(crate) const WRITE: usize = 64 * 1024;

/// Copy buffer of a connection, one for each direction.
pub(crate) const COPY: usize = 32 * 1024;

/// Connections to the server: each carries as many streams as the server allows (250), so that these are the streams that a user
/// may have (2,000).
pub(crate) const CONNECTIONS: usize = 8;

/// Connections of one listener that are open at once: more than a user's streams at the server.
pub(crate) const LOCAL_CONNECTIONS: usize = 4096;

/// Connections that wait for the server at once; more are refused.
pub(crate) const WAITING: usize = 1024;

/// How long a connection waits for a server that is away: programs wait some ten seconds for a connection.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// TLS and HTTP/2 with the server, once TCP is there.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a connection without streams goes on, to send what the last one has written: a server that is away takes nothing.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(5);

/// The answer to a CONNECT: the server waits up to 30 s for an agent that reconnects, and the agent some seconds for its target.
pub(crate) const ANSWER: Duration = Duration::from_secs(40);

/// A refusal's body: a `Status` with one sentence.
pub(crate) const REFUSAL_BYTES: usize = 16 * 1024;

/// Attempts to open one stream, where each earlier one was provably not processed.
pub(crate) const ATTEMPTS: usize = 3;

/// The first and the longest wait between two attempts to reach the server. Each waits a random part of its own, so that a
/// server that restarts does not meet all clients at once.
pub(crate) const BACKOFF: (Duration, Duration) =
    (Duration::from_millis(250), Duration::from_secs(10));

/// A connection that ends earlier counts as an attempt that failed.
pub(crate) const LASTING: Duration = Duration::from_secs(5);

/// HTTP/2 PING to the server: under every common idle limit of load balancers.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(25);

/// A server that does not answer a PING for so long is gone.
pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a client of a listener may take to name its target.
pub(crate) const NAMING: Duration = Duration::from_secs(10);

/// The head of an HTTP CONNECT from a client of a listener, and its lines.
pub(crate) const HEAD_BYTES: usize = 16 * 1024;
pub(crate) const HEAD_LINES: usize = 64;

/// How long `accept` rests where the system has no room for another connection.
pub(crate) const ACCEPT_REST: Duration = Duration::from_millis(100);
