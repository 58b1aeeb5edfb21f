//! The session handshake, from either end (PROTOCOL.md, "Handshake").
//!
//! ```text
//! connector                    acceptor
//!     | -- HELLO ------------------> |
//!     | <----------- CHALLENGE ----- |
//!     | -- PROOF ------------------> |   looks the key up
//!     | <------------- WELCOME ----- |
//! ```
//! Either side may send CLOSE in place of its next frame.

use bytes::Bytes;
use thiserror::Error;

use super::code::CloseCode;
use super::frame::{self, Body, Challenge, Close, Hello, Proof, RawFrame, Welcome};
use super::key::{AgentKey, PublicKey};
use super::{DecodeError, limits};

/// The protocol versions that this library speaks, best first.
pub const VERSIONS: &[u32] = &[1];

/// In front of what is signed, so that a signature made here means nothing anywhere else.
const PROOF_CONTEXT: &[u8] = b"underpass session proof v1\0";

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
    /// Name and version of the software, for the peer's logs.
    pub software: String,
}

/// The connector's end of a handshake.
#[derive(Debug)]
pub struct ConnectorHandshake {
    hello: Bytes,
    state: ConnectorState,
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
    /// The session stands.
    Established(Welcome),
}

impl ConnectorHandshake {
    /// Starts a handshake: send the bytes, then pass each received frame to
    /// [`handle`](Self::handle).
    pub fn start(local: &Local, key: &AgentKey, instance: [u8; 16]) -> (Self, Bytes) {
        let hello = frame::to_bytes(&Hello {
            versions: VERSIONS.to_vec(),
            public_key: key.public_key().0,
            instance,
            max_streams: local.max_streams,
            software: clip_software(&local.software),
        });
        (
            Self {
                hello: hello.clone(),
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
                let message = transcript(&self.hello, &frame::to_bytes(&challenge));
                self.state = ConnectorState::AwaitWelcome;
                let proof = Proof {
                    signature: key.sign(&message),
                };
                Ok(ConnectorStep::Send(frame::to_bytes(&proof)))
            }
            ConnectorState::AwaitWelcome => Ok(ConnectorStep::Established(frame.decode()?)),
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
    AwaitProof { hello: Hello, message: Vec<u8> },
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
    /// Name and version of the connector's software.
    pub software: String,
}

/// What the acceptor does next.
#[derive(Debug, PartialEq, Eq)]
pub enum AcceptorStep {
    /// Send these bytes and wait for the next frame.
    Send(Bytes),
    /// Look the key up; then send [`welcome`] or a CLOSE.
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
            AcceptorState::AwaitProof { hello, message } => {
                let proof: Proof = frame.decode()?;
                let key = PublicKey(hello.public_key);
                if !key.verifies(&message, &proof.signature) {
                    return Err(HandshakeError::BadProof(key));
                }
                Ok(AcceptorStep::Proven(Proven {
                    key,
                    instance: hello.instance,
                    max_streams: hello.max_streams,
                    software: hello.software,
                }))
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
        let message = transcript(&frame::to_bytes(&hello), &challenge);
        self.state = AcceptorState::AwaitProof { hello, message };
        Ok(AcceptorStep::Send(challenge))
    }
}

/// The frame that ends a good handshake.
pub fn welcome(local: &Local, session: [u8; 16], keepalive_ms: u32, peer: &str) -> Bytes {
    frame::to_bytes(&Welcome {
        session,
        max_streams: local.max_streams,
        keepalive_ms,
        peer: peer.to_owned(),
        software: clip_software(&local.software),
    })
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
fn transcript(hello: &Bytes, challenge: &Bytes) -> Vec<u8> {
    [PROOF_CONTEXT, hello, challenge].concat()
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
            software: "test/1".into(),
        }
    }

    fn key(seed: u8) -> AgentKey {
        AgentKey::from_seed([seed; 32]).unwrap()
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
        let (mut connector, hello) = ConnectorHandshake::start(&local(), &key, [9; 16]);
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
        let welcome = welcome(&local(), [3; 16], 1000, "edge-1");
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
        let (mut connector, hello) = ConnectorHandshake::start(&local(), &key(1), [9; 16]);
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
        let (mut connector, hello) = ConnectorHandshake::start(&local(), &key, [9; 16]);
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
        let (mut connector, hello) = ConnectorHandshake::start(&local(), &key, [9; 16]);
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
        let (mut connector, hello) = ConnectorHandshake::start(&local(), &key, [9; 16]);
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
        let mut hello: Hello = raw(&ConnectorHandshake::start(&local(), &key(1), [9; 16]).1)
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
        let (mut connector, _) = ConnectorHandshake::start(&local(), &key, [9; 16]);
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
        let error = acceptor.handle(raw(&frame::to_bytes(&Proof { signature: [0; 64] })));
        assert_eq!(
            error.unwrap_err().close_code(),
            Some(CloseCode::UnexpectedFrame)
        );
    }
}
