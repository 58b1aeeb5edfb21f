//! Every bound of the protocol on what a peer can cost this side, each with its reason. Those of connections are
//! in `underpass-tunnel`.
//!
//! A slow or hostile peer must cost bounded memory and time (security rules 11 and 19). Bounds that
//! an operator may want to move are fields of a configuration whose defaults stand here.

use std::time::Duration;

/// Body of a frame on the control stream, in bytes. The longest is HELLO with its software name;
/// 4 KiB leaves room for fields that later versions add, and is the most that one unauthenticated
/// connection can make this side buffer.
pub const CONTROL_FRAME: usize = 4 * 1024;

/// Body of an OPEN frame, in bytes: the application's header (below) and its own few fields.
pub const OPEN_FRAME: usize = OPEN_HEADER + 1024;

/// An OPEN frame with its type and length.
pub const OPEN_FRAME_WHOLE: usize = OPEN_FRAME + 16;

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

/// Sessions of one agent's key, unless configured: its replicas, and those of a rollout beside them. One that
/// is idle costs some 20 KiB; a key that was copied to where it does not belong must not take them all.
pub const SESSIONS_OF_AGENT: usize = 64;

/// Sessions in all, unless configured: more than ten thousand agents, each with a second session while it
/// comes back. Idle ones cost 1.3 GiB together.
pub const SESSIONS: usize = 65_536;

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

/// Bytes of one stream that a side may send before it hears that any arrived. Larger windows delay a
/// keystroke beside a bulk stream on a fast path; smaller ones make the first round trips of a
/// transfer slow.
pub const STREAM_CREDIT: u64 = 256 * 1024;

/// Transports of one session at once, beyond which the earliest are left: a main link and a lane, one of each
/// that is being left, and the same again where a path fails so often that the ends of connections are
/// noticed late.
pub const LINKS: usize = 8;

/// PINGs with which a link begins, one after the other. Windows grow with the shortest round trip, and
/// the first one also measures how busy both ends are with the beginning.
pub const PINGS_FIRST: u64 = 4;

/// That window's limit: 1.6 Gbit/s over a path of 40 ms.
pub const STREAM_CREDIT_MAX: u64 = 8 * 1024 * 1024;

/// How long half a window is to last without interactive streams. Each grant wakes five tasks in two processes, and
/// where the processors are busy it takes the scheduler about that long until the last of them has run: the sender
/// stands still meanwhile. Longer than that, windows fall out of the processor's caches for nothing.
pub const WINDOW_TIME: Duration = Duration::from_millis(1);

/// The shortest round trip at which congestion control that keeps a path's queue short does so well enough for
/// keystrokes: the queue is a few milliseconds. On shorter paths the session's own windows do better.
pub const LONG_PATH: Duration = Duration::from_millis(10);

/// Bytes that all windows of a session may grow beyond their beginnings, at the receiving side:
/// eight streams at full size. The beginnings come on top, [`STREAM_CREDIT`] for each stream.
pub const SESSION_CREDIT_GROWTH: u64 = 64 * 1024 * 1024;

/// Bytes that a session keeps until the peer acknowledges them, over all its streams. Writers wait
/// where it is full.
pub const SESSION_UNACKED: u64 = 64 * 1024 * 1024;

/// Bytes that each stream may keep though the session is full, so that unread streams cannot stop
/// the others.
pub const STREAM_UNACKED_MIN: u64 = 64 * 1024;

/// Pieces that one stream's kept bytes may be in. Each costs about 100 bytes beside its content: a
/// writer of single bytes must not cost a hundred times its bytes.
pub const STREAM_PIECES: usize = 4096;

/// Lasting control frames kept until the peer acknowledges them. A stream causes four at the most;
/// a peer that lets more gather does not read, or does not answer.
pub const LASTING_FRAMES: usize = 4 * STREAMS_MAX as usize;

/// Lasting control frames after which they are acknowledged at once.
pub const ACK_FRAMES: u64 = 64;

/// Time for which acknowledgements gather. It is how long the peer keeps bytes for nothing; each
/// batch wakes both sides.
pub const ACK_DELAY: Duration = Duration::from_millis(5);

/// Delay of output that the peer does not wait for: ends of streams, and acknowledgements of such frames.
/// Requests are mostly over sooner than [`ACK_DELAY`], and would cost a message of their own for it.
pub const FLUSH_DELAY: Duration = Duration::from_millis(25);

/// Runs of stream ids that were passed over and may still come. Streams arrive almost in order.
pub const STREAM_ID_GAPS: usize = STREAMS_MAX as usize;

/// How long a session waits without a transport, unless configured: a laptop's nap in a lift, a load
/// balancer's restart, a changed address. Each side keeps its sent bytes meanwhile.
pub const RESUME_WINDOW: Duration = Duration::from_secs(60);

/// The longest that configuration may make it.
pub const RESUME_WINDOW_MAX: Duration = Duration::from_secs(3600);

/// Time for an open header to arrive in full.
pub const OPEN_HEADER_TIME: Duration = Duration::from_secs(10);

