//! The session handshake, from either end (PROTOCOL.md, "Handshake").
//!
//! ```text
//! connector                    acceptor
//!     | -- HELLO ------------------> |
//!     | <----------- CHALLENGE ----- |
//!     | -- PROOF ------------------> |   looks the key up
//!     | <-- WELCOME or RESUMED ----- |
//! ```
//! Either side may send CLOSE in place of its next frame.

use bytes::Bytes;
use thiserror::Error;

use super::code::CloseCode;
use super::frame::{
    self, Body, Challenge, Close, Hello, Proof, Purpose, RawFrame, Resumed, Welcome, Wish,
};
use super::key::{AgentKey, PublicKey};
use super::secret::SessionSecret;
use super::{DecodeError, limits};

/// The protocol versions that this library speaks, best first.
pub const VERSIONS: &[u32] = &[1];

/// In front of what is signed, so that a signature made here means nothing anywhere else.
const PROOF_CONTEXT: &[u8] = b"underpass session proof v1\0";

/// The same for the proof of a session's secret.
const RESUMPTION_CONTEXT: &[u8] = b"underpass session resumption v1\0";

/// Why a handshake ended without a session.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer sent bytes that are not the frame expected there.
    #[error("malformed handshake frame")]
    Decode(#[from] DecodeError),
    /// The connector offered no version that the acceptor speaks.
    #[error("no protocol version in common: the peer offers {offered:?}, this side {VERSIONS:?}")]
    NoCommonVersion {
        /// What the connector offered.
        offered: Vec<u32>,
    },
    /// The acceptor chose a version that was not offered.
    #[error("the peer chose protocol version {0}, which was not offered")]
    VersionNotOffered(u32),
    /// The connector's signature does not belong to its key.
    #[error("the proof does not match the claimed key {0}")]
    BadProof(PublicKey),
    /// The connector does not know the secret of the session that it wants to resume.
    #[error("no proof of the session's secret")]
    BadResumption,
    /// The peer ended the handshake.
    #[error("closed by the peer: {code}: {reason}")]
    ClosedByPeer {
        /// Why, for programs.
        code: CloseCode,
        /// Why, for people.
        reason: String,
    },
}

impl HandshakeError {
    /// What to tell the peer, or `None` where it was the peer that closed.
    pub fn close_code(&self) -> Option<CloseCode> {
        match self {
            Self::Decode(error) => Some(decode_close_code(*error)),
            Self::NoCommonVersion { .. } | Self::VersionNotOffered(_) => Some(CloseCode::Version),
            Self::BadProof(_) => Some(CloseCode::Unauthenticated),
            Self::BadResumption => Some(CloseCode::ResumeRefused),
            Self::ClosedByPeer { .. } => None,
        }
    }
}

/// The close code for bytes that are not a frame.
pub(crate) fn decode_close_code(error: DecodeError) -> CloseCode {
    match error {
        DecodeError::TooLong { .. } => CloseCode::FrameTooLarge,
        DecodeError::UnexpectedFrame(_) => CloseCode::UnexpectedFrame,
        _ => CloseCode::FrameEncoding,
    }
}

/// What one side tells the other of itself.
#[derive(Debug, Clone)]
pub struct Local {
    /// Streams that the peer may have open at once.
    pub max_streams: u32,
    /// How long sessions wait without a transport, in milliseconds.
    pub resume_window_ms: u32,
    /// Name and version of the software, for the peer's logs.
    pub software: String,
}

/// What a connector needs to carry on a session.
#[derive(Debug, Clone)]
pub struct Resumption {
    /// The session's id.
    pub session: [u8; 16],
    /// Its secret.
    pub secret: SessionSecret,
    /// Which of the session's transports this is; each has a higher number than those before.
    pub attempt: u64,
    /// Lasting control frames of the acceptor's that have arrived.
    pub received: u64,
    /// What the transport is to be to the session.
    pub wish: Wish,
}

/// The connector's end of a handshake.
#[derive(Debug)]
pub struct ConnectorHandshake {
    hello: Bytes,
    asks_for: AsksFor,
    secret: Option<SessionSecret>,
    state: ConnectorState,
}

