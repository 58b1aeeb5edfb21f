//! The connector's key: an agent's identity.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use thiserror::Error;
use zeroize::Zeroizing;

/// In front of a private key's text, so that secret scanners recognise one.
const PREFIX: &str = "upa_";
/// In front of a public key's text.
const PUBLIC_PREFIX: &str = "ed25519:";
const SEED: usize = 32;
const CHECKSUM: usize = 4;

/// An agent's private key (Ed25519, RFC 8032), also called its token.
///
/// Its text form is `upa_` and 48 characters that end in a checksum. The server stores the
/// [`PublicKey`] alone: a thief of the server's files cannot pose as the agent, and a load
/// balancer that ends TLS sees signatures, never the key.
///
/// `Debug` shows the public key only.
pub struct AgentKey {
    pair: Ed25519KeyPair,
    seed: Zeroizing<[u8; SEED]>,
}

/// Why a text is not an agent's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The prefix is missing: this is some other secret, or none.
    #[error("an agent token starts with `{PREFIX}`")]
    Prefix,
    /// Characters are missing, added or wrong.
    #[error("the agent token is damaged (was all of it copied?)")]
    Damaged,
    /// The text is not a public key.
    #[error("an agent's public key is `{PUBLIC_PREFIX}` and 43 base64url characters")]
    Public,
}

impl AgentKey {
    /// A key from 32 random bytes.
    ///
    /// # Errors
    /// Never in practice: the library refuses no seed of this length. [`KeyError::Damaged`] stands
    /// in for the case.
    pub fn from_seed(seed: [u8; SEED]) -> Result<Self, KeyError> {
        let seed = Zeroizing::new(seed);
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed[..]).map_err(|_| KeyError::Damaged)?;
        Ok(Self { pair, seed })
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(self.pair.public_key().as_ref()) {
            *to = *from;
        }
        PublicKey(bytes)
    }

    /// The text form, for the one file that holds it.
    pub fn to_secret_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(SEED + CHECKSUM));
        bytes.extend_from_slice(&self.seed[..]);
        bytes.extend_from_slice(&checksum(&self.seed[..]));
        let mut text = Zeroizing::new(String::from(PREFIX));
        BASE64_URL_SAFE_NO_PAD.encode_string(&bytes[..], &mut text);
        text
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut bytes = [0; 64];
        for (to, from) in bytes.iter_mut().zip(self.pair.sign(message).as_ref()) {
            *to = *from;
        }
        bytes
    }
}

impl FromStr for AgentKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(KeyError::Prefix)?;
        let bytes = BASE64_URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| KeyError::Damaged)?;
        let bytes = Zeroizing::new(bytes);
        let (seed, sum) = bytes.split_first_chunk::<SEED>().ok_or(KeyError::Damaged)?;
        verify_slices_are_equal(sum, &checksum(seed)).map_err(|_| KeyError::Damaged)?;
        Self::from_seed(*seed)
    }
}

impl fmt::Debug for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentKey")
            .field("public", &self.public_key())
            .finish_non_exhaustive()
    }
}

fn checksum(seed: &[u8]) -> [u8; CHECKSUM] {
    let digest = digest(&SHA256, seed);
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

/// The public half of an [`AgentKey`], as the server stores it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub(crate) [u8; 32]);

impl PublicKey {
    /// Whether `signature` is the owner's over `message`.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(message, signature)
            .is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{PUBLIC_PREFIX}{}",
            BASE64_URL_SAFE_NO_PAD.encode(self.0)
        )
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let text = text.strip_prefix(PUBLIC_PREFIX).ok_or(KeyError::Public)?;
        let bytes = BASE64_URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| KeyError::Public)?;
        bytes.try_into().map(Self).map_err(|_| KeyError::Public)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_text_forms_round_trip() {
        let key = AgentKey::from_seed([7; 32]).unwrap();
        let text = key.to_secret_text();
        assert_eq!(text.len(), PREFIX.len() + 48);
        let again: AgentKey = text.parse().unwrap();
        assert_eq!(again.public_key(), key.public_key());
        assert_eq!(key.public_key().to_string().parse(), Ok(key.public_key()));
    }

    #[test]
    fn a_damaged_token_is_recognised_as_one() {
        let text = AgentKey::from_seed([7; 32]).unwrap().to_secret_text();
        let error = |text: &str| text.parse::<AgentKey>().unwrap_err();
        assert_eq!(error("upt_xyz"), KeyError::Prefix);
        assert_eq!(error(&text[..text.len() - 1]), KeyError::Damaged);
        let mut wrong = text.to_string();
        wrong.replace_range(10..11, if &wrong[10..11] == "A" { "B" } else { "A" });
        assert_eq!(error(&wrong), KeyError::Damaged);
    }

    #[test]
    fn rule_11_debug_does_not_show_the_secret() {
        let key = AgentKey::from_seed([7; 32]).unwrap();
        let secret = key.to_secret_text();
        assert!(!format!("{key:?}").contains(&secret[PREFIX.len()..PREFIX.len() + 12]));
    }

    /// RFC 8032, section 7.1, test 2.
    #[test]
    fn signatures_are_ed25519() {
        let seed = [
            0x4c, 0xcd, 0x08, 0x9b, 0x28, 0xff, 0x96, 0xda, 0x9d, 0xb6, 0xc3, 0x46, 0xec, 0x11,
            0x4e, 0x0f, 0x5b, 0x8a, 0x31, 0x9f, 0x35, 0xab, 0xa6, 0x24, 0xda, 0x8c, 0xf6, 0xed,
            0x4f, 0xb8, 0xa6, 0xfb,
        ];
        let key = AgentKey::from_seed(seed).unwrap();
        let signature = key.sign(&[0x72]);
        assert_eq!(signature[..4], [0x92, 0xa0, 0x09, 0xa9]);
        assert!(key.public_key().verifies(&[0x72], &signature));
        assert!(!key.public_key().verifies(&[0x73], &signature));
    }
}
