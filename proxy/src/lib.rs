//! Impersonating Kubernetes API proxy, in two halves that any byte stream joins.
//!
//! - [`front`], at the server: authenticates a caller, decides what they may reach, cleans the request, opens a
//!   stream to the cluster's agent with the caller's [`Identity`] in its open header, and writes the request
//!   on it as HTTP/1.1.
//! - [`upstream`], at the agent: reads the request, checks the identity against its own
//!   [`ImpersonationPolicy`], writes it as impersonation headers with its own credential, and asks the API server.
//!
//! Who may reach what is in the [`directory`].
//!
//! The halves know neither the tunnel's sockets nor command lines: the server implements [`front::Clusters`] on
//! its tunnel, the agent hands every incoming stream to [`upstream::ApiServer::serve_stream`].
//!
//! # What is never true
//! - A request is forwarded without an identity, or with one that it brought itself ([`Identity`] has no public
//!   constructor; headers are cleaned twice and written last).
//! - Bytes are relayed raw before a 101 that answers the very upgrade that was asked for.
//! - A redirect is followed, or passed to a client that it would take elsewhere than below the same `…/proxy/`.
//! - What was decided about differs from what is forwarded.
//! - A body is collected: every chunk passes when it comes, and an end that was an error stays an error.

#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(feature = "fuzzing", doc(hidden))]
#[allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "it states expectations, as tests do"
)]
pub mod attack;
pub mod audit;
pub mod authenticate;
pub mod direct;
pub mod directory;
pub mod front;
pub mod kubeconfig;
pub mod limits;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod parts;
pub mod rbac;
pub mod seal;
pub mod upstream;

mod access_review;
mod authority;
mod bell;
mod body;
mod call;
mod cluster;
mod exchange;
mod headers;
mod identity;
mod impersonate;
mod in_task;
mod io;
mod log_share;
mod network;
mod on_wake;
mod pipe;
mod policy;
mod provenance;
mod rate;
mod refusal;
mod request_info;
mod review;
mod revocation;
mod scope;
mod service_account;
mod share;
mod status;
mod upgrade;

pub use self::{
    access_review::{ACCESS_REVIEWER, AccessReviews, Impersonated},
    authority::{Authority, AuthorityError, Provider},
    body::{Body, BoxError, boxed, empty, full},
    cluster::{ClusterName, ClusterNameError},
    identity::{Identity, IdentityError},
    io::{BoxedIo, Io},
    log_share::LogShare,
    network::{Network, NetworkError, Networks},
    policy::{ImpersonationPolicy, NeverImpersonated},
    provenance::{Method, Provenance},
    refusal::Refusal,
    request_info::{RequestInfo, StreamClass},
    revocation::Revocation,
    scope::{OutOfScope, Scope},
};

/// The target of tunnel streams that carry requests to a cluster's API server. The stream's open header is
/// [`Identity::encode`]; its payload is one HTTP/1.1 exchange.
pub const TARGET_KUBE_API: &str = "kube-api";
