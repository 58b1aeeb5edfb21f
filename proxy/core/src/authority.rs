//! The authority of a name.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::AuthenticationMethod;

/// The source that vouches for a name. A name identifies a user only together with its authority (security rule 22): `alice` of
/// an LDAP directory is no other authority's `alice`, unless the directory here says that they are one.
///
/// As text it is `directory`, or kind and name of an authenticator: `ldap/corp`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Authority {
    /// The directory: its own users, tokens and passwords.
    #[default]
    Directory,
    /// An authenticator that asks a provider.
    Provider(Provider),
}

/// An authenticator that asks a provider: its kind, and its name in the configuration. A link or a binding for an authenticator
/// does not hold for one of another kind that takes over its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Provider {
    method: AuthenticationMethod,
    name: Arc<str>,
}

/// The text names no authority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no authority: write directory, or KIND/NAME of an authenticator, where KIND is jwt, certificate, \
     token-review, ldap or github"
)]
pub struct AuthorityError(String);

impl Authority {
    /// The authenticator of this kind and name.
    pub fn provider(method: AuthenticationMethod, name: Arc<str>) -> Self {
        Self::Provider(Provider { method, name })
    }

    /// Is it the directory?
    pub fn is_directory(&self) -> bool {
        *self == Self::Directory
    }
}

/// The kinds of authenticators that ask a provider.
const PROVIDERS: [AuthenticationMethod; 5] = [
    AuthenticationMethod::Jwt,
    AuthenticationMethod::Certificate,
    AuthenticationMethod::TokenReview,
    AuthenticationMethod::Ldap,
    AuthenticationMethod::GitHub,
];

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "directory" {
            return Ok(Self::Directory);
        }
        let wrong = || AuthorityError(text.to_owned());
        let (kind, name) = text.split_once('/').ok_or_else(wrong)?;
        let mut kinds = PROVIDERS.into_iter();
        let method = kinds
            .find(|method| method.as_str() == kind)
            .ok_or_else(wrong)?;
        let plain = |c: char| !c.is_control() && !c.is_whitespace();
        if name.is_empty() || !name.chars().all(plain) {
            return Err(wrong());
        }
        Ok(Self::provider(method, name.into()))
    }
}

impl TryFrom<String> for Authority {
    type Error = AuthorityError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Authority> for String {
    fn from(authority: Authority) -> Self {
        authority.to_string()
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory => f.write_str("directory"),
            Self::Provider(Provider { method, name }) => write!(f, "{method}/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_its_text() {
        for text in ["directory", "ldap/corp", "token-review/edge", "jwt/a/b"] {
            assert_eq!(text.parse::<Authority>().unwrap().to_string(), text);
        }
        for wrong in ["", "corp", "ldap/", "token/tokens", "LDAP/corp", "jwt/a b"] {
            let error = wrong.parse::<Authority>().unwrap_err();
            assert!(error.to_string().contains("KIND/NAME"), "{error}");
        }
    }
}
