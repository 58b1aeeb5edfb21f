//! The secrets of join tokens (security rule 14).

use std::fmt;

use zeroize::Zeroizing;

use super::token::{self, TokenError, TokenHash};

/// The prefix that a secret scanner looks for.
const PREFIX: &str = "upj_";

/// The secret of a join token, with which agents register their keys: `upj_`, 256 random bits, and a checksum.
///
/// It is shown once; only its [`TokenHash`] is stored. Cleared from memory when dropped, and not in `Debug`.
pub struct JoinSecret(Zeroizing<String>);

impl JoinSecret {
    /// Makes a new secret.
    ///
    /// # Errors
    /// [`TokenError::NoRandomness`].
    pub fn generate() -> Result<Self, TokenError> {
        token::generate(PREFIX).map(Self)
    }

    /// Its hash, for the store. A plain SHA-256 is enough: there is nothing to guess in 256 random bits.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }

    /// The secret itself, to show it this once.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(upj_…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Token;

    #[test]
    fn rule_14_a_join_token_is_recognisable_and_no_bearer_token() {
        let secret = JoinSecret::generate().unwrap();
        let text = secret.expose();
        assert!(text.starts_with(PREFIX) && text.len() == 53, "{text}");
        assert_eq!(secret.hash(), TokenHash::of(text));
        assert_ne!(secret.hash(), JoinSecret::generate().unwrap().hash());
        assert_eq!(Token::parse(text).unwrap_err(), TokenError::Foreign);
        let dressed_up = text.replace(PREFIX, "upt_");
        assert_eq!(
            Token::parse(&dressed_up).unwrap_err(),
            TokenError::Malformed
        );
        assert_eq!(format!("{secret:?}"), "JoinSecret(upj_…)");
    }
}
