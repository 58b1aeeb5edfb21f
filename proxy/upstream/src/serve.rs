//! One tunnel stream: one request, as the identity in the stream's open header.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{Mutex, MutexGuard},
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header, request,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{ApiServer, endpoint::Offer, generation::Generation, pool::origin_form, watch};
use underpass_core::{
    Body, Identity, ImpersonationPolicy, Rejection,
    body::{self, Guarded},
    limits,
};
use underpass_http::{
    broken_off,
    call::{Asked, Call},
    exchange::{self, Answered, Exchange, ExchangeError},
    headers::{self, Hop},
    impersonate,
    pipe::{self, Meter},
    upgrade::UpgradeRequest,
    watch_end::Draining,
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A stream ended early. The API server's own failures are answers, not errors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeStreamError {
    /// The server's side went away, or did not speak HTTP/1.1.
    #[error("the stream was lost")]
    Stream(#[source] hyper::Error),
    /// An upgraded stream lost one of its sides.
    #[error("the upgraded stream was lost")]
    Upgraded(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// State of the request that the end of its stream needs.
#[derive(Default)]
struct Left {
    /// The stream itself, where the request asked for an upgrade.
    client: Option<OnUpgrade>,
    switched: Option<Switched>,
}

/// The API server's side of an upgrade, once it has agreed.
struct Switched {
    upstream: OnUpgrade,
    _exchange: Exchange,
}

/// The identity in a stream's open header, the policy that it is held against, and whether its session drains.
#[derive(Clone, Copy)]
struct Caller<'a> {
    identity: &'a [u8],
    policy: &'a ImpersonationPolicy,
    draining: &'a Draining,
}

impl Caller<'_> {
    /// Rule 17: the agent's own policy checks each identity that the server sends.
    fn accept(self) -> Result<Identity, Rejection> {
        let identity = Identity::decode(self.identity).map_err(|error| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "unreadable identity"
            );
            Rejection::BadRequest("the agent cannot read the identity")
        })?;
        self.policy.check(&identity).map_err(|never| {
            tracing::warn!(user = identity.user(), %never, "identity refused");
            Rejection::IdentityForbidden {
                user: identity.user().to_owned(),
                reason: format!("{never} in this cluster"),
            }
        })?;
        Ok(identity)
    }
}

impl ApiServer {
    /// Serves one stream: `identity` is its open header ([`Identity::encode`]), `io` carries exactly one HTTP/1.1
    /// request. Returns when it is answered, or its upgraded stream has ended.
    ///
    /// A failure on the way to the API server is answered with a `metav1.Status`.
    ///
    /// # Errors
    /// The stream itself failed; worth a debug line.
    ///
    /// # Cancel safety
    /// Dropping the future drops `io` and cancels the request at the API server. The same happens by itself when
    /// the peer resets `io` or ends its direction before the answer: the server's half does that only when
    /// its client has gone.
    pub async fn serve_stream<I>(&self, io: I, identity: &[u8]) -> Result<(), ServeStreamError>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.serve_stream_under(&self.policy, &Draining::default(), io, identity)
            .await
    }

    /// [`serve_stream`](Self::serve_stream) under another policy than [`ApiServerOptions::policy`](crate::ApiServerOptions::policy): for
    /// agents whose policy changes while they run. A watch ends between two events when its session drains: for agents whose
    /// sessions do.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// As there.
    pub async fn serve_stream_under<I>(
        &self,
        policy: &ImpersonationPolicy,
        draining: &Draining,
        io: I,
        identity: &[u8],
    ) -> Result<(), ServeStreamError>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let left = Mutex::new(Left::default());
        let (sender, io) = broken_off::Sender::new(io);
        let service = service_fn(async |mut request: Request<Incoming>| {
            lock(&left).client = Some(hyper::upgrade::on(&mut request));
            let discovery = headers::asks_for_discovery(request.headers());
            let generation = self.generation().await;
            let caller = Caller {
                identity,
                policy,
                draining,
            };
            let answered = generation.answer(request, caller, &left).await;
            let response = answered.unwrap_or_else(|rejection| match discovery {
                true => rejection.to_discovery_response(),
                false => rejection.to_response(),
            });
            Ok::<_, Infallible>(sender.answer(response, true, |_| false))
        });
        let serving = server()
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        if let Err(error) = serving.await {
            if let Some(io) = sender.broken_off() {
                // A reset would overtake what came. The server's half knows by HTTP that the answer has no end.
                pipe::finish(io).await;
            }
            return Err(ServeStreamError::Stream(error));
        }
        let left = left
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(client) = left.client else {
            return Ok(());
        };
        let Some(Switched {
            upstream,
            _exchange,
        }) = left.switched
        else {
            pipe::close(client).await;
            return Ok(());
        };
        let meter = Meter::default();
        let ended = pipe::run(client, upstream, &meter).await;
        tracing::debug!(
            up = meter.up(),
            down = meter.down(),
            "upgraded stream ended"
        );
        match ended {
            Ok(()) => Ok(()),
            Err(error) => Err(ServeStreamError::Upgraded(Box::new(error))),
        }
    }
}

