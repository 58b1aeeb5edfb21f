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
//!
//! Each wait for a frame is a type: [`AwaitChallenge`] and [`AwaitAnswer`] at the connector, [`AwaitHello`] and
//! [`AwaitProof`] at the acceptor. The frame consumes the wait and gives the next one, so that no frame
//! can be passed in twice or out of turn. The question of the connector ([`Ask`]) decides which outcomes there are.

mod acceptor;
mod connector;

use bytes::Bytes;
use thiserror::Error;

pub use self::acceptor::{AwaitHello, AwaitProof, Proven, ResumptionClaim};
pub use self::connector::{
    Ask, AwaitAnswer, AwaitChallenge, Either, EitherSession, NewSession, Resumption, ThatSession,
};
use super::agent_name::AgentName;
use super::code::CloseCode;
use super::frame::{self, Body, Close, RawFrame, Resumed, Welcome};
use super::key::PublicKey;
use super::secret::SessionSecret;
use super::settings::{KeepaliveInterval, ResumeWindow, StreamLimit};
use super::{DecodeError, limits};

/// The protocol versions that this library speaks, best first.
pub const VERSIONS: &[u32] = &[1];

/// Goes in front of the signed bytes, so that a signature made here means nothing anywhere else.
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
        /// The versions of the connector.
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
    /// The code for the peer, or `None` where the peer closed.
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

/// One side, as it describes itself to the other.
#[derive(Debug, Clone)]
pub struct Local {
    /// Streams that the peer may have open at once.
    pub max_streams: StreamLimit,
    /// How long sessions wait without a transport.
    pub resume_window: ResumeWindow,
    /// Name and version of the software, for the peer's logs.
    pub software: String,
}

