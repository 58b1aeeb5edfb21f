//! Keys that an agent had long ago.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use underpass_core::limits;

/// The first bytes of the SHA-256 of a public key's text. Nothing is decided by it but the words to the key's holder: two keys with one
/// digest cost no right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyDigest([u8; 8]);

/// Keys that others have taken the place of, before those of [`Agent::replaced_keys`](super::Agent::replaced_keys), the newest first. As
/// text, their digests in base64url.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EarlierKeys(Vec<KeyDigest>);

/// The text is none of digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("earlier keys are digests of 8 bytes in base64url")]
pub struct EarlierKeysError;

impl EarlierKeys {
    /// Is it none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Is the key with this digest one of them?
    pub(super) fn contains(&self, key: KeyDigest) -> bool {
        self.0.contains(&key)
    }

    /// Adds the newest one. The oldest one is forgotten where there are too many.
    pub(super) fn add(&mut self, key: &str) {
        self.0.insert(0, KeyDigest::of(key));
        self.0.truncate(limits::EARLIER_KEYS);
    }
}

impl KeyDigest {
    pub(super) fn of(key: &str) -> Self {
        let (mut first, whole) = ([0; 8], digest(&SHA256, key.as_bytes()));
        for (to, from) in first.iter_mut().zip(whole.as_ref()) {
            *to = *from;
        }
        Self(first)
    }
}

impl From<EarlierKeys> for String {
    fn from(keys: EarlierKeys) -> Self {
        let digests: Vec<u8> = keys.0.iter().flat_map(|digest| digest.0).collect();
        BASE64_URL_SAFE_NO_PAD.encode(digests)
    }
}

impl TryFrom<String> for EarlierKeys {
    type Error = EarlierKeysError;

    fn try_from(text: String) -> Result<Self, EarlierKeysError> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text);
        let bytes = bytes.map_err(|_| EarlierKeysError)?;
        let (digests, rest) = bytes.as_chunks();
        match rest {
            [] => Ok(Self(digests.iter().copied().map(KeyDigest).collect())),
            _ => Err(EarlierKeysError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(keys: &EarlierKeys, key: &str) -> bool {
        keys.contains(KeyDigest::of(key))
    }

    #[test]
    fn the_newest_are_kept_and_their_text_round_trips() {
        let mut keys = EarlierKeys::default();
        assert!(keys.is_empty() && !has(&keys, "k0"));
        let most = limits::EARLIER_KEYS;
        for number in 0..=most {
            keys.add(&format!("k{number}"));
        }
        assert!(!has(&keys, "k0"), "the oldest one");
        let kept = (1..=most).all(|number| has(&keys, &format!("k{number}")));
        assert!(kept && !has(&keys, "other"));
        let text = serde_json::to_string(&keys).unwrap();
        assert!(text.len() <= most * 11 + 2, "{}", text.len());
        assert_eq!(serde_json::from_str::<EarlierKeys>(&text).unwrap(), keys);
        for bad in [r#""AAAA""#, r#""!""#, r#""AAAAAAAAAAAA""#, "7"] {
            assert!(serde_json::from_str::<EarlierKeys>(bad).is_err(), "{bad}");
        }
    }
}
