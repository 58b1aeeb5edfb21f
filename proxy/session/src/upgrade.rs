//! Upgraded streams for the program that has the session: a WebSocket to a pod or to a shell, for example.

use http::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use underpass_core::{Body, Rejection, empty};
use underpass_http::call::Asked;
use underpass_http::exchange::Exchange;
use underpass_tunnel::chain;

use super::UserSession;
use super::relay::{answer, away};

/// The stream behind a 101. Each half ends on its own; dropping it before both have ended resets it.
pub struct Upgraded {
    io: TokioIo<hyper::upgrade::Upgraded>,
    headers: HeaderMap,
    /// Moves the stream's bytes.
    _exchange: Exchange,
}

impl Upgraded {
    /// The headers of the 101.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }
}

impl UserSession {
    /// Asks for an upgrade, to a WebSocket or to SPDY, with the user's credential. The 101 was held against the request.
    ///
    /// # Errors
    /// The server's answer, where it is no 101. Where there is none, it is a `Status` of Kubernetes.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request at the server.
    pub async fn upgrade(&self, request: Request<()>) -> Result<Upgraded, Response<Body>> {
        let asked = Asked::read(request.method(), request.version(), request.headers());
        let asked = asked.map_err(|error| Rejection::from(error).to_response())?;
        let upgrade = asked.into_upgrade();
        let upgrade =
            upgrade.ok_or_else(|| Rejection::BadRequest("it asks for no upgrade").to_response())?;
        let request = request.map(|()| empty());
        let (mut response, exchange) = self.send(request, Some(&upgrade)).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(answer(response, exchange, None));
        }
        let switched = hyper::upgrade::on(&mut response);
        let (parts, _) = response.into_parts();
        upgrade.verify(&parts).map_err(|error| {
            tracing::debug!("{error}");
            Rejection::BadAnswer("an upgrade that was not asked for").to_response()
        })?;
        let io = switched
            .await
            .map_err(|error| away(&chain(&error).to_string()))?;
        Ok(Upgraded {
            io: TokioIo::new(io),
            headers: parts.headers,
            _exchange: exchange,
        })
    }
}

impl std::fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upgraded").finish_non_exhaustive()
    }
}

impl AsyncRead for Upgraded {
    underpass_core::pass_on!(io: poll_read);
}

impl AsyncWrite for Upgraded {
    underpass_core::pass_on!(io: poll_write, poll_flush, poll_shutdown);
}
