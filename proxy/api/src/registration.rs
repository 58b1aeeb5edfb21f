//! The words of a tunnel's stream to the server's target `credentials` (PROTOCOL.md, "Registered credentials"), which are lines of
//! JSON: an agent registers a credential for its cluster's API server, or says that there shall be none.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::Secret;

/// The target of the stream, which agents open.
pub const CREDENTIALS_TARGET: &str = "credentials";

/// The longest line, in bytes: a CA bundle and a token, with JSON's escapes.
pub const REGISTRATION_LINE: usize = 128 * 1024;

/// The agent's one line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum RegistrationRequest {
    /// Here is a credential, in place of the one from before.
    Register(OfferedCredential),
    /// The cluster's owner wants none to be kept.
    Withdraw {},
}

/// An API server, and a token for it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OfferedCredential {
    /// Its URL, as the server reaches it: `https://HOST[:PORT][/PATH]`.
    pub server: String,
    /// The CA of its certificate, as PEM.
    pub certificate_authority: String,
    /// The name in its certificate, where it is not the URL's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    /// The token of a ServiceAccount, by TokenRequest.
    pub token: Secret,
    /// Namespaces whose ServiceAccounts may be impersonated, by the agent's policy.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub allow_service_accounts: BTreeSet<String>,
}

/// The server's one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RegistrationAnswer {
    /// It is kept, until then.
    Registered {
        /// When the token ends, as it says itself.
        #[serde(with = "time::serde::rfc3339")]
        expires: OffsetDateTime,
    },
    /// None is kept.
    Withdrawn {},
    /// Nothing has changed.
    Refused {
        /// Why.
        reason: RegistrationRefusal,
        /// The same for people.
        detail: String,
    },
}

/// Why a credential is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RegistrationRefusal {
    /// The line is none of these, or is too long.
    Malformed,
    /// The server does not connect to that address.
    Address,
    /// The URL, the CA or the TLS server name cannot be used.
    Endpoint,
    /// The token is none that is kept.
    Token,
    /// Another agent of the cluster, which is connected, wants none to be kept.
    Withdrawn,
    /// The cluster does not allow it any more, or the agent may not.
    NotAllowed,
    /// The cluster's agents register too often.
    TooOften,
    /// The server cannot keep it now.
    Unavailable,
}

impl fmt::Display for RegistrationRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed",
            Self::Address => "address",
            Self::Endpoint => "endpoint",
            Self::Token => "token",
            Self::Withdrawn => "withdrawn",
            Self::NotAllowed => "not-allowed",
            Self::TooOften => "too-often",
            Self::Unavailable => "unavailable",
        })
    }
}

/// A registered credential, as administrators see it: never the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RegistrationStatus {
    /// The API server's URL.
    pub server: String,
    /// The token's ServiceAccount, as `NAMESPACE/NAME`.
    pub account: String,
    /// The agent that has registered it, by id.
    pub agent: String,
    /// When that was.
    #[serde(with = "time::serde::rfc3339")]
    pub registered: OffsetDateTime,
    /// When the token ends. It is not used any more shortly before.
    #[serde(with = "time::serde::rfc3339")]
    pub expires: OffsetDateTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<RegistrationRequest, serde_json::Error> {
        serde_json::from_str(line)
    }

    #[test]
    fn rule_9_a_registration_is_read_strictly_and_shows_no_token() {
        let good =
            r#"{"register":{"server":"https://h","certificateAuthority":"x","token":"hunter2"}}"#;
        let request = read(good).unwrap();
        assert!(!format!("{request:?}").contains("hunter2"));
        assert_eq!(serde_json::to_string(&request).unwrap(), good);
        assert!(matches!(
            read(r#"{"withdraw":{}}"#),
            Ok(RegistrationRequest::Withdraw {})
        ));
        for bad in [
            "",
            "{}",
            "null",
            r#""withdraw""#,
            r#"{"withdraw":{"all":true}}"#,
            r#"{"withdraw":{},"register":{}}"#,
            r#"{"register":{"server":"https://h","certificateAuthority":"x"}}"#,
            r#"{"register":{"server":"https://h","certificateAuthority":"x","token":"t","insecure":true}}"#,
            r#"{"register":{"server":"https://h","certificateAuthority":"x","token":"t","denyUsers":["root"]}}"#,
            r#"{"register":{"server":"https://h","server":"https://i","certificateAuthority":"x","token":"t"}}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn answers_are_as_the_protocol_has_them() {
        let expires = OffsetDateTime::UNIX_EPOCH;
        let refused = RegistrationAnswer::Refused {
            reason: RegistrationRefusal::TooOften,
            detail: "later".to_owned(),
        };
        for (answer, line) in [
            (
                RegistrationAnswer::Registered { expires },
                r#"{"registered":{"expires":"1970-01-01T00:00:00Z"}}"#,
            ),
            (RegistrationAnswer::Withdrawn {}, r#"{"withdrawn":{}}"#),
            (
                refused,
                r#"{"refused":{"reason":"too-often","detail":"later"}}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&answer).unwrap(), line);
            assert_eq!(
                serde_json::from_str::<RegistrationAnswer>(line).unwrap(),
                answer
            );
        }
        for reason in [
            RegistrationRefusal::NotAllowed,
            RegistrationRefusal::Malformed,
        ] {
            let text = serde_json::to_value(reason).unwrap();
            assert_eq!(text, reason.to_string());
        }
    }
}
