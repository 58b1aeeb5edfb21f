//! Every bound on the cost of a connection, each with its reason; and, from the crate below, those of the
//! protocol.

use std::time::Duration;

pub use underpass_proto::limits::*;

/// Sessions of agents of one name, with all keys, unless configured: some hundred nodes, or 64 agents with four each.
/// An administrator who makes keys for one name must not take the sessions of all.
pub const SESSIONS_OF_NAME: usize = 4 * SESSIONS_OF_AGENT;

/// Log lines of one session about streams of the peer's that began badly, above the debug level. Some show what is wrong; a
/// peer opens thousands a second.
pub const REFUSED_STREAM_LINES: u32 = 16;

/// How long new streams wait for a session whose transport is lost or silent. A peer that is there comes
/// back sooner; callers of one that is not should hear so.
pub const AWAY_GRACE: Duration = Duration::from_secs(2);

/// How long another session is picked than one whose peer has refused the target: with the next stream it would have fewest once
/// more, and fail the next call as well. A refusal may be about one caller, so that it counts for a moment only.
pub const REFUSED_PASSED_OVER: Duration = Duration::from_secs(5);

/// Time for one transport to connect to one address, TLS and a proxy's answer included; also for a
/// name to be resolved. With [`ADDRESSES`] started one after the other, an attempt ends within 25 s.
pub const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Addresses of one server's name that are tried, and of a proxy's.
pub use underpass_dial::ADDRESSES;

/// Connections that are not yet authenticated, at once, over all transports. Each may have one
/// stream, and hold a TLS handshake's state, [`UNAUTHENTICATED_WINDOW`] over QUIC or a WebSocket
/// message and a yamux window of 256 KiB each: about 600 KiB, 1.2 GiB in all at the very worst. It
/// must let ten thousand agents back in after a restart, at four flights each.
pub const UNAUTHENTICATED: usize = 2048;

/// From so many on, a QUIC peer first proves that it receives at its address (Retry, RFC 9000,
/// section 8.1.2), which costs it a round trip and this side no memory. An unanswered handshake
/// holds its place for [`CONNECT_TIME`], so that 205 spoofed packets a second would
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
#[allow(clippy::cast_possible_truncation, reason = "a constant that fits")]
pub const UNAUTHENTICATED_WINDOW: u32 = MUX_UNAUTHENTICATED as u32;

/// First packets of QUIC connections that wait until the acceptor looks at them. It looks at once;
/// more than this means that it does not keep up, and the rest is refused without a handshake.
/// Each holds a datagram: 6 MiB in all.
pub const QUIC_INCOMING: usize = 2 * UNAUTHENTICATED;

/// Bytes that may follow one of these before the acceptor has looked at it: the rest of a
/// ClientHello with a post-quantum key share. Nothing else may come: 0-RTT is not used.
pub const QUIC_INCOMING_BYTES: u64 = 16 * 1024;

/// The same over all of them. Peers resend dropped packets.
pub const QUIC_INCOMING_BYTES_TOTAL: u64 = 8 * 1024 * 1024;

/// Credit of one QUIC stream: the session's largest grant (8 MiB) and room for the stream's
/// frames, so that QUIC never stalls a stream. 8 MiB is 670 Mbit/s at 100 ms.
#[allow(clippy::cast_possible_truncation, reason = "a constant that fits")]
pub const QUIC_STREAM_WINDOW: u32 = MUX_STREAM_RECEIVE as u32;

/// Credit of one QUIC connection once its peer is authenticated: [`STREAMS`] unread streams with 256 KiB
/// each stall no other, and a peer that ignores all credit but QUIC's costs 1 GiB
/// at the most. Unlimited, it would cost that for every hundred of its streams.
pub const QUIC_CONNECTION_WINDOW: u32 = STREAMS * 256 * 1024;

/// Concurrent streams that the dialer allows its peer at first. quinn keeps an entry for each that is
/// allowed, open or not: for a session's largest number that is 1.4 MiB.
pub const QUIC_STREAMS_FIRST: u32 = 64;

/// The same, of the dialled side: it has thousands of idle peers, which mostly serve and open nothing. A burst of
/// theirs waits for a round trip, once.
pub const QUIC_STREAMS_FIRST_OF_DIALLER: u32 = 8;

/// That limit grows to this as streams are used. The session limits streams; this is larger, with room for
/// streams that end.
pub const QUIC_STREAMS: u32 = 2 * STREAMS_MAX;

/// Silence after which a QUIC connection is given up. The session's keepalive finds a lost peer sooner
/// ([`KEEPALIVE_MAX`] and a PING that gets no answer); this is for connections that never became
/// sessions. QUIC agrees on it in its handshake: it cannot be shorter until the peer is authenticated.
pub const QUIC_IDLE: Duration = Duration::from_secs(30);

/// Bytes that a stream gives in one chunk, where the reader sets no limit.
pub const READ_CHUNK: usize = 64 * 1024;

/// Time for a stream's last frames to leave after its owner let go of it.
pub const LINGER_TIME: Duration = Duration::from_secs(10);

/// Time for the control stream's last frame (CLOSE) to leave before the transport is cut.
pub const CLOSE_TIME: Duration = Duration::from_secs(1);
