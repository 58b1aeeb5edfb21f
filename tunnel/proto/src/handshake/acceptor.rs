//! The acceptor's end of a handshake.

use bytes::Bytes;

use super::{
    HandshakeError, PROOF_CONTEXT, RESUMPTION_CONTEXT, VERSIONS, refuse_close, transcript,
};
use crate::frame::{self, Challenge, Hello, Proof, Purpose, RawFrame, Wish};
use crate::key::PublicKey;
use crate::secret::SessionSecret;
use crate::settings::ResumeWindow;

/// An acceptor that waits for HELLO.
#[derive(Debug)]
pub struct AwaitHello {
    nonce: [u8; 32],
}

/// An acceptor that has sent CHALLENGE and waits for PROOF.
#[derive(Debug)]
pub struct AwaitProof {
    hello: Hello,
    challenge: Bytes,
}

impl AwaitHello {
    /// Begins a handshake. `nonce` must be random and never used before.
    pub fn start(nonce: [u8; 32]) -> Self {
        Self { nonce }
    }

    /// Takes the connector's first frame. Gives the CHALLENGE to send.
    ///
    /// # Errors
    /// Where the frame ends the handshake.
    pub fn handle_hello(self, frame: RawFrame) -> Result<(AwaitProof, Bytes), HandshakeError> {
        let hello: Hello = refuse_close(frame)?.decode()?;
        let chosen = hello
            .versions
            .iter()
            .find(|offered| VERSIONS.contains(offered));
        let Some(version) = chosen.copied() else {
            return Err(HandshakeError::NoCommonVersion {
                offered: hello.versions,
            });
        };
        let nonce = self.nonce;
        let challenge = frame::to_bytes(&Challenge { version, nonce });
        let waiting = AwaitProof {
            hello,
            challenge: challenge.clone(),
        };
        Ok((waiting, challenge))
    }
}

impl AwaitProof {
    /// Takes the connector's second frame. Look the key up then, and send [`welcome`](super::welcome),
    /// [`resumed`](super::resumed) or a CLOSE.
    ///
    /// # Errors
    /// Where the frame ends the handshake.
    pub fn handle_proof(self, frame: RawFrame) -> Result<Proven, HandshakeError> {
        let proof = refuse_close(frame)?.decode()?;
        prove(self.hello, &self.challenge, &proof)
    }
}

/// A connector that has proven to own its key. The caller finds out whether the key is an
/// agent's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The key.
    pub key: PublicKey,
    /// The connector's process.
    pub instance: [u8; 16],
    /// Streams that this side may have open at once.
    pub max_streams: u32,
    /// How long the connector wants sessions to wait for it.
    pub resume_window: ResumeWindow,
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
    /// The role of the transport in the session.
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
        resume_window: ResumeWindow::of_peer(hello.resume_window_ms),
        software: hello.software,
        resumption,
    })
}
