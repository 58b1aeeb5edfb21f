//! The front's own answers, beside clusters: health, agents' WebSockets, and the API.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use underpass_authenticate::{Authenticator, Caller};
use underpass_core::{Body, Rejection, empty, full};
use underpass_gateway::{Connection, Fallback, Holder, Recognised, RequestBody};
use underpass_tunnel::transport::websocket;
use underpass_tunnel::{Acceptor, ConnectorRole, chain};

use crate::api::{Api, Requester};
use crate::readiness::{Readiness, Unready};
use crate::sessions::UserSessions;
use crate::tunnel::Tunnel;

/// The front's own paths.
pub(crate) struct Http {
    pub(crate) tunnel: Tunnel,
    pub(crate) acceptor: Arc<Acceptor>,
    pub(crate) users: UserSessions,
    pub(crate) readiness: Readiness,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) api: Api,
}

#[async_trait]
impl Fallback for Http {
    async fn handle(
        &self,
        request: Request<RequestBody>,
        connection: &Connection,
    ) -> Response<Body> {
        let known = matches!(request.uri().path(), "/healthz" | "/readyz");
        if known && !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD here\n");
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.readiness.check() {
                Ok(()) => text(StatusCode::OK, "ok\n"),
                Err(unready) => unavailable(unready),
            },
            websocket::PATH => self.upgrade(request, connection, ConnectorRole::Agent),
            websocket::USER_PATH => self.upgrade(request, connection, ConnectorRole::User),
            path if path.starts_with(underpass_api::PREFIX) => {
                self.answer(request, connection).await
            }
            _ => Rejection::NotFound.to_response(),
        }
    }
}

impl Http {
    /// The API, for authenticated callers.
    async fn answer(
        &self,
        request: Request<RequestBody>,
        connection: &Connection,
    ) -> Response<Body> {
        if matches!(
            request.uri().path(),
            underpass_api::LOGIN | underpass_api::JOIN
        ) {
            return self.admit(request, connection).await;
        }
        let client = connection.info().peer.client(request.headers());
        let mut request = request;
        if request.uri().path() == underpass_api::SESSIONS {
            request.extensions_mut().insert(connection.info().clone());
        }
        match self.requester(&request, connection).await {
            Ok((requester, in_flight)) => {
                let response = self.api.answer(request, requester, Some(client)).await;
                // The connection is not idle while the answer is sent.
                connection.sending(response, in_flight)
            }
            Err(rejection) => self.api.refuse(&request, connection.info(), &rejection),
        }
    }

    /// A login, or an agent that joins, is a stranger's. A user who got a token by it is none any longer.
    async fn admit(
        &self,
        request: Request<RequestBody>,
        connection: &Connection,
    ) -> Response<Body> {
        let Ok(head) = connection.hold(request.headers()) else {
            return Rejection::TooManyRequests.to_response();
        };
        let mut response = self.api.admit(request, connection.info()).await;
        if let Some(owner) = response.extensions_mut().remove::<Holder>() {
            drop(connection.standing().recognise(owner));
        }
        drop(head);
        response
    }

    async fn requester(
        &self,
        request: &Request<RequestBody>,
        connection: &Connection,
    ) -> Result<(Requester, Recognised), Rejection> {
        let caller = Caller::read(request.headers(), connection.info());
        let caller = caller.ok_or(Rejection::Unauthorized)?.at(request.uri());
        let head = connection.hold(request.headers())?;
        let authenticated = self.authenticator.authenticate(&caller).await;
        let authenticated = authenticated
            .map_err(|error| Rejection::from(&error))?
            .ok_or(Rejection::Unauthorized)?;
        let in_flight = connection.standing().recognise(authenticated.identity());
        drop(head);
        Ok((Requester::from(&authenticated), in_flight))
    }

    fn upgrade(
        &self,
        request: Request<RequestBody>,
        connection: &Connection,
        role: ConnectorRole,
    ) -> Response<Body> {
        if !self.readiness.is_serving() {
            return unavailable(Unready::Stopping);
        }
        let (parts, body) = request.into_parts();
        let mut request = Request::from_parts(parts, ());
        let (response, subprotocol) = match websocket::respond(&request) {
            Ok(chosen) => chosen,
            Err(error) => {
                tracing::debug!("no WebSocket: {}", chain(&error));
                return text(StatusCode::BAD_REQUEST, format!("{}\n", chain(&error)));
            }
        };
        let upgrade = hyper::upgrade::on(&mut request);
        drop(body);
        let (acceptor, tunnel) = (Arc::clone(&self.acceptor), self.tunnel.clone());
        let users = self.users.clone();
        let client = connection.info().peer.client(request.headers());
        let remote = SocketAddr::new(client, 0);
        let standing = connection.standing().clone();
        tokio::spawn(async move {
            match upgrade.await {
                Ok(io) if role == ConnectorRole::User => {
                    let io = TokioIo::new(io);
                    users
                        .serve_websocket(io, subprotocol, remote, standing)
                        .await;
                }
                Ok(io) => {
                    let io = TokioIo::new(io);
                    let accepting = acceptor.accept_websocket(io, subprotocol, Some(remote));
                    // A client that upgrades and then says nothing is a stranger like any other.
                    let accepted = tokio::select! {
                        accepted = accepting => accepted,
                        () = standing.closed() => return,
                    };
                    if let Ok(accepted) = &accepted {
                        // The connection is this agent's from now on.
                        let cluster = accepted.info().agent.as_str().into();
                        standing.recognise(Holder::Agent(cluster)).for_good();
                    }
                    tunnel.serve(accepted, remote.ip());
                }
                Err(error) => tracing::debug!("upgrade not completed: {error}"),
            }
        });
        response.map(|()| empty())
    }
}

fn unavailable(unready: Unready) -> Response<Body> {
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, format!("{unready}\n"));
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn text(status: StatusCode, body: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(full(body.into()));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