impl Generation {
    async fn answer(
        &self,
        request: Request<Incoming>,
        caller: Caller<'_>,
        left: &Mutex<Left>,
    ) -> Result<Response<Body>, Rejection> {
        let identity = caller.accept()?;
        let (mut head, body) = request.into_parts();
        let asked = Asked::read(&head.method, head.version, &head.headers)?;
        let call = Call::read(&head.method, head.uri.path_and_query(), asked)?;
        tracing::info!(
            target: "underpass::audit",
            audit_id = head.headers.get("audit-id").and_then(|id| id.to_str().ok()),
            user = identity.user(),
            method = %head.method,
            path = call.target().path(),
            verb = call.info().verb(),
            "request for the API server"
        );
        head.uri = self.endpoint.url(Some(call.target()))?;
        head.extensions.clear();
        let headers = self.write_headers(&mut head.headers, &identity, &call);
        let credential = headers.await?;

        let sending = async {
            match call.upgrade() {
                Some(upgrade) => self.upgrade(head, body, upgrade, left).await,
                None => self.ordinary(head, body).await,
            }
        };
        let response = if call.is_long() {
            sending.await?
        } else {
            let limit = tokio::time::timeout(limits::RESPONSE_HEAD_TIMEOUT, sending).await;
            limit.map_err(|_| Rejection::Timeout("the API server's answer"))??
        };
        if response.status() == StatusCode::UNAUTHORIZED && !call.info().is_proxied() {
            let path = call.target().path();
            return Err(self.unauthorized(call.info(), path, credential).await);
        }
        let response = self.clean(response, &call)?;
        Ok(match call.is_watch() {
            true => watch::follow(response, caller.draining),
            false => exchange::chunk_before_trailers(response),
        })
    }

