//! Holds `docs/PROTOCOL.md` to the code: its tables must say what the code does.

use super::code::{CloseCode, ResetCode};
use super::frame::{
    Ack, Answer, Attach, Attached, Body, Challenge, Close, Credit, Done, GoAway, Hello, Leave,
    Open, Ping, Pong, Primary, Proof, Refuse, ResetStream, Resumed, Sequence, StopSending, Welcome,
};
use super::{limits, mux, yamux};

const DOCUMENT: &str = include_str!("../../../docs/PROTOCOL.md");

/// The cells of each row of the table that follows `marker`.
fn table(marker: &str) -> Vec<Vec<&'static str>> {
    let (_, after) = DOCUMENT.split_once(marker).expect(marker);
    after
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

fn number(cell: &str) -> u64 {
    match cell.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).unwrap(),
        None => cell.parse().unwrap(),
    }
}

/// `KeepaliveTimeout` as the document writes it: `KEEPALIVE_TIMEOUT`.
fn written(code: &dyn std::fmt::Debug) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[test]
fn close_codes_are_the_documents() {
    let documented: Vec<_> = table("Close codes (")
        .iter()
        .map(|row| (number(row[0]), row[1].to_owned()))
        .collect();
    let known: Vec<_> = CloseCode::KNOWN
        .iter()
        .map(|code| (code.to_wire(), written(code)))
        .collect();
    assert_eq!(documented, known);
}

#[test]
fn reset_codes_are_the_documents() {
    let documented: Vec<_> = table("Reset codes (")
        .iter()
        .map(|row| (number(row[0]), row[1].to_owned()))
        .collect();
    let known: Vec<_> = ResetCode::KNOWN
        .iter()
        .map(|code| (code.to_wire(), written(code)))
        .collect();
    assert_eq!(documented, known);
}

fn frame<B: Body>(name: &str) -> (u64, String, u64) {
    (B::TYPE.into(), name.to_owned(), B::MAX as u64)
}

#[test]
fn frame_types_and_their_limits_are_the_documents() {
    let documented: Vec<_> = table("before the body.\n")
        .iter()
        .map(|row| (number(row[0]), row[1].to_owned(), number(row[4])))
        .collect();
    let mut known = vec![
        frame::<Hello>("HELLO"),
        frame::<Challenge>("CHALLENGE"),
        frame::<Proof>("PROOF"),
        frame::<Welcome>("WELCOME"),
        frame::<Ping>("PING"),
        frame::<Pong>("PONG"),
        frame::<GoAway>("GOAWAY"),
        frame::<Close>("CLOSE"),
        frame::<Resumed>("RESUMED"),
        frame::<Leave>("LEAVE"),
        frame::<Ack>("ACK"),
        frame::<Credit>("CREDIT"),
        frame::<Refuse>("REFUSE"),
        frame::<ResetStream>("RESET_STREAM"),
        frame::<StopSending>("STOP_SENDING"),
        frame::<Open>("OPEN"),
        frame::<Answer>("ANSWER"),
        frame::<Attach>("ATTACH"),
        frame::<Attached>("ATTACHED"),
        frame::<Done>("DONE"),
        frame::<Sequence>("SEQUENCE"),
        frame::<Primary>("PRIMARY"),
    ];
    let of_yamux = yamux::frames();
    known.extend(of_yamux.map(|(kind, name, max)| (kind, name.to_owned(), max as u64)));
    assert_eq!(documented, known);
}

#[test]
fn frame_types_of_the_multiplexer_are_the_documents() {
    let documented: Vec<_> = table("0x43 | stream (varint) | code (varint)\n```\n")
        .iter()
        .map(|row| (number(row[0]), row[1].to_owned()))
        .collect();
    let known = mux::FRAMES.map(|(kind, name)| (u64::from(kind), name.to_owned()));
    assert_eq!(documented, known);
}