/// What the connector will have.
#[derive(Debug, Clone, Copy)]
enum AsksFor {
    /// A new session.
    Session,
    /// One that exists, or a new one.
    EitherSession,
    /// One that exists.
    ThatSession,
}

#[derive(Debug, PartialEq, Eq)]
enum ConnectorState {
    AwaitChallenge,
    AwaitWelcome,
}

/// What the connector does next.
#[derive(Debug, PartialEq, Eq)]
pub enum ConnectorStep {
    /// Send these bytes and wait for the next frame.
    Send(Bytes),
    /// A new session stands. Where another was to be resumed, the acceptor has it no more.
    Established(Welcome),
    /// The session to resume goes on.
    Resumed(Resumed),
}

impl ConnectorHandshake {
    /// Starts a handshake: send the bytes, then pass each received frame to
    /// [`handle`](Self::handle).
    pub fn start(
        local: &Local,
        key: &AgentKey,
        instance: [u8; 16],
        resumption: Option<&Resumption>,
    ) -> (Self, Bytes) {
        let purpose = resumption.map_or(Purpose::NewSession, |resumption| Purpose::Resume {
            session: resumption.session,
            attempt: resumption.attempt,
            received: resumption.received,
            wish: resumption.wish,
        });
        let asks_for = match resumption {
            None => AsksFor::Session,
            Some(resumption) if resumption.wish == Wish::MainOrNew => AsksFor::EitherSession,
            Some(_) => AsksFor::ThatSession,
        };
        let hello = frame::to_bytes(&Hello {
            versions: VERSIONS.to_vec(),
            public_key: key.public_key().0,
            instance,
            max_streams: local.max_streams,
            resume_window_ms: local.resume_window_ms,
            software: clip_software(&local.software),
            purpose,
        });
        (
            Self {
                hello: hello.clone(),
                asks_for,
                secret: resumption.map(|resumption| resumption.secret.clone()),
                state: ConnectorState::AwaitChallenge,
            },
            hello,
        )
    }

    /// Takes the acceptor's next frame.
    ///
    /// # Errors
    /// Where the frame ends the handshake; nothing may be passed in afterwards.
    pub fn handle(
        &mut self,
        frame: RawFrame,
        key: &AgentKey,
    ) -> Result<ConnectorStep, HandshakeError> {
        let frame = refuse_close(frame)?;
        match self.state {
            ConnectorState::AwaitChallenge => {
                let challenge: Challenge = frame.decode()?;
                if !VERSIONS.contains(&challenge.version) {
                    return Err(HandshakeError::VersionNotOffered(challenge.version));
                }
                let challenge = frame::to_bytes(&challenge);
                self.state = ConnectorState::AwaitWelcome;
                let resumption = self.secret.as_ref().map(|secret| {
                    secret.prove(&transcript(RESUMPTION_CONTEXT, &self.hello, &challenge))
                });
                let proof = Proof {
                    signature: key.sign(&transcript(PROOF_CONTEXT, &self.hello, &challenge)),
                    resumption,
                };
                Ok(ConnectorStep::Send(frame::to_bytes(&proof)))
            }
            ConnectorState::AwaitWelcome => {
                let resumed = frame.kind == u64::from(Resumed::TYPE);
                match self.asks_for {
                    AsksFor::Session => Ok(ConnectorStep::Established(frame.decode()?)),
                    AsksFor::EitherSession if !resumed => {
                        Ok(ConnectorStep::Established(frame.decode()?))
                    }
                    AsksFor::EitherSession | AsksFor::ThatSession => {
                        Ok(ConnectorStep::Resumed(frame.decode()?))
                    }
                }
            }
        }
    }
}

/// The acceptor's end of a handshake.
#[derive(Debug)]
pub struct AcceptorHandshake {
    nonce: [u8; 32],
    state: AcceptorState,
}

#[derive(Debug)]
enum AcceptorState {
    AwaitHello,
    AwaitProof { hello: Hello, challenge: Bytes },
    Proven,
}

/// A connector that has proven to own its key. Whether the key is anybody's is the caller's to
/// find out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The key.
    pub key: PublicKey,
    /// The connector's process.
    pub instance: [u8; 16],
    /// Streams that this side may have open at once.
    pub max_streams: u32,
    /// How long the connector wants sessions to wait for it, in milliseconds.
    pub resume_window_ms: u32,
    /// Name and version of the connector's software.
    pub software: String,
    /// The session that it wants to carry on.
    pub resumption: Option<ResumptionClaim>,
}

