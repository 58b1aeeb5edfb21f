//! The server's half: authenticates callers, decides, and forwards into the tunnel.

mod access_review;
mod admit;
mod answer;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(feature = "fuzzing", doc(hidden))]
#[allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "it states expectations, as tests do"
)]
pub mod attack;
mod audit;
mod budget;
mod connect;
mod forward;
mod impersonation;
#[cfg(test)]
mod one_parse;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod parts;
mod plain_http;
pub mod proxy_protocol;
pub(crate) mod route;
mod sending;
mod serve;
mod services;
mod shells;
mod strangers;
mod targets;

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use underpass_audit::AuditLog;
use underpass_authenticate::Authenticator;
use underpass_core::{
    Authorizer, Body, BoxError, ClusterDomains, ClusterLogShare, Clusters, ConnectionInfo,
    ImpersonationAuthorizer, ImpersonationPolicy, Rejection,
    body::{Guard, Guarded},
};
pub use underpass_http::serve::{IdleTimeout, IdleTimeoutError, RequestBody};
use underpass_http::{serve::Served, watch_end::Draining};

use self::sending::{Sending, Sendings};
pub use self::{
    access_review::AccessReviews,
    budget::{BudgetConfig, BudgetConfigError, Budgets, Occupancy},
    plain_http::{refuse_plain_http, refuse_plain_http2},
    serve::ServeError,
    services::{NoServiceRoots, ServiceRoots},
    strangers::{Held, Holder, Metered, Recognised, Standing, StrangerBounds, Strangers},
};

/// One connection while it is served: its facts, and the upgraded streams that came out of it.
#[derive(Debug)]
pub struct Connection {
    info: ConnectionInfo,
    standing: Standing,
    sendings: Sendings,
    pipes: TaskTracker,
    gone: CancellationToken,
    served: Served,
}

impl Connection {
    /// A connection for [`Front::handle`]. Dropping the last reference ends its upgraded streams.
    pub fn new(info: ConnectionInfo) -> Self {
        Self::of_stranger(info, Standing::default())
    }

    /// The same of a stranger, which is counted until it is authenticated.
    pub fn of_stranger(info: ConnectionInfo, standing: Standing) -> Self {
        if info.peer.asks_for_others() {
            standing.comes_from(&info.peer);
        }
        Self {
            sendings: Sendings::new(info.peer.asks_for_others()),
            info,
            standing,
            pipes: TaskTracker::new(),
            gone: CancellationToken::new(),
            served: Served::default(),
        }
    }

    /// The listener's knowledge of it.
    pub fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    /// Whether its peer is a stranger.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// A response that keeps `kept` until all of it is sent. The connection ends when its client reads nothing of it for
    /// [`limits::ANSWER_STALL`](underpass_core::limits::ANSWER_STALL).
    pub fn sending(
        &self,
        response: Response<Body>,
        kept: impl Send + Sync + 'static,
    ) -> Response<Body> {
        let sending = self.sendings.begin(kept);
        let mut response =
            response.map(|body| underpass_core::boxed(Guarded::new(body, Tied(sending))));
        response.extensions_mut().insert(IsSending);
        response
    }

    /// The same of a response that is not being sent like that: a refusal, or an answer to a stranger. No other budget counts
    /// it.
    fn sending_at_last(&self, response: Response<Body>) -> Response<Body> {
        let is_sending = response.extensions().get::<IsSending>().is_some();
        if is_sending || http_body::Body::is_end_stream(response.body()) {
            return response;
        }
        let unsent = self.standing.hold_answer();
        self.sending(response, unsent)
    }

    /// Charges a head to the strangers' budget while its credential is checked; to be dropped then.
    ///
    /// # Errors
    /// There is no room for it. The connection is about to be closed.
    pub fn hold(&self, headers: &HeaderMap) -> Result<Held, Rejection> {
        self.standing
            .hold(headers)
            .ok_or(Rejection::TooManyRequests)
    }
}