/// Time for the peer's answer to an OPEN. The answer is sent before the target is reached, so it
/// measures the peer's life and the path, never the target.
pub const ANSWER_TIME: Duration = Duration::from_secs(3);

/// Time for the whole session handshake after the transport's: four flights, no human.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Bytes of a WebSocket message. A message is never assembled, so that this costs nothing here;
/// things between two peers may assemble it, and some take no larger ones.
pub const WEBSOCKET_MESSAGE: usize = 256 * 1024;

/// Payload of one DATA frame of `underpass.v1`, in bytes. It is given out as it arrives; the limit
/// keeps frames of other streams from standing behind a longer one.
pub const MUX_DATA: usize = 64 * 1024;

/// Bytes of one stream that wait inside the multiplexer to be sent, before its writer does: four
/// times the connection's largest write, so that writer and connection seldom wake each other. They
/// are the session's own, which keeps them anyway.
pub const MUX_SEND_QUEUE: usize = 256 * 1024;

/// Bytes of one stream that wait for its reader. The session's credit grows to 8 MiB; the rest is for
/// the session's frames around the payload.
pub const MUX_STREAM_RECEIVE: usize = 8 * 1024 * 1024 + 512 * 1024;

/// Bytes of all streams of a connection that wait for their readers: all that the session's credit
/// can allow, [`STREAM_CREDIT`] for each stream and [`SESSION_CREDIT_GROWTH`], and the session's
/// frames around the payload. A peer that sends more ignores the credit; memory may be four times
/// as much at the worst, see [`MUX_READ_BUFFER`].
#[allow(
    clippy::cast_possible_truncation,
    reason = "constants that fit: the sum is less than 4 GiB"
)]
pub const MUX_CONNECTION_RECEIVE: usize =
    STREAMS_MAX as usize * (STREAM_CREDIT as usize + 8 * 1024) + SESSION_CREDIT_GROWTH as usize;

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

/// The same while the peer has something to acknowledge, which it does at once: silence then is
/// likely to be a path that has died. UDP that is dropped from some moment on is noticed by this.
pub const KEEPALIVE_OWING: Duration = Duration::from_secs(2);

/// How many times as long it takes where the session has another link that answers: neither is the only way to the peer, and
/// an idle session costs no more than one with a single link. At most [`KEEPALIVE_MAX`].
pub const KEEPALIVE_SPARED: u32 = 2;

/// Time for the answer to a PING, before the transport counts as lost. Being wrong costs a resumption;
/// being slow costs the user's patience.
pub const KEEPALIVE_ANSWER: Duration = Duration::from_secs(5);

/// Silence after which the primary link's peer is asked for an answer while something waits for one, beside two
/// round trips: well above [`FLUSH_DELAY`], so that in the ordinary case the answer comes before.
pub const PROBE_DELAY: Duration = Duration::from_millis(40);

/// Time for that answer, beside three round trips, before the link counts as silent and the standby takes its place.
/// Being wrong costs the streams a move; a busy machine's scheduler takes tens of milliseconds.
pub const PROBE_ANSWER: Duration = Duration::from_millis(120);

/// The longest queue that a measured round trip is taken to hold beside the shortest one: longer ones come and go, and a path
/// would count as slow for as long as nobody measures again.
pub const PROBE_QUEUE: Duration = Duration::from_millis(100);

/// How late this side may look for the answer before it looks once more: a machine that was stopped has answers to read.
pub const PROBE_LATE: Duration = Duration::from_millis(50);

/// How often that time may double, where answers came after it: to two seconds.
pub const PROBE_FALSE_ALARMS: u32 = 4;

/// Changes of the primary link that a peer may ask for at once, and the time for each one more: each moves all
/// streams. A path that dies and lives in turns causes some in a second.
pub const CHANGES: u32 = 32;

/// See [`CHANGES`].
pub const CHANGE_TIME: Duration = Duration::from_millis(500);

/// For how long after a stream was opened a connector looks whether its link is alive: the acceptor has no way to tell it that
/// the next one does not arrive, where no link stands by or that one has died as well.
pub const LIVELY_TIME: Duration = Duration::from_secs(10);

/// How often it looks, and an acceptor whose caller wants to know when the connector is away.
pub const LIVELY_ASK: Duration = Duration::from_millis(500);

/// The shortest keepalive that a peer may ask of this side: a shorter one would be load.
pub const KEEPALIVE_MIN: Duration = Duration::from_secs(1);

/// The longest keepalive: NAT entries for UDP live 30 s at the least (RFC 4787, section 4.3, asks for
/// two minutes; few keep them), and the QUIC transport gives up after 30 s of silence.
pub const KEEPALIVE_MAX: Duration = Duration::from_secs(20);

/// Frames waiting on the control stream. Every one answers a frame of the peer (PONG) or is one of
/// a handful of ours, so that more means a peer that sends and does not read.
pub const CONTROL_QUEUE: usize = 64;

/// The longest front of `reason` that fits [`REASON`] and ends between characters.
pub(crate) fn clip(reason: &str) -> &str {
    reason
        .get(..reason.floor_char_boundary(REASON))
        .unwrap_or_default()
}
