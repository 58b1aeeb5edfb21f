//! Every bound on what a peer can cost this side, each with its reason.
//!
//! A slow or hostile peer must cost bounded memory and time (security rules 11 and 19). Bounds that
//! an operator may want to move are fields of a configuration whose defaults stand here.

use std::time::Duration;

/// Body of a frame on the control stream, in bytes. The longest is HELLO with its software name;
/// 4 KiB leaves room for fields that later versions add, and is what one unauthenticated
/// connection can make this side buffer.
pub const CONTROL_FRAME: usize = 4 * 1024;

/// Body of an OPEN frame, in bytes: the application's header (below) and its own few fields.
pub const OPEN_FRAME: usize = OPEN_HEADER + 1024;

/// The application's part of an open header, in bytes. An identity with a thousand directory
/// groups of 200 bytes needs 200 KiB; kube-apiserver takes 1 MiB of headers in all.
pub const OPEN_HEADER: usize = 256 * 1024;

/// A target's name, in bytes: long enough for a DNS name (253) with a port.
pub const TARGET: usize = 300;

/// A reason phrase, in bytes. It goes to a log line, not to a program.
pub const REASON: usize = 512;

/// The software name in HELLO and WELCOME, in bytes.
pub const SOFTWARE: usize = 128;

/// A peer's name in WELCOME, in bytes: a DNS name.
pub const PEER_NAME: usize = 253;

/// Protocol versions that HELLO may list.
pub const VERSIONS: usize = 16;

/// Streams that one side may have open at once in one session, unless configured. A busy cluster
/// has a few hundred watches per controller; each open stream costs about 4 KiB when idle.
pub const STREAMS: u32 = 4096;

/// The most that configuration may allow. The transports' own limits, which end whole connections,
/// leave room for this many from each side, and as many again that are ending.
pub const STREAMS_MAX: u32 = 2 * STREAMS;

/// Streams whose open header is still arriving. The header follows the stream's first byte in the
/// same flight, so that more than a few at once means a peer that withholds them.
pub const STREAMS_OPENING: usize = 256;

/// Opened streams that wait for the application to take them. Beyond it the peer is refused
/// rather than queued: a queue would hide the overload. Half of the 256 streams that yamux lets one
/// side open unanswered, so that the refusals get through.
pub const STREAMS_UNACCEPTED: usize = 128;

/// Time for room among these. A burst is no overload; the refusal must come well within
/// [`ANSWER_TIME`].
pub const ACCEPT_TIME: Duration = Duration::from_secs(1);

/// Time for an open header to arrive in full.
pub const OPEN_HEADER_TIME: Duration = Duration::from_secs(10);

/// Time for the peer's answer to an OPEN. The answer is sent before the target is reached, so it
/// measures the peer's life and the path, never the target.
pub const ANSWER_TIME: Duration = Duration::from_secs(3);

/// Time for the whole session handshake after the transport's: four flights, no human.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Time for one transport to connect, TLS included.
pub const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Connections that are not yet authenticated, at once, over all transports. Each may have one
/// stream, and hold a TLS handshake's state, a QUIC window of 64 KiB or a WebSocket message and a
/// yamux window of 256 KiB each: about 600 KiB, 1.2 GiB in all at the very worst. It must let ten
/// thousand agents back in after a restart, at four flights each.
pub const UNAUTHENTICATED: usize = 2048;

/// Bytes of a WebSocket message. A message is never assembled, so that this costs nothing here;
/// things between two peers may assemble it, and some take no larger ones.
pub const WEBSOCKET_MESSAGE: usize = 256 * 1024;

/// Payload of one DATA frame of `underpass.v1`, in bytes. It is given out as it arrives; the limit
/// keeps frames of other streams from standing behind a longer one.
pub const MUX_DATA: usize = 64 * 1024;

/// Bytes of one stream that wait inside the multiplexer to be sent, before its writer does: what
/// the connection takes at once, twice, so that it finds the next while it sends the first.
pub const MUX_SEND_QUEUE: usize = 128 * 1024;

/// Bytes of one stream that wait for its reader. The session's credit grows to 8 MiB; the rest is for
/// what is no payload of the session's stream.
pub const MUX_STREAM_RECEIVE: usize = 8 * 1024 * 1024 + 512 * 1024;

/// Bytes of all streams of a connection that wait for their readers: a thousand streams that use up
/// their first credit (256 KiB each) while nobody reads, or thirty that have grown to the most.
/// Memory may be four times as much at the worst, see [`MUX_READ_BUFFER`].
pub const MUX_CONNECTION_RECEIVE: usize = 256 * 1024 * 1024;

/// The same before the peer is authenticated: some control frames.
pub const MUX_UNAUTHENTICATED: usize = 64 * 1024;

/// Streams that a peer has open on one connection. The session counts streams and refuses those
/// above its own limit; this leaves it room to, and ends a connection whose peer does not care.
pub const MUX_STREAMS: usize = 2 * STREAMS_MAX as usize;

/// The same before the peer is authenticated. All but the first are refused, and the refusals wait
/// here until the peer reads them.
pub const MUX_STREAMS_UNAUTHENTICATED: usize = 64;

/// Bytes read from a connection in one go: two TLS records. Payload is given out as slices of it,
/// those of less than a quarter are copied: a slice keeps at most four times its size alive.
pub const MUX_READ_BUFFER: usize = 32 * 1024;

/// Silence after which a PING goes out. Load balancers forget idle connections after 30 s at the
/// earliest that is common.
pub const KEEPALIVE: Duration = Duration::from_secs(10);

/// Time for the answer to a PING, before the session counts as lost.
pub const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);

/// The shortest keepalive that a peer may ask of this side: a shorter one would be load.
pub const KEEPALIVE_MIN: Duration = Duration::from_secs(1);

/// The longest keepalive: NAT entries for UDP live 30 s at the least (RFC 4787, section 4.3, asks for
/// two minutes; few keep them), and the QUIC transport gives up after 30 s of silence.
pub const KEEPALIVE_MAX: Duration = Duration::from_secs(20);

/// Time for a stream's last frames to leave after its owner let go of it.
pub const LINGER_TIME: Duration = Duration::from_secs(10);

/// Time for the control stream's last frame (CLOSE) to leave before the transport is cut.
pub const CLOSE_TIME: Duration = Duration::from_secs(1);

/// Frames waiting on the control stream. Every one answers a frame of the peer (PONG) or is one of
/// a handful of ours, so that more means a peer that sends and does not read.
pub const CONTROL_QUEUE: usize = 64;

/// The longest front of `reason` that fits [`REASON`] and ends between characters.
pub(crate) fn clip(reason: &str) -> &str {
    reason
        .get(..reason.floor_char_boundary(REASON))
        .unwrap_or_default()
}
