//! Entry points of the fuzz targets (`fuzz/`), for decoders that are otherwise private.

use bytes::{Bytes, BytesMut};

use super::choices::Choices;
use super::frame::{
    self, Ack, Answer, Attach, Attached, Body, Challenge, Close, Control, Credit, Done,
    FrameReader, GoAway, Hello, Leave, Open, Ping, Pong, Primary, Proof, RawFrame, Refuse,
    ResetStream, Resumed, Sequence, StopSending, Welcome,
};
use super::handshake::{
    self, Ask, AwaitChallenge, AwaitHello, EitherSession, Local, NewSession, Resumption,
    ThatSession,
};
use super::key::AgentKey;
use super::limits;
use super::mux::simulation as mux_simulation;
use super::secret::SessionSecret;
use super::session::LinkRole;
use super::settings::{KeepaliveInterval, ResumeWindow};
use super::simulation::World;
use super::stream_id::Role;
use super::websocket::{Decoder, FramingError, Received};

/// Every decoder on the frames of `data`, which arrives in pieces of the length that its first byte
/// says.
pub fn frames(data: &[u8]) {
    let Some((piece, data)) = data.split_first() else {
        return;
    };
    let mut reader = FrameReader::new(limits::CONTROL_FRAME);
    for bytes in data.chunks(usize::from(*piece) + 1) {
        reader.push(bytes);
        loop {
            match reader.next() {
                Ok(Some(raw)) => decode_all(&raw),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

fn decode_all(raw: &RawFrame) {
    let _ = Control::decode(raw.clone());
    round_trip::<Hello>(raw);
    round_trip::<Challenge>(raw);
    round_trip::<Proof>(raw);
    round_trip::<Welcome>(raw);
    round_trip::<Ping>(raw);
    round_trip::<Pong>(raw);
    round_trip::<GoAway>(raw);
    round_trip::<Close>(raw);
    round_trip::<Resumed>(raw);
    round_trip::<Leave>(raw);
    round_trip::<Ack>(raw);
    round_trip::<Sequence>(raw);
    round_trip::<Credit>(raw);
    round_trip::<Primary>(raw);
    round_trip::<Refuse>(raw);
    round_trip::<ResetStream>(raw);
    round_trip::<StopSending>(raw);
    round_trip::<Done>(raw);
    round_trip::<Attach>(raw);
    round_trip::<Attached>(raw);
    round_trip::<Open>(raw);
    round_trip::<Answer>(raw);
}

/// A decoded frame must survive being encoded again.
fn round_trip<B: Body + PartialEq + std::fmt::Debug>(raw: &RawFrame) {
    let Ok(body) = raw.clone().decode::<B>() else {
        return;
    };
    let mut reader = FrameReader::new(B::MAX);
    reader.push(&frame::to_bytes(&body));
    let again = reader.next().map(|raw| raw.map(RawFrame::decode::<B>));
    assert_eq!(again, Ok(Some(Ok(body))));
}

/// An open header, with payload behind it.
pub fn open_header(data: &[u8]) {
    let mut reader = FrameReader::new(limits::OPEN_FRAME);
    reader.push(data);
    if let Ok(Some(raw)) = reader.next() {
        let length = raw.body.len();
        round_trip::<Open>(&raw);
        let rest = reader.into_rest();
        assert!(data.ends_with(&rest), "the payload is what stood behind");
        assert!(rest.len() + length < data.len());
    }
}

/// Choices from a fuzzer's bytes.
struct Input<'a>(&'a [u8]);

impl Choices for Input<'_> {
    fn pick(&mut self, n: u32) -> Option<u32> {
        let (value, rest) = if n <= 256 {
            let (byte, rest) = self.0.split_first()?;
            (u32::from(*byte), rest)
        } else {
            let (bytes, rest) = self.0.split_first_chunk()?;
            (u32::from(u16::from_be_bytes(*bytes)), rest)
        };
        self.0 = rest;
        Some(value % n)
    }
}

/// Two sessions, with events that `data` chooses.
pub fn session(data: &[u8]) {
    World::new(&mut Input(data)).run(400);
}

/// Two multiplexers, with events of their streams that `data` chooses; where its first byte is
/// even, the rest is a peer's input to one of them.
pub fn mux(data: &[u8]) {
    match data.split_first() {
        Some((first, data)) if first % 2 == 0 => {
            let _ = mux_simulation::garbage(data);
        }
        Some((_, data)) => mux_simulation::World::new(&mut Input(data)).run(600),
        None => {}
    }
}

/// A WebSocket's bytes, which mean the same however they are cut: the first byte says into pieces
/// of which length, and whether they are a client's.
pub fn websocket(data: &[u8]) {
    let Some((first, data)) = data.split_first() else {
        return;
    };
    let role = if first % 2 == 0 {
        Role::Connector
    } else {
        Role::Acceptor
    };
    let whole = unframe(role, data, data.len().max(1));
    assert_eq!(unframe(role, data, usize::from(*first / 2) + 1), whole);
}

/// A decoder's output, payload put together, and why it stopped.
type Unframed = (Vec<u8>, Vec<Received>, Option<FramingError>);

fn unframe(role: Role, data: &[u8], piece: usize) -> Unframed {
    let mut decoder = Decoder::new(role);
    let mut buffer = BytesMut::new();
    let (mut payload, mut rest) = (Vec::new(), Vec::new());
    for bytes in data.chunks(piece) {
        buffer.extend_from_slice(bytes);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(Received::Payload(bytes))) => payload.extend_from_slice(&bytes),
                Ok(Some(other)) => rest.push(other),
                Ok(None) => break,
                Err(error) => return (payload, rest, Some(error)),
            }
        }
        assert!(
            buffer.len() <= Decoder::UNDECODED_MAX,
            "it takes what it can"
        );
    }
    (payload, rest, None)
}

