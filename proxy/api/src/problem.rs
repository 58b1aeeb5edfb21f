//! Errors of the API, as problem details (RFC 9457).

use std::fmt;

use http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{JoinRefusal, OperationRefusal};

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// Its name.
    pub title: String,
    /// The reason, and a remedy.
    pub detail: String,
    /// The same for programs, where several reasons have one status.
    #[serde(
        default,
        deserialize_with = "known_reason",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub reason: Option<JoinRefusal>,
    /// The reason of a node's agent, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationRefusal>,
    /// The object that is missing, there already, or other than expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<About>,
    /// Seconds until another attempt makes sense; also in `Retry-After`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u64>,
}

/// A reason of a newer server is none to this version: the detail says it.
fn known_reason<'de, D: Deserializer<'de>>(from: D) -> Result<Option<JoinRefusal>, D::Error> {
    let reason = Option::<String>::deserialize(from)?;
    Ok(reason.and_then(|reason| reason.parse().ok()))
}

/// An object that a problem is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct About {
    /// Its kind: cluster, user, …; `parameter` of an operation's argument
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

impl Problem {
    /// A problem with this status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            detail: detail.into(),
            reason: None,
            operation: None,
            about: None,
            retry_after_seconds: None,
        }
    }

    /// Has it this status?
    pub fn is(&self, status: StatusCode) -> bool {
        self.status == status.as_u16()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_of_a_newer_server_is_none() {
        for (reason, known) in [("used-up", Some(JoinRefusal::UsedUp)), ("newer", None)] {
            let text = format!(r#"{{"status":410,"title":"","detail":"","reason":"{reason}"}}"#);
            let problem: Problem = serde_json::from_str(&text).unwrap();
            assert_eq!(problem.reason, known);
        }
        let mut problem = Problem::new(StatusCode::GONE, "no");
        assert!(!serde_json::to_string(&problem).unwrap().contains("reason"));
        problem.reason = Some(JoinRefusal::KeyKnown);
        let written = serde_json::to_value(&problem).unwrap();
        assert_eq!(written["reason"], "key-known");
    }
}