#[test]
fn limits_are_the_documents() {
    let rows = table("## Limits");
    let documented = |what: &str| {
        let row = rows.iter().find(|row| row[0] == what).expect(what);
        row[1].to_owned()
    };
    let bytes = |limit: usize| format!("{limit} bytes");
    let seconds = |limit: std::time::Duration| format!("{} s", limit.as_secs());
    let limits = [
        ("body of a control frame", bytes(limits::CONTROL_FRAME)),
        ("body of OPEN", bytes(limits::OPEN_FRAME)),
        ("`header` of OPEN", bytes(limits::OPEN_HEADER)),
        ("`target` of OPEN", bytes(limits::TARGET)),
        ("reasons", bytes(limits::REASON)),
        ("`software`", bytes(limits::SOFTWARE)),
        ("`peer`", bytes(limits::PEER_NAME)),
        ("versions in HELLO", limits::VERSIONS.to_string()),
        (
            "streams of one side at once",
            format!(
                "{}, configurable up to {}",
                limits::STREAMS,
                limits::STREAMS_MAX
            ),
        ),
        (
            "streams whose OPEN is arriving",
            limits::STREAMS_OPENING.to_string(),
        ),
        (
            "streams that wait for an ANSWER",
            format!(
                "{}, for {}",
                limits::STREAMS_UNACCEPTED,
                seconds(limits::ACCEPT_TIME)
            ),
        ),
        ("OPEN", seconds(limits::OPEN_HEADER_TIME)),
        ("ANSWER", seconds(limits::ANSWER_TIME)),
        ("handshake", seconds(limits::HANDSHAKE_TIME)),
        ("unread PONGs", limits::CONTROL_QUEUE.to_string()),
        (
            "credit of a stream at first",
            format!("{} bytes", limits::STREAM_CREDIT),
        ),
        (
            "lasting frames without ACK",
            limits::LASTING_FRAMES.to_string(),
        ),
        ("links of a session", limits::LINKS.to_string()),
        ("gaps among stream ids", limits::STREAM_ID_GAPS.to_string()),
        (
            "sessions of one agent",
            format!("{}, configurable", limits::SESSIONS_OF_AGENT),
        ),
        (
            "sessions in all",
            format!("{}, configurable", limits::SESSIONS),
        ),
        (
            "resume window",
            format!(
                "{}, configurable up to {}",
                seconds(limits::RESUME_WINDOW),
                seconds(limits::RESUME_WINDOW_MAX)
            ),
        ),
        ("WebSocket message", bytes(limits::WEBSOCKET_MESSAGE)),
        ("payload of DATA, underpass.v1", bytes(limits::MUX_DATA)),
        (
            "unread bytes of one stream, underpass.v1",
            bytes(limits::MUX_STREAM_RECEIVE),
        ),
        (
            "unread bytes of a connection, underpass.v1",
            bytes(limits::MUX_CONNECTION_RECEIVE),
        ),
        (
            "unread bytes before the proof, underpass.v1",
            bytes(limits::MUX_UNAUTHENTICATED),
        ),
        (
            "streams of one side at once, underpass.v1",
            format!(
                "{}; before the proof {}",
                limits::MUX_STREAMS,
                limits::MUX_STREAMS_UNAUTHENTICATED
            ),
        ),
    ];
    assert_eq!(rows.len(), limits.len());
    for (what, limit) in limits {
        assert_eq!(documented(what), limit, "{what}");
    }
}

/// The sections that the code's comments cite.
#[test]
fn cited_sections_exist() {
    for section in [
        "Encoding",
        "Handshake",
        "Frames",
        "Lasting frames",
        "Offsets, acknowledgement and credit",
        "Resuming",
        "Stream ids",
        "Streams over underpass.v1",
        "Streams over yamux",
        "Keepalive",
        "Error codes",
        "Reconnecting",
    ] {
        assert!(DOCUMENT.contains(&format!("\n## {section}\n")), "{section}");
    }
}
