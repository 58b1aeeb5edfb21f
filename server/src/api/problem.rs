//! Errors of the API, as problem details (RFC 9457).

use std::fmt;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use underpass_audit::cut;
use underpass_core::Refusal;
use underpass_directory::ChangeError;
use underpass_tunnel::chain;

use crate::limits;

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Problem {
    /// The HTTP status.
    pub(crate) status: u16,
    /// Its name.
    pub(crate) title: String,
    /// What was wrong, and what to do.
    pub(crate) detail: String,
    /// The object that is missing, there already, or other than expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) about: Option<About>,
    /// Seconds until another attempt makes sense; also in `Retry-After`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retry_after_seconds: Option<u64>,
}

/// An object that a problem is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct About {
    /// What it is: cluster, user, …
    pub(crate) kind: String,
    /// Its name.
    pub(crate) name: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            detail: detail.into(),
            about: None,
            retry_after_seconds: None,
        }
    }

    fn about(mut self, kind: &str, name: &str) -> Self {
        self.about = Some(About {
            kind: kind.to_owned(),
            name: name.to_owned(),
        });
        self
    }

    /// Too many, too fast.
    pub(super) fn later(status: StatusCode, detail: impl Into<String>, seconds: u64) -> Self {
        Self {
            retry_after_seconds: Some(seconds),
            ..Self::new(status, detail)
        }
    }

    pub(super) fn forbidden(what: &str) -> Self {
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
            | ChangeError::AgentsAndDirect(_) => StatusCode::CONFLICT,
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
            | ChangeError::EmptyBinding => StatusCode::UNPROCESSABLE_ENTITY,
            ChangeError::TooMany(_) | ChangeError::TooManyTokens { .. } => {
                StatusCode::INSUFFICIENT_STORAGE
            }
            ChangeError::WiderScope => StatusCode::FORBIDDEN,
            ChangeError::Busy => {
                return Self::later(StatusCode::SERVICE_UNAVAILABLE, error.to_string(), 1);
            }
            _ => {
                tracing::error!("the directory was not changed: {}", chain(&error));
                return Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the directory cannot be written; the server's log says why",
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

/// The front's own refusals, of callers that the API never saw.
impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        let detail = match refusal {
            Refusal::Unauthorized => {
                "there is no credential, or it is not accepted (401): log in again, or see what was wrong in the server's log"
                    .to_owned()
            }
            refusal => refusal.to_string(),
        };
        Self {
            retry_after_seconds: refusal.retry_after().map(|wait| wait.as_secs().max(1)),
            ..Self::new(refusal.code(), detail)
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
    fn into_response(mut self) -> Response {
        // Both may quote the request, of which a path may have a megabyte.
        self.detail = cut(&self.detail, limits::PROBLEM_CHARS).to_owned();
        if let Some(about) = &mut self.about {
            about.name = cut(&about.name, limits::PROBLEM_CHARS).to_owned();
        }
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.retry_after_seconds.map(HeaderValue::from);
        let mut response = (status, Json(self)).into_response();
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
