//! Events about recordings in the audit log that no request has caused.

use std::borrow::Cow;

use http::{Method, StatusCode};
use time::OffsetDateTime;
use underpass_audit::{AuditLog, OwnCall, OwnCaller};

use super::error::RecordingError;
use super::facts::{Facts, Finished};

type Detail = (Cow<'static, str>, String);

/// Why a recording is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// An administrator has asked for it, whose request is in the audit log.
    Asked,
    /// Others need its room.
    ForRoom,
    /// It was kept for long enough.
    OfAge,
}

impl Removal {
    /// As logs have it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "by an administrator",
            Self::ForRoom => "to make room",
            Self::OfAge => "at the end of its time",
        }
    }
}

impl Finished {
    /// For the audit log.
    pub(crate) fn details(&self) -> Vec<Detail> {
        let mut details = vec![
            ("underpass.dev/recording-sha256".into(), self.sha256.clone()),
            (
                "underpass.dev/recording-bytes".into(),
                self.bytes.to_string(),
            ),
        ];
        if self.missing > 0 {
            let missing = self.missing.to_string();
            details.push(("underpass.dev/recording-missing".into(), missing));
        }
        details
    }
}

/// Writes the event of a recording that ended when nobody else waited for its shell's end.
pub(super) fn ended(audit: &AuditLog, facts: &Facts, finished: &Finished) {
    tell(audit, facts, &Method::POST, finished.details());
}

/// Writes the event of a recording that does not go on, though its shell may.
pub(super) fn stopped(audit: &AuditLog, facts: &Facts, why: &RecordingError) {
    let outcome = format!("not recorded from here on: {why}");
    let details = vec![("underpass.dev/outcome".into(), outcome)];
    tell(audit, facts, &Method::PATCH, details);
}

/// Writes the event of a recording that is removed by itself.
pub(super) fn removed(audit: &AuditLog, facts: &Facts, why: Removal) {
    let mut details = vec![(
        "underpass.dev/outcome".into(),
        format!("removed {}", why.as_str()),
    )];
    details.extend(facts.finished.iter().flat_map(Finished::details));
    tell(audit, facts, &Method::DELETE, details);
}

fn tell(audit: &AuditLog, facts: &Facts, method: &Method, about: Vec<Detail>) {
    let mut details: Vec<Detail> = vec![
        (
            "underpass.dev/object".into(),
            format!("recording/{}", facts.id),
        ),
        ("underpass.dev/subject".into(), facts.place.clone()),
        ("underpass.dev/recorded-user".into(), facts.user.clone()),
    ];
    details.extend(about);
    let path = format!("/v1/clusters/{}/recordings/{}", facts.cluster, facts.id);
    audit.own_call(&OwnCall {
        caller: OwnCaller::Known("underpass:recorder"),
        client: None,
        method,
        path: &path,
        user_agent: "",
        received: OffsetDateTime::now_utc(),
        code: StatusCode::OK.as_u16(),
        details: &details,
    });
}
