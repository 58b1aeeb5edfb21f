//! The client's response: the agent's answer as a stream, or a byte pipe after a validated 101.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header, response};
use hyper::upgrade::OnUpgrade;
use tracing::Instrument;

use super::{
    Connection, IsSending, Recognised,
    admit::{Decisions, Revoked},
    audit::Record,
    budget::Seat,
    sending::Sending,
    services::ServiceCall,
    shells::ShellCall,
};
use underpass_core::{
    Body, BoxError, ClusterLogShare, ClusterName, Protocol, Rejection,
    body::{self, Guard, Pieces},
    limits,
};
use underpass_http::{
    call::Call,
    exchange::{self, Answered, Exchange, Whole},
    headers::{self, Hop},
    pipe::{self, Meter},
    upgrade::UpgradeRequest,
    watch_end::WatchEnd,
};

/// A document of a cluster's gets an origin of its own in a browser, which is none of ours: its scripts send `Origin: null`, so
/// that what the browser attaches to their requests counts for nothing (security rule 27). A browser keeps to each of several
/// policies, so that no workload takes this one away. It is on every answer: a captured agent answers
/// any question with a page.
const SANDBOX: HeaderValue = HeaderValue::from_static(
    "sandbox allow-scripts allow-forms allow-popups allow-downloads allow-modals",
);

/// The agent's answer.
pub(super) struct Answer {
    pub(super) response: Response<Answered>,
    pub(super) exchange: Exchange,
    /// Its seat in its user's and its cluster's budgets.
    pub(super) seat: Seat,
    pub(super) cluster: ClusterName,
    /// The request that it answers.
    pub(super) question: Question,
    pub(super) decisions: Decisions,
    /// A browser may have attached the caller's credential by itself.
    pub(super) ambient: bool,
    /// The caller asks which APIs there are.
    pub(super) discovery: bool,
    pub(super) lines: Arc<ClusterLogShare>,
    pub(super) recognised: Recognised,
    /// Ends a watch properly when the front drains, or access is revoked.
    pub(super) watch_end: Option<WatchEnd>,
}

/// A request, which its answer is held against.
#[derive(Clone)]
pub(super) enum Question {
    /// To a cluster's API server, or through it to a workload.
    Api {
        call: Arc<Call>,
        /// The client's path of the cluster's root.
        base: String,
    },
    /// To a service.
    Service(Arc<ServiceCall>),
    /// To a shell.
    Shell(Arc<ShellCall>),
}

impl Question {
    fn upgrade(&self) -> Option<&UpgradeRequest> {
        match self {
            Self::Api { call, .. } => call.upgrade(),
            Self::Service(call) => call.upgrade(),
            Self::Shell(call) => Some(call.upgrade()),
        }
    }

    /// The answer may come from a workload, and a 401 among its answers.
    fn is_workloads(&self) -> bool {
        match self {
            Self::Api { call, .. } => call.info().is_proxied(),
            Self::Service(_) | Self::Shell(_) => true,
        }
    }

    /// The answer may take as long as it likes.
    fn is_long(&self) -> bool {
        match self {
            Self::Api { call, .. } => call.is_long(),
            Self::Service(_) | Self::Shell(_) => true,
        }
    }

    /// Cleans an answer's headers, or refuses it. The agent may have done so as well, and is not trusted.
    fn clean(&self, parts: &mut response::Parts) -> Result<(), Rejection> {
        match self {
            Self::Api { call, base } => {
                let hop = Hop::Front { client: base };
                headers::clean_response(parts.status, &mut parts.headers, call, hop)
            }
            Self::Service(call) => call.clean(parts.status, &mut parts.headers),
            Self::Shell(call) => call.clean(parts),
        }
    }
}

/// Refuses a call, in the log and the audit as well; `discovery`: the client asks which APIs there are.
pub(super) fn refuse(
    rejection: &Rejection,
    record: &mut Record,
    discovery: bool,
) -> Response<Body> {
    tracing::debug!(%rejection, "refused");
    record.refused(rejection);
    match discovery {
        true => rejection.to_discovery_response(),
        false => rejection.to_response(),
    }
}