/// A connector's wish to carry on a session, whose secret it may or may not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumptionClaim {
    /// The session's id.
    pub session: [u8; 16],
    /// Which of the session's transports this is.
    pub attempt: u64,
    /// Lasting control frames of ours that the connector has.
    pub received: u64,
    /// What the transport is to be to the session.
    pub wish: Wish,
    message: Vec<u8>,
    proof: [u8; 32],
}

impl ResumptionClaim {
    /// Checks that the connector knows the session's secret.
    ///
    /// # Errors
    /// Where it does not.
    pub fn verify(&self, secret: &SessionSecret) -> Result<(), HandshakeError> {
        if secret.verifies(&self.message, &self.proof) {
            Ok(())
        } else {
            Err(HandshakeError::BadResumption)
        }
    }
}

/// What the acceptor does next.
#[derive(Debug, PartialEq, Eq)]
pub enum AcceptorStep {
    /// Send these bytes and wait for the next frame.
    Send(Bytes),
    /// Look the key up; then send [`welcome`], [`resumed`] or a CLOSE.
    Proven(Proven),
}

impl AcceptorHandshake {
    /// Waits for HELLO. `nonce` must be random and never used before.
    pub fn start(nonce: [u8; 32]) -> Self {
        Self {
            nonce,
            state: AcceptorState::AwaitHello,
        }
    }

    /// Takes the connector's next frame.
    ///
    /// # Errors
    /// Where the frame ends the handshake; nothing may be passed in afterwards.
    pub fn handle(&mut self, frame: RawFrame) -> Result<AcceptorStep, HandshakeError> {
        let frame = refuse_close(frame)?;
        match std::mem::replace(&mut self.state, AcceptorState::Proven) {
            AcceptorState::AwaitHello => self.handle_hello(frame),
            AcceptorState::AwaitProof { hello, challenge } => {
                prove(hello, &challenge, &frame.decode()?).map(AcceptorStep::Proven)
            }
            AcceptorState::Proven => Err(DecodeError::UnexpectedFrame(frame.kind).into()),
        }
    }

    fn handle_hello(&mut self, frame: RawFrame) -> Result<AcceptorStep, HandshakeError> {
        let hello: Hello = frame.decode()?;
        let chosen = hello
            .versions
            .iter()
            .find(|offered| VERSIONS.contains(offered));
        let Some(version) = chosen.copied() else {
            return Err(HandshakeError::NoCommonVersion {
                offered: hello.versions,
            });
        };
        let challenge = frame::to_bytes(&Challenge {
            version,
            nonce: self.nonce,
        });
        self.state = AcceptorState::AwaitProof {
            hello,
            challenge: challenge.clone(),
        };
        Ok(AcceptorStep::Send(challenge))
    }
}

fn prove(hello: Hello, challenge: &Bytes, proof: &Proof) -> Result<Proven, HandshakeError> {
    let key = PublicKey(hello.public_key);
    let said = frame::to_bytes(&hello);
    if !key.verifies(
        &transcript(PROOF_CONTEXT, &said, challenge),
        &proof.signature,
    ) {
        return Err(HandshakeError::BadProof(key));
    }
    let resumption = match (hello.purpose, proof.resumption) {
        (Purpose::NewSession, _) => None,
        (Purpose::Resume { .. }, None) => return Err(HandshakeError::BadResumption),
        (
            Purpose::Resume {
                session,
                attempt,
                received,
                wish,
            },
            Some(proof),
        ) => Some(ResumptionClaim {
            session,
            attempt,
            received,
            wish,
            message: transcript(RESUMPTION_CONTEXT, &said, challenge),
            proof,
        }),
    };
    Ok(Proven {
        key,
        instance: hello.instance,
        max_streams: hello.max_streams,
        resume_window_ms: hello.resume_window_ms,
        software: hello.software,
        resumption,
    })
}

