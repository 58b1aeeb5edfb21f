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

/// Sessions of agents of one name, with all keys, unless configured: some hundred nodes, or 64 agents with four each.
/// An administrator who makes keys for one name must not take the sessions of all.
pub const SESSIONS_OF_NAME: usize = 4 * SESSIONS_OF_AGENT;

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

/// Log lines of one session about streams of the peer's that began badly, above the debug level. Some show what is wrong; a
/// peer opens thousands a second.
pub const REFUSED_STREAM_LINES: u32 = 16;

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

/// What that window may grow to: 1.6 Gbit/s over a path of 40 ms.
pub const STREAM_CREDIT_MAX: u64 = 8 * 1024 * 1024;

/// How long half a window is to last while nobody types beside it. Each grant wakes five tasks in two processes, and
/// where the processors are busy it takes the scheduler about that long until the last of them has run: the sender
/// stands still meanwhile. Longer than that, windows fall out of the processor's caches for nothing.
pub const WINDOW_TIME: Duration = Duration::from_millis(1);

/// The shortest round trip at which congestion control that keeps a path's queue short does so well enough for somebody
/// who types: what it lets wait is a few milliseconds. On shorter paths the session's own windows do better.
pub const LONG_PATH: Duration = Duration::from_millis(10);

/// Bytes that all windows of a session may grow beyond their beginnings, at the receiving side:
/// eight streams at full size. The beginnings come on top, [`STREAM_CREDIT`] for each stream.
pub const SESSION_CREDIT_GROWTH: u64 = 64 * 1024 * 1024;

/// Bytes that a session keeps until the peer acknowledges them, over all its streams. Writers wait
/// where it is full.
pub const SESSION_KEPT: u64 = 64 * 1024 * 1024;

/// Bytes that each stream may keep though the session is full, so that streams which nobody reads
/// cannot stop the others.
pub const STREAM_KEPT_MIN: u64 = 64 * 1024;

/// Pieces that one stream's kept bytes may be in. Each costs about 100 bytes beside its content: a
/// writer of single bytes must not cost a hundred times what it writes.
pub const STREAM_PIECES: usize = 4096;

/// Lasting control frames kept until the peer acknowledges them. A stream causes four at the most;
/// a peer that lets more gather does not read, or does not answer.
pub const LASTING_FRAMES: usize = 4 * STREAMS_MAX as usize;

/// Lasting control frames after which they are acknowledged at once.
pub const ACK_FRAMES: u64 = 64;

/// Time for which acknowledgements gather. It is how long the peer keeps bytes for nothing; each
/// batch wakes both sides.
pub const ACK_DELAY: Duration = Duration::from_millis(5);

/// Time for which that gathers which nobody waits for: that streams have ended, and that such frames have
/// arrived. Requests are mostly over sooner than [`ACK_DELAY`], and would cost a message of their own for it.
pub const SETTLE_DELAY: Duration = Duration::from_millis(25);

/// Runs of stream ids that were passed over and may still come. Streams arrive almost in order.
pub const STREAM_ID_GAPS: usize = STREAMS_MAX as usize;

/// How long a session waits without a transport, unless configured: a laptop's nap in a lift, a load
/// balancer's restart, a changed address. Each side keeps what it sent meanwhile.
pub const RESUME_WINDOW: Duration = Duration::from_secs(60);

/// The longest that configuration may make it.
pub const RESUME_WINDOW_MAX: Duration = Duration::from_secs(3600);

/// How long new streams wait for a session that has lost its transport. A peer that is there comes
/// back sooner; callers of one that is not should hear so.
pub const DETACHED_GRACE: Duration = Duration::from_secs(2);

/// Time for an open header to arrive in full.
pub const OPEN_HEADER_TIME: Duration = Duration::from_secs(10);

/// Time for the peer's answer to an OPEN. The answer is sent before the target is reached, so it
/// measures the peer's life and the path, never the target.
pub const ANSWER_TIME: Duration = Duration::from_secs(3);

/// Time for the whole session handshake after the transport's: four flights, no human.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Time for one transport to connect to one address, TLS and a proxy's answer included; also for a
/// name to be resolved. With [`ADDRESSES`] started one after the other, an attempt ends within 25 s.
pub const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Addresses of one server's name that are tried, and of a proxy's: a name that has hundreds would
/// keep an attempt, and the sockets that it tries side by side, going for minutes.
pub const ADDRESSES: usize = 16;

