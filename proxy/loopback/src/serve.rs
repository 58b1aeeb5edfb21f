//! Serves connections.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, uri::Authority};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use underpass_core::{Body, status_response};
use underpass_http::call::within_bounds;
use underpass_http::serve::{self, IdleTimeout, RequestBody};

use super::limits;
use super::strangers::{Stranger, Strangers};
use super::token::Token;
use super::{Handler, Loopback, ServerName};

/// The parts that connections share.
struct Inside<H> {
    handler: H,
    token: Arc<Token>,
    address: SocketAddr,
    stop: CancellationToken,
}

impl Loopback {
    /// Serves until `stop`, and ends what is open then.
    ///
    /// # Cancel safety
    /// Dropping the future stops listening, and ends what is open.
    pub async fn serve(self, handler: impl Handler, stop: CancellationToken) {
        let open = TaskTracker::new();
        let places = Arc::new(Semaphore::new(self.connections));
        let strangers = Strangers::default();
        // Also where this future is dropped.
        let stop = stop.child_token();
        let _stop = stop.clone().drop_guard();
        let inside = Arc::new(Inside {
            handler,
            token: self.token,
            address: self.address,
            stop: stop.clone(),
        });
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            let Ok((tcp, _)) = accepted else {
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                continue;
            };
            let Some(place) = place(&places, &strangers).await else {
                continue;
            };
            let (inside, tls) = (Arc::clone(&inside), self.tls.clone());
            let stranger = strangers.enter();
            open.spawn(async move {
                let _place = place;
                tokio::select! {
                    () = inside.serve_connection(tcp, tls, &stranger) => {}
                    () = stranger.is_over() => {}
                }
            });
        }
        open.close();
        open.wait().await;
    }
}

/// A place for a newcomer: a connection that has not shown the token makes room.
async fn place(places: &Arc<Semaphore>, strangers: &Strangers) -> Option<OwnedSemaphorePermit> {
    if let Ok(place) = Arc::clone(places).try_acquire_owned() {
        return Some(place);
    }
    if !strangers.displace() {
        // Those that are served are the user's: the newcomer goes.
        return None;
    }
    let freed = Arc::clone(places).acquire_owned();
    let freed = tokio::time::timeout(limits::ROOM_TIME, freed).await;
    freed.ok()?.ok()
}

impl<H: Handler> Inside<H> {
    async fn serve_connection(
        self: Arc<Self>,
        tcp: TcpStream,
        tls: TlsAcceptor,
        stranger: &Arc<Stranger>,
    ) {
        // Answers are written whole.
        let _ = tcp.set_nodelay(true);
        let shaken = tokio::time::timeout(limits::TLS_TIME, tls.accept(tcp));
        let tls = tokio::select! {
            shaken = shaken => match shaken {
                Ok(Ok(tls)) => tls,
                _ => return,
            },
            () = self.stop.cancelled() => return,
        };
        let stop = self.stop.clone();
        tokio::select! {
            () = self.serve_http(tls, stranger) => {}
            () = stop.cancelled() => {}
        }
    }

    async fn serve_http(self: Arc<Self>, tls: TlsStream<TcpStream>, stranger: &Arc<Stranger>) {
        let connection = tls.get_ref().1;
        let is_http2 = connection.alpn_protocol() == Some(b"h2");
        let name = connection.server_name().map(|name| ServerName(name.into()));
        let owner = Arc::new(Served {
            inside: self,
            stranger: Arc::clone(stranger),
            name,
            served: serve::Served::default(),
        });
        let served = match is_http2 {
            true => serve::http2(tls, &owner).await,
            false => serve::http1(tls, &owner).await,
        };
        if let Err(error) = served {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a connection ended"
            );
        }
    }

    /// Answers a request. Where one that asks for an upgrade, or for a tunnel, gets none, the answer is its connection's last: bytes that the
    /// client has sent ahead, as if it had been upgraded, must not be read as requests (rule 1).
    async fn answer(&self, request: Request<RequestBody>, stranger: &Stranger) -> Response<Body> {
        let asks =
            request.headers().contains_key(header::UPGRADE) || request.method() == Method::CONNECT;
        let is_last = asks && request.version() <= Version::HTTP_11;
        let mut response = self.answer_of(request, stranger).await;
        if is_last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }

    async fn answer_of(
        &self,
        request: Request<RequestBody>,
        stranger: &Stranger,
    ) -> Response<Body> {
        // hyper lets a little more pass, so that it is refused in words.
        let mut request = match within_bounds(request) {
            Ok(request) => request,
            Err(rejection) => return rejection.to_response(),
        };
        if !self.is_here(&request) {
            let message = "this listener serves its own address alone";
            return status_response(StatusCode::MISDIRECTED_REQUEST, "BadRequest", message, None);
        }
        if !self.token.take(request.headers_mut()) {
            let message = "the token is missing, or it is another run's: use the kubeconfig of the run that listens here";
            return status_response(StatusCode::UNAUTHORIZED, "Unauthorized", message, None);
        }
        stranger.is_a_friend();
        self.handler.handle(request).await
    }

    /// Is the request for this listener? A page of another name, which leads here, is not (DNS rebinding).
    fn is_here<B>(&self, request: &Request<B>) -> bool {
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let host = match request.uri().authority() {
            Some(authority) => Some(authority.clone()),
            None => {
                let host = hosts.next().and_then(|host| host.to_str().ok());
                host.and_then(|host| host.parse::<Authority>().ok())
            }
        };
        if hosts.next().is_some() && request.uri().authority().is_none() {
            return false;
        }
        let Some(host) = host.filter(|host| host.port_u16() == Some(self.address.port())) else {
            return false;
        };
        let name = host.host().trim_start_matches('[').trim_end_matches(']');
        let own = name.parse() == Ok(self.address.ip());
        own || name.eq_ignore_ascii_case("localhost")
    }
}

/// A connection, as it is served.
struct Served<H> {
    inside: Arc<Inside<H>>,
    stranger: Arc<Stranger>,
    name: Option<ServerName>,
    served: serve::Served,
}

impl<H: Handler> serve::Owner for Served<H> {
    fn served(&self) -> &serve::Served {
        &self.served
    }

    async fn handle(&self, mut request: Request<RequestBody>) -> Response<Body> {
        if let Some(name) = &self.name {
            request.extensions_mut().insert(name.clone());
        }
        self.inside.answer(request, &self.stranger).await
    }

    /// As long as a connection to the server.
    async fn finish(&self) {
        let idle = IdleTimeout::default();
        self.served.activity().idle_for(idle).await;
    }
}
