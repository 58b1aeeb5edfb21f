//! Bodies of requests, which are read once it is known that the requester may do something of the kind at all (security
//! rule 23): until then nothing of them is kept.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use http::StatusCode;
use http_body_util::Limited;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::limits;

/// Reads a body of JSON, of at most `most` bytes. Errors name it by `what`.
pub(super) async fn read<T: DeserializeOwned>(
    request: Request,
    what: &str,
    most: usize,
) -> Result<T, Problem> {
    let too_large = |bound| {
        let detail = format!("{what} has at most {bound}");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    };
    let (parts, body) = request.into_parts();
    let request = Request::from_parts(parts.clone(), Body::new(Limited::new(body, most)));
    let bytes = Bytes::from_request(request, &())
        .await
        .map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => too_large(format!("{most} bytes")),
            status => Problem::new(status, rejection.body_text()),
        })?;
    if values(&bytes) > limits::API_BODY_VALUES {
        return Err(too_large(format!("{} values", limits::API_BODY_VALUES)));
    }
    let Json(value) =
        Json::from_request(Request::from_parts(parts, Body::from(bytes)), &()).await?;
    Ok(value)
}

/// How many values a JSON text has at the most: each follows a bracket, a brace or a comma. A value takes up to a hundred times
/// its text in memory.
fn values(json: &[u8]) -> usize {
    let mut count: usize = 1;
    let (mut is_text, mut is_escaped) = (false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_text,
            b'"' => is_text = !is_text,
            b'[' | b'{' | b',' if !is_text => count = count.saturating_add(1),
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_texts() {
        for (json, count) in [
            ("7", 1),
            (r#""a,b[{""#, 1),
            (r#"{"a\"[[[,":1,"b\\":[2,3]}"#, 5),
            ("[[0],[0]]", 5),
            ("\\", 1),
            ("", 1),
        ] {
            assert_eq!(values(json.as_bytes()), count, "{json}");
        }
    }
}