/// An HTTP proxy's answer to CONNECT, in bytes, up to the empty line. Proxies send some hundred bytes,
/// with lists of what authentication they take.
pub const PROXY_ANSWER: usize = 8 * 1024;

/// Connections that are not yet authenticated, at once, over all transports. Each may have one
/// stream, and hold a TLS handshake's state, [`UNAUTHENTICATED_WINDOW`] over QUIC or a WebSocket
/// message and a yamux window of 256 KiB each: about 600 KiB, 1.2 GiB in all at the very worst. It
/// must let ten thousand agents back in after a restart, at four flights each.
pub const UNAUTHENTICATED: usize = 2048;

/// From so many on, a QUIC peer first proves that it receives at its address (Retry, RFC 9000,
/// section 8.1.2), which costs it a round trip and this side no memory. A handshake that nobody
/// answers holds its place for [`CONNECT_TIME`], so that 205 spoofed packets a second would
/// otherwise hold every place: this way they get half of them.
pub const UNAUTHENTICATED_UNPROVEN: usize = UNAUTHENTICATED / 2;

/// Of these, how many one source may hold while there are [`UNAUTHENTICATED_UNPROVEN`] or more:
/// an IPv4 address or an IPv6 network of 64 bits, which is what one customer is given. Fleets share
/// an address behind NAT or a load balancer, so that it does not count before there is a rush; a
/// handshake takes milliseconds, so that a quarter of the places is hundreds of agents a second. An IPv6
/// network of 56 bits holds one and a half times as much, one of 48 bits twice. Where every place is
/// taken, the oldest handshake of the source with most of them ends for a newcomer.
pub const UNAUTHENTICATED_PER_SOURCE: usize = UNAUTHENTICATED / 4;

/// QUIC connections that failed in their handshake and that the QUIC stack has not forgotten, beside
/// those above: it remembers each for a while, some 20 KiB, to answer stray packets. 160 MiB in all;
/// ten thousand agents that do not trust the server's CA and try again every 15 s make 2,000. Beyond it
/// only sources come in that have proven their address and have nothing here yet.
pub const FAILED_HANDSHAKES: usize = 4 * UNAUTHENTICATED;

/// How long the stack remembers one that failed: three probe timeouts (RFC 9000, section 10.2), of
/// which each is a second before a round trip was measured (RFC 9002, section 6.2.2).
pub const FAILED_HANDSHAKE_TIME: Duration = Duration::from_secs(3);

/// Bytes that a QUIC peer may send before it is authenticated: some control frames.
pub const UNAUTHENTICATED_WINDOW: u32 = 64 * 1024;

/// First packets of QUIC connections that wait until the acceptor looks at them. It looks at once;
/// more than this means that it does not keep up, and the rest is refused without a handshake.
/// Each holds a datagram: 6 MiB in all.
pub const QUIC_INCOMING: usize = 2 * UNAUTHENTICATED;

/// Bytes that may follow one of these before the acceptor has looked at it: the rest of a
/// ClientHello with a post-quantum key share. Nothing else may come: 0-RTT is not used.
pub const QUIC_INCOMING_BYTES: u64 = 16 * 1024;

/// The same over all of them. What is dropped is sent again.
pub const QUIC_INCOMING_BYTES_TOTAL: u64 = 8 * 1024 * 1024;

/// Credit of one QUIC stream: what the session above may grant (8 MiB) and what the stream carries
/// beside it, so that QUIC is never what stalls a stream. 8 MiB is 670 Mbit/s at 100 ms.
pub const QUIC_STREAM_WINDOW: u32 = 8 * 1024 * 1024 + 512 * 1024;

/// Credit of one QUIC connection once its peer is authenticated: [`STREAMS`] streams with 256 KiB each
/// that nobody reads stall no other, and a peer that keeps to no credit but QUIC's costs 1 GiB
/// at the most. Unlimited, it would cost that for every hundred of its streams.
pub const QUIC_CONNECTION_WINDOW: u32 = STREAMS * 256 * 1024;

