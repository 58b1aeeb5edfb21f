//! The server's own API below `/v1`: the directory for people and programs.
//!
//! JSON. Every object has a name and a revision, which is its `ETag`: `If-Match` refuses a change of something that
//! changed meanwhile, `If-None-Match` saves reading it again. Lists come in pages. Errors are problem details
//! (RFC 9457). [`openapi`] describes all of it, and a test compares.

mod access;
mod agents;
mod answer;
mod begun;
mod bindings;
mod body;
mod calendar;
mod clusters;
mod did;
mod direct;
mod first;
mod groups;
mod join;
mod join_metrics;
mod join_pod;
mod join_tokens;
mod login;
mod myself;
mod nodes;
mod openapi;
mod opening;
mod operations;
mod output_page;
mod page;
mod passwords;
mod places;
mod problem;
mod recordings;
mod registration;
mod requester;
mod resource;
mod rotate;
mod server;
mod sessions;
mod share;
mod shells;
#[cfg(test)]
mod tests;
mod tokens;
mod users;
mod waiting_line;

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts};
use axum::response::IntoResponse;
use axum::routing::get;
use http::header::USER_AGENT;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use time::OffsetDateTime;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use underpass_api::ServerInfo;
use underpass_audit::{AuditLog, OwnCall, OwnCaller, cut};
use underpass_authenticate::{Caller, Failures};
use underpass_core::ConnectionInfo;
use underpass_core::{AgentRole, Body, ClusterName, Clusters, Rejection, Through};
use underpass_direct::DirectClusters;
use underpass_directory::{Directory, Draft};
use underpass_tunnel::Session;

use self::begun::{Begun, Commit};
use self::did::Did;
pub(crate) use self::first::{
    NAME as FIRST_ADMINISTRATOR, first_administrator, needs_first_administrator, new_administrator,
};
use self::join_pod::Reviews;
pub(crate) use self::login::Logins;
use self::problem::Problem;
pub(crate) use self::requester::Requester;
use self::share::{Pace, Seat, Seats, Whose};
use self::waiting_line::WaitingLine;
use crate::limits;
use crate::sessions::Grants;
use crate::shells::Keepers;

/// The status of a request whose client has gone away before its answer, as nginx has it in its log.
const CLIENT_GONE: u16 = 499;

/// The API: routes over a directory.
#[derive(Clone)]
pub(crate) struct Api {
    router: Router,
    audit_log: AuditLog,
    places: Seats,
    grants: Arc<Grants>,
    /// Requests that end, and are written down, without their clients.
    tasks: TaskTracker,
}

/// The parts that requests are answered from.
#[derive(Clone)]
struct State {
    directory: Arc<Directory>,
    sessions: Sessions,
    logins: Arc<Logins>,
    audit_log: AuditLog,
    direct: Arc<DirectClusters>,
    server: Arc<ServerInfo>,
    places: Seats,
    pace: Arc<Pace>,
    /// Agents that wait for a place to join.
    for_places: Arc<WaitingLine>,
    /// The same for a turn among the changes.
    for_turns: Arc<WaitingLine>,
    /// Wrong join tokens.
    guesses: Arc<Failures>,
    reviews: Arc<Reviews>,
    /// The keys of users' sessions.
    grants: Arc<Grants>,
    /// Of the request that is being answered.
    commit: Commit,
}

impl FromRequestParts<State> for State {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, shared: &State) -> Result<Self, Infallible> {
        let mut state = shared.clone();
        state.commit = parts.extensions.get().cloned().unwrap_or_default();
        Ok(state)
    }
}

/// From where a request comes.
#[derive(Debug, Clone, Copy)]
struct Client(IpAddr);

impl State {
    /// Makes a change that `requester` asks for, while their credential counts, and no faster than they may.
    async fn change<T>(
        &self,
        requester: &Requester,
        mut make: impl FnMut(&mut Draft) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        if let Some(whose) = requester.whose() {
            self.pace.change(&whose)?;
        }
        self.write(|draft| {
            requester.must_count()?;
            make(draft)
        })
        .await
    }

