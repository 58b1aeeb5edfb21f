//! Secrets at rest: AES-256-GCM under a key that is stored elsewhere (security rule 9).
//!
//! A [`Sealed`] secret is bound to its place: it opens for the object and the field that it was sealed for, and nowhere else,
//! so that an attacker who can write a store, but has no key, cannot have it sent to themselves.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest,
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// How long a key is.
const KEY_BYTES: usize = 32;

/// How a sealed secret begins: another form gets another one.
const FORM: &str = "v1";

/// A secret, encrypted.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sealed {
    key: KeyId,
    /// Nonce, ciphertext, tag.
    bytes: Box<[u8]>,
}

/// A text is no [`Sealed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no sealed secret, or one of a newer version")]
pub struct NotSealed;

/// Which key it is: it tells nothing of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyId(u64);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed(key {})", self.key)
    }
}

impl From<Sealed> for String {
    fn from(sealed: Sealed) -> Self {
        format!("{FORM}.{}.{}", sealed.key, BASE64.encode(&sealed.bytes))
    }
}

impl TryFrom<String> for Sealed {
    type Error = NotSealed;

    fn try_from(text: String) -> Result<Self, NotSealed> {
        let mut parts = text.splitn(3, '.');
        let (Some(FORM), Some(key), Some(bytes)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(NotSealed);
        };
        let key = u64::from_str_radix(key, 16).map_err(|_| NotSealed)?;
        let bytes = BASE64.decode(bytes).map_err(|_| NotSealed)?;
        Ok(Self {
            key: KeyId(key),
            bytes: bytes.into(),
        })
    }
}

/// Where a secret belongs. Lengths delimit the parts, so that no two places have the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealContext(Vec<u8>);

impl SealContext {
    /// A field of the object of a kind and a name.
    pub fn new(kind: &str, name: &str, field: &str) -> Self {
        Self(Vec::new()).and(kind).and(name).and(field)
    }

    /// The same, bound to this part as well: the secret opens for no other one.
    #[must_use]
    pub fn and(mut self, part: &str) -> Self {
        self.0.extend((part.len() as u64).to_be_bytes());
        self.0.extend(part.as_bytes());
        self
    }
}

/// A key that secrets are sealed with.
pub struct SealingKey {
    id: KeyId,
    key: RandomizedNonceKey,
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.id)
    }
}

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealingKeyError {
    /// Not 32 bytes in base64.
    #[error("a key is {KEY_BYTES} random bytes in base64 (`openssl rand -base64 {KEY_BYTES}`)")]
    Malformed,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

impl SealingKey {
    /// A new key, as the text for its file.
    ///
    /// # Errors
    /// There are no random numbers.
    pub fn generate() -> Result<Zeroizing<String>, SealingKeyError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        aws_lc_rs::rand::fill(&mut *bytes).map_err(|_| SealingKeyError::NoRandomness)?;
        Ok(Zeroizing::new(BASE64.encode(*bytes)))
    }

    /// Reads a key's text.
    ///
    /// # Errors
    /// It is none.
    pub fn from_text(text: &str) -> Result<Self, SealingKeyError> {
        let malformed = SealingKeyError::Malformed;
        let bytes = BASE64.decode(text.trim_ascii()).map(Zeroizing::new);
        let bytes = bytes
            .ok()
            .filter(|bytes| bytes.len() == KEY_BYTES)
            .ok_or(malformed)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(|_| malformed)?;
        let mut named = digest::Context::new(&digest::SHA256);
        named.update(b"underpass sealing key id\0");
        named.update(&bytes);
        let id = named.finish();
        let id = id.as_ref().first_chunk().copied().ok_or(malformed)?;
        Ok(Self {
            id: KeyId(u64::from_be_bytes(id)),
            key,
        })
    }

    /// Which one it is.
    pub fn id(&self) -> KeyId {
        self.id
    }
}

/// The keys that are there: the first seals, all of them open.
#[derive(Debug)]
pub struct Keyring {
    first: SealingKey,
    others: Vec<SealingKey>,
}

/// Nothing was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret cannot be encrypted")]
pub struct SealError;

/// Why a secret does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnsealError {
    /// It was sealed with a key that is not here.
    #[error(
        "the secret is encrypted with the key {0}, which is none of the server's (--secrets-key-file)"
    )]
    UnknownKey(KeyId),
    /// It was changed, or put where it does not belong.
    #[error("the secret was tampered with: it does not belong where it is")]
    Misplaced,
}

impl Keyring {
    /// `first` seals; `others` only open older secrets.
    pub fn new(first: SealingKey, others: Vec<SealingKey>) -> Self {
        Self { first, others }
    }

    /// Encrypts a secret for a place.
    ///
    /// # Errors
    /// There are no random numbers.
    pub fn seal(&self, secret: &[u8], place: &SealContext) -> Result<Sealed, SealError> {
        // Encrypted in place: no copy of the secret is left, since there is room for the tag already.
        let mut text = Vec::with_capacity(secret.len() + AES_256_GCM.tag_len());
        text.extend_from_slice(secret);
        let key = &self.first;
        let nonce = key
            .key
            .seal_in_place_append_tag(Aad::from(&place.0), &mut text)
            .map_err(|_| SealError)?;
        Ok(Sealed {
            key: key.id,
            bytes: [nonce.as_ref().as_slice(), &text].concat().into(),
        })
    }

