//! One request: authenticate, authorize, clean, wait for a seat, connect, forward.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version, header,
    uri::PathAndQuery,
};
use tracing::Instrument;

use super::{
    Connection, Front, Recognised, RequestBody,
    admit::Admitted,
    answer::{Answer, Question, refuse},
    audit::Record,
    budget::{Seat, SeatKind},
    route::{Destination, Route},
    services::{self, NoService, Reply, ServiceWay},
    shells::ShellWay,
    targets::Location,
};
use underpass_authenticate::adopt_websocket_bearer;
use underpass_core::{
    Body, BoxError, BoxedIo, ClusterName, Identity, Open, Rejection, StreamClass, Target,
    X_FORWARDED_FOR, empty, forwarded_for, limits, list,
};
use underpass_http::{
    call::{Asked, within_bounds},
    exchange::{self, Answered, Exchange, ExchangeError, Whole},
    headers, pipe,
    serve::{Heads, becomes_bytes},
    watch_end::WatchEnd,
};

pub(super) const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// A request's way into a cluster.
enum Way {
    /// To its API server; without a route, below the prefix to none.
    Api(Option<Route>),
    /// To a service of it.
    Service(Result<ServiceWay, NoService>),
    /// To a shell at an agent of it.
    Shell(ShellWay),
    /// Nowhere.
    Nowhere(Rejection),
}

impl Front {
    /// Answers one request, of any path.
    ///
    /// # Cancel safety
    /// Dropping the future, or the response's body before its end, drops the tunnel's stream, so that the agent
    /// cancels upstream. Upgraded streams belong to `connection`.
    pub async fn handle(
        &self,
        request: Request<RequestBody>,
        connection: &Connection,
    ) -> Response<Body> {
        let ambiguous = ambiguous(&request);
        let connects = request.method() == Method::CONNECT;
        // Rule 1: bytes that the client sent ahead, as if it had been upgraded, must not be read as requests.
        let last =
            ambiguous.is_some() || connects || request.headers().contains_key(header::UPGRADE);
        let last = last && request.version() <= Version::HTTP_11;
        let mut response = match ambiguous {
            ambiguous if connects => self.handle_connect(request, connection, ambiguous).await,
            Some(rejection) => rejection.to_response(),
            None => self.handle_path(request, connection).await,
        };
        if last && !becomes_bytes(connects, response.status()) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }

    async fn handle_path(
        &self,
        request: Request<RequestBody>,
        connection: &Connection,
    ) -> Response<Body> {
        connection.standing().head_ended();
        let server_name = connection.info().server_name.as_deref();
        let way = match Destination::of(&request, server_name, &self.config.domains) {
            Destination::Server => {
                let response = self.config.fallback.handle(request, connection).await;
                return connection.sending_at_last(response);
            }
            Destination::Cluster(route) => Way::Api(route),
            Destination::Service(way) => Way::Service(way),
            Destination::Shell(way) => Way::Shell(way),
            Destination::Nowhere(rejection) => Way::Nowhere(rejection),
        };
        let id = underpass_core::new_audit_id();
        let span = tracing::info_span!("request", audit_id = id);
        let handling = self.handle_cluster(request, connection, id, way);
        connection.sending_at_last(handling.instrument(span).await)
    }

    async fn handle_cluster(
        &self,
        mut request: Request<RequestBody>,
        connection: &Connection,
        id: String,
        way: Way,
    ) -> Response<Body> {
        let asked = request.uri().path_and_query();
        let asked = asked.map_or("", PathAndQuery::as_str);
        let target = match &way {
            Way::Api(Some(route)) => Cow::Owned(route.with_prefix()),
            _ => Cow::Borrowed(asked),
        };
        let client = connection.info().peer.client(request.headers());
        let (audit_log, method) = (self.config.audit.clone(), request.method().clone());
        let mut record = Record::new(audit_log, id, client, method, &target, request.headers());
        let id_header = record.id_header();
        let upgrading = request.headers().contains_key(header::UPGRADE);
        let discovery = headers::asks_for_discovery(request.headers());
        let mut on_upgrade = Some(hyper::upgrade::on(&mut request));
        let answered = match way {
            Way::Api(route) => {
                let answer = self.answer(request, connection, route, &mut record);
                answer.await.map(Box::new).map(Reply::Answer)
            }
            Way::Service(way) => {
                let asking = self.ask_service(request, connection, way, &mut record);
                asking.await
            }
            Way::Shell(way) => {
                let viewing = self.view_shell(request, connection, way, &mut record);
                viewing.await.map(Box::new).map(Reply::Answer)
            }
            Way::Nowhere(rejection) => Err(rejection),
        };
        let mut response = match answered {
            Ok(Reply::Answer(answer)) => answer.into_response(record, connection, &mut on_upgrade),
            Ok(Reply::Slash(target)) => services::with_slash(target, &mut record),
            Err(rejection) => refuse(&rejection, &mut record, discovery),
        };
        if let Some(client) = on_upgrade.filter(|_| upgrading) {
            connection.pipes.spawn(pipe::close(client));
        }
        if let Some(id) = id_header {
            response.headers_mut().insert(AUDIT_ID, id);
        }
        response
    }

