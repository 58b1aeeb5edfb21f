//! `metav1.Status`: the errors that kubectl and client-go print and act on.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::{Body, body};

/// One error, in the API machinery's shape.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status<'a> {
    kind: &'static str,
    api_version: &'static str,
    metadata: Metadata,
    status: &'static str,
    message: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details<'a>>,
    code: u16,
    #[serde(skip)]
    retry_after: Option<Duration>,
}

#[derive(Debug, Serialize)]
struct Metadata {}

/// The subject of the error.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Details<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
}

/// An error in the API machinery's shape, which kubectl and client-go print and act on; with `retry_after`, they try again then.
pub fn status_response(
    code: StatusCode,
    reason: &str,
    message: &str,
    retry_after: Option<Duration>,
) -> Response<Body> {
    let status = Status::new(code, reason, message);
    match retry_after {
        Some(after) => status.retry_after(after).into_response(),
        None => status.into_response(),
    }
}

impl<'a> Status<'a> {
    pub(crate) fn new(code: StatusCode, reason: &'a str, message: &'a str) -> Self {
        Self {
            kind: "Status",
            api_version: "v1",
            metadata: Metadata {},
            status: "Failure",
            message,
            reason,
            details: None,
            code: code.as_u16(),
            retry_after: None,
        }
    }

    /// Names the cluster in question, as `clusters.underpass.dev`.
    pub(crate) fn about_cluster(mut self, name: &'a str) -> Self {
        let details = self.details.get_or_insert_default();
        details.name = Some(name);
        details.group = Some("underpass.dev");
        details.kind = Some("clusters");
        self
    }

    /// Asks the client to try again: client-go honours the header, kubectl prints the detail.
    pub(crate) fn retry_after(mut self, after: Duration) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = Some(after.as_secs());
        self.retry_after = Some(after);
        self
    }

    /// `metav1.WatchEvent` of the type ERROR, and the line's end.
    pub(crate) fn into_watch_event(self) -> Bytes {
        #[derive(Serialize)]
        struct WatchEvent<'a> {
            r#type: &'static str,
            object: Status<'a>,
        }
        let event = WatchEvent {
            r#type: "ERROR",
            object: self,
        };
        // As in `into_response`; a watch that ends without it has ended all the same.
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        line.into()
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        // A struct of strings and numbers always serialises; an empty body would still carry the code.
        let json = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(body::full(json));
        *response.status_mut() =
            StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static("no-cache, private"),
        );
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs()));
        }
        response
    }
}
