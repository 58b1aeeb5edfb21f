//! Bearer tokens of our own (security rule 14).

use std::{fmt, hash};

use aws_lc_rs::{constant_time, digest, rand};
use zeroize::Zeroizing;

/// The prefix that a secret scanner looks for.
const PREFIX: &str = "upt_";

/// 256 bits in base 62.
const BODY_CHARS: usize = 43;

/// 32 bits in base 62.
const CHECKSUM_CHARS: usize = 6;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A bearer token: `upt_`, 256 random bits, and a checksum, so that a scanner can tell a token from a text that only looks like
/// one without asking a server. Letters and digits only: a double click selects it.
///
/// It is shown once; only its [`TokenHash`] is stored. Cleared from memory when dropped, and not in `Debug`.
pub struct Token(Zeroizing<String>);

/// Why a text is not a [`Token`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Another kind of credential: it doesn't start with `upt_`.
    #[error("the token is of another kind")]
    Foreign,
    /// It was mistyped, cut off or made up.
    #[error("the token is malformed")]
    Malformed,
    /// The system has no randomness to make a token from.
    #[error("no randomness")]
    NoRandomness,
}

impl Token {
    /// Makes a new token.
    ///
    /// # Errors
    /// [`TokenError::NoRandomness`].
    pub fn generate() -> Result<Self, TokenError> {
        generate(PREFIX).map(Self)
    }

    /// Reads a token, checksum included; this proves nothing but that it is one.
    ///
    /// # Errors
    /// [`TokenError::Foreign`] or [`TokenError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let rest = text.strip_prefix(PREFIX).ok_or(TokenError::Foreign)?;
        let legal = rest.bytes().all(|b| b.is_ascii_alphanumeric());
        if !legal || rest.len() != BODY_CHARS + CHECKSUM_CHARS {
            return Err(TokenError::Malformed);
        }
        let (body, sum) = rest.split_at(BODY_CHARS);
        if checksum(PREFIX, body) != sum {
            return Err(TokenError::Malformed);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// Its hash, for the store. A plain SHA-256 is enough: there is nothing to guess in 256 random bits.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }

    /// The token itself, to show it this once.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(upt_…)")
    }
}

/// SHA-256 of a token. Compared in constant time.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of a text, whether it is a token or not.
    pub fn of(text: &str) -> Self {
        let mut hash = [0; 32];
        let digest = digest::digest(&digest::SHA256, text.as_bytes());
        hash.iter_mut()
            .zip(digest.as_ref())
            .for_each(|(to, from)| *to = *from);
        Self(hash)
    }

    /// The hash as it is stored.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads the output of [`TokenHash::to_hex`].
    ///
    /// # Errors
    /// [`TokenError::Malformed`]: not 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Self, TokenError> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(TokenError::Malformed);
        }
        for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = str::from_utf8(digits).map_err(|_| TokenError::Malformed)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| TokenError::Malformed)?;
        }
        Ok(Self(hash))
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for TokenHash {}

impl hash::Hash for TokenHash {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "TokenHash({}…)",
            self.to_hex().get(..8).unwrap_or_default()
        )
    }
}

/// A new secret with this prefix: 256 random bits and a checksum.
pub(super) fn generate(prefix: &str) -> Result<Zeroizing<String>, TokenError> {
    let mut secret = Zeroizing::new([0; 32]);
    rand::fill(&mut secret[..]).map_err(|_| TokenError::NoRandomness)?;
    let body = Zeroizing::new(base62(&secret[..], BODY_CHARS));
    let sum = checksum(prefix, &body);
    Ok(Zeroizing::new(format!("{prefix}{}{sum}", *body)))
}

fn checksum(prefix: &str, body: &str) -> String {
    let digest = digest::digest(&digest::SHA256, format!("{prefix}{body}").as_bytes());
    base62(digest.as_ref().get(..4).unwrap_or_default(), CHECKSUM_CHARS)
}

/// `bytes` as one big-endian number in base 62, padded to `width` digits.
fn base62(bytes: &[u8], width: usize) -> String {
    let mut number = Zeroizing::new(bytes.to_vec());
    let mut digits = Vec::with_capacity(width);
    for _ in 0..width {
        let mut remainder = 0u16;
        for byte in number.iter_mut() {
            let value = remainder << 8 | u16::from(*byte);
            *byte = u8::try_from(value / 62).unwrap_or(u8::MAX);
            remainder = value % 62;
        }
        digits.push(
            ALPHABET
                .get(usize::from(remainder))
                .copied()
                .unwrap_or(b'0'),
        );
    }
    digits.iter().rev().copied().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_14_tokens_are_recognisable_and_checked() {
        let token = Token::generate().unwrap();
        let text = token.expose();
        assert_eq!(text.len(), 53);
        assert_eq!(Token::parse(text).unwrap().hash(), token.hash());
        let mut typo = text.to_owned();
        let last = if text.ends_with('a') { 'b' } else { 'a' };
        typo.pop();
        typo.push(last);
        assert_eq!(Token::parse(&typo).unwrap_err(), TokenError::Malformed);
        assert_eq!(Token::parse("eyJhbGciOi").unwrap_err(), TokenError::Foreign);
        assert_eq!(Token::parse("upt_x").unwrap_err(), TokenError::Malformed);
        assert_ne!(Token::generate().unwrap().hash(), token.hash());
    }

    #[test]
    fn rule_11_debug_shows_no_secret() {
        let token = Token::generate().unwrap();
        assert_eq!(format!("{token:?}"), "Token(upt_…)");
        assert!(!format!("{:?}", token.hash()).contains(&token.hash().to_hex()));
    }

    #[test]
    fn hashes_round_trip() {
        let hash = Token::generate().unwrap().hash();
        assert_eq!(TokenHash::from_hex(&hash.to_hex()).unwrap(), hash);
        assert!(TokenHash::from_hex("00").is_err());
    }

    #[test]
    fn base62_is_a_number() {
        assert_eq!(base62(&[0, 0], 3), "000");
        assert_eq!(base62(&[61], 2), "0z");
        assert_eq!(base62(&[1, 0], 2), "48");
        assert_eq!(base62(&[0xff; 32], BODY_CHARS).len(), BODY_CHARS);
    }
}