/// Streams that who dials allows the other side at first, at once. quinn keeps an entry for each that is
/// allowed, open or not: at all that a session may have it is 1.4 MiB.
pub const QUIC_STREAMS_FIRST: u32 = 64;

/// The same, of who is dialled: it has thousands of idle peers, which mostly serve and open nothing. A burst of
/// theirs waits for a round trip, once.
pub const QUIC_STREAMS_FIRST_OF_DIALLER: u32 = 8;

/// What that grows to as they are used. The session counts streams; this only has to stay out of its way: its limit,
/// and those that end.
pub const QUIC_STREAMS: u32 = 2 * STREAMS_MAX;

/// Silence after which a QUIC connection is given up. The session's keepalive finds a lost peer sooner
/// ([`KEEPALIVE_MAX`] and a PING that gets no answer); this is for connections that never became
/// sessions. QUIC agrees on it in its handshake: it cannot be shorter until the peer is authenticated.
pub const QUIC_IDLE: Duration = Duration::from_secs(30);

/// Bytes of a WebSocket message. A message is never assembled, so that this costs nothing here;
/// things between two peers may assemble it, and some take no larger ones.
pub const WEBSOCKET_MESSAGE: usize = 256 * 1024;

/// Payload of one DATA frame of `underpass.v1`, in bytes. It is given out as it arrives; the limit
/// keeps frames of other streams from standing behind a longer one.
pub const MUX_DATA: usize = 64 * 1024;

/// Bytes of one stream that wait inside the multiplexer to be sent, before its writer does: what
/// the connection takes at once, four times, so that writer and connection seldom wake each other. They
/// are the session's own, which keeps them anyway.
pub const MUX_SEND_QUEUE: usize = 256 * 1024;

/// Bytes of one stream that wait for its reader. The session's credit grows to 8 MiB; the rest is for
/// what is no payload of the session's stream.
pub const MUX_STREAM_RECEIVE: usize = QUIC_STREAM_WINDOW as usize;

/// Bytes of all streams of a connection that wait for their readers: all that the session's credit
/// can allow, [`STREAM_CREDIT`] for each stream and [`SESSION_CREDIT_GROWTH`], and what is no payload
/// of the session's streams. Who sends more keeps to no credit; memory may be four times as much at
/// the worst, see [`MUX_READ_BUFFER`].
#[allow(
    clippy::cast_possible_truncation,
    reason = "constants that fit: the sum is less than 4 GiB"
)]
pub const MUX_CONNECTION_RECEIVE: usize =
    STREAMS_MAX as usize * (STREAM_CREDIT as usize + 8 * 1024) + SESSION_CREDIT_GROWTH as usize;

/// The same before the peer is authenticated: some control frames.
pub const MUX_UNAUTHENTICATED: usize = UNAUTHENTICATED_WINDOW as usize;

/// Streams that a peer has open on one connection. The session counts streams and refuses those
/// above its own limit; this leaves it room to, and ends a connection whose peer does not care.
pub const MUX_STREAMS: usize = 2 * STREAMS_MAX as usize;

/// The same before the peer is authenticated. All but the first are refused, and the refusals wait
/// here until the peer reads them.
pub const MUX_STREAMS_UNAUTHENTICATED: usize = 64;

/// Bytes that a stream gives in one chunk, where whoever reads names no number.
pub const READ_CHUNK: usize = 64 * 1024;

/// Bytes read from a connection in one go: two TLS records. Payload is given out as slices of it,
/// those of less than a quarter are copied: a slice keeps at most four times its size alive.
pub const MUX_READ_BUFFER: usize = 32 * 1024;

/// Silence after which a PING goes out. Load balancers forget idle connections after 30 s at the
/// earliest that is common.
pub const KEEPALIVE: Duration = Duration::from_secs(10);

/// The same while the peer has something to acknowledge, which it does at once: silence then is
/// likely to be a path that has died. UDP that is dropped from some moment on is noticed by this.
pub const KEEPALIVE_OWING: Duration = Duration::from_secs(2);

/// Time for the answer to a PING, before the transport counts as lost. Being wrong costs a resumption;
/// being slow costs the user's patience.
pub const KEEPALIVE_ANSWER: Duration = Duration::from_secs(5);

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