    /// A turn among the changes for an agent that joins; `may_join`, so many of its cluster may, as far as its credential goes.
    fn take_turn(
        &self,
        whose: &Whose,
        cluster: &ClusterName,
        may_join: u32,
    ) -> Result<(), Problem> {
        let turn = self.pace.change(whose);
        turn.map_err(|problem| problem.after(self.for_turns.join(cluster, may_join)))
    }

    /// A place for an agent that joins.
    fn take_place(
        &self,
        whose: Whose,
        cluster: &ClusterName,
        may_join: u32,
    ) -> Result<Seat, Problem> {
        let place = self.places.take(whose);
        // In no case at once.
        let wait = || Duration::from_secs(1) + self.for_places.join(cluster, may_join);
        place.map_err(|problem| problem.after(wait()))
    }

    /// Makes a change, unless the request has taken too long before the change is written. From then on the answer waits for
    /// it, and the audit log says what it was.
    async fn write<T>(
        &self,
        mut make: impl FnMut(&mut Draft) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        let change = |draft: &mut Draft| {
            let made = make(draft)?;
            match self.commit.begin() {
                true => Ok(made),
                false => Err(problem::too_slow()),
            }
        };
        Ok(self.directory.change(change).await?.value)
    }
}

/// The agents' sessions with this server.
pub(crate) trait Connected: Send + Sync {
    /// How many sessions agents have that serve the cluster's API server.
    fn serving(&self, cluster: &ClusterName) -> usize;

    /// The agents that serve the cluster's API server.
    fn served_by(&self, cluster: &ClusterName) -> BTreeSet<Through>;

    /// How many sessions there are, by the agents' ids.
    fn by_agent(&self) -> HashMap<String, usize>;

    /// The sessions of an agent with this id, those first that are most likely to answer.
    fn of_agent(&self, id: &str) -> Vec<Session>;

    /// The shells whose ends are waited for.
    fn keepers(&self) -> Arc<Keepers>;

    /// The sessions of agents in a role, of all clusters.
    fn in_role(&self, role: AgentRole) -> Vec<Session>;
}

/// One for all requests.
pub(crate) type Sessions = Arc<dyn Connected>;

impl Api {
    /// Answers from a directory and what the server knows beside it.
    pub(crate) fn new(
        directory: Arc<Directory>,
        sessions: Sessions,
        direct: Arc<DirectClusters>,
        logins: Arc<Logins>,
        server: ServerInfo,
        audit_log: AuditLog,
        agents: Arc<dyn Clusters>,
    ) -> Self {
        let reviews = Arc::new(Reviews::new(agents, server.url.clone()));
        Self::over(State {
            reviews,
            directory,
            sessions,
            direct,
            logins,
            server: Arc::new(server),
            audit_log,
            places: Seats::default(),
            pace: Arc::default(),
            for_places: Arc::new(WaitingLine::new(limits::JOIN_PLACE_EVERY)),
            for_turns: Arc::new(WaitingLine::new(limits::CHANGE_PER_USER_EVERY)),
            guesses: Arc::default(),
            grants: Arc::default(),
            commit: Commit::default(),
        })
    }

    fn over(state: State) -> Self {
        let (audit_log, places) = (state.audit_log.clone(), state.places.clone());
        let grants = Arc::clone(&state.grants);
        let router = Router::new()
            .route("/v1/openapi.json", get(openapi::serve))
            .merge(resource::routes::<clusters::Clusters>())
            .merge(resource::routes::<users::Users>())
            .merge(resource::routes::<groups::Groups>())
            .merge(resource::routes::<bindings::Bindings>())
            .merge(direct::routes())
            .merge(agents::routes())
            .merge(join_tokens::routes())
            .merge(registration::routes())
            .merge(join::routes())
            .merge(nodes::routes())
            .merge(operations::routes())
            .merge(shells::routes())
            .merge(recordings::routes())
            .merge(tokens::routes())
            .merge(access::routes())
            .merge(myself::routes())
            .merge(server::routes())
            .merge(sessions::routes())
            .merge(login::routes())
            .merge(passwords::routes())
            .fallback(problem::no_such_path)
            .method_not_allowed_fallback(problem::no_such_method)
            .layer(DefaultBodyLimit::max(limits::API_BODY))
            .with_state(state);
        Self {
            router,
            audit_log,
            places,
            grants,
            tasks: TaskTracker::new(),
        }
    }

