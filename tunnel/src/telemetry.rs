//! The tunnel's metrics, through the `metrics` facade: without a recorder they cost next to nothing.
//!
//! Labels take few values each, and no session's name is among them; only metrics of [`record_sessions`]
//! have the agent's.

use std::time::Duration;

use underpass_proto::code::{CloseCode, ResetCode};
use underpass_proto::session::{Classes, Ending, LinkEnd};
use underpass_proto::stream::{RecvEnd, SendEnd};

use crate::session::{LinkLoss, Session, SessionError};
use crate::transport::{TransportError, TransportKind};

const DIALS: &str = "underpass_tunnel_dials_total";
const HANDSHAKE: &str = "underpass_tunnel_handshake_seconds";
const TRANSPORTS: &str = "underpass_tunnel_transports_total";
const TRANSPORTS_LOST: &str = "underpass_tunnel_transports_lost_total";
const SWITCHES: &str = "underpass_tunnel_switches_total";
const SESSIONS_ENDED: &str = "underpass_tunnel_sessions_ended_total";
const ROUND_TRIP: &str = "underpass_tunnel_round_trip_seconds";
const UNACKED: &str = "underpass_tunnel_unacked_bytes";
const STREAMS: &str = "underpass_tunnel_streams";
const PACKETS: &str = "underpass_tunnel_path_packets";
const STREAMS_ENDED: &str = "underpass_tunnel_streams_ended_total";

/// Describes the tunnel's metrics to the recorder. Call it once the recorder is installed.
pub fn describe_metrics() {
    metrics::describe_counter!(
        DIALS,
        "Attempts to reach a server, by outcome: connected, or failed"
    );
    metrics::describe_histogram!(
        HANDSHAKE,
        metrics::Unit::Seconds,
        "From a connected transport to a session on it, by transport and outcome"
    );
    metrics::describe_counter!(
        TRANSPORTS,
        "Transports that joined a session, by protocol and why: new, resumed after a loss, moved to, a lane beside, or one that stands by"
    );
    metrics::describe_counter!(
        TRANSPORTS_LOST,
        "Transports that sessions no longer have, by protocol and reason"
    );
    metrics::describe_counter!(
        SWITCHES,
        "Times that a session's standby took the place of its transport, by the protocol that took over"
    );
    metrics::describe_gauge!(
        ROUND_TRIP,
        metrics::Unit::Seconds,
        "Shortest round trip on the present transport, of an agent's sessions the longest"
    );
    metrics::describe_gauge!(
        UNACKED,
        metrics::Unit::Bytes,
        "Bytes that are kept until the peer has them, by agent"
    );
    metrics::describe_gauge!(STREAMS, "Streams open now, by agent and class");
    metrics::describe_gauge!(
        PACKETS,
        "Packets on the present transport, sent and of these lost, by agent; QUIC only"
    );
    metrics::describe_counter!(SESSIONS_ENDED, "Sessions that ended, by reason");
    metrics::describe_counter!(
        STREAMS_ENDED,
        "Streams that ended, by how, and by the code where it was not clean"
    );
}

/// Records the state of an agent's sessions, under the label `agent`; to be called whenever the metrics
/// are read. A recorder with an idle timeout forgets agents that are gone.
pub fn record_sessions<'a>(agent: &str, sessions: impl IntoIterator<Item = &'a Session>) {
    let agent = agent.to_owned();
    let (mut round_trip, mut unacked, mut streams) = (None, 0, Classes::default());
    let (mut sent, mut lost) = (0, 0);
    for session in sessions {
        let stats = session.stats();
        round_trip = round_trip.max(stats.round_trip);
        unacked += stats.unacked_bytes;
        streams.interactive += stats.streams.interactive;
        streams.default += stats.streams.default;
        streams.bulk += stats.streams.bulk;
        let path = stats.path.unwrap_or_default();
        sent += path.sent_packets.unwrap_or_default();
        lost += path.lost_packets.unwrap_or_default();
    }
    if let Some(round_trip) = round_trip {
        metrics::gauge!(ROUND_TRIP, "agent" => agent.clone()).set(round_trip);
    }
    metrics::gauge!(UNACKED, "agent" => agent.clone()).set(unacked as f64);
    for (class, count) in [
        ("interactive", streams.interactive),
        ("default", streams.default),
        ("bulk", streams.bulk),
    ] {
        metrics::gauge!(STREAMS, "agent" => agent.clone(), "class" => class).set(count);
    }
    for (fate, count) in [("sent", sent), ("lost", lost)] {
        metrics::gauge!(PACKETS, "agent" => agent.clone(), "fate" => fate).set(count as f64);
    }
}