/// The frame that ends a good handshake with a new session.
pub fn welcome(
    local: &Local,
    session: [u8; 16],
    secret: SessionSecret,
    keepalive_ms: u32,
    peer: &str,
) -> Bytes {
    frame::to_bytes(&Welcome {
        session,
        secret,
        max_streams: local.max_streams,
        keepalive_ms,
        resume_window_ms: local.resume_window_ms,
        peer: peer.to_owned(),
        software: clip_software(&local.software),
    })
}

/// The frame that ends a good handshake for a session that goes on. `received` counts the
/// connector's lasting control frames that have arrived.
pub fn resumed(received: u64) -> Bytes {
    frame::to_bytes(&Resumed { received })
}

/// The frame that ends a bad one.
pub fn close(code: CloseCode, reason: &str) -> Bytes {
    frame::to_bytes(&Close {
        code,
        reason: reason.to_owned(),
    })
}

/// What is signed. Both frames are encoded anew, in the shortest form, so that both sides sign the
/// same bytes whatever encoding of a number the peer chose.
fn transcript(context: &[u8], hello: &Bytes, challenge: &Bytes) -> Vec<u8> {
    [context, hello, challenge].concat()
}

fn refuse_close(frame: RawFrame) -> Result<RawFrame, HandshakeError> {
    if frame.kind != u64::from(Close::TYPE) {
        return Ok(frame);
    }
    let Close { code, reason } = frame.decode()?;
    Err(HandshakeError::ClosedByPeer { code, reason })
}