    /// The keys of users' sessions, which users register here.
    pub(crate) fn grants(&self) -> Arc<Grants> {
        Arc::clone(&self.grants)
    }

    /// Waits for requests that have begun and whose clients may be gone. There must not be another one from here on.
    pub(crate) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
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
        let here = client.unwrap_or(Ipv4Addr::LOCALHOST.into());
        request.extensions_mut().insert(Client(here));
        request.extensions_mut().insert(requester.clone());
        let is_safe = request.method().is_safe();
        let this = self.clone();
        let answering = async move { this.answer_in_place(request, requester, client).await };
        if is_safe {
            return answering.await;
        }
        // A change that has begun ends, and is written down, also if its client goes away.
        let answered = self.tasks.spawn(answering).await;
        answered.unwrap_or_else(|error| unanswered(&error))
    }

    /// Answers in a place of the requester's, once there is room in the audit log for what comes of it.
    async fn answer_in_place<B>(
        &self,
        request: Request<B>,
        requester: Requester,
        client: Option<IpAddr>,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let received = OffsetDateTime::now_utc();
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let agent = request.headers().get(USER_AGENT).cloned();
        let place = requester.whose().map(|whose| self.places.take(whose));
        let (place, response) = match place.transpose() {
            Err(turned_away) => (None, respond(turned_away)),
            Ok(place) => {
                let ready = match method {
                    // Revocations are among these.
                    Method::PUT | Method::PATCH | Method::DELETE => {
                        self.audit_log.ready_to_revoke().await
                    }
                    _ => self.audit_log.ready().await,
                };
                let response = match ready {
                    Ok(()) => self.route(request).await,
                    Err(_stuck) => respond(problem::unwritten()),
                };
                (place, response)
            }
        };
        let did = response.extensions().get::<Did>();
        self.write_down(&OwnCall {
            caller: match requester.identity() {
                Some(identity) => OwnCaller::Identity(identity),
                None => OwnCaller::Known(requester.name()),
            },
            client,
            method: &method,
            path: &path,
            user_agent: text(agent.as_ref()),
            received,
            code: response.status().as_u16(),
            details: did.map(Did::details).unwrap_or_default(),
        });
        answer::hold(response, place).await
    }

    fn write_down(&self, call: &OwnCall<'_>) {
        let Some(told) = self.audit_log.own_call(call) else {
            return;
        };
        let short = |text| cut(text, told.text_chars());
        let suppressed = told.suppressed();
        tracing::info!(
            target: "underpass::audit",
            client = call.client.map(tracing::field::display), user = cut(call.user(), told.name_chars()),
            method = short(call.method.as_str()), path = short(call.path), code = call.code,
            suppressed = (suppressed > 0).then_some(suppressed),
            "request to the API"
        );
    }

    /// Writes down a request whose caller is not known, and answers it.
    pub(crate) fn refuse<B>(
        &self,
        request: &Request<B>,
        info: &ConnectionInfo,
        rejection: &Rejection,
    ) -> Response<Body> {
        let claims = claims(request.headers(), info);
        let agent = request.headers().get(USER_AGENT);
        self.write_down(&OwnCall {
            caller: OwnCaller::Claimed(claims.as_deref().unwrap_or_default()),
            client: Some(info.peer.client(request.headers())),
            method: request.method(),
            path: request.uri().path(),
            user_agent: text(agent),
            received: OffsetDateTime::now_utc(),
            code: rejection.code().as_u16(),
            details: &[],
        });
        respond(Problem::from(rejection))
    }

    /// Answers a login, or an agent that joins: callers that are not yet authenticated. A client that goes away takes its request
    /// back until its credential is known to be good.
    pub(crate) async fn admit<B>(
        &self,
        mut request: Request<B>,
        info: &ConnectionInfo,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let begun = Begun::default();
        request.extensions_mut().insert(begun.clone());
        let facts = AdmissionFacts::of(&request, info);
        let abandoned = {
            let (this, facts) = (self.clone(), facts.clone());
            // A guess may have been counted, or sent to a directory.
            move || this.write_down_admission(&facts, CLIENT_GONE, None)
        };
        let (this, info) = (self.clone(), info.clone());
        let task = async move { this.answer_admission(request, info, &facts).await };
        let task = self.tasks.spawn(task);
        let client = begun.or_abort(task.abort_handle(), abandoned);
        let response = task.await.unwrap_or_else(|error| unanswered(&error));
        client.answered();
        response
    }

    async fn answer_admission<B>(
        &self,
        mut request: Request<B>,
        info: ConnectionInfo,
        facts: &AdmissionFacts,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        request.extensions_mut().insert(info);
        let response = self.route(request).await;
        let did = response.extensions().get::<Did>();
        self.write_down_admission(facts, response.status().as_u16(), did);
        response
    }

    fn write_down_admission(&self, facts: &AdmissionFacts, code: u16, did: Option<&Did>) {
        // Only a login, or a key that is registered, makes a client known: strangers get a 200 for other requests.
        let known = did.and_then(Did::user);
        self.write_down(&OwnCall {
            caller: match known {
                Some(name) => OwnCaller::Known(name),
                None => OwnCaller::Claimed(facts.claims.as_deref().unwrap_or_default()),
            },
            client: Some(facts.client),
            method: &facts.method,
            path: &facts.path,
            user_agent: text(facts.user_agent.as_ref()),
            received: facts.received,
            code,
            details: did.map(Did::details).unwrap_or_default(),
        });
    }

    async fn route<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let mut request = request.map(axum::body::Body::new);
        let commit = Commit::default();
        request.extensions_mut().insert(commit.clone());
        let mut answering = pin!(self.router.clone().oneshot(request));
        let answered = tokio::time::timeout(limits::API_TIME, answering.as_mut()).await;
        let Ok(mut response) = match answered {
            Ok(answered) => answered,
            Err(_) if commit.take_back() => Ok(problem::too_slow().into_response()),
            Err(_) => answering.await,
        };
        if response.extensions().get::<Did>().is_none()
            && let Some(did) = commit.was_to()
        {
            response.extensions_mut().insert(did);
        }
        response.map(underpass_core::boxed)
    }
}

