//! Relays requests of another HTTP connection through the session: each on a stream of its own, with the user's credential.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header;
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version};
use hyper::upgrade::OnUpgrade;
use underpass_core::body::{Guarded, boxed};
use underpass_core::{Body, BoxError, Rejection, status_response};
use underpass_http::call::Asked;
use underpass_http::exchange::{self, Answered, Exchange, Whole};
use underpass_http::headers::{self, strip_hop_by_hop};
use underpass_http::pipe::{self, Meter};
use underpass_http::upgrade::UpgradeRequest;
use underpass_tunnel::{Class, chain};

use super::UserSession;
use super::error::{ConnectError, OpenError};

/// Clients try again so soon where the session has no connection.
const RETRY: Duration = Duration::from_secs(1);

impl UserSession {
    /// Answers a request with the server's answer to it. The caller has checked whose the request is, and taken their own
    /// credential from it: it goes out with the user's. Upgrades (WebSocket, SPDY) go through, byte for byte.
    ///
    /// Where there is no answer, it is a `Status` of Kubernetes.
    ///
    /// # Cancel safety
    /// Dropping the future, or the answer's body before its end, cancels the request at the server.
    pub async fn relay<B>(&self, mut request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let asked = Asked::read(request.method(), request.version(), request.headers());
        let upgrade = match asked {
            Ok(asked) => asked.into_upgrade(),
            Err(error) => return Rejection::from(error).to_response(),
        };
        let client = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        match self.send(request, upgrade.as_ref()).await {
            Ok((response, exchange)) => answer(response, exchange, upgrade.zip(client)),
            Err(response) => response,
        }
    }

    pub(super) async fn send<B>(
        &self,
        request: Request<B>,
        upgrade: Option<&UpgradeRequest>,
    ) -> Result<(Response<Answered>, Exchange), Response<Body>>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut parts, body) = request.into_parts();
        let body = Whole::new(body, parts.version);
        let authorization = self.authorization().await?;
        let takes_trailers = headers::takes_trailers(parts.version, &parts.headers);
        strip_hop_by_hop(&mut parts.headers);
        let host = HeaderValue::from_str(self.registrar.authority());
        let host = host.map_err(|_| away("the server's name is no header"))?;
        // The server's own name: that which the client used is this side's.
        parts.headers.insert(header::HOST, host);
        parts.headers.insert(header::AUTHORIZATION, authorization);
        if takes_trailers {
            headers::take_trailers(&mut parts.headers);
        }
        if let Some(upgrade) = upgrade {
            upgrade.write(&mut parts.headers);
        }
        // RFC 9112, section 3.2.1.
        let path = parts.uri.path_and_query().cloned();
        let path = path.ok_or_else(|| Rejection::NotFound.to_response())?;
        parts.uri = Uri::from(path);
        parts.version = Version::HTTP_11;
        let class = match upgrade {
            Some(_) => Class::Interactive,
            None => Class::Default,
        };
        let opened = self.open_taken(class).await;
        let stream = opened.map_err(|error| match error {
            OpenError::Refused(why) => unauthorized(&why),
            error => away(&chain(&error).to_string()),
        })?;
        let sent = exchange::send(stream, Request::from_parts(parts, body)).await;
        sent.map_err(|error| {
            let text = chain(&error).to_string();
            tracing::debug!("no answer: {text}");
            let message = format!("underpass: no answer from the server: {text}");
            status_response(
                StatusCode::BAD_GATEWAY,
                "ServiceUnavailable",
                &message,
                None,
            )
        })
    }

    async fn authorization(&self) -> Result<HeaderValue, Response<Body>> {
        let refused = |error: ConnectError| {
            let why = chain(&error).to_string();
            match may_pass(&error) {
                true => away(&why),
                false => unauthorized(&why),
            }
        };
        let token = self.registrar.bearer_of_request().await.map_err(refused)?;
        let text = zeroize::Zeroizing::new(format!("Bearer {}", *token));
        let value = HeaderValue::from_str(&text);
        let mut value = value
            .map_err(|_| refused(ConnectError::Credential("the token is no header".into())))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// Is there no credential for a reason that passes? No file is free, or the issuer of a login cannot be reached. A file that is missing or may not
/// be read stays so.
fn may_pass(error: &ConnectError) -> bool {
    let ConnectError::Credential(error) = error else {
        return false;
    };
    let mut causes = std::iter::successors(Some(&**error as &dyn std::error::Error), |error| {
        error.source()
    });
    causes.any(|cause| {
        let cause = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        cause.is_some_and(|kind| {
            !matches!(
                kind,
                io::ErrorKind::NotFound
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::InvalidData
            )
        })
    })
}

fn unauthorized(why: &str) -> Response<Body> {
    let message = format!("underpass: {why}");
    status_response(StatusCode::UNAUTHORIZED, "Unauthorized", &message, None)
}

pub(super) fn away(why: &str) -> Response<Body> {
    let message = format!("underpass: {why}");
    status_response(
        StatusCode::SERVICE_UNAVAILABLE,
        "ServiceUnavailable",
        &message,
        Some(RETRY),
    )
}

pub(super) fn answer(
    mut response: Response<Answered>,
    exchange: Exchange,
    upgrade: Option<(UpgradeRequest, OnUpgrade)>,
) -> Response<Body> {
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let upstream = switching.then(|| hyper::upgrade::on(&mut response));
    let (mut parts, body) = response.into_parts();
    match (upstream, upgrade) {
        (Some(upstream), Some((asked, client))) if asked.verify(&parts).is_ok() => {
            tokio::spawn(async move {
                let _exchange = exchange;
                if let Err(error) = pipe::run(client, upstream, &Meter::default()).await {
                    tracing::debug!("an upgraded stream ended: {}", chain(&error));
                }
            });
            strip_hop_by_hop(&mut parts.headers);
            asked.write(&mut parts.headers);
            Response::from_parts(parts, underpass_core::empty())
        }
        (Some(_), _) => Rejection::BadAnswer("an upgrade that was not asked for").to_response(),
        (None, refused) => {
            if let Some((_, client)) = refused {
                tokio::spawn(pipe::close(client));
            }
            let body = Whole::new(body, parts.version);
            headers::strip_answer(&mut parts.headers);
            parts.version = Version::HTTP_11;
            parts.extensions.clear();
            let body = boxed(Guarded::new(body, exchange));
            exchange::chunk_before_trailers(Response::from_parts(parts, body))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the token")]
    struct Unread(#[source] io::Error);

    #[test]
    fn a_token_that_cannot_be_read_for_a_moment_is_not_refused() {
        // No file is free for the process, or for the system.
        for (number, passes) in [(24, true), (23, true), (2, false), (13, false)] {
            let error = Unread(io::Error::from_raw_os_error(number));
            let error = ConnectError::Credential(Box::new(error));
            assert_eq!(may_pass(&error), passes, "{number}");
        }
        let error = ConnectError::Credential("you are not logged in".into());
        assert!(!may_pass(&error));
    }
}
