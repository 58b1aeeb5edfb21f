//! The server's half: authenticates callers, decides, and forwards into the tunnel.

mod acting_as;
mod admit;
mod answer;
mod audit;
mod authorize;
mod batch;
mod budget;
mod clusters;
mod forward;
mod linger;
mod peer;
pub mod proxy_protocol;
pub(crate) mod route;
mod serve;
mod strangers;
mod watch_end;

use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use rustls_pki_types::CertificateDer;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Body, ImpersonationPolicy, Refusal, audit::Trail, authenticate::Authenticator};

pub(crate) use self::audit::{cut, new_id as new_audit_id};
pub use self::{
    acting_as::ORIGINAL_USER_EXTRA,
    authorize::{Access, ActingAs, AuthorizeError, Authorizer, Nobody},
    budget::{BudgetConfig, BudgetConfigError, Budgets, Occupancy},
    clusters::{Clusters, ConnectError, Open},
    peer::Peer,
    serve::ServeError,
    strangers::{Held, Metered, Standing, StrangerBounds, Strangers},
};

/// How a connection's bytes are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `http/1.1`, which upgrades need; also where ALPN chose nothing.
    Http1,
    /// `h2`.
    Http2,
}

impl Protocol {
    /// What the listener offers, in its order of preference.
    pub const ALPN: [&'static [u8]; 2] = [b"h2", b"http/1.1"];

    /// Reads what ALPN chose.
    pub fn from_alpn(alpn: Option<&[u8]>) -> Self {
        if alpn == Some(b"h2") {
            Self::Http2
        } else {
            Self::Http1
        }
    }
}

/// What the listener knows about a connection.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Who is at the other end: as the socket says, or a trusted PROXY protocol header.
    pub peer: Peer,
    /// What the TLS handshake chose.
    pub protocol: Protocol,
    /// The certificate chain that the client showed, as it came, and whose key it proved to hold; empty without one.
    /// Nothing else of it is verified: an authenticator does that, with the CAs of its configuration.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// One connection while it is served: its facts, and the upgraded streams that came out of it.
#[derive(Debug)]
pub struct Connection {
    info: ConnectionInfo,
    standing: Standing,
    pipes: TaskTracker,
    gone: CancellationToken,
}

impl Connection {
    /// A connection for [`Front::handle`]. Whoever drops the last reference ends its upgraded streams.
    pub fn new(info: ConnectionInfo) -> Self {
        Self::of_stranger(info, Standing::default())
    }

    /// The same of somebody who is counted until they are authenticated.
    pub fn of_stranger(info: ConnectionInfo, standing: Standing) -> Self {
        Self {
            info,
            standing,
            pipes: TaskTracker::new(),
            gone: CancellationToken::new(),
        }
    }

    /// What the listener knows about it.
    pub fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    /// Whether its peer is a stranger.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Charges a head to the strangers' budget while its credential is checked; to be dropped then.
    ///
    /// # Errors
    /// There is no room for it. The connection is about to be closed.
    pub fn hold(&self, headers: &HeaderMap) -> Result<Held, Refusal> {
        self.standing.hold(headers).ok_or(Refusal::TooManyRequests)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

/// Serves what is not below `/k8s/clusters/`: health, the server's own API.
#[async_trait]
pub trait Fallback: Send + Sync {
    /// Answers `request`. Nothing has been authenticated.
    async fn handle(&self, request: Request<Incoming>, connection: &Connection) -> Response<Body>;
}

/// Answers 404 with a `metav1.Status`.
#[derive(Clone, Copy, Debug)]
pub struct NotFound;

#[async_trait]
impl Fallback for NotFound {
    async fn handle(&self, _request: Request<Incoming>, _: &Connection) -> Response<Body> {
        Refusal::NotFound.to_response()
    }
}

/// The parts that a front is made of.
#[derive(Clone)]
#[allow(
    missing_debug_implementations,
    reason = "trait objects of other crates"
)]
pub struct FrontConfig {
    /// Who is calling.
    pub authenticator: Arc<dyn Authenticator>,
    /// What they may reach.
    pub authorizer: Arc<dyn Authorizer>,
    /// Whom they may act as; [`Nobody`] for nobody.
    pub acting_as: Arc<dyn ActingAs>,
    /// How a cluster is reached.
    pub clusters: Arc<dyn Clusters>,
    /// What is not a cluster's; [`NotFound`] for nothing.
    pub fallback: Arc<dyn Fallback>,
    /// Whom nobody may become; the agents check theirs again.
    pub policy: ImpersonationPolicy,
    /// Where it is written who did what; [`Trail::default`] for nowhere.
    pub audit: Trail,
    /// How much each user and each cluster may have in flight; [`Budgets::default`] for what suits most.
    pub budgets: Budgets,
}

/// The HTTPS front, without its sockets.
#[allow(
    missing_debug_implementations,
    reason = "trait objects of other crates"
)]
pub struct Front {
    config: FrontConfig,
    draining: CancellationToken,
}

impl Front {
    /// Puts the parts together.
    pub fn new(config: FrontConfig) -> Self {
        Self {
            config,
            draining: CancellationToken::new(),
        }
    }

    /// Tells every connection to finish: HTTP/2 gets a GOAWAY, HTTP/1.1 closes after the current response.
    /// Watches end cleanly between two events, spread over [`limits::DRAIN_SPREAD`](crate::limits::DRAIN_SPREAD), so that informers go
    /// on elsewhere from where they are; everything else goes on until it ends or its `serve_connection` is dropped.
    pub fn drain(&self) {
        self.draining.cancel();
    }
}