/// Facts about the request of a caller that is not yet authenticated, for the audit log.
#[derive(Clone)]
struct AdmissionFacts {
    received: OffsetDateTime,
    client: IpAddr,
    method: Method,
    path: String,
    user_agent: Option<HeaderValue>,
    /// The name that the client gives.
    claims: Option<String>,
}

impl AdmissionFacts {
    fn of<B>(request: &Request<B>, info: &ConnectionInfo) -> Self {
        Self {
            received: OffsetDateTime::now_utc(),
            client: info.peer.client(request.headers()),
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            user_agent: request.headers().get(USER_AGENT).cloned(),
            claims: claims(request.headers(), info),
        }
    }
}

fn unanswered(error: &tokio::task::JoinError) -> Response<Body> {
    tracing::error!("a request to the API was not answered: {error}");
    let detail = "the request was not answered; the server's log says why";
    respond(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail))
}

fn respond(problem: Problem) -> Response<Body> {
    problem.into_response().map(underpass_core::boxed)
}

/// The name that a caller gives with a password; nobody knows it to be theirs.
fn claims(headers: &HeaderMap, info: &ConnectionInfo) -> Option<String> {
    let caller = Caller::read(headers, info)?;
    Some(caller.password()?.user().to_owned())
}

fn text(header: Option<&HeaderValue>) -> &str {
    let text = header.and_then(|value| value.to_str().ok());
    text.unwrap_or_default()
}