fn clip_software(software: &str) -> String {
    software
        .get(..software.floor_char_boundary(limits::SOFTWARE))
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::frame::FrameReader;
    use super::*;

    fn local() -> Local {
        Local {
            max_streams: 10,
            resume_window_ms: 60_000,
            software: "test/1".into(),
        }
    }

    fn key(seed: u8) -> AgentKey {
        AgentKey::from_seed([seed; 32]).unwrap()
    }

    fn secret(seed: u8) -> SessionSecret {
        SessionSecret::new([seed; 32])
    }

    fn raw(bytes: &[u8]) -> RawFrame {
        FrameReader::new(limits::CONTROL_FRAME)
            .read_all(bytes)
            .unwrap()
    }

    fn sent(step: AcceptorStep) -> Bytes {
        match step {
            AcceptorStep::Send(bytes) => bytes,
            AcceptorStep::Proven(_) => panic!("not yet"),
        }
    }

    #[test]
    fn a_session_is_agreed() {
        let key = key(1);
        let (mut connector, hello) = ConnectorHandshake::start(&local(), &key, [9; 16], None);
        let mut acceptor = AcceptorHandshake::start([5; 32]);
        let challenge = sent(acceptor.handle(raw(&hello)).unwrap());
        let ConnectorStep::Send(proof) = connector.handle(raw(&challenge), &key).unwrap() else {
            panic!("no proof");
        };
        let AcceptorStep::Proven(proven) = acceptor.handle(raw(&proof)).unwrap() else {
            panic!("not proven");
        };
        assert_eq!(proven.key, key.public_key());
        assert_eq!(proven.instance, [9; 16]);
        let welcome = welcome(&local(), [3; 16], secret(2), 1000, "edge-1");
        let ConnectorStep::Established(welcome) = connector.handle(raw(&welcome), &key).unwrap()
        else {
            panic!("not established");
        };
        assert_eq!(
            (welcome.peer.as_str(), welcome.session),
            ("edge-1", [3; 16])
        );
    }

    #[test]
    fn a_proof_with_another_key_is_refused() {
        let (mut connector, hello) = ConnectorHandshake::start(&local(), &key(1), [9; 16], None);
        let mut acceptor = AcceptorHandshake::start([5; 32]);
        let challenge = sent(acceptor.handle(raw(&hello)).unwrap());
        let ConnectorStep::Send(proof) = connector.handle(raw(&challenge), &key(2)).unwrap() else {
            panic!("no proof");
        };
        let error = acceptor.handle(raw(&proof)).unwrap_err();
        assert_eq!(error, HandshakeError::BadProof(key(1).public_key()));
        assert_eq!(error.close_code(), Some(CloseCode::Unauthenticated));
    }

    #[test]
    fn a_recorded_proof_is_worth_nothing() {
        let key = key(1);
        let (mut connector, hello) = ConnectorHandshake::start(&local(), &key, [9; 16], None);
        let mut first = AcceptorHandshake::start([5; 32]);
        let challenge = sent(first.handle(raw(&hello)).unwrap());
        let ConnectorStep::Send(proof) = connector.handle(raw(&challenge), &key).unwrap() else {
            panic!("no proof");
        };
        let mut second = AcceptorHandshake::start([6; 32]);
        sent(second.handle(raw(&hello)).unwrap());
        assert!(matches!(
            second.handle(raw(&proof)),
            Err(HandshakeError::BadProof(_))
        ));
    }

    /// The proof of a connector whose HELLO and whose CHALLENGE were changed on the way.
    fn after_changes(
        change_hello: impl FnOnce(&mut Hello),
        change_challenge: impl FnOnce(&mut Challenge),
    ) -> Result<AcceptorStep, HandshakeError> {
        let key = key(1);
        let (mut connector, hello) = ConnectorHandshake::start(&local(), &key, [9; 16], None);
        let mut changed: Hello = raw(&hello).decode().unwrap();
        change_hello(&mut changed);
        let mut acceptor = AcceptorHandshake::start([5; 32]);
        let challenge = sent(acceptor.handle(raw(&frame::to_bytes(&changed))).unwrap());
        let mut challenge: Challenge = raw(&challenge).decode().unwrap();
        change_challenge(&mut challenge);
        let challenge = raw(&frame::to_bytes(&challenge));
        let ConnectorStep::Send(proof) = connector.handle(challenge, &key).unwrap() else {
            panic!("no proof");
        };
        acceptor.handle(raw(&proof))
    }

    #[test]
    fn whatever_was_said_is_signed() {
        assert!(after_changes(|_| {}, |_| {}).is_ok());
        let refused = |result| matches!(result, Err(HandshakeError::BadProof(_)));
        assert!(refused(after_changes(
            |hello| hello.instance = [8; 16],
            |_| {}
        )));
        assert!(refused(after_changes(
            |hello| hello.max_streams += 1,
            |_| {}
        )));
        assert!(refused(after_changes(
            |hello| hello.versions.push(2),
            |_| {}
        )));
        assert!(refused(after_changes(
            |hello| hello.software.push('x'),
            |_| {}
        )));
        assert!(refused(after_changes(
            |_| {},
            |challenge| challenge.nonce = [6; 32]
        )));
    }

    /// PROTOCOL.md, "Handshake", step 2.
    #[test]
    fn the_signed_bytes_are_the_documents() {
        let key = key(1);
        let (mut connector, hello) = ConnectorHandshake::start(&local(), &key, [9; 16], None);
        let challenge = frame::to_bytes(&Challenge {
            version: 1,
            nonce: [5; 32],
        });
        let ConnectorStep::Send(proof) = connector.handle(raw(&challenge), &key).unwrap() else {
            panic!("no proof");
        };
        let signed = [&b"underpass session proof v1\0"[..], &hello, &challenge].concat();
        let proof: Proof = raw(&proof).decode().unwrap();
        assert!(key.public_key().verifies(&signed, &proof.signature));
    }

    #[test]
    fn no_common_version_names_what_was_offered() {
        let mut hello: Hello = raw(&ConnectorHandshake::start(&local(), &key(1), [9; 16], None).1)
            .decode()
            .unwrap();
        hello.versions = vec![77, 78];
        let mut acceptor = AcceptorHandshake::start([5; 32]);
        let error = acceptor.handle(raw(&frame::to_bytes(&hello))).unwrap_err();
        assert_eq!(
            error,
            HandshakeError::NoCommonVersion {
                offered: vec![77, 78]
            }
        );
    }

    #[test]
    fn a_close_in_place_of_any_frame_carries_its_reason() {
        let key = key(1);
        let (mut connector, _) = ConnectorHandshake::start(&local(), &key, [9; 16], None);
        let error = connector.handle(raw(&close(CloseCode::Overloaded, "later")), &key);
        let expected = HandshakeError::ClosedByPeer {
            code: CloseCode::Overloaded,
            reason: "later".into(),
        };
        assert_eq!(error, Err(expected));
    }

    #[test]
    fn frames_out_of_order_are_refused() {
        let mut acceptor = AcceptorHandshake::start([5; 32]);
        let error = acceptor.handle(raw(&frame::to_bytes(&Proof {
            signature: [0; 64],
            resumption: None,
        })));
        assert_eq!(
            error.unwrap_err().close_code(),
            Some(CloseCode::UnexpectedFrame)
        );
    }

    fn resumption() -> Resumption {
        Resumption {
            session: [3; 16],
            secret: secret(2),
            attempt: 4,
            received: 17,
            wish: Wish::MainOrNew,
        }
    }

    /// What the acceptor hears from a connector that resumes, after `change` on the way.
    fn claim(change: impl FnOnce(&mut Proof)) -> Result<Proven, HandshakeError> {
        let key = key(1);
        let (mut connector, hello) =
            ConnectorHandshake::start(&local(), &key, [9; 16], Some(&resumption()));
        let mut acceptor = AcceptorHandshake::start([5; 32]);
        let challenge = sent(acceptor.handle(raw(&hello)).unwrap());
        let ConnectorStep::Send(proof) = connector.handle(raw(&challenge), &key).unwrap() else {
            panic!("no proof");
        };
        let mut proof: Proof = raw(&proof).decode().unwrap();
        change(&mut proof);
        match acceptor.handle(raw(&frame::to_bytes(&proof)))? {
            AcceptorStep::Proven(proven) => Ok(proven),
            AcceptorStep::Send(_) => panic!("not proven"),
        }
    }

    #[test]
    fn a_session_is_resumed_by_who_knows_its_secret() {
        let claim = claim(|_| {}).unwrap().resumption.unwrap();
        assert_eq!(
            (claim.session, claim.attempt, claim.received),
            ([3; 16], 4, 17)
        );
        assert_eq!(claim.verify(&secret(2)), Ok(()));
        assert_eq!(
            claim.verify(&secret(1)),
            Err(HandshakeError::BadResumption),
            "a session's id alone is worth nothing"
        );
    }

    #[test]
    fn a_resumption_without_its_proof_is_refused() {
        let error = claim(|proof| proof.resumption = None).unwrap_err();
        assert_eq!(error.close_code(), Some(CloseCode::ResumeRefused));
        let claim = claim(|proof| proof.resumption = Some([0; 32])).unwrap();
        assert!(claim.resumption.unwrap().verify(&secret(2)).is_err());
    }

    #[test]
    fn resumed_is_for_who_asked() {
        let key = key(1);
        for asked in [true, false] {
            let resumption = asked.then(resumption);
            let (mut connector, hello) =
                ConnectorHandshake::start(&local(), &key, [9; 16], resumption.as_ref());
            let mut acceptor = AcceptorHandshake::start([5; 32]);
            let challenge = sent(acceptor.handle(raw(&hello)).unwrap());
            connector.handle(raw(&challenge), &key).unwrap();
            let step = connector.handle(raw(&resumed(12)), &key);
            assert_eq!(
                step.ok(),
                asked.then_some(ConnectorStep::Resumed(Resumed { received: 12 }))
            );
        }
    }

    #[test]
    fn a_session_that_was_not_wanted_is_no_substitute() {
        let key = key(1);
        for wish in [Wish::MainOrNew, Wish::Main, Wish::Lane] {
            let resumption = Resumption {
                wish,
                ..resumption()
            };
            let (mut connector, hello) =
                ConnectorHandshake::start(&local(), &key, [9; 16], Some(&resumption));
            let mut acceptor = AcceptorHandshake::start([5; 32]);
            let challenge = sent(acceptor.handle(raw(&hello)).unwrap());
            let ConnectorStep::Send(proof) = connector.handle(raw(&challenge), &key).unwrap()
            else {
                panic!("no proof");
            };
            let AcceptorStep::Proven(proven) = acceptor.handle(raw(&proof)).unwrap() else {
                panic!("not proven");
            };
            assert_eq!(proven.resumption.unwrap().wish, wish);
            let or_new = wish == Wish::MainOrNew;
            let welcome = welcome(&local(), [1; 16], secret(3), 10_000, "edge");
            let step = connector.handle(raw(&welcome), &key);
            assert_eq!(matches!(step, Ok(ConnectorStep::Established(_))), or_new);
            assert_eq!(step.is_err(), !or_new, "{step:?}");
        }
    }
}
