//! A reverse proxy to services of clusters, past their API servers: a stream to the service, and one HTTP exchange on it. Admission and
//! opening are those of a CONNECT, and answers are treated as those of a workload behind an API server's `…/proxy/`.

mod call;
mod tls;
mod way;

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};

pub use self::tls::{NoServiceRoots, ServiceRoots};
pub(crate) use self::{
    call::ServiceCall,
    way::{NoService, ServiceWay},
};
use self::{
    tls::{Above, Tls},
    way::Scheme,
};
use super::{
    Connection, Front, RequestBody,
    answer::{Answer, Question},
    audit::Record,
    budget::Seat,
    forward::{BAD_BODY, open, read_question},
};
use underpass_core::{
    Body, BoxError, Identity, Open, Rejection, StreamClass, TcpTarget, body::Guard, empty,
};
use underpass_http::{
    call::within_bounds,
    exchange::{self, Answered, Exchange, ExchangeError, Whole},
    pipe::Meter,
};

/// The reply to a request to a service.
pub(super) enum Reply {
    Answer(Box<Answer>),
    /// The same target, with a slash behind the prefix.
    Slash(String),
}

impl Front {
    /// Rules 4, 5, 8, 26 and 27: decides, and asks the service.
    pub(super) async fn ask_service(
        &self,
        mut request: Request<RequestBody>,
        connection: &Connection,
        way: Result<ServiceWay, NoService>,
        record: &mut Record,
    ) -> Result<Reply, Rejection> {
        let asked = read_question(&mut request)?;
        let known = self.recognise(&request, connection, record).await?;
        record.asks_service(match &way {
            Ok(way) => Some(&way.cluster),
            Err(no_service) => no_service.cluster.as_ref(),
        });
        let way = way.map_err(Rejection::from)?;
        let call = Arc::new(ServiceCall::read(&request, way, asked)?);
        let (way, target) = (call.way(), call.target());
        known.check_navigation()?;
        let headers = request.headers();
        let admitting = self.admit_to_target(
            &known.authenticated,
            headers,
            (&way.cluster).into(),
            &target,
            record,
        );
        let decisions = admitting.await?;
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if way.lacks_slash && reads && call.upgrade().is_none() {
            return Ok(Reply::Slash(way.with_slash()));
        }
        let meter = Arc::new(Meter::default());
        record.piped(Arc::clone(&meter));
        let (parts, body) = request.into_parts();
        let may_be_sent_again = parts.method.is_safe()
            && call.upgrade().is_none()
            && http_body::Body::is_end_stream(&body);
        let again = (may_be_sent_again && self.config.clusters.has_another_way(&way.cluster))
            .then(|| parts.headers.clone());
        let body = Whole::new(body, parts.version);
        let body = decisions.guarding(body, Up(meter));
        let real = known.authenticated.identity();
        let asking = self.ask(&call, real, (parts.headers, body), again, record);
        let (response, exchange, seat) = tokio::select! {
            biased;
            revoked = decisions.clone().revoked() => return Err(revoked.into()),
            answered = asking => answered?,
        };
        Ok(Reply::Answer(Box::new(Answer {
            response,
            exchange,
            seat,
            cluster: way.cluster.clone(),
            question: Question::Service(Arc::clone(&call)),
            decisions,
            ambient: known.authenticated.is_ambient(),
            discovery: false,
            lines: Arc::clone(&self.lines),
            recognised: known.recognised,
            watch_end: None,
        })))
    }

    /// Waits for a seat, and asks the service: once more, with `again` for its headers and no body, where its agent dies before anything of
    /// the answer has come.
    async fn ask<B>(
        &self,
        call: &ServiceCall,
        caller: &Identity,
        (headers, body): (HeaderMap, B),
        again: Option<HeaderMap>,
        record: &Record,
    ) -> Result<(Response<Answered>, Exchange, Seat), Rejection>
    where
        B: http_body::Body<Data = Bytes, Error = BoxError> + Send + Unpin + 'static,
    {
        // First of all: a caller without a seat makes no file of CAs be read.
        let seat = self.target_seat(&call.way().cluster, caller).await?;
        // Nothing is opened for a service that cannot be verified.
        let roots = &*self.config.service_roots;
        let tls = match call.way().scheme {
            Scheme::Https => Some(Tls::of(call, roots, &self.lines).await?),
            Scheme::Http | Scheme::H2c => None,
        };
        let tls = tls.as_ref();
        let mut open = open(call.target(), caller, StreamClass::Default, record)?;
        open.may_be_repeated = again.is_some();
        let asking = self.exchange_with(call, (&open, tls), headers, body, record);
        let mut asked = asking.await;
        if let (Err(NoAnswer::AgentGone(_)), Some(headers)) = (&asked, again) {
            // The agent is passed over from now on.
            open.may_be_repeated = false;
            let asking = self.exchange_with(call, (&open, tls), headers, empty(), record);
            asked = asking.await;
        }
        let (response, exchange) = asked?;
        Ok((response, exchange, seat))
    }

