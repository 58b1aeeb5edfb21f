//! Registered credentials in the audit log: a captured agent that registers one is seen there.

use std::borrow::Cow;
use std::net::IpAddr;

use http::Method;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use underpass_audit::{AuditLog, OwnCall, OwnCaller};
use underpass_core::ClusterName;
use underpass_directory::Registration;

/// Something that an agent has done with its cluster's credential.
pub(super) struct RegistrationEvent<'a> {
    /// The agent's id.
    pub(super) agent: &'a str,
    pub(super) cluster: &'a ClusterName,
    pub(super) remote: Option<IpAddr>,
}

/// Its result.
pub(super) enum Outcome<'a> {
    /// There is one now, in the place of another one where there was one.
    Registered {
        now: &'a Registration,
        before: Option<&'a Registration>,
    },
    /// The one that was there is gone.
    Withdrawn(&'a Registration),
}

impl RegistrationEvent<'_> {
    /// Writes it down as a call of the agent's: no agent reaches that path of the API.
    pub(super) fn write(&self, audit: &AuditLog, outcome: &Outcome<'_>) {
        let (method, code) = match outcome {
            Outcome::Registered { before: None, .. } => (Method::POST, 201),
            Outcome::Registered { .. } => (Method::PUT, 200),
            Outcome::Withdrawn(_) => (Method::DELETE, 200),
        };
        let mut details: Vec<(Cow<'static, str>, String)> = vec![
            (
                "underpass.dev/object".into(),
                format!("registration/{}", self.cluster),
            ),
            (
                "underpass.dev/subject".into(),
                format!("cluster:{}", self.cluster),
            ),
        ];
        match outcome {
            Outcome::Registered { now, before } => {
                details.push(("underpass.dev/grant".into(), text(now)));
                let before = before.map(|before| format!("replaced: {}", text(before)));
                details.extend(before.map(|before| ("underpass.dev/change".into(), before)));
            }
            Outcome::Withdrawn(before) => {
                let change = format!("removed: {}", text(before));
                details.push(("underpass.dev/change".into(), change));
            }
        }
        let name = format!("underpass:agent:{}", self.agent);
        let path = format!("/v1/clusters/{}/registration", self.cluster);
        audit.own_call(&OwnCall {
            caller: OwnCaller::Known(&name),
            client: self.remote,
            method: &method,
            path: &path,
            user_agent: "",
            received: OffsetDateTime::now_utc(),
            code,
            details: &details,
        });
    }
}

/// Never the token.
fn text(registration: &Registration) -> String {
    let Registration {
        endpoint,
        account,
        expires,
        agent,
        ..
    } = registration;
    let expires = expires.format(&Rfc3339).unwrap_or_default();
    let server = endpoint.server();
    format!("{account} at {server} until {expires} by agent {agent}")
}
