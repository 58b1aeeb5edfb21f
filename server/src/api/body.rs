//! Bodies of requests, which are read once it is known that the requester may do something of the kind at all (security
//! rule 23): until then nothing of them is kept.

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use http::StatusCode;
use http_body_util::Limited;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// Reads a body of JSON, of at most `most` bytes; `what` names it in errors.
pub(super) async fn read<T: DeserializeOwned>(
    request: Request,
    what: &str,
    most: usize,
) -> Result<T, Problem> {
    let (parts, body) = request.into_parts();
    let request = Request::from_parts(parts, Body::new(Limited::new(body, most)));
    let Json(value) =
        Json::from_request(request, &())
            .await
            .map_err(|rejection| match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!("{what} has at most {most} bytes"),
                ),
                _ => Problem::from(rejection),
            })?;
    Ok(value)
}
