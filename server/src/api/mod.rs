//! The server's own API below `/v1`: the directory for people and programs.
//!
//! JSON. Every object has a name and a revision, which is its `ETag`: `If-Match` refuses a change of something that
//! changed meanwhile, `If-None-Match` saves reading it again. Lists come in pages. Errors are problem details
//! (RFC 9457). [`openapi`] describes all of it, and a test compares.

mod access;
mod agents;
mod bindings;
mod clusters;
mod first;
mod groups;
mod myself;
mod openapi;
mod page;
mod problem;
mod requester;
mod resource;
#[cfg(test)]
mod tests;
mod tokens;
mod users;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use http::{Request, Response};
use tower::ServiceExt;
use underpass_proxy::directory::Directory;
use underpass_proxy::{Body, ClusterName};

pub(crate) use self::access::{AccessGiven, AccessRequest};
pub(crate) use self::agents::{AgentMade, AgentRequest, View as AgentView};
pub(crate) use self::bindings::{Spec as BindingSpec, Status as BindingStatus};
pub(crate) use self::clusters::{Spec as ClusterSpec, Status as ClusterStatus};
pub(crate) use self::first::{NAME as FIRST_ADMINISTRATOR, first_administrator};
pub(crate) use self::groups::{Spec as GroupSpec, Status as GroupStatus};
pub(crate) use self::page::List;
pub(crate) use self::problem::Problem;
pub(crate) use self::requester::Requester;
pub(crate) use self::resource::{View, segment};
pub(crate) use self::tokens::{TokenMade, TokenRequest, View as TokenView};
pub(crate) use self::users::{Spec as UserSpec, Status as UserStatus};
use crate::limits;

/// What begins every path of the API.
pub(crate) const PREFIX: &str = "/v1/";

/// The API: routes over a directory.
#[derive(Clone)]
pub(crate) struct Api {
    router: Router,
}

/// What requests are answered from.
#[derive(Clone)]
struct State {
    directory: Arc<Directory>,
    sessions: Sessions,
}

/// How many agents of a cluster are connected to this server; nothing where no server runs.
pub(crate) type Sessions = Arc<dyn Fn(&ClusterName) -> Option<usize> + Send + Sync>;

impl Api {
    pub(crate) fn new(directory: Arc<Directory>, sessions: Sessions) -> Self {
        let state = State {
            directory,
            sessions,
        };
        let router = Router::new()
            .route("/v1/openapi.json", get(openapi::serve))
            .merge(resource::routes::<clusters::Clusters>())
            .merge(resource::routes::<users::Users>())
            .merge(resource::routes::<groups::Groups>())
            .merge(resource::routes::<bindings::Bindings>())
            .merge(agents::routes())
            .merge(tokens::routes())
            .merge(access::routes())
            .merge(myself::routes())
            .fallback(problem::no_such_path)
            .method_not_allowed_fallback(problem::no_such_method)
            .layer(DefaultBodyLimit::max(limits::API_BODY))
            .with_state(state);
        Self { router }
    }

    /// Answers a request of somebody who has been authenticated, at `client` where they came over the network.
    pub(crate) async fn answer<B>(
        &self,
        mut request: Request<B>,
        requester: Requester,
        client: Option<IpAddr>,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let user = requester.name().to_owned();
        request.extensions_mut().insert(requester);
        let request = request.map(axum::body::Body::new);
        let Ok(response) = self.router.clone().oneshot(request).await;
        let code = response.status().as_u16();
        tracing::info!(
            target: "underpass::audit",
            client = client.map(tracing::field::display), user, %method, path, code,
            "request to the API"
        );
        response.map(underpass_proxy::boxed)
    }
}