/// Marks a response whose pieces are tied to its sending.
#[derive(Clone, Copy, Debug)]
struct IsSending;

/// Ties each piece of an answer to its sending.
struct Tied(Arc<Sending>);

impl Guard for Tied {
    fn poll_abort(&mut self, _: &mut Context<'_>) -> Poll<BoxError> {
        Poll::Pending
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_room(cx)
    }

    fn passed(&mut self, data: &mut Bytes) {
        *data = self.0.piece(std::mem::take(data));
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

/// Serves the paths that lead into no cluster: health, the server's own API.
#[async_trait]
pub trait Fallback: Send + Sync {
    /// Answers `request`. Nothing has been authenticated.
    async fn handle(
        &self,
        request: Request<RequestBody>,
        connection: &Connection,
    ) -> Response<Body>;
}

/// Answers 404 with a `metav1.Status`.
#[derive(Clone, Copy, Debug)]
pub struct NotFound;

#[async_trait]
impl Fallback for NotFound {
    async fn handle(&self, _request: Request<RequestBody>, _: &Connection) -> Response<Body> {
        Rejection::NotFound.to_response()
    }
}

/// The parts that a front is made of.
#[derive(Clone)]
#[allow(
    missing_debug_implementations,
    reason = "trait objects of other crates"
)]
pub struct FrontConfig {
    /// Authenticates callers.
    pub authenticator: Arc<dyn Authenticator>,
    /// Authorizes their requests.
    pub authorizer: Arc<dyn Authorizer>,
    /// Authorizes impersonation; [`Nobody`](underpass_core::Nobody) allows none.
    pub impersonation: Arc<dyn ImpersonationAuthorizer>,
    /// How a cluster is reached.
    pub clusters: Arc<dyn Clusters>,
    /// The domains of clusters' own names.
    pub domains: ClusterDomains,
    /// Answers paths outside of every cluster; [`NotFound`] for none.
    pub fallback: Arc<dyn Fallback>,
    /// Identities that nobody may become; the agents check theirs again.
    pub policy: ImpersonationPolicy,
    /// The audit log; [`AuditLog::default`] for none.
    pub audit: AuditLog,
    /// How much each user and each cluster may have in flight; [`Budgets::default`] suits most.
    pub budgets: Budgets,
    /// The CAs of clusters' services that speak TLS; [`NoServiceRoots`] for none.
    pub service_roots: Arc<dyn ServiceRoots>,
    /// How long a connection may be idle; [`IdleTimeout::default`] is longer than common load balancers'.
    pub idle_timeout: IdleTimeout,
}

/// The HTTPS front, without its sockets.
#[allow(
    missing_debug_implementations,
    reason = "trait objects of other crates"
)]
pub struct Front {
    config: FrontConfig,
    lines: Arc<ClusterLogShare>,
    draining: Draining,
    /// The drain is over.
    cut: CancellationToken,
}

impl Front {
    /// Puts the parts together.
    pub fn new(config: FrontConfig) -> Self {
        Self {
            config,
            lines: Arc::default(),
            draining: Draining::default(),
            cut: CancellationToken::new(),
        }
    }

    /// Tells every connection to finish: HTTP/2 gets a GOAWAY, HTTP/1.1 closes after the current response.
    /// Watches end cleanly between two events, spread over [`limits::DRAIN_SPREAD`](underpass_core::limits::DRAIN_SPREAD), or over
    /// half of the time until `deadline` where that is shorter, so that informers go on elsewhere from where they are; everything
    /// else goes on until it ends or its `serve_connection` is dropped.
    pub fn drain(&self, deadline: Duration) {
        self.draining.begin(deadline);
    }

    /// Ends connections that have requests still, after [`Front::drain`]. Over HTTP/2 the client has had a GOAWAY, and the connection
    /// is closed as TLS has it: kubectl says that the server has closed the connection, in the middle of a log. Over HTTP/1.1 the
    /// answer lacks its end. Upgraded connections are left alone.
    pub fn cut(&self) {
        self.cut.cancel();
    }
}
