//! The proof of an agent that joins: it holds the key that it registers (PROTOCOL.md, "Joining").

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use thiserror::Error;

use super::key::{AgentKey, PublicKey};

/// Goes in front of the signed bytes, so that a signature made here means nothing in a handshake, nor one of a handshake here.
const CONTEXT: &[u8] = b"underpass join proof v1\0";

/// An Ed25519 signature (RFC 8032) by the key that an agent registers, over the hash of its join token: for that token and no other.
///
/// Its text form is 86 base64url characters.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinProof([u8; 64]);

/// The text is no proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a join proof is 86 base64url characters")]
pub struct JoinProofError;

impl JoinProof {
    /// The proof of this key for this token.
    pub fn new(key: &AgentKey, token: &str) -> Self {
        Self(key.sign(&message(token)))
    }

    /// Whether the holder of the key made the proof for this token.
    pub fn is_by(&self, key: &PublicKey, token: &str) -> bool {
        key.verifies(&message(token), &self.0)
    }
}

fn message(token: &str) -> Vec<u8> {
    [CONTEXT, digest(&SHA256, token.as_bytes()).as_ref()].concat()
}

impl fmt::Display for JoinProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for JoinProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinProof({self})")
    }
}

impl FromStr for JoinProof {
    type Err = JoinProofError;

    fn from_str(text: &str) -> Result<Self, JoinProofError> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text);
        let bytes = bytes.map_err(|_| JoinProofError)?;
        bytes.try_into().map(Self).map_err(|_| JoinProofError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> AgentKey {
        AgentKey::from_seed([seed; 32]).unwrap()
    }

    #[test]
    fn a_proof_is_of_one_key_for_one_token() {
        let proof = JoinProof::new(&key(1), "upj_a");
        assert!(proof.is_by(&key(1).public_key(), "upj_a"));
        assert!(!proof.is_by(&key(1).public_key(), "upj_b"));
        assert!(!proof.is_by(&key(2).public_key(), "upj_a"));
    }

    #[test]
    fn the_text_form_round_trips() {
        let proof = JoinProof::new(&key(1), "upj_a");
        let text = proof.to_string();
        assert_eq!(text.len(), 86);
        assert_eq!(text.parse(), Ok(proof));
        for bad in ["", &text[1..], "!", &format!("{text}AA")] {
            assert_eq!(bad.parse::<JoinProof>(), Err(JoinProofError), "{bad}");
        }
    }

    /// PROTOCOL.md has the bytes.
    #[test]
    fn the_signed_bytes_are_the_context_and_the_tokens_hash() {
        let signed = message("upj_a");
        assert_eq!(signed[..24], *b"underpass join proof v1\0");
        assert_eq!(signed[24..], *digest(&SHA256, b"upj_a").as_ref());
    }
}
