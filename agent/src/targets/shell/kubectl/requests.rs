//! Requests of a shell's programs to the API server: the decision about each, and its way there.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, header};
use http_body::Body as _;
use hyper::upgrade::OnUpgrade;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use underpass_core::{
    Body, Identity, IdentityError, MemoryStream, Permission, Rejection, ShellId, memory_stream,
    new_audit_id,
};
use underpass_http::call::{Asked, Call, within_bounds};
use underpass_http::exchange::{self, ExchangeError, Whole};
use underpass_http::{headers, pipe};
use underpass_loopback::{Handler, RequestBody};
use underpass_tunnel::chain;
use underpass_upstream::Draining;

use super::answer;
use super::standing::{MayNot, Standing};
use crate::kube_api::{KubeApi, NoWay, Way};
use crate::limits;

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

const AS_ANOTHER: &str = "kubectl here is the user of the shell, and acts as nobody else: leave --as out, or use it where you have opened the \
                          shell";

const LAPSED: &str = "the server has not been heard of since it was started again, or since the agent lost it: attach to this shell once more, \
                      and it is asked anew";

/// The state that the requests of one shell share.
#[derive(Debug)]
pub(super) struct Shared {
    kube: KubeApi,
    user: String,
    /// As the open header of a stream to the API server has it.
    identity: Bytes,
    standing: Arc<Standing>,
    /// Known once the shell is open.
    id: OnceLock<ShellId>,
    places: Arc<Semaphore>,
    closing: CancellationToken,
}

impl Shared {
    pub(super) fn new(
        kube: KubeApi,
        caller: &Identity,
        standing: Arc<Standing>,
        closing: CancellationToken,
    ) -> Result<Self, IdentityError> {
        Ok(Self {
            kube,
            user: caller.user().to_owned(),
            identity: caller.encode()?,
            standing,
            id: OnceLock::new(),
            places: Arc::new(Semaphore::new(limits::SHELL_REQUESTS)),
            closing,
        })
    }

    pub(super) fn is_of(&self, id: &ShellId) {
        // It is of one.
        let _ = self.id.set(id.clone());
    }

    /// Holds so many of its places.
    #[cfg(test)]
    pub(super) fn hold(&self, places: usize) -> OwnedSemaphorePermit {
        let places = u32::try_from(places).expect("few");
        let held = Arc::clone(&self.places).try_acquire_many_owned(places);
        held.expect("they are free")
    }