/// An attempt to reach a server is over.
pub(crate) fn dialled(connected: bool) {
    let outcome = if connected { "connected" } else { "failed" };
    metrics::counter!(DIALS, "outcome" => outcome).increment(1);
}

/// A session handshake is over, `outcome` says how.
pub(crate) fn handshake(kind: TransportKind, outcome: &'static str, time: Duration) {
    metrics::histogram!(HANDSHAKE, "transport" => kind.name(), "outcome" => outcome).record(time);
}

/// Why a transport joined a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joined {
    /// The session is new.
    New,
    /// It had none.
    Resumed,
    /// It had one.
    Moved,
    /// It is beside the one that the session has, for bulk streams.
    Lane,
    /// It stands by, for when the one that the session has falls silent.
    Standby,
}

pub(crate) fn transport_joined(kind: TransportKind, why: Joined) {
    let why = match why {
        Joined::New => "new",
        Joined::Resumed => "resumed",
        Joined::Moved => "moved",
        Joined::Lane => "lane",
        Joined::Standby => "standby",
    };
    metrics::counter!(TRANSPORTS, "transport" => kind.name(), "why" => why).increment(1);
}

/// A transport that stood by took over.
pub(crate) fn switched(to: TransportKind) {
    metrics::counter!(SWITCHES, "transport" => to.name()).increment(1);
}

pub(crate) fn transport_lost(kind: TransportKind, loss: Option<&LinkLoss>) {
    let reason = match loss {
        None => "session ended".to_owned(),
        Some(LinkLoss::Link(LinkEnd::Left | LinkEnd::PeerLeft { .. })) => "left".to_owned(),
        Some(LinkLoss::Link(LinkEnd::KeepaliveTimeout(_))) => close(CloseCode::KeepaliveTimeout),
        Some(LinkLoss::Transport(TransportError::ClosedByPeer { code, .. })) => close(*code),
        Some(LinkLoss::Transport(TransportError::ClosedHere)) => "closed here".to_owned(),
        Some(LinkLoss::Transport(TransportError::Lost(_))) => "broken".to_owned(),
    };
    metrics::counter!(TRANSPORTS_LOST, "transport" => kind.name(), "reason" => reason).increment(1);
}

pub(crate) fn session_ended(error: &SessionError) {
    let reason = match error {
        SessionError::Ended(Ending::Local { code, .. } | Ending::Peer { code, .. }) => close(*code),
        SessionError::Ended(Ending::Violation(violation)) => close(violation.close_code()),
        SessionError::Ended(Ending::Detached(_)) | SessionError::Transport(_) => {
            "no transport in time".to_owned()
        }
    };
    metrics::counter!(SESSIONS_ENDED, "reason" => reason).increment(1);
}

pub(crate) fn stream_ended(send: SendEnd, recv: &RecvEnd) {
    let (end, code) = match (recv, send) {
        (RecvEnd::Refused(code, _), _) => ("refused", Some(*code)),
        (RecvEnd::Reset(code), _) => ("reset by the peer", Some(*code)),
        (_, SendEnd::Stopped(code)) => ("stopped by the peer", Some(code)),
        (_, SendEnd::Reset(code)) => ("reset here", Some(code)),
        (RecvEnd::Stopped, SendEnd::Done) => ("stopped here", None),
        (RecvEnd::Ended, SendEnd::Done) => ("clean", None),
    };
    let code = code.map_or_else(String::new, reset);
    metrics::counter!(STREAMS_ENDED, "end" => end, "code" => code).increment(1);
}

/// A peer's own codes have one label together: it may send any number.
fn close(code: CloseCode) -> String {
    match code {
        CloseCode::Other(_) => "other".to_owned(),
        code => code.to_string(),
    }
}

fn reset(code: ResetCode) -> String {
    match code {
        ResetCode::Other(_) => "other".to_owned(),
        code => code.to_string(),
    }
}