impl Answer {
    pub(super) fn into_response(
        self,
        mut record: Record,
        connection: &Connection,
        client: &mut Option<OnUpgrade>,
    ) -> Response<Body> {
        let switching = self.response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let upgrade = switching.then(|| self.question.upgrade().cloned());
        match upgrade {
            Some(Some(upgrade)) => self.switch(&upgrade, record, connection, client),
            Some(None) => refuse(
                &Rejection::BadAnswer("an unasked 101"),
                &mut record,
                self.discovery,
            ),
            None => self.stream(record, connection),
        }
    }

    /// Rule 1: anything but a validated 101 is an ordinary response.
    fn stream(mut self, mut record: Record, connection: &Connection) -> Response<Body> {
        let (mut parts, incoming) = self.response.into_parts();
        let incoming = Whole::new(incoming, parts.version);
        parts.version = Version::HTTP_11;
        parts.extensions.clear();
        if parts.status == StatusCode::UNAUTHORIZED && !self.question.is_workloads() {
            // Agents answer otherwise, and this one is not believed: client-go would take the caller's credential for refused,
            // and renew it for all clusters.
            if let Some(suppressed) = self.lines.take(self.cluster.as_str()) {
                tracing::warn!(suppressed, cluster = %self.cluster, "the agent says that the caller is unknown, which is not its to say");
            }
            return refuse(&Rejection::AgentUnauthorized, &mut record, self.discovery);
        }
        if let Err(rejection) = self.question.clean(&mut parts) {
            return refuse(&rejection, &mut record, self.discovery);
        }
        if self.ambient {
            parts
                .headers
                .append(header::CONTENT_SECURITY_POLICY, SANDBOX);
        }
        record.head(parts.status);
        // The answer may end before the request does, and the stream with it.
        let seat = Arc::new(self.seat);
        self.exchange.keep(Arc::clone(&seat));
        let audited = Audited {
            exchange: Some(self.exchange),
            record,
            sending: Some(match self.question.is_long() {
                true => Sending::new((seat, self.recognised)),
                false => connection.sendings.begin((seat, self.recognised)),
            }),
            watch_end: self.watch_end,
            cluster: self.cluster,
            cut: Arc::clone(connection.served.is_cut()),
        };
        parts.extensions.insert(IsSending);
        let most = match connection.info().protocol {
            Protocol::Http1 => limits::HTTP1_ANSWER_PIECE,
            Protocol::Http2 => limits::HTTP2_ANSWER_PIECE,
        };
        let pieces = Pieces::new(incoming, most);
        let guarded = self.decisions.guarding(pieces, audited);
        let response = Response::from_parts(parts, body::boxed(guarded));
        match connection.info().protocol {
            Protocol::Http1 => exchange::chunk_before_trailers(response),
            Protocol::Http2 => response,
        }
    }

    fn switch(
        mut self,
        upgrade: &UpgradeRequest,
        mut record: Record,
        connection: &Connection,
        client: &mut Option<OnUpgrade>,
    ) -> Response<Body> {
        let upstream = hyper::upgrade::on(&mut self.response);
        let (mut parts, _) = self.response.into_parts();
        if let Err(error) = upgrade.verify(&parts) {
            if let Some(suppressed) = self.lines.take(self.cluster.as_str()) {
                tracing::warn!(suppressed, cluster = %self.cluster, %error, "upgrade not believed");
            }
            return refuse(
                &Rejection::BadAnswer("an upgrade to something else"),
                &mut record,
                self.discovery,
            );
        }
        if let Err(rejection) = self.question.clean(&mut parts) {
            return refuse(&rejection, &mut record, self.discovery);
        }
        let Some(client) = client.take() else {
            return refuse(
                &Rejection::BadRequest("nothing to upgrade"),
                &mut record,
                self.discovery,
            );
        };
        record.head(parts.status);
        let meter = Arc::new(Meter::default());
        record.piped(Arc::clone(&meter));
        let (gone, revoked) = (connection.gone.clone(), self.decisions.revoked());
        self.recognised.upgraded();
        let held = (self.exchange, self.seat, self.recognised);
        let piping = async move {
            let _held = held;
            tokio::select! {
                ended = pipe::run(client, upstream, &meter) => note(&mut record, ended),
                () = gone.cancelled() => record.ended("connection closed"),
                _ = revoked => record.ended("revoked"),
            }
        };
        connection.pipes.spawn(piping.in_current_span());
        switching_response(&mut parts, upgrade);
        Response::from_parts(parts, body::empty())
    }
}