    /// Waits until a request that needs this permission may go on no more.
    fn over(&self, needs: Permission) -> impl Future<Output = ()> + Send + 'static {
        let (closing, over) = (self.closing.clone(), self.standing.over(needs));
        async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = over => {}
            }
        }
    }

    /// Reads and decides on a request (rules 8, 16 and 26).
    fn decide(&self, request: &Request<RequestBody>) -> Result<Decided, Rejection> {
        if headers::asks_impersonation(request.headers()) {
            return Err(Rejection::NotInShell(AS_ANOTHER.to_owned()));
        }
        let asked = Asked::read(request.method(), request.version(), request.headers())?;
        if asked.is_upgrade() && !request.body().is_end_stream() {
            return Err(Rejection::BadRequest("an upgrade must not have a body"));
        }
        let call = Call::read(request.method(), request.uri().path_and_query(), asked)?;
        let needs = Permission::needed_for(call.info());
        let standing = self.standing.decide(needs);
        standing.map_err(|may_not| self.forbidden(may_not, needs))?;
        let way = self.kube.way().map_err(|no_way| match no_way {
            NoWay::Denied(_) => Rejection::NotInShell(no_way.to_string()),
            NoWay::NoCredential => Rejection::ApiServerUnreachable(
                "the node's agent has no credential for it: it needs --kubeconfig",
            ),
        })?;
        let place = Arc::clone(&self.places).try_acquire_owned();
        Ok(Decided {
            call,
            needs,
            way,
            place: place.map_err(|_full| Rejection::TooManyRequests)?,
        })
    }

    fn forbidden(&self, may_not: MayNot, needs: Permission) -> Rejection {
        Rejection::NotInShell(match may_not {
            MayNot::Ask => format!(
                "the server does not let {:?} ask this cluster for {}, or did not when the shell was opened",
                self.user,
                needs.as_str()
            ),
            MayNot::AskNow => LAPSED.to_owned(),
        })
    }

    /// Carries the request of a stream, as any of the server's streams is carried, until it has ended or may go on no more.
    fn carry(&self, way: Way, needs: Permission, io: MemoryStream) {
        let span = tracing::info_span!("shell", id = self.id.get().map(tracing::field::display));
        let (identity, over) = (self.identity.clone(), self.over(needs));
        let carrying = async move {
            // Shells end with the agent, and drain with nothing.
            let draining = Draining::default();
            tokio::select! {
                biased;
                () = over => tracing::debug!("a request ends with its shell, or with the permission for it"),
                () = way.carry(&draining, io, &identity) => {}
            }
        };
        tokio::spawn(carrying.instrument(span));
    }

    async fn send(
        &self,
        request: Request<RequestBody>,
        client: &mut Option<OnUpgrade>,
    ) -> Result<Response<Body>, Rejection> {
        let Decided {
            call,
            needs,
            way,
            place,
        } = self.decide(&request)?;
        let (mut parts, body) = request.into_parts();
        let body = Whole::new(body, parts.version);
        let takes_trailers = headers::takes_trailers(parts.version, &parts.headers);
        headers::clean_request(&mut parts.headers, call.info());
        write_headers(&mut parts.headers)?;
        if takes_trailers {
            headers::take_trailers(&mut parts.headers);
        }
        let outgoing = within_bounds(call.request(parts.headers, body))?;
        let (stream, io) = memory_stream();
        self.carry(way, needs, io);
        let (response, mut exchange) = exchange::send(stream, outgoing)
            .await
            .map_err(|error| self.no_answer(&error, needs))?;
        exchange.keep(place);
        let over = self.over(needs);
        answer::of(response, exchange, &call, client, over)
    }

    fn no_answer(&self, error: &ExchangeError, needs: Permission) -> Rejection {
        tracing::debug!("no answer for a shell: {}", chain(error));
        if self.closing.is_cancelled() || self.standing.decide(needs).is_err() {
            return Rejection::Revoked;
        }
        match error {
            ExchangeError::Body(_) => Rejection::BadRequest("its body breaks off"),
            ExchangeError::Malformed(_) => Rejection::BadAnswer("not HTTP/1.1"),
            _ => Rejection::ApiServerUnreachable("the connection was lost"),
        }
    }
}

/// A request that may be sent.
struct Decided {
    call: Call,
    needs: Permission,
    way: Way,
    place: OwnedSemaphorePermit,
}

/// Written last, on clean headers.
fn write_headers(headers: &mut http::HeaderMap) -> Result<(), Rejection> {
    // The agent's half writes the API server's own authority.
    let host = HeaderValue::from_static("kubernetes.default.svc");
    headers.insert(header::HOST, host);
    let id = HeaderValue::from_str(&new_audit_id());
    headers.insert(AUDIT_ID, id.map_err(|_| Rejection::Unavailable)?);
    Ok(())
}

/// Answers the requests of one shell.
pub(super) struct Requests(pub(super) Arc<Shared>);

#[async_trait]
impl Handler for Requests {
    async fn handle(&self, mut request: Request<RequestBody>) -> Response<Body> {
        let discovery = headers::asks_for_discovery(request.headers());
        let upgrading = request.headers().contains_key(header::UPGRADE);
        let mut client = upgrading.then(|| hyper::upgrade::on(&mut request));
        let answered = self.0.send(request, &mut client).await;
        if let Some(client) = client {
            // Rule 1: a connection that was not upgraded ends with its answer.
            tokio::spawn(pipe::close(client));
        }
        answered.unwrap_or_else(|rejection| match discovery {
            true => rejection.to_discovery_response(),
            false => rejection.to_response(),
        })
    }
}
