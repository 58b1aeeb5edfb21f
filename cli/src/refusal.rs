//! Answers of the server that are no success.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use thiserror::Error;
use underpass_core::Body;

/// A Status, or a few sentences.
const BYTES: usize = 64 * 1024;

/// A request that the server, or something behind it, has not done.
#[derive(Debug, Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    pub(crate) code: StatusCode,
    /// The same in one word, as Kubernetes has it: `NotFound`.
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// The answer's words: of a Status of Kubernetes, or of a problem of the server's own API.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Words {
    reason: String,
    message: String,
    detail: String,
}

impl Refusal {
    pub(crate) async fn read(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, BYTES).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        Self::new(parts.status, &body)
    }

    pub(crate) fn new(code: StatusCode, body: &Bytes) -> Self {
        let words: Words = serde_json::from_slice(body).unwrap_or_default();
        let usual = || code.canonical_reason().unwrap_or("Unknown").to_owned();
        let text = || String::from_utf8_lossy(body).trim().to_owned();
        let mut messages = [words.message, words.detail, text()].into_iter();
        let message = messages.find(|message| !message.is_empty());
        Self {
            code,
            reason: Some(words.reason)
                .filter(|reason| !reason.is_empty())
                .unwrap_or_else(usual),
            message: message.unwrap_or_else(|| format!("the server answered {code}")),
        }
    }

    /// Does no further attempt help?
    pub(crate) fn is_final(&self) -> bool {
        is_final(self.code)
    }
}

/// Does no further attempt help after this status?
pub(crate) fn is_final(code: StatusCode) -> bool {
    !matches!(
        code,
        StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::BAD_GATEWAY
            | StatusCode::GATEWAY_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_own_words_are_found() {
        for (body, expected) in [
            (
                r#"{"kind":"Status","reason":"NotFound","message":"pods \"x\" not found"}"#,
                "NotFound: pods \"x\" not found",
            ),
            (r#"{"detail":"no such shell"}"#, "Not Found: no such shell"),
            ("no such shell\n", "Not Found: no such shell"),
            ("", "Not Found: the server answered 404 Not Found"),
        ] {
            let refusal = Refusal::new(StatusCode::NOT_FOUND, &Bytes::from_static(body.as_bytes()));
            let shown = format!("{}: {refusal}", refusal.reason);
            assert_eq!(shown, expected);
        }
    }
}