/// The frame that ends a good handshake with a new session.
pub fn welcome(
    local: &Local,
    session: [u8; 16],
    secret: SessionSecret,
    keepalive: KeepaliveInterval,
    peer: AgentName,
) -> Bytes {
    frame::to_bytes(&Welcome {
        session,
        secret,
        max_streams: local.max_streams.get(),
        keepalive_ms: keepalive.millis(),
        resume_window_ms: local.resume_window.millis(),
        peer,
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

/// The signed bytes. Both frames are encoded anew, in the shortest form, so that both sides sign the
/// same bytes for every encoding of a number that the peer may choose.
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
    use super::*;
    use crate::frame::{Challenge, FrameReader, Hello, Proof, Wish};
    use crate::key::AgentKey;
    use crate::session::LinkRole;

    fn local() -> Local {
        Local {
            max_streams: 10.try_into().unwrap(),
            resume_window: ResumeWindow::of_peer(60_000),
            software: "test/1".into(),
        }
    }

    fn name(name: &str) -> AgentName {
        name.try_into().unwrap()
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

    fn connector(seed: u8) -> (AwaitChallenge<NewSession>, Bytes) {
        AwaitChallenge::start(&local(), &key(seed), [9; 16], &NewSession)
    }

    fn acceptor(hello: &[u8]) -> (AwaitProof, Bytes) {
        AwaitHello::start([5; 32]).handle_hello(raw(hello)).unwrap()
    }

    #[test]
    fn a_session_is_agreed() {
        let key = key(1);
        let (connector, hello) = connector(1);
        let (acceptor, challenge) = acceptor(&hello);
        let (connector, proof) = connector.handle_challenge(raw(&challenge), &key).unwrap();
        let proven = acceptor.handle_proof(raw(&proof)).unwrap();
        assert_eq!(proven.key, key.public_key());
        assert_eq!(proven.instance, [9; 16]);
        let welcome = welcome(
            &local(),
            [3; 16],
            secret(2),
            KeepaliveInterval::of_peer(1000),
            name("edge-1"),
        );
        let welcome = connector.handle_answer(raw(&welcome)).unwrap();
        assert_eq!(
            (welcome.peer.as_str(), welcome.session),
            ("edge-1", [3; 16])
        );
    }

    #[test]
    fn a_proof_with_another_key_is_refused() {
        let (connector, hello) = connector(1);
        let (acceptor, challenge) = acceptor(&hello);
        let (_, proof) = connector
            .handle_challenge(raw(&challenge), &key(2))
            .unwrap();
        let error = acceptor.handle_proof(raw(&proof)).unwrap_err();
        assert_eq!(error, HandshakeError::BadProof(key(1).public_key()));
        assert_eq!(error.close_code(), Some(CloseCode::Unauthenticated));
    }

    #[test]
    fn a_recorded_proof_is_worth_nothing() {
        let (connector, hello) = connector(1);
        let (_, challenge) = acceptor(&hello);
        let (_, proof) = connector
            .handle_challenge(raw(&challenge), &key(1))
            .unwrap();
        let second = AwaitHello::start([6; 32]);
        let (second, _) = second.handle_hello(raw(&hello)).unwrap();
        assert!(matches!(
            second.handle_proof(raw(&proof)),
            Err(HandshakeError::BadProof(_))
        ));
    }

    /// The proof of a connector whose HELLO and whose CHALLENGE were changed on the way.
    fn after_changes(
        change_hello: impl FnOnce(&mut Hello),
        change_challenge: impl FnOnce(&mut Challenge),
    ) -> Result<Proven, HandshakeError> {
        let (connector, hello) = connector(1);
        let mut changed: Hello = raw(&hello).decode().unwrap();
        change_hello(&mut changed);
        let (acceptor, challenge) = acceptor(&frame::to_bytes(&changed));
        let mut challenge: Challenge = raw(&challenge).decode().unwrap();
        change_challenge(&mut challenge);
        let challenge = raw(&frame::to_bytes(&challenge));
        let (_, proof) = connector.handle_challenge(challenge, &key(1)).unwrap();
        acceptor.handle_proof(raw(&proof))
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
        let (connector, hello) = connector(1);
        let challenge = frame::to_bytes(&Challenge {
            version: 1,
            nonce: [5; 32],
        });
        let (_, proof) = connector.handle_challenge(raw(&challenge), &key).unwrap();
        let signed = [&b"underpass session proof v1\0"[..], &hello, &challenge].concat();
        let proof: Proof = raw(&proof).decode().unwrap();
        assert!(key.public_key().verifies(&signed, &proof.signature));
    }

    #[test]
    fn no_common_version_names_what_was_offered() {
        let mut hello: Hello = raw(&connector(1).1).decode().unwrap();
        hello.versions = vec![77, 78];
        let acceptor = AwaitHello::start([5; 32]);
        let error = acceptor
            .handle_hello(raw(&frame::to_bytes(&hello)))
            .unwrap_err();
        assert_eq!(
            error,
            HandshakeError::NoCommonVersion {
                offered: vec![77, 78]
            }
        );
    }

    #[test]
    fn a_close_in_place_of_any_frame_carries_its_reason() {
        let close = raw(&close(CloseCode::Overloaded, "later"));
        let error = connector(1).0.handle_challenge(close, &key(1));
        let expected = HandshakeError::ClosedByPeer {
            code: CloseCode::Overloaded,
            reason: "later".into(),
        };
        assert_eq!(error.unwrap_err(), expected);
    }

    #[test]
    fn frames_out_of_order_are_refused() {
        let error = AwaitHello::start([5; 32]).handle_hello(raw(&frame::to_bytes(&Proof {
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
        }
    }

    /// The proof of a connector that resumes, after `change` on the way.
    fn claim(change: impl FnOnce(&mut Proof)) -> Result<Proven, HandshakeError> {
        let ask = EitherSession(resumption());
        let (connector, hello) = AwaitChallenge::start(&local(), &key(1), [9; 16], &ask);
        let (acceptor, challenge) = acceptor(&hello);
        let (_, proof) = connector
            .handle_challenge(raw(&challenge), &key(1))
            .unwrap();
        let mut proof: Proof = raw(&proof).decode().unwrap();
        change(&mut proof);
        acceptor.handle_proof(raw(&frame::to_bytes(&proof)))
    }

    /// Asks for `ask`, and gets `answer`. Gives the wish that the acceptor heard, too.
    fn answered<A: Ask>(
        ask: &A,
        answer: &Bytes,
    ) -> (Option<Wish>, Result<A::Outcome, HandshakeError>) {
        let (connector, hello) = AwaitChallenge::start(&local(), &key(1), [9; 16], ask);
        let (acceptor, challenge) = acceptor(&hello);
        let (connector, proof) = connector
            .handle_challenge(raw(&challenge), &key(1))
            .unwrap();
        let proven = acceptor.handle_proof(raw(&proof)).unwrap();
        let wish = proven.resumption.map(|claim| claim.wish);
        (wish, connector.handle_answer(raw(answer)))
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
        let answer = resumed(12);
        let (_, outcome) = answered(&EitherSession(resumption()), &answer);
        assert_eq!(outcome, Ok(Either::Resumed(Resumed { received: 12 })));
        let (_, outcome) = answered(&NewSession, &answer);
        assert!(outcome.is_err(), "{outcome:?}");
    }

    #[test]
    fn a_session_that_was_not_wanted_is_no_substitute() {
        let answer = welcome(
            &local(),
            [1; 16],
            secret(3),
            KeepaliveInterval::default(),
            name("edge"),
        );
        let (wish, outcome) = answered(&EitherSession(resumption()), &answer);
        assert_eq!(wish, Some(Wish::MainOrNew));
        assert!(matches!(outcome, Ok(Either::New(_))), "{outcome:?}");
        for (role, expected) in [
            (LinkRole::Main, Wish::Main),
            (LinkRole::Lane, Wish::Lane),
            (LinkRole::Standby, Wish::Standby),
        ] {
            let resumption = resumption();
            let (wish, outcome) = answered(&ThatSession { resumption, role }, &answer);
            assert_eq!(wish, Some(expected));
            assert!(outcome.is_err(), "{outcome:?}");
        }
    }
}
