//! Identities of callers.
//!
//! An [`Identity`] is made by an authenticator of this crate, travels as the open header of a tunnel stream, and becomes
//! `Impersonate-*` headers at the agent. It cannot be built from outside: code that holds one may rely on its proof.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Brief, Provenance, limits};

/// The only version of the encoding.
const VERSION: u32 = 1;

/// An authenticated caller, as Kubernetes' `user.Info` describes one.
///
/// Every value can be written as a header without changing its meaning: nothing is empty, nothing
/// holds a control character, and nothing starts or ends with a space (header parsers cut those
/// off, which would turn `"alice "` into `alice`). UTF-8 is fine: client-go writes `Impersonate-User`
/// as raw bytes and kube-apiserver reads it as such; only extra *keys* are percent-encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    user: String,
    uid: Option<String>,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
    provenance: Option<Provenance>,
}

/// Why an identity was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The encoding, or a value in it, is larger than [`limits`] allows.
    #[error("the identity has too many or too long {0}")]
    TooLarge(&'static str),
    /// A value is empty, padded with spaces, or holds a control character.
    #[error("the identity's {0} cannot be written as a header")]
    Unwritable(&'static str),
    /// The encoding has a version that this build does not know.
    #[error("the identity is encoded in version {0}, which is not known here")]
    UnknownVersion(u32),
    /// The bytes are no identity: not JSON, a field is missing, or one is unknown.
    #[error("the identity cannot be decoded")]
    Malformed(#[source] Brief<serde_json::Error>),
}

/// The encoding for the tunnel. Unknown fields are refused: one that we do not understand might restrict what the identity may
/// do. Extras are pairs, so that a repeated key cannot hide another.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<'a> {
    v: u32,
    #[serde(borrow)]
    user: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    groups: Vec<String>,
    extra: Vec<(String, Vec<String>)>,
}

/// The version alone, so that a newer peer gets a telling answer.
#[derive(Deserialize)]
struct Version {
    v: u32,
}

impl Identity {
    /// Builds an identity from an authenticator's facts. Only authenticators, and code that speaks for this server itself, may
    /// do that: an identity is believed everywhere.
    ///
    /// # Errors
    /// A value that is too long or that could not be written as a header.
    pub fn new(
        user: String,
        uid: Option<String>,
        groups: Vec<String>,
        extra: BTreeMap<String, Vec<String>>,
    ) -> Result<Self, IdentityError> {
        let identity = Self {
            user,
            uid,
            groups,
            extra,
            provenance: None,
        };
        identity.check()?;
        Ok(identity)
    }

    /// Whether a group can be written as a header, as [`Identity::new`] asks of each.
    pub fn can_hold_group(group: &str) -> bool {
        check_value(group, "group").is_ok()
    }

    /// The same caller, with its provenance.
    pub fn vouched_for(mut self, provenance: Provenance) -> Self {
        self.provenance = Some(provenance);
        self
    }

    /// The user's name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The user's uid, where the authenticator knows one.
    pub fn uid(&self) -> Option<&str> {
        self.uid.as_deref()
    }

    /// The groups, in the authenticator's order.
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// Further facts, by lower-case key.
    pub fn extra(&self) -> &BTreeMap<String, Vec<String>> {
        &self.extra
    }

    /// How it was authenticated. `None` for an impersonated user, and at the agent: it does not cross the tunnel.
    pub fn provenance(&self) -> Option<&Provenance> {
        self.provenance.as_ref()
    }

    /// Would a cluster see the same caller?
    pub fn is_same_caller(&self, other: &Self) -> bool {
        self.user == other.user
            && self.uid == other.uid
            && self.groups == other.groups
            && self.extra == other.extra
    }

    /// Encodes the identity for a stream's open header: the user, uid, groups and extras.
    ///
    /// # Errors
    /// [`IdentityError::TooLarge`] when it does not fit [`limits::IDENTITY_BYTES`].
    pub fn encode(&self) -> Result<Bytes, IdentityError> {
        let wire = Wire {
            v: VERSION,
            user: self.user.as_str().into(),
            uid: self.uid.clone(),
            groups: self.groups.clone(),
            extra: self
                .extra
                .iter()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        };
        let bytes = serde_json::to_vec(&wire).map_err(malformed)?;
        if bytes.len() > limits::IDENTITY_BYTES {
            return Err(IdentityError::TooLarge("bytes"));
        }
        Ok(bytes.into())
    }

    /// Decodes the output of [`Identity::encode`]; for the agent's side.
    ///
    /// # Errors
    /// Anything that `encode` could not have written.
    pub fn decode(bytes: &[u8]) -> Result<Self, IdentityError> {
        if bytes.len() > limits::IDENTITY_BYTES {
            return Err(IdentityError::TooLarge("bytes"));
        }
        let Version { v } = serde_json::from_slice(bytes).map_err(malformed)?;
        if v != VERSION {
            return Err(IdentityError::UnknownVersion(v));
        }
        let wire: Wire<'_> = serde_json::from_slice(bytes).map_err(malformed)?;
        let pairs = wire.extra.len();
        let extra: BTreeMap<_, _> = wire.extra.into_iter().collect();
        if extra.len() != pairs {
            return Err(IdentityError::Unwritable("repeated extra key"));
        }
        Self::new(wire.user.into_owned(), wire.uid, wire.groups, extra)
    }

    /// The same caller with one more extra, kept even where the key exists already.
    pub fn with_extra(mut self, key: &str, value: &str) -> Result<Self, IdentityError> {
        self.extra
            .entry(key.to_owned())
            .or_default()
            .push(value.to_owned());
        self.check()?;
        Ok(self)
    }

    fn check(&self) -> Result<(), IdentityError> {
        check_value(&self.user, "user")?;
        self.uid
            .as_deref()
            .map_or(Ok(()), |uid| check_value(uid, "uid"))?;
        if self.groups.len() > limits::GROUPS {
            return Err(IdentityError::TooLarge("groups"));
        }
        self.groups
            .iter()
            .try_for_each(|group| check_value(group, "group"))?;
        let values = self.extra.values().map(Vec::len).sum::<usize>();
        if self.extra.len() > limits::EXTRA_KEYS || values > limits::EXTRA_VALUES {
            return Err(IdentityError::TooLarge("extras"));
        }
        for (key, values) in &self.extra {
            check_key(key)?;
            values
                .iter()
                .try_for_each(|value| check_value(value, "extra value"))?;
        }
        Ok(())
    }
}

fn malformed(error: serde_json::Error) -> IdentityError {
    IdentityError::Malformed(Brief(error))
}

fn check_value(value: &str, what: &'static str) -> Result<(), IdentityError> {
    if value.len() > limits::NAME_BYTES {
        return Err(IdentityError::TooLarge(what));
    }
    let padded = value.starts_with(' ') || value.ends_with(' ');
    if value.is_empty() || padded || value.chars().any(char::is_control) {
        return Err(IdentityError::Unwritable(what));
    }
    Ok(())
}

/// kube-apiserver lower-cases an extra's key before it decodes it, so that keys which differ in case
/// would become one: only lower-case keys are written.
fn check_key(key: &str) -> Result<(), IdentityError> {
    if key.len() > limits::EXTRA_KEY_BYTES {
        return Err(IdentityError::TooLarge("extra key"));
    }
    if key.is_empty()
        || key
            .chars()
            .any(|c| c.is_control() || c.is_ascii_uppercase())
    {
        return Err(IdentityError::Unwritable("extra key"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> Identity {
        let extra = BTreeMap::from([("example.org/team".into(), vec!["ops".into(), "ü".into()])]);
        Identity::new("alice".into(), Some("7".into()), vec!["dev".into()], extra).unwrap()
    }

    #[test]
    fn round_trips() {
        let bytes = alice().encode().unwrap();
        assert_eq!(
            bytes.as_ref(),
            r#"{"v":1,"user":"alice","uid":"7","groups":["dev"],"extra":[["example.org/team",["ops","ü"]]]}"#
                .as_bytes()
        );
        assert_eq!(Identity::decode(&bytes).unwrap(), alice());
    }

    #[test]
    fn how_it_was_authenticated_stays_at_the_server() {
        let (method, authority) = (
            crate::AuthenticationMethod::Jwt,
            crate::Authority::default(),
        );
        let vouched = alice().vouched_for(Provenance::new(method, "corp", authority));
        assert_eq!(vouched.encode().unwrap(), alice().encode().unwrap());
        let decoded = Identity::decode(&vouched.encode().unwrap()).unwrap();
        assert_eq!(decoded.provenance(), None);
        assert!(decoded.is_same_caller(&vouched));
    }

    #[test]
    fn hundreds_of_groups_fit() {
        let groups = (0..1000)
            .map(|n| format!("cn=group-{n},{}", "ou=x,".repeat(30)))
            .collect();
        let identity = Identity::new("bob".into(), None, groups, BTreeMap::new()).unwrap();
        assert_eq!(
            Identity::decode(&identity.encode().unwrap()).unwrap(),
            identity
        );
    }

    #[test]
    fn refuses_what_a_header_would_change() {
        for user in [
            "", " alice", "alice ", "a\nb", "a\0b", "a\tb", "a\u{7f}", "a\u{85}b",
        ] {
            let made = Identity::new(user.into(), None, vec![], BTreeMap::new());
            assert!(
                matches!(made, Err(IdentityError::Unwritable("user"))),
                "{user:?}"
            );
        }
        let group = Identity::new("a".into(), None, vec![String::new()], BTreeMap::new());
        assert!(matches!(group, Err(IdentityError::Unwritable("group"))));
        let extra = BTreeMap::from([("Team".to_owned(), vec!["x".to_owned()])]);
        let upper = Identity::new("a".into(), None, vec![], extra);
        assert!(matches!(upper, Err(IdentityError::Unwritable("extra key"))));
    }

    #[test]
    fn refuses_foreign_encodings() {
        let decode = |text: &str| Identity::decode(text.as_bytes());
        let newer = decode(r#"{"v":2,"who":"alice"}"#);
        assert!(matches!(newer, Err(IdentityError::UnknownVersion(2))));
        let unknown = decode(r#"{"v":1,"user":"a","groups":[],"extra":[],"only":["get"]}"#);
        assert!(matches!(unknown, Err(IdentityError::Malformed(_))));
        let twice = decode(r#"{"v":1,"user":"a","user":"b","groups":[],"extra":[]}"#);
        assert!(matches!(twice, Err(IdentityError::Malformed(_))));
        let keys = decode(r#"{"v":1,"user":"a","groups":[],"extra":[["k",[]],["k",["x"]]]}"#);
        assert!(matches!(keys, Err(IdentityError::Unwritable(_))));
        let large = vec![b' '; limits::IDENTITY_BYTES + 1];
        assert!(matches!(
            Identity::decode(&large),
            Err(IdentityError::TooLarge("bytes"))
        ));
    }
}
