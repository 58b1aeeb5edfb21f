//! The proof of an agent that registers its next key: it holds the key that it has, and the next one (PROTOCOL.md, "Rotating keys").

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use thiserror::Error;

use super::key::{AgentKey, PublicKey};

/// Goes in front of the signed bytes, so that a signature made here means nothing in a handshake or a join, nor one of those here.
const CONTEXT: &[u8] = b"underpass key rotation v1\0";

/// A change of keys, as both keys sign it: for one session, and so for one server, for one challenge of that server, and for one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyChange<'a> {
    /// The id of the session over which the next key is registered. The server has drawn it.
    pub session: [u8; 16],
    /// The server's challenge, which it has drawn for this stream.
    pub challenge: [u8; 32],
    /// The key that the agent has.
    pub key: PublicKey,
    /// The key that is to follow.
    pub next: PublicKey,
    /// The agent's id at the server.
    pub agent: &'a str,
}

/// An Ed25519 signature (RFC 8032) over a [`KeyChange`].
///
/// Its text form is 86 base64url characters.
#[derive(Clone, PartialEq, Eq)]
pub struct RotationProof([u8; 64]);

/// The text is no proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a proof is 86 base64url characters")]
pub struct RotationProofError;

impl KeyChange<'_> {
    /// All parts but the last have one length, so that no two changes have the same bytes.
    fn message(&self) -> Vec<u8> {
        let parts = [
            CONTEXT,
            &self.session,
            &self.challenge,
            &self.key.0,
            &self.next.0,
            self.agent.as_bytes(),
        ];
        parts.concat()
    }
}

impl RotationProof {
    /// The proof of this key, which is either of the change's.
    pub fn new(key: &AgentKey, change: &KeyChange<'_>) -> Self {
        Self(key.sign(&change.message()))
    }

    /// Whether the holder of the key made the proof for this change.
    pub fn is_by(&self, key: &PublicKey, change: &KeyChange<'_>) -> bool {
        key.verifies(&change.message(), &self.0)
    }
}

impl fmt::Display for RotationProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for RotationProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RotationProof({self})")
    }
}

impl FromStr for RotationProof {
    type Err = RotationProofError;

    fn from_str(text: &str) -> Result<Self, RotationProofError> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text);
        let bytes = bytes.map_err(|_| RotationProofError)?;
        bytes.try_into().map(Self).map_err(|_| RotationProofError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> AgentKey {
        AgentKey::from_seed([seed; 32]).unwrap()
    }

    fn change() -> KeyChange<'static> {
        KeyChange {
            session: [3; 16],
            challenge: [4; 32],
            key: key(1).public_key(),
            next: key(2).public_key(),
            agent: "a1",
        }
    }

    #[test]
    fn a_proof_is_for_one_session_challenge_agent_and_pair_of_keys() {
        let proof = RotationProof::new(&key(1), &change());
        assert!(proof.is_by(&key(1).public_key(), &change()));
        assert!(!proof.is_by(&key(2).public_key(), &change()));
        let mut others = [change(); 5];
        others[0].session = [5; 16];
        others[1].challenge = [5; 32];
        others[2].key = key(3).public_key();
        others[3].next = key(3).public_key();
        others[4].agent = "a2";
        for other in others {
            assert!(!proof.is_by(&key(1).public_key(), &other), "{other:?}");
        }
        let mut swapped = change();
        std::mem::swap(&mut swapped.key, &mut swapped.next);
        assert!(!proof.is_by(&key(1).public_key(), &swapped));
    }

    #[test]
    fn the_text_form_round_trips() {
        let proof = RotationProof::new(&key(1), &change());
        let text = proof.to_string();
        assert_eq!(text.len(), 86);
        assert_eq!(text.parse(), Ok(proof));
        for bad in ["", &text[1..], "!", &format!("{text}AA")] {
            assert_eq!(bad.parse::<RotationProof>(), Err(RotationProofError));
        }
    }

    /// PROTOCOL.md has the bytes.
    #[test]
    fn the_signed_bytes_are_the_documents() {
        let signed = change().message();
        assert_eq!(signed[..26], *b"underpass key rotation v1\0");
        assert_eq!(signed[26..42], [3; 16]);
        assert_eq!(signed[42..74], [4; 32]);
        assert_eq!(signed[74..106], key(1).public_key().0);
        assert_eq!(signed[106..138], key(2).public_key().0);
        assert_eq!(signed[138..], *b"a1");
    }
}
