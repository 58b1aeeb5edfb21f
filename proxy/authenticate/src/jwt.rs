//! A signed token's claims, read before verification. Nothing here is proved.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

/// A token's unverified claims: enough to choose the authenticator that checks it.
#[derive(Debug, Deserialize)]
pub(crate) struct Peeked {
    #[serde(rename = "iss")]
    pub(crate) issuer: String,
    #[serde(rename = "aud", default)]
    pub(crate) audiences: Audiences,
    #[serde(rename = "exp", default)]
    expires: Option<Value>,
    #[serde(rename = "sub", default)]
    subject: Option<Value>,
}

impl Peeked {
    /// The subject that it names.
    pub(crate) fn subject(&self) -> Option<&str> {
        self.subject.as_ref().and_then(Value::as_str)
    }

    /// When the token says that it ends.
    pub(crate) fn expires_at(&self) -> Option<SystemTime> {
        let seconds = self.expires.as_ref().and_then(Value::as_f64)?;
        UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
    }
}

/// One text or several (RFC 7519, section 4.1.3).
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Audiences {
    One(String),
    Several(Vec<String>),
    /// A token without an audience belongs to no authenticator.
    Other(IgnoredAny),
}

impl Default for Audiences {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl Audiences {
    pub(crate) fn contains_any(&self, wanted: &[String]) -> bool {
        match self {
            Self::One(audience) => wanted.contains(audience),
            Self::Several(audiences) => audiences.iter().any(|a| wanted.contains(a)),
            Self::Other(_) => false,
        }
    }
}

/// A token's header (RFC 7515, section 4.1).
#[derive(Debug, Deserialize)]
pub(crate) struct Header {
    pub(crate) alg: String,
    pub(crate) kid: Option<String>,
    /// Extensions that must be understood; none is.
    pub(crate) crit: Option<IgnoredAny>,
}

/// Three parts in base64url, of which the first two are JSON objects.
pub(crate) fn peek(token: &str) -> Option<Peeked> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    serde_json::from_slice(&BASE64URL.decode(payload).ok()?).ok()
}

pub(crate) fn header(token: &str) -> Option<Header> {
    let (header, _) = token.split_once('.')?;
    serde_json::from_slice(&BASE64URL.decode(header).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(payload: &str) -> String {
        format!("e30.{}.x", BASE64URL.encode(payload))
    }

    #[test]
    fn a_token_says_whose_it_is() {
        let peeked = peek(&token(r#"{"iss":"https://a","aud":["x","y"]}"#)).unwrap();
        assert_eq!(peeked.issuer, "https://a");
        assert!(peeked.audiences.contains_any(&["y".to_owned()]));
        assert!(!peeked.audiences.contains_any(&["z".to_owned()]));
        for payload in [
            r#"{"iss":"a"}"#,
            r#"{"iss":"a","aud":7}"#,
            r#"{"iss":"a","aud":[7]}"#,
        ] {
            let peeked = peek(&token(payload)).unwrap();
            assert!(
                !peeked.audiences.contains_any(&["7".to_owned()]),
                "{payload}"
            );
        }
    }

    #[test]
    fn other_texts_are_no_tokens() {
        let deep = format!("{{\"iss\":\"a\",\"x\":{}", "[".repeat(10_000));
        for text in [
            "",
            "..",
            "a.b",
            "a.b.c.d",
            "upt_abc",
            &token("{}"),
            &token(r#"{"iss":["a"]}"#),
            &token("[]"),
            &token(&deep),
        ] {
            assert!(peek(text).is_none(), "{text}");
        }
    }
}