    async fn answer(
        &self,
        mut request: Request<RequestBody>,
        connection: &Connection,
        route: Option<Route>,
        record: &mut Record,
    ) -> Result<Answer, Rejection> {
        let asked = read_question(&mut request)?;
        let admitted = self.admit(&request, connection, route, asked, record);
        let admitted = admitted.await?;
        let revoked = admitted.decisions.clone().revoked();
        let decisions = admitted.decisions.clone();
        let (cluster, call) = (admitted.cluster.clone(), Arc::clone(&admitted.call));
        let (base, ambient) = (admitted.base.clone(), admitted.ambient);
        let discovery = headers::asks_for_discovery(request.headers());
        let (parts, body) = request.into_parts();
        let body = decisions.guarding(Whole::new(body, parts.version), ());
        let request = Request::from_parts(parts, body);
        let head = self.exchange(request, admitted, record);
        let (response, exchange, seat, recognised) = tokio::select! {
            biased;
            revoked = revoked => return Err(revoked.into()),
            answered = head => answered?,
        };
        let watch_end = call
            .is_watch()
            .then(|| WatchEnd::new(self.draining.clone(), &response));
        Ok(Answer {
            response,
            exchange,
            seat,
            cluster,
            question: Question::Api { call, base },
            decisions,
            ambient,
            discovery,
            lines: Arc::clone(&self.lines),
            recognised,
            watch_end,
        })
    }

    async fn exchange<B>(
        &self,
        request: Request<B>,
        admitted: Admitted,
        record: &Record,
    ) -> Result<(Response<Answered>, Exchange, Seat, Recognised), Rejection>
    where
        B: http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static,
    {
        let (mut parts, body) = request.into_parts();
        let Admitted {
            caller,
            cluster,
            call,
            ..
        } = &admitted;
        let takes_trailers = headers::takes_trailers(parts.version, &parts.headers);
        headers::clean_request(&mut parts.headers, call.info());
        write_headers(&mut parts.headers, record)?;
        if takes_trailers {
            headers::take_trailers(&mut parts.headers);
        }
        let safe = call.method().is_safe() && call.upgrade().is_none();
        let may_be_sent_again = safe && body.is_end_stream();
        let again = (may_be_sent_again && self.config.clusters.has_another_way(cluster))
            .then(|| parts.headers.clone());
        let outgoing = within_bounds(call.request(parts.headers, body))?;
        let kind = match call.is_long() {
            true => SeatKind::Stream,
            false => SeatKind::Request,
        };
        let seat = self.config.budgets.seat(caller, cluster, kind).await?;
        let class = call.info().class();
        let mut open = open(Target::KubeApi, &admitted.identity, class, record)?;
        open.may_be_repeated = again.is_some();
        let mut answered = self.send(cluster, &open, kind, outgoing).await?;
        let has_died = matches!(
            answered,
            Err(ExchangeError::NotTaken(_) | ExchangeError::Lost(_))
        );
        if let Some(headers) = again.filter(|_| has_died) {
            // Once. The agent is passed over from now on.
            open.may_be_repeated = false;
            let outgoing = call.request(headers, empty());
            answered = self.send(cluster, &open, kind, outgoing).await?;
        }
        let (response, exchange) =
            answered.map_err(|error| self.no_answer(&error, cluster, safe))?;
        Ok((response, exchange, seat, admitted.recognised))
    }

    /// Opens a stream to the API server, sends the request there, and waits for the answer's head within the time that requests of this
    /// kind have for it.
    async fn send<B>(
        &self,
        cluster: &ClusterName,
        open: &Open,
        kind: SeatKind,
        request: Request<B>,
    ) -> Result<Result<(Response<Answered>, Exchange), ExchangeError>, Rejection>
    where
        B: http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static,
    {
        let stream = self.connect(cluster.into(), open).await?;
        let answered = exchange::send(stream, request);
        match kind {
            SeatKind::Stream => Ok(answered.await),
            SeatKind::Request => {
                let limit = tokio::time::timeout(limits::RESPONSE_HEAD_TIMEOUT, answered).await;
                limit.map_err(|_| Rejection::Timeout("the agent's answer"))
            }
        }
    }

    /// Says why a call to the API server has no answer. `safe`: it changes nothing.
    fn no_answer(&self, error: &ExchangeError, cluster: &ClusterName, safe: bool) -> Rejection {
        // A caller that breaks its own body gets no line of the log: it could fill it.
        let is_ours = !matches!(error, ExchangeError::Body(_));
        if is_ours && let Some(suppressed) = self.lines.take(cluster.as_str()) {
            let error = error as &dyn std::error::Error;
            tracing::warn!(suppressed, %cluster, error, "no answer through the tunnel");
        }
        let cluster = cluster.clone();
        match error {
            ExchangeError::Malformed(_) => Rejection::BadAnswer("not HTTP/1.1"),
            // The agent may have heard what we did not hear it answer: only what changes nothing may
            // be asked for again.
            ExchangeError::NotTaken(_) if safe => Rejection::AgentAway(cluster),
            ExchangeError::NotTaken(_) => Rejection::AgentSilent(cluster),
            ExchangeError::Declined(_) => Rejection::AgentRefused(cluster),
            ExchangeError::Lost(_) => Rejection::AgentLost(cluster),
            ExchangeError::Body(_) => BAD_BODY,
        }
    }

