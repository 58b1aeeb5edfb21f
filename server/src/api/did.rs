//! A request's effect, for the audit log: the object, the subject and the grant. Never a secret.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;

use axum::response::{IntoResponse, Response};
use serde::Serialize;

use underpass_api::TokenView;
use underpass_audit::RECORDED_USER;
use underpass_core::Through;

use super::problem::Problem;

/// A request's effect. A handler attaches it to its response, and [`Api::answer`](super::Api::answer) writes it down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Did {
    details: Vec<(Cow<'static, str>, String)>,
    /// Its user, where the request alone does not name one.
    user: Option<String>,
}

impl Did {
    /// Something about an object, which the kind and the name tell.
    pub(super) fn to(kind: &str, name: &str) -> Self {
        Self::default().and("underpass.dev/object", format!("{kind}/{name}"))
    }

    /// For whom, or with whom.
    pub(super) fn subject(self, subject: impl Display) -> Self {
        self.and("underpass.dev/subject", subject.to_string())
    }

    /// The subject's rights, or the object's state, from now on.
    pub(super) fn grant(self, grant: impl Display) -> Self {
        self.and("underpass.dev/grant", grant.to_string())
    }

    /// The object's specification as the API shows it, which holds no secret.
    pub(super) fn spec(self, spec: &impl Serialize) -> Self {
        match serde_json::to_string(spec) {
            Ok(text) => self.grant(text),
            Err(error) => self.grant(format!("(cannot be written: {error})")),
        }
    }

    /// Values by their parameters, each by itself: the log cuts texts, and none hides another one.
    pub(super) fn arguments(self, arguments: &BTreeMap<String, String>) -> Self {
        arguments.iter().fold(self, |did, (name, value)| {
            did.and(format!("underpass.dev/argument.{name}"), value.clone())
        })
    }

    /// A token, by what a client sees of it.
    pub(super) fn token(token: &TokenView) -> Self {
        let mut grant = vec![match token.expires {
            Some(end) => format!("until {end}"),
            None => "without an end".to_owned(),
        }];
        if let Some(clusters) = &token.scope.clusters {
            let names: Vec<_> = clusters.iter().map(ToString::to_string).collect();
            grant.push(format!("for {}", names.join(", ")));
        }
        if token.scope.read_only {
            grant.push("read-only".to_owned());
        }
        if let Some(parent) = &token.parent {
            grant.push(format!("made with {parent}"));
        }
        let by = token.authenticated_by.as_deref().unwrap_or("directory");
        Self::to("token", &token.id)
            .subject(format!("user:{} ({by})", token.user))
            .grant(grant.join("; "))
    }

    /// Done by a user who has just logged in.
    pub(super) fn by(self, user: &str) -> Self {
        Self {
            user: Some(user.to_owned()),
            ..self
        }
    }

    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The agent on whose word it rests, where it is one's.
    pub(super) fn vouched_by(self, agent: Option<&Through>) -> Self {
        match agent {
            Some(agent) => self.and("underpass.dev/agent", agent.to_string()),
            None => self,
        }
    }

    /// Nothing was done, for the problem's reason.
    pub(super) fn refused(self, problem: &Problem) -> Self {
        match problem.why() {
            Some(reason) => self.and("underpass.dev/change", format!("refused: {reason}")),
            None => self,
        }
    }

    /// The user whose shell a recording shows, where it is another one. The log has each such event.
    pub(super) fn recorded_user(self, user: &str) -> Self {
        self.and(RECORDED_USER, user.to_owned())
    }

    /// The object is gone.
    pub(super) fn removed(self) -> Self {
        self.and("underpass.dev/change", "removed".to_owned())
    }

    fn and(mut self, key: impl Into<Cow<'static, str>>, text: String) -> Self {
        self.details.push((key.into(), text));
        self
    }

    pub(super) fn details(&self) -> &[(Cow<'static, str>, String)] {
        &self.details
    }

    /// The response of the request that has done it.
    pub(super) fn with(self, response: impl IntoResponse) -> Response {
        let mut response = response.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
