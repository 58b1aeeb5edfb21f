//! Errors of the API, as problem details (RFC 9457).

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use underpass_api::{About, JoinRefusal, OperationRefusal};
use underpass_audit::cut;
use underpass_core::Rejection;
use underpass_directory::ChangeError;
use underpass_tunnel::chain;

use crate::limits;

/// The answer to a request that was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub(crate) struct Problem(underpass_api::Problem);

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self(underpass_api::Problem::new(status, detail))
    }

    pub(super) fn about(mut self, kind: &str, name: &str) -> Self {
        self.0.about = Some(About {
            kind: kind.to_owned(),
            name: name.to_owned(),
        });
        self
    }

    /// With the reason for programs.
    pub(super) fn reason(mut self, refusal: JoinRefusal) -> Self {
        self.0.reason = Some(refusal);
        self
    }

    /// The reason for programs.
    pub(super) fn why(&self) -> Option<JoinRefusal> {
        self.0.reason
    }

    /// Is there nothing of the kind?
    pub(super) fn is_not_found(&self) -> bool {
        self.0.is(StatusCode::NOT_FOUND)
    }

    /// Is it not allowed?
    pub(super) fn is_forbidden(&self) -> bool {
        self.0.is(StatusCode::FORBIDDEN)
    }

    /// Does it ask to come again later?
    pub(super) fn is_for_later(&self) -> bool {
        self.0.retry_after_seconds.is_some()
    }

    /// With an agent's reason, and the parameter that it is about.
    pub(super) fn of_operation(
        mut self,
        refusal: OperationRefusal,
        parameter: Option<String>,
    ) -> Self {
        self.0.operation = Some(refusal);
        match parameter {
            Some(name) => self.about("parameter", &name),
            None => self,
        }
    }

    /// Too many, too fast.
    pub(super) fn later(status: StatusCode, detail: impl Into<String>, seconds: u64) -> Self {
        Self::new(status, detail).after(Duration::from_secs(seconds))
    }

    /// With another time to come again, in whole seconds.
    pub(super) fn after(mut self, wait: Duration) -> Self {
        self.0.retry_after_seconds = Some(wait.as_secs());
        self
    }

    pub(super) fn forbidden(what: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, what)
    }

    pub(super) fn invalid(what: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, what)
    }

    pub(super) fn not_found(kind: &str, name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("there is no {kind} {name:?}"),
        )
        .about(kind, name)
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        let status = match &error {
            ChangeError::NotFound { .. } => StatusCode::NOT_FOUND,
            ChangeError::Exists { .. }
            | ChangeError::Twice { .. }
            | ChangeError::AgentsAndDirect(_)
            | ChangeError::RegistrationsAndDirect(_)
            | ChangeError::NoRegistration(_) => StatusCode::CONFLICT,
            ChangeError::Changed { .. } => StatusCode::PRECONDITION_FAILED,
            ChangeError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            ChangeError::Name(_)
            | ChangeError::ClusterName(_)
            | ChangeError::Identity(_)
            | ChangeError::Outlasts { .. }
            | ChangeError::TooManyGenerations
            | ChangeError::LinkToDirectory
            | ChangeError::TooManyLinks
            | ChangeError::ScopeTooWide
            | ChangeError::JoinTokenUses
            | ChangeError::EmptyBinding => StatusCode::UNPROCESSABLE_ENTITY,
            ChangeError::TooMany(_)
            | ChangeError::TooManyJoinAccounts
            | ChangeError::TooManyRegistrationNetworks
            | ChangeError::TooManyTokens { .. }
            | ChangeError::TooManyJoinTokens { .. } => StatusCode::INSUFFICIENT_STORAGE,
            ChangeError::WiderScope => StatusCode::FORBIDDEN,
            ChangeError::Busy => {
                return Self::later(StatusCode::SERVICE_UNAVAILABLE, error.to_string(), 1);
            }
            ChangeError::Store(_) => {
                // The directory says once that it cannot be written: a line for each change would fill the disk that is full.
                tracing::debug!("the directory was not changed: {}", chain(&error));
                return Self::later(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the directory cannot be written, and nothing was changed; the server's log says why",
                    5,
                );
            }
            ChangeError::Unknown(_) => {
                tracing::error!("a change of the directory failed: {}", chain(&error));
                return Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "it is not known whether the directory was changed: look at it before you try again; the server's log \
                     says why",
                );
            }
            _ => {
                tracing::error!("the directory was not changed: {}", chain(&error));
                return Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the directory was not changed; the server's log says why",
                );
            }
        };
        let problem = Self::new(status, error.to_string());
        match &error {
            ChangeError::NotFound { kind, name }
            | ChangeError::Exists { kind, name }
            | ChangeError::Changed { kind, name }
            | ChangeError::Twice { kind, name }
            | ChangeError::TooLarge { kind, name } => problem.about(kind.as_str(), name),
            _ => problem,
        }
    }
}

/// The front's own rejections, of callers that the API never saw.
impl From<&Rejection> for Problem {
    fn from(rejection: &Rejection) -> Self {
        let detail = match rejection {
            Rejection::Unauthorized => {
                "there is no credential, or it is not accepted (401): log in again, or see what was wrong in the server's log"
                    .to_owned()
            }
            rejection => rejection.to_string(),
        };
        let problem = Self::new(rejection.code(), detail);
        match rejection.retry_after() {
            Some(wait) => problem.after(wait.max(Duration::from_secs(1))),
            None => problem,
        }
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self(mut problem) = self;
        // Both may quote the request, of which a path may have a megabyte.
        problem.detail = cut(&problem.detail, limits::PROBLEM_CHARS).to_owned();
        if let Some(about) = &mut problem.about {
            about.name = cut(&about.name, limits::PROBLEM_CHARS).to_owned();
        }
        let status =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = problem.retry_after_seconds.map(HeaderValue::from);
        let mut response = (status, Json(problem)).into_response();
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(CONTENT_TYPE, kind);
        headers.extend(retry_after.map(|seconds| (RETRY_AFTER, seconds)));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

pub(super) fn unwritten() -> Problem {
    Problem::later(
        StatusCode::SERVICE_UNAVAILABLE,
        "the audit log cannot be written, and nothing happens unwritten: see the server's log",
        5,
    )
}

pub(super) fn too_slow() -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, "the request took too long")
}

pub(super) async fn no_such_path() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "the API has no such path (see /v1/openapi.json)",
    )
}

pub(super) async fn no_such_method() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "not with this method (see /v1/openapi.json)",
    )
}