pub(super) fn note(record: &mut Record, ended: Result<(), pipe::PipeError>) {
    match ended {
        Ok(()) => record.ended("complete"),
        Err(error) => {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "upgraded stream ended early"
            );
            record.ended("lost");
        }
    }
}

/// The 101 for the client: the upstream's headers about its protocol, and an upgrade rebuilt by us.
fn switching_response(parts: &mut response::Parts, upgrade: &UpgradeRequest) {
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    parts.headers.remove(header::CONTENT_LENGTH);
    upgrade.write(&mut parts.headers);
}

/// Keeps the exchange and the audit record for as long as the response's body lives.
struct Audited {
    /// Until the answer is cut: dropping it tells the agent to end the call upstream.
    exchange: Option<Exchange>,
    record: Record,
    /// Keeps the seat, and the request in flight of its connection.
    sending: Option<Arc<Sending>>,
    watch_end: Option<WatchEnd>,
    cluster: ClusterName,
    /// The server has ended the connection.
    cut: Arc<AtomicBool>,
}

impl Drop for Audited {
    fn drop(&mut self) {
        if self.cut.load(Ordering::Acquire) {
            self.record.unless_ended("drained");
        }
    }
}

impl Guard for Audited {
    fn poll_abort(&mut self, cx: &mut Context<'_>) -> Poll<BoxError> {
        let exchange = self.exchange.as_mut();
        exchange.map_or(Poll::Pending, |exchange| exchange.poll_abort(cx))
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let sending = self.sending.as_ref();
        sending.map_or(Poll::Ready(()), |sending| sending.poll_room(cx))
    }

    fn passed(&mut self, data: &mut Bytes) {
        self.record.passed(data.len());
        if let Some(watch) = &mut self.watch_end {
            watch.passed(data);
        }
        if let Some(sending) = &self.sending {
            *data = sending.piece(std::mem::take(data));
        }
    }

    fn trailers(&mut self, trailers: &mut HeaderMap) {
        headers::clean_trailers(trailers);
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(watch) = &mut self.watch_end else {
            return Poll::Pending;
        };
        ready!(watch.poll(cx));
        self.record.ended("drained");
        self.exchange = None;
        Poll::Ready(())
    }

    fn last_words(&mut self, why: &BoxError) -> Option<Bytes> {
        let rejection = why.downcast_ref::<Revoked>().copied()?.into();
        // Events that are on their way belong to nobody any more: an end in the middle takes them back.
        let unsent = self
            .sending
            .as_ref()
            .is_some_and(|sending| sending.is_unsent());
        let watch_end = self.watch_end.as_ref().filter(|_| !unsent)?;
        let last = watch_end.last_words(&rejection)?;
        self.exchange = None;
        Some(last)
    }

    fn lost(&mut self, _: &BoxError) -> Option<Bytes> {
        let lost = Rejection::AgentLost(self.cluster.clone());
        self.watch_end.as_ref()?.last_words(&lost)
    }

    fn failed(&mut self, why: &'static str) {
        self.record.ended(why);
    }

    fn finished(&mut self) {
        self.record.ended("complete");
        self.sending = None;
        if let Some(exchange) = &mut self.exchange {
            exchange.finished();
        }
    }
}
