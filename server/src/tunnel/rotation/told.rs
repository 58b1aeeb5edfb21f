//! Rotations in the audit log, and in the server's own: a holder of a stolen key who registers a next one is seen there.

use std::borrow::Cow;
use std::net::IpAddr;

use http::Method;
use time::OffsetDateTime;
use underpass_api::NextKeyRefusal;
use underpass_audit::{AuditLog, OwnCall, OwnCaller};
use underpass_core::ClusterName;

/// Something that an agent has done with its keys.
pub(super) struct KeyEvent<'a> {
    /// Its id.
    pub(super) agent: &'a str,
    pub(super) cluster: &'a ClusterName,
    pub(super) remote: Option<IpAddr>,
}

/// Its result.
pub(super) enum Outcome<'a> {
    /// A next key waits for its first use, and another one does so no more.
    Registered {
        next: &'a str,
        instead_of: Option<&'a str>,
    },
    /// It may: the store does not say.
    Unsure { next: &'a str },
    /// It does not.
    Refused(NextKeyRefusal),
    /// It has taken the place of the other one.
    Replaced { key: &'a str, old: &'a str },
}

impl KeyEvent<'_> {
    /// Writes it down as a call of the agent's: the path is none of the API's.
    pub(super) fn write(&self, audit: &AuditLog, outcome: Outcome<'_>) {
        let (method, path, code) = match &outcome {
            Outcome::Registered { .. } => (Method::POST, "next-key", 201),
            Outcome::Unsure { .. } => (Method::POST, "next-key", 500),
            Outcome::Refused(NextKeyRefusal::TooSoon) => (Method::POST, "next-key", 429),
            Outcome::Refused(NextKeyRefusal::Unavailable) => (Method::POST, "next-key", 503),
            Outcome::Refused(_) => (Method::POST, "next-key", 403),
            Outcome::Replaced { .. } => (Method::PUT, "key", 200),
        };
        let mut details: Vec<(Cow<'static, str>, String)> = vec![
            (
                "underpass.dev/object".into(),
                format!("agent/{}", self.agent),
            ),
            (
                "underpass.dev/subject".into(),
                format!("cluster:{}", self.cluster),
            ),
        ];
        let change = match outcome {
            Outcome::Registered { next, instead_of } => {
                details.push(("underpass.dev/grant".into(), format!("next key {next}")));
                instead_of.map(|old| format!("instead of the next key {old}"))
            }
            Outcome::Unsure { next } => {
                details.push(("underpass.dev/grant".into(), format!("next key {next}")));
                Some("the store does not say whether it is written".to_owned())
            }
            Outcome::Refused(reason) => Some(format!("refused: {}", text(reason))),
            Outcome::Replaced { key, old } => {
                details.push(("underpass.dev/grant".into(), format!("key {key}")));
                Some(format!("replaced: key {old}"))
            }
        };
        details.extend(change.map(|change| ("underpass.dev/change".into(), change)));
        let name = format!("underpass:agent:{}", self.agent);
        let path = format!("/v1/agents/{}/{path}", self.agent);
        let told = audit.own_call(&OwnCall {
            caller: OwnCaller::Known(&name),
            client: self.remote,
            method: &method,
            path: &path,
            user_agent: "",
            received: OffsetDateTime::now_utc(),
            code,
            details: &details,
        });
        if told.is_some() {
            let done: Vec<_> = details
                .iter()
                .skip(2)
                .map(|(_, text)| text.as_str())
                .collect();
            tracing::info!(
                target: "underpass::audit", agent = self.agent, cluster = %self.cluster, code,
                remote = self.remote.map(tracing::field::display), "an agent's key: {}", done.join(", ")
            );
        }
    }
}

/// As JSON has it.
fn text(reason: NextKeyRefusal) -> String {
    let text = serde_json::to_value(reason).ok();
    let text = text.as_ref().and_then(|text| text.as_str());
    text.unwrap_or_default().to_owned()
}