    /// Opens a stream.
    pub(super) async fn connect(
        &self,
        location: Location<'_>,
        open: &Open,
    ) -> Result<BoxedIo, Rejection> {
        let connecting = location.connect(&*self.config.clusters, open);
        let Location { cluster, node } = location;
        let node = node.map(tracing::field::display);
        match tokio::time::timeout(limits::STREAM_CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                if let Some(suppressed) = self.lines.take(cluster.as_str()) {
                    let error = &error as &dyn std::error::Error;
                    tracing::info!(suppressed, %cluster, node, error, "no stream");
                }
                Err(location.rejection(&error))
            }
            Err(_) => {
                if let Some(suppressed) = self.lines.take(cluster.as_str()) {
                    tracing::info!(suppressed, %cluster, node, "no stream in time");
                }
                Err(location.too_late())
            }
        }
    }
}

/// Something of the request may have been done.
pub(super) const BAD_BODY: Rejection =
    Rejection::BadRequest("its body breaks off, or is not framed as RFC 9112 has it");

/// The opening of a stream to a target, as this identity, for the request of this record.
pub(super) fn open(
    target: Target,
    identity: &Identity,
    class: StreamClass,
    record: &Record,
) -> Result<Open, Rejection> {
    let identity = identity.encode();
    let identity = identity.map_err(|_| Rejection::HeadersTooLarge)?;
    let mut open = Open::new(target, identity, class, record.id());
    open.via = record.via();
    Ok(open)
}

/// Requests that hyper lets pass, and two parsers may read differently. They deceive nothing here, but may deceive a proxy
/// before us that shares its connections among clients.
fn ambiguous<B>(request: &Request<B>) -> Option<Rejection> {
    let fields = request.headers();
    if Heads::is_without_authority(request) {
        return Some(Rejection::BadRequest(
            "its :authority is no HOST or HOST:PORT: look for a space, a user before an @, or a colon without a port",
        ));
    }
    let mut hosts = fields.get_all(header::HOST).iter();
    let one_host = hosts.next().is_some() && hosts.next().is_none();
    if !one_host && request.version() == Version::HTTP_11 {
        // RFC 9112, section 3.2.
        return Some(Rejection::BadRequest(
            "a request must have exactly one Host header",
        ));
    }
    let target = request.uri();
    if request.method() != Method::CONNECT && target.scheme().is_none() && target.host().is_some() {
        // The parser takes it for the authority-form, which CONNECT alone has (RFC 9112, section 3.2.3).
        return Some(Rejection::BadRequest(
            "its target is no path: a path begins with a slash, as in GET /version HTTP/1.1",
        ));
    }
    let codings = fields.get_all(header::TRANSFER_ENCODING).iter();
    let mut codings = codings.flat_map(list::tokens);
    let last = codings.next_back();
    if last.is_some() && codings.next().is_some() {
        // RFC 9112, section 6.1. hyper decodes the last one, `chunked`, and takes what is left for the body.
        return Some(Rejection::BadRequest(
            "the only transfer coding that is known here is chunked, once",
        ));
    }
    None
}

/// Reads whether a request asks for an upgrade (rule 1), before anybody knows the caller. A bearer token among its WebSocket's subprotocols
/// becomes its credential.
pub(super) fn read_question(request: &mut Request<RequestBody>) -> Result<Asked, Rejection> {
    let asked = Asked::read(request.method(), request.version(), request.headers());
    let asked = asked.inspect_err(|error| tracing::debug!(%error, "upgrade refused"))?;
    if asked.is_upgrade() && !http_body::Body::is_end_stream(request.body()) {
        // Bytes of a body could be taken for bytes of the upgraded stream, or the other way round.
        return Err(Rejection::BadRequest("an upgrade must not have a body"));
    }
    let adopted = adopt_websocket_bearer(request.headers_mut());
    adopted.map_err(|_| Rejection::Unauthorized)?;
    Ok(asked)
}

/// Written last, on clean headers: nothing that the client sent can take these away or add to them.
fn write_headers(headers: &mut HeaderMap, record: &Record) -> Result<(), Rejection> {
    // The agent writes the API server's own authority; HTTP/1.1 wants a Host meanwhile.
    headers.insert(
        header::HOST,
        HeaderValue::from_static("kubernetes.default.svc"),
    );
    headers.insert(AUDIT_ID, record.id_header().ok_or(Rejection::Unavailable)?);
    // kube-apiserver's audit takes sourceIPs from here.
    let client = forwarded_for(record.client()).ok_or(Rejection::Unavailable)?;
    headers.insert(X_FORWARDED_FOR, client);
    Ok(())
}