    /// Opens a stream, and asks the service there.
    async fn exchange_with<B>(
        &self,
        call: &ServiceCall,
        (open, tls): (&Open, Option<&Tls>),
        headers: HeaderMap,
        body: B,
        record: &Record,
    ) -> Result<(Response<Answered>, Exchange), NoAnswer>
    where
        B: http_body::Body<Data = Bytes, Error = BoxError> + Send + Unpin + 'static,
    {
        let stream = self.connect((&call.way().cluster).into(), open).await?;
        let request = |version| within_bounds(call.request(headers, body, version, record)?);
        let answered = match (tls, call.way().scheme) {
            (None, Scheme::H2c) => exchange::send_http2(stream, request(Version::HTTP_2)?).await,
            (None, _) => exchange::send(stream, request(Version::HTTP_11)?).await,
            (Some(tls), _) => match tls.connect(stream).await? {
                (tls, Above::Http1) => exchange::send(tls, request(Version::HTTP_11)?).await,
                (tls, Above::Http2) => exchange::send_http2(tls, request(Version::HTTP_2)?).await,
            },
        };
        answered.map_err(|error| {
            let (cluster, service) = (&call.way().cluster, &call.way().service);
            let is_ours = !matches!(error, ExchangeError::Body(_));
            if is_ours && let Some(suppressed) = self.lines.take(cluster.as_str()) {
                let error = &error as &dyn std::error::Error;
                tracing::info!(suppressed, %cluster, %service, error, "no answer of a service");
            }
            if error.is_of_the_way() {
                return NoAnswer::AgentGone(service.clone());
            }
            NoAnswer::Other(match error {
                ExchangeError::Malformed(_) => Rejection::BadAnswer(match call.way().scheme {
                    Scheme::Http => "the service does not speak HTTP/1.1; https is for TLS, and h2c for HTTP/2 without it",
                    Scheme::Https => "the service does not speak HTTP above its TLS",
                    Scheme::H2c => "the service does not speak HTTP/2 without TLS; http is for HTTP/1.1",
                }),
                ExchangeError::Body(_) => BAD_BODY,
                _ => Rejection::ServiceLost(service.clone()),
            })
        })
    }
}

/// Why a service has not answered.
enum NoAnswer {
    /// The way to it is gone: its agent died, or has not been there for some time.
    AgentGone(TcpTarget),
    Other(Rejection),
}

impl From<Rejection> for NoAnswer {
    fn from(rejection: Rejection) -> Self {
        Self::Other(rejection)
    }
}

impl From<NoAnswer> for Rejection {
    fn from(no_answer: NoAnswer) -> Self {
        match no_answer {
            NoAnswer::AgentGone(service) => Self::ServiceLost(service),
            NoAnswer::Other(rejection) => rejection,
        }
    }
}

/// The answer to a client that has left out the slash behind the prefix, as kube-apiserver's proxy gives it: links of the service's
/// pages would lead beside it.
pub(super) fn with_slash(target: String, record: &mut Record) -> Response<Body> {
    let mut response = Response::new(empty());
    let Ok(location) = HeaderValue::from_maybe_shared(Bytes::from(target)) else {
        return super::answer::refuse(&Rejection::NotFound, record, false);
    };
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private"));
    record.head(response.status());
    record.ended("complete");
    response
}

/// Counts a request's body, and keeps trailers from the service: no header of a client is read there that was not cleaned.
struct Up(Arc<Meter>);

impl Guard for Up {
    fn poll_abort(&mut self, _: &mut Context<'_>) -> Poll<BoxError> {
        Poll::Pending
    }

    fn passed(&mut self, data: &mut Bytes) {
        self.0.went_up(data.len());
    }

    fn trailers(&mut self, trailers: &mut HeaderMap) {
        trailers.clear();
    }
}
