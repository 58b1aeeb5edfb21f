//! The token of a ServiceAccount, as an agent registers it. This server cannot verify its signature, and need not: a token with
//! other claims than its issuer wrote is refused by the API server that it is for.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use underpass_core::limits;
use underpass_core::service_account::Account;

/// A token that ends by itself. It shows nothing of its text.
pub struct RegisteredToken {
    text: Zeroizing<String>,
    account: Account,
    expires: OffsetDateTime,
}

impl fmt::Debug for RegisteredToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisteredToken")
            .field("account", &self.account)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// Why a token is not taken. Nothing of it is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisteredTokenError {
    /// Not three parts of base64 with claims, or too long.
    #[error(
        "the token is no JWT, or has more than {} bytes",
        limits::REGISTERED_TOKEN_BYTES
    )]
    Malformed,
    /// Of nobody, or of somebody else.
    #[error("the token is not a ServiceAccount's")]
    Account,
    /// It has no end, as the tokens in Secrets of the kind `kubernetes.io/service-account-token`.
    #[error("the token does not expire: only tokens of TokenRequest are taken")]
    Endless,
    /// Its end is too far away.
    #[error("the token counts for longer than {} hours", limits::REGISTERED_TOKEN_LIFE.as_secs() / 3600)]
    TooLong,
    /// Its time is over, by the clock of this server.
    #[error("the token has expired, by the clock of the server")]
    Expired,
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<i64>,
}

impl RegisteredToken {
    /// Reads the token's claims.
    ///
    /// # Errors
    /// It is not of the kind that an agent registers.
    pub fn new(text: Zeroizing<String>, now: OffsetDateTime) -> Result<Self, RegisteredTokenError> {
        let Claims { sub, exp } = claims(&text).ok_or(RegisteredTokenError::Malformed)?;
        let account = sub.as_deref().and_then(Account::of_user);
        let account = account.ok_or(RegisteredTokenError::Account)?;
        let exp = exp.ok_or(RegisteredTokenError::Endless)?;
        let expires = OffsetDateTime::from_unix_timestamp(exp);
        let expires = expires.map_err(|_| RegisteredTokenError::Malformed)?;
        if expires <= now + limits::REGISTERED_TOKEN_MARGIN {
            return Err(RegisteredTokenError::Expired);
        }
        if expires > now + limits::REGISTERED_TOKEN_LIFE {
            return Err(RegisteredTokenError::TooLong);
        }
        Ok(Self {
            text,
            account,
            expires,
        })
    }

    /// Its ServiceAccount, as it says itself.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Its end, as it says itself.
    pub fn expires(&self) -> OffsetDateTime {
        self.expires
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

fn claims(text: &str) -> Option<Claims> {
    if text.len() > limits::REGISTERED_TOKEN_BYTES {
        return None;
    }
    let parts: Vec<_> = text.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else {
        return None;
    };
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok().map(Zeroizing::new);
    let signature = decode(signature)?;
    serde_json::from_slice::<serde_json::Map<_, serde_json::Value>>(&decode(header)?).ok()?;
    if signature.is_empty() {
        return None;
    }
    serde_json::from_slice(&decode(payload)?).ok()
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A token with these claims, and a signature that nothing verifies.
    pub(crate) fn jwt(claims: &serde_json::Value) -> Zeroizing<String> {
        let encode = |text: String| URL_SAFE_NO_PAD.encode(text);
        let header = encode("{\"alg\":\"RS256\"}".to_owned());
        let text = format!(
            "{header}.{}.{}",
            encode(claims.to_string()),
            encode("x".to_owned())
        );
        Zeroizing::new(text)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{testing::jwt, *};

    fn read(claims: serde_json::Value) -> Result<RegisteredToken, RegisteredTokenError> {
        RegisteredToken::new(jwt(&claims), OffsetDateTime::UNIX_EPOCH)
    }

    #[test]
    fn rule_9_only_a_serviceaccounts_token_that_ends_is_registered() {
        let sub = "system:serviceaccount:underpass-system:underpass-agent";
        let token = read(json!({ "sub": sub, "exp": 3600, "iss": "x" })).unwrap();
        assert_eq!(
            token.account().to_string(),
            "underpass-system/underpass-agent"
        );
        assert_eq!(token.expires().unix_timestamp(), 3600);
        for (claims, why) in [
            (json!({ "sub": sub }), RegisteredTokenError::Endless),
            (
                json!({ "sub": sub, "exp": 0 }),
                RegisteredTokenError::Expired,
            ),
            (
                json!({ "sub": sub, "exp": -5 }),
                RegisteredTokenError::Expired,
            ),
            (
                json!({ "sub": sub, "exp": 31 * 86400 }),
                RegisteredTokenError::TooLong,
            ),
            (
                json!({ "sub": sub, "exp": i64::MAX }),
                RegisteredTokenError::Malformed,
            ),
            (
                json!({ "sub": sub, "exp": "soon" }),
                RegisteredTokenError::Malformed,
            ),
            (
                json!({ "sub": "system:admin", "exp": 3600 }),
                RegisteredTokenError::Account,
            ),
            (json!({ "exp": 3600 }), RegisteredTokenError::Account),
            (json!([]), RegisteredTokenError::Malformed),
        ] {
            assert_eq!(read(claims.clone()).unwrap_err(), why, "{claims}");
        }
        let good = jwt(&json!({ "sub": sub, "exp": 3600 }));
        let long = "a".repeat(limits::REGISTERED_TOKEN_BYTES + 1);
        let cut = good.rsplit_once('.').unwrap().0;
        for text in ["", "upu_secret", "a.b.c", &format!("{cut}."), cut, &long] {
            let text = Zeroizing::new(text.to_owned());
            let read = RegisteredToken::new(text, OffsetDateTime::UNIX_EPOCH);
            assert_eq!(read.unwrap_err(), RegisteredTokenError::Malformed);
        }
        let shown = format!(
            "{:?}",
            RegisteredToken::new(good.clone(), OffsetDateTime::UNIX_EPOCH)
        );
        assert!(!shown.contains(&good[..20]), "{shown}");
    }
}
