//! The session's secret: a later transport proves that it knows it.

use std::fmt;

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

const LEN: usize = 32;

/// A random secret of one session, told to the connector in WELCOME and never sent again.
///
/// `Debug` shows nothing of it; memory is zeroed when it is dropped.
#[derive(Clone)]
pub struct SessionSecret(Zeroizing<[u8; LEN]>);

impl SessionSecret {
    /// A secret of random bytes.
    pub fn new(bytes: [u8; LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(crate) fn expose(&self) -> &[u8; LEN] {
        &self.0
    }

    /// HMAC-SHA256 (RFC 2104) of `message`.
    pub fn prove(&self, message: &[u8]) -> [u8; 32] {
        let mut proof = [0; 32];
        let tag = hmac::sign(&self.key(), message);
        for (byte, of_tag) in proof.iter_mut().zip(tag.as_ref()) {
            *byte = *of_tag;
        }
        proof
    }

    /// Whether `proof` is [`prove`](Self::prove)'s, in constant time.
    pub fn verifies(&self, message: &[u8], proof: &[u8; 32]) -> bool {
        hmac::verify(&self.key(), message, proof).is_ok()
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &*self.0)
    }
}

impl PartialEq for SessionSecret {
    fn eq(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&*self.0, &*other.0).is_ok()
    }
}

impl Eq for SessionSecret {}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_proves() {
        let secret = SessionSecret::new([7; 32]);
        let proof = secret.prove(b"message");
        assert!(secret.verifies(b"message", &proof));
        assert!(!secret.verifies(b"massage", &proof));
        assert!(!SessionSecret::new([8; 32]).verifies(b"message", &proof));
    }

    /// Computed with Python's `hmac` module.
    #[test]
    fn the_proof_is_hmac_sha256() {
        let proof = SessionSecret::new([0x0b; 32]).prove(b"Hi There");
        assert_eq!(proof[..8], [0x19, 0x8a, 0x60, 0x7e, 0xb4, 0x4b, 0xfb, 0xc6]);
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(
            format!("{:?}", SessionSecret::new([7; 32])),
            "SessionSecret(…)"
        );
    }
}