    /// Only now, so that no answer misses it.
    fn clean(
        &self,
        mut response: Response<Body>,
        call: &Call,
    ) -> Result<Response<Body>, Rejection> {
        let (prefix, authority) = (self.endpoint.prefix(), self.endpoint.authority());
        let hop = Hop::Agent { prefix, authority };
        let upgrade = call
            .upgrade()
            .filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS);
        headers::clean_response(response.status(), response.headers_mut(), call, hop)?;
        if let Some(upgrade) = upgrade {
            response.headers_mut().remove(header::CONTENT_LENGTH);
            upgrade.write(response.headers_mut());
        }
        *response.version_mut() = Version::HTTP_11;
        response.extensions_mut().clear();
        Ok(response)
    }

    /// Cleans once more, then writes: the upgrade, the caller's address, its identity, and last our credential, which it
    /// returns.
    async fn write_headers(
        &self,
        headers: &mut HeaderMap,
        identity: &Identity,
        call: &Call,
    ) -> Result<Option<HeaderValue>, Rejection> {
        let client = forwarded_for(headers);
        let takes_trailers = headers::takes_trailers(Version::HTTP_11, headers);
        headers::clean_request(headers, call.info());
        if !self.endpoint.prefix().is_empty() {
            // Another proxy stands before the API server, and may take a cookie for a credential.
            headers.remove(header::COOKIE);
        }
        headers.remove(header::HOST);
        headers.extend(client.map(|address| (X_FORWARDED_FOR, address)));
        if takes_trailers {
            headers::take_trailers(headers);
        }
        if let Some(upgrade) = call.upgrade() {
            upgrade.write(headers);
        }
        impersonate::write(headers, identity).map_err(|error| {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "identity not written"
            );
            Rejection::HeadersTooLarge
        })?;
        let credential = self.header().await.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "no credential");
            error.rejection()
        })?;
        headers.extend(
            credential
                .clone()
                .map(|value| (header::AUTHORIZATION, value)),
        );
        Ok(credential)
    }

    async fn ordinary(
        &self,
        head: request::Parts,
        body: Incoming,
    ) -> Result<Response<Body>, Rejection> {
        let sent = self.pool.send(head, body::boxed(body)).await;
        let response = sent.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "no answer");
            error.rejection()
        })?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Rejection::BadAnswer("an unasked 101"));
        }
        Ok(response)
    }

    /// An upgrade has a connection of its own, which never returns to a pool (rule 1).
    async fn upgrade(
        &self,
        head: request::Parts,
        body: Incoming,
        upgrade: &UpgradeRequest,
        left: &Mutex<Left>,
    ) -> Result<Response<Body>, Rejection> {
        if !http_body::Body::is_end_stream(&body) {
            return Err(Rejection::BadRequest("an upgrade must not have a body"));
        }
        let connected = self.endpoint.connect(Offer::Http1).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "no connection");
            error.rejection()
        })?;
        let mut request = Request::from_parts(head, underpass_core::empty());
        *request.version_mut() = Version::HTTP_11;
        self.endpoint.write_host(request.headers_mut());
        origin_form(&mut request);
        let (response, exchange) =
            exchange::send(connected.io, request)
                .await
                .map_err(|error| {
                    tracing::warn!(error = &error as &dyn std::error::Error, "no answer");
                    match error {
                        ExchangeError::Malformed(_) => Rejection::BadAnswer("not HTTP/1.1"),
                        ExchangeError::NotTaken(_)
                        | ExchangeError::Declined(_)
                        | ExchangeError::Body(_)
                        | ExchangeError::Lost(_) => {
                            Rejection::ApiServerUnreachable("the connection was lost")
                        }
                    }
                })?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(declined(response, exchange));
        }
        switch(response, exchange, upgrade, left)
    }
}

fn lock(left: &Mutex<Left>) -> MutexGuard<'_, Left> {
    left.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Rule 1: any other answer is an ordinary response; both connections end with it.
fn declined(response: Response<Answered>, exchange: Exchange) -> Response<Body> {
    let (parts, incoming) = response.into_parts();
    Response::from_parts(parts, body::boxed(Guarded::new(incoming, exchange)))
}

fn switch(
    mut response: Response<Answered>,
    exchange: Exchange,
    upgrade: &UpgradeRequest,
    left: &Mutex<Left>,
) -> Result<Response<Body>, Rejection> {
    let upstream = hyper::upgrade::on(&mut response);
    let (parts, _) = response.into_parts();
    upgrade.verify(&parts).map_err(|error| {
        tracing::warn!(%error, "upgrade not believed");
        Rejection::BadAnswer("an upgrade to something else")
    })?;
    lock(left).switched = Some(Switched {
        upstream,
        _exchange: exchange,
    });
    Ok(Response::from_parts(parts, underpass_core::empty()))
}

/// The client's address as the server's half wrote it: exactly one, or none.
fn forwarded_for(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = headers.get_all(X_FORWARDED_FOR).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return None;
    };
    let address: IpAddr = line.to_str().ok()?.parse().ok()?;
    HeaderValue::from_str(&address.to_string()).ok()
}

fn server() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(limits::HEADER_READ_TIMEOUT)
        .max_headers(limits::HEADER_COUNT)
        .max_header_size(limits::HTTP1_BUFFER_BYTES - 8192)
        .max_buf_size(limits::HTTP1_BUFFER_BYTES);
    builder
}