/// A handshake whose frames are changed on the way: the first byte says which frame, the second and
/// third where, the others into what. The first byte's highest bit asks for a session that exists.
pub fn handshake(data: &[u8]) {
    let [which, high, low, change @ ..] = data else {
        return;
    };
    let at = usize::from(u16::from_be_bytes([*high, *low]));
    let tamper = |index: u8, frame: Bytes| {
        let mut frame = frame.to_vec();
        if *which & 0x1f == index && !frame.is_empty() {
            let at = at % frame.len();
            frame.splice(at.., change.iter().copied());
        }
        Bytes::from(frame)
    };
    let (Ok(max_streams), Ok(name)) = (10.try_into(), "edge-1".try_into()) else {
        return;
    };
    let local = Local {
        max_streams,
        resume_window: ResumeWindow::default(),
        software: "fuzz/1".to_owned(),
    };
    let Ok(key) = AgentKey::from_seed([1; 32]) else {
        return;
    };
    let secret = SessionSecret::new([4; 32]);
    let resumption = Resumption {
        session: [3; 16],
        secret: secret.clone(),
        attempt: 1,
        received: 2,
    };
    let resumed = handshake::resumed(7);
    let ends = Ends { local, key };
    let _ = match *which & 0xe0 {
        0x80 => ends.shake_hands(&EitherSession(resumption), tamper, resumed),
        0xa0 => {
            let role = LinkRole::Main;
            ends.shake_hands(&ThatSession { resumption, role }, tamper, resumed)
        }
        0xc0 | 0xe0 => {
            let role = LinkRole::Lane;
            ends.shake_hands(&ThatSession { resumption, role }, tamper, resumed)
        }
        _ => {
            let welcome = handshake::welcome(
                &ends.local,
                [3; 16],
                secret,
                KeepaliveInterval::default(),
                name,
            );
            ends.shake_hands(&NewSession, tamper, welcome)
        }
    };
}

/// Both ends of a handshake.
struct Ends {
    local: Local,
    key: AgentKey,
}

impl Ends {
    /// To the end, or until one of them refuses a frame: `None`.
    fn shake_hands<A: Ask>(
        &self,
        ask: &A,
        tamper: impl Fn(u8, Bytes) -> Bytes,
        answer: Bytes,
    ) -> Option<()> {
        let Self { local, key } = self;
        let resumes = ask.secret().is_some();
        let (connector, hello) = AwaitChallenge::start(local, key, [9; 16], ask);
        let acceptor = AwaitHello::start([5; 32]);
        let (acceptor, challenge) = acceptor.handle_hello(only(&tamper(0, hello))?).ok()?;
        let challenge = only(&tamper(1, challenge))?;
        let (connector, proof) = connector.handle_challenge(challenge, key).ok()?;
        if let Some(proof) = only(&tamper(2, proof))
            && let Ok(proven) = acceptor.handle_proof(proof)
        {
            assert_eq!(proven.key, key.public_key(), "nobody else's key was proven");
            assert_eq!((proven.instance, proven.max_streams), ([9; 16], 10));
            assert_eq!(
                proven.software, "fuzz/1",
                "nothing that is signed was changed"
            );
            assert_eq!(proven.resumption.is_some(), resumes);
            if let Some(claim) = proven.resumption {
                assert_eq!((claim.session, claim.attempt), ([3; 16], 1));
                assert!(claim.verify(&SessionSecret::new([6; 32])).is_err());
            }
        }
        connector
            .handle_answer(only(&tamper(3, answer))?)
            .ok()
            .map(drop)
    }
}

fn only(bytes: &[u8]) -> Option<RawFrame> {
    let mut reader = FrameReader::new(limits::CONTROL_FRAME);
    reader.push(bytes);
    reader.next().ok().flatten()
}
