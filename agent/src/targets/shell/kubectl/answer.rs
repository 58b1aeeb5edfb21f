//! Answers for a shell's programs, cleaned as the server cleans them for its clients.

use std::task::{Context, Poll};

use http::{HeaderMap, Response, StatusCode, Version, header};
use hyper::upgrade::OnUpgrade;
use underpass_core::body::{Guard, Guarded, boxed};
use underpass_core::{Body, BoxError, Rejection, empty};
use underpass_http::call::Call;
use underpass_http::exchange::{self, Answered, Exchange, Whole};
use underpass_http::headers::{self, Hop};
use underpass_http::pipe::{self, Meter};
use underpass_http::upgrade::UpgradeRequest;
use underpass_tunnel::chain;

/// Keeps an exchange for as long as its answer's body lives.
struct Held(Exchange);

impl Guard for Held {
    fn poll_abort(&mut self, cx: &mut Context<'_>) -> Poll<BoxError> {
        self.0.poll_abort(cx)
    }

    fn trailers(&mut self, trailers: &mut HeaderMap) {
        headers::clean_trailers(trailers);
    }

    fn finished(&mut self) {
        self.0.finish();
    }
}

/// The answer for the program. An upgrade that the API server has agreed to becomes a pipe, which ends with `over`.
pub(super) fn of(
    response: Response<Answered>,
    exchange: Exchange,
    call: &Call,
    client: &mut Option<OnUpgrade>,
    over: impl Future<Output = ()> + Send + 'static,
) -> Result<Response<Body>, Rejection> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upgrade = call
            .upgrade()
            .ok_or(Rejection::BadAnswer("an unasked 101"))?;
        return switch(response, exchange, (call, upgrade), client, over);
    }
    let (mut parts, body) = response.into_parts();
    let body = Whole::new(body, parts.version);
    headers::clean_response(parts.status, &mut parts.headers, call, ROOT)?;
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let body = Guarded::new(body, Held(exchange));
    let response = Response::from_parts(parts, boxed(body));
    Ok(exchange::chunk_before_trailers(response))
}

/// The program knows the API server by its own root.
const ROOT: Hop<'static> = Hop::Front { client: "" };

/// Rule 1: bytes are relayed after a 101 that answers the very upgrade.
fn switch(
    mut response: Response<Answered>,
    exchange: Exchange,
    (call, upgrade): (&Call, &UpgradeRequest),
    client: &mut Option<OnUpgrade>,
    over: impl Future<Output = ()> + Send + 'static,
) -> Result<Response<Body>, Rejection> {
    let upstream = hyper::upgrade::on(&mut response);
    let (mut parts, _) = response.into_parts();
    let verified = upgrade.verify(&parts);
    verified.map_err(|_| Rejection::BadAnswer("an upgrade to something else"))?;
    headers::clean_response(parts.status, &mut parts.headers, call, ROOT)?;
    let client = client.take();
    let client = client.ok_or(Rejection::BadRequest("nothing to upgrade"))?;
    tokio::spawn(async move {
        let (_exchange, meter) = (exchange, Meter::default());
        tokio::select! {
            ended = pipe::run(client, upstream, &meter) => {
                if let Err(error) = ended {
                    tracing::debug!("an upgraded stream ended: {}", chain(&error));
                }
            }
            () = over => {}
        }
    });
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    parts.headers.remove(header::CONTENT_LENGTH);
    upgrade.write(&mut parts.headers);
    Ok(Response::from_parts(parts, empty()))
}