    /// Decrypts a secret of this place.
    ///
    /// # Errors
    /// Its key is not here, or it is not this place's.
    pub fn open(
        &self,
        sealed: &Sealed,
        place: &SealContext,
    ) -> Result<Zeroizing<Vec<u8>>, UnsealError> {
        let mut keys = std::iter::once(&self.first).chain(&self.others);
        let key = keys
            .find(|key| key.id == sealed.key)
            .ok_or(UnsealError::UnknownKey(sealed.key))?;
        let (nonce, text) = sealed
            .bytes
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(UnsealError::Misplaced)?;
        let mut text = Zeroizing::new(text.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = key.key.open_in_place(nonce, Aad::from(&place.0), &mut text);
        let length = opened.map_err(|_| UnsealError::Misplaced)?.len();
        text.truncate(length);
        Ok(text)
    }

    /// Is it sealed with the key that seals now?
    pub fn is_current(&self, sealed: &Sealed) -> bool {
        sealed.key == self.first.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SealingKey {
        SealingKey::from_text(&SealingKey::generate().unwrap()).unwrap()
    }

    fn place() -> SealContext {
        SealContext::new("cluster", "prod", "token")
    }

    #[test]
    fn rule_9_a_secret_opens_in_its_place_and_nowhere_else() {
        let ring = Keyring::new(key(), vec![]);
        let sealed = ring.seal(b"hunter2", &place()).unwrap();
        assert_eq!(&*ring.open(&sealed, &place()).unwrap(), b"hunter2");
        for other in [
            SealContext::new("cluster", "dev", "token"),
            SealContext::new("cluster", "prod", "key"),
            SealContext::new("user", "prod", "token"),
            SealContext::new("cluste", "rprod", "token"),
            place().and("https://elsewhere"),
            place().and(""),
        ] {
            assert_eq!(ring.open(&sealed, &other), Err(UnsealError::Misplaced));
        }
    }

    #[test]
    fn rule_9_a_changed_secret_does_not_open() {
        let ring = Keyring::new(key(), vec![]);
        let sealed = ring.seal(b"hunter2", &place()).unwrap();
        for position in 0..sealed.bytes.len() {
            let mut changed = sealed.clone();
            changed.bytes[position] ^= 1;
            assert_eq!(ring.open(&changed, &place()), Err(UnsealError::Misplaced));
        }
        let mut cut = sealed.clone();
        for length in [0, 5, NONCE_LEN, NONCE_LEN + 3] {
            cut.bytes = sealed.bytes[..length].into();
            assert_eq!(ring.open(&cut, &place()), Err(UnsealError::Misplaced));
        }
    }

    #[test]
    fn another_key_is_named() {
        let (first, second) = (key(), key());
        let id = first.id();
        let sealed = Keyring::new(first, vec![]).seal(b"x", &place()).unwrap();
        let error = Keyring::new(second, vec![]).open(&sealed, &place());
        assert_eq!(error, Err(UnsealError::UnknownKey(id)));
        assert!(error.unwrap_err().to_string().contains(&id.to_string()));
    }

    #[test]
    fn old_keys_open_and_the_first_seals() {
        let (old, new) = (
            SealingKey::generate().unwrap(),
            SealingKey::generate().unwrap(),
        );
        let key = |text| SealingKey::from_text(text).unwrap();
        let before = Keyring::new(key(&old), vec![]);
        let sealed = before.seal(b"hunter2", &place()).unwrap();
        let during = Keyring::new(key(&new), vec![key(&old)]);
        assert!(!during.is_current(&sealed));
        let secret = during.open(&sealed, &place()).unwrap();
        let again = during.seal(&secret, &place()).unwrap();
        assert!(during.is_current(&again));
        let after = Keyring::new(key(&new), vec![]);
        assert_eq!(&*after.open(&again, &place()).unwrap(), b"hunter2");
    }

    #[test]
    fn rule_9_what_is_written_is_ciphertext() {
        let ring = Keyring::new(key(), vec![]);
        let sealed = ring.seal(b"hunter2", &place()).unwrap();
        let again = ring.seal(b"hunter2", &place()).unwrap();
        assert_ne!(sealed, again, "the same secret twice is not seen");
        let json = serde_json::to_string(&sealed).unwrap();
        assert_eq!(serde_json::from_str::<Sealed>(&json).unwrap(), sealed);
        for shown in [json, format!("{sealed:?}"), format!("{ring:?}")] {
            assert!(!shown.contains("hunter2") && !shown.contains("aHVudGVyMg"));
        }
        for bad in ["", "hunter2", "v2.00.AA==", "v1.x.AA==", "v1.00.?"] {
            assert_eq!(Sealed::try_from(bad.to_owned()), Err(NotSealed), "{bad}");
        }
    }

    #[test]
    fn a_keys_text_is_checked() {
        let short = BASE64.encode([7; KEY_BYTES - 1]);
        for bad in ["", "x", &short, &"é".repeat(44)] {
            let error = SealingKey::from_text(bad).unwrap_err();
            assert_eq!(error, SealingKeyError::Malformed);
        }
        let text = SealingKey::generate().unwrap();
        let padded = format!(" {}\n", &**text);
        let (one, two) = (SealingKey::from_text(&text), SealingKey::from_text(&padded));
        assert_eq!(one.unwrap().id(), two.unwrap().id());
    }
}
