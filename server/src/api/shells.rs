//! `/v1/clusters/{name}/shells` and `/v1/clusters/{name}/nodes/{node}/shells`: the caller's shells at agents. A shell is its agent's, and
//! no other user sees that it is there. Viewers attach by a WebSocket, which is the gateway's.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::extract::{Path, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use http::StatusCode;
use underpass_api::{
    ShellList, ShellProblem, ShellQuestion, ShellRefusal, ShellRequest, ShellView,
};
use underpass_core::{
    AgentRole, AuthorizeError, BadShellId, ImpersonationPolicy, Permission, ShellId, ShellKind,
    api_permissions,
};
use underpass_http::headers::asks_impersonation;
use underpass_tunnel::chain;

use super::nodes::{Permit, Wanted, find, permit};
use super::opening::Opening;
use super::problem::Problem;
use super::{Did, Requester, State, body, problem};
use crate::limits;
use crate::recordings::Facts;
use crate::shells::{Agents, Keeping, Opened, ShellError};

const KIND: &str = "shell";

pub(super) fn routes() -> Router<State> {
    Router::new()
        .route("/v1/clusters/{name}/shells", get(list).post(open))
        .route("/v1/clusters/{name}/shells/{id}", get(read).delete(end))
        .route(
            "/v1/clusters/{name}/nodes/{node}/shells",
            get(list).post(open),
        )
        .route(
            "/v1/clusters/{name}/nodes/{node}/shells/{id}",
            get(read).delete(end),
        )
}

/// The names in a path: of a cluster, of a node, of a shell.
type Names = HashMap<String, String>;

/// The agents of a path, and who asks them for shells of a kind.
struct Asking {
    permit: Permit,
    identity: Bytes,
    agents: Agents,
    kind: ShellKind,
    /// `cluster:NAME`, or `node:CLUSTER/NAME`.
    place: String,
    /// The permissions of a shell that is opened, at the API server.
    api: Vec<Permission>,
}

impl Asking {
    async fn new(
        state: &State,
        requester: &Requester,
        names: &Names,
        kind: ShellKind,
    ) -> Result<Self, Problem> {
        let name = |key: &str| names.get(key).map(String::as_str);
        let cluster = name("name").unwrap_or_default();
        let permit = permit(state, requester, cluster, &Wanted::shells(kind)).await?;
        let cluster = &permit.cluster;
        let (sessions, place) = match name("node") {
            Some(node) => {
                let node = find(state, cluster, node)?;
                let place = format!("node:{cluster}/{}", node.view.name);
                (node.into_sessions(), place)
            }
            None => {
                let mut sessions = state.sessions.in_role(AgentRole::Cluster);
                sessions.retain(|session| session.info().agent == cluster.as_str());
                if sessions.is_empty() {
                    let detail = format!(
                        "no agent of the cluster {cluster} is connected that serves it as a whole: ask an agent of a node"
                    );
                    return Err(Problem::new(StatusCode::NOT_FOUND, detail));
                }
                (sessions, format!("cluster:{cluster}"))
            }
        };
        let identity = permit.identity.encode();
        Ok(Self {
            identity: identity.map_err(|error| Problem::invalid(error.to_string()))?,
            permit,
            agents: Agents::with(sessions),
            kind,
            place,
            api: Vec::new(),
        })
    }

    /// Rule 8: kubectl in the shell may ask for what its caller may ask for here, and the shell ends with the first permission of these that
    /// is taken back. The operator is no user of clusters.
    async fn with_api(mut self, state: &State, requester: &Requester) -> Result<Self, Problem> {
        let Some(caller) = requester.identity() else {
            return Ok(self);
        };
        // As for calls: an identity that no caller may have counts for nothing in a cluster.
        let never = ImpersonationPolicy::default().check_caller(caller);
        never.map_err(|never| Problem::forbidden(never.to_string()))?;
        if self.kind == ShellKind::Kubectl {
            let asking = api_permissions(&*state.directory, caller, &self.permit.cluster);
            let (api, life) = asking.await.map_err(undecided)?;
            self.api = api;
            self.permit.revocation = self.permit.revocation.and(life);
        }
        Ok(self)
    }

    /// Begins a change at the agent: from here on it is not taken back, and its event says what it was (rules 15, 25).
    fn begin(&self, state: &State, requester: &Requester) -> Result<(), Problem> {
        requester.must_count()?;
        if self.permit.revocation.is_revoked() {
            return Err(Problem::forbidden(
                "the permission was taken back meanwhile",
            ));
        }
        match state.commit.begin() {
            true => Ok(()),
            false => Err(problem::too_slow()),
        }
    }

    fn into_keeping(self, state: &State) -> Keeping {
        let Permit {
            cluster,
            revocation,
            identity,
            ..
        } = self.permit;
        Keeping {
            identity,
            cluster,
            place: self.place,
            permission: revocation,
            api: self.api,
            audit: state.audit_log.clone(),
            sessions: Arc::clone(&state.sessions),
        }
    }

    fn did(&self, id: &ShellId) -> Did {
        Did::to(KIND, id.as_str()).subject(&self.place)
    }
}

fn undecided(error: AuthorizeError) -> Problem {
    tracing::error!("no decision about a shell: {}", chain(&error));
    let detail = "the server cannot decide now: try again";
    Problem::later(StatusCode::SERVICE_UNAVAILABLE, detail, 1)
}

/// The shell that a path names, with the agents to ask about it. Callers name an id alone: it may be of either kind, of which one may
/// be forbidden to them.
async fn named(
    state: &State,
    requester: &Requester,
    names: &Names,
) -> Result<(Asking, ShellView), Problem> {
    let id = names.get("id").map(String::as_str).unwrap_or_default();
    let id: ShellId = id
        .parse()
        .map_err(|error: BadShellId| Problem::invalid(error.to_string()))?;
    let mut first = None;
    for kind in ShellKind::ALL {
        let question = ShellQuestion::Read { id: id.clone() };
        let found = match Asking::new(state, requester, names, kind).await {
            Ok(asking) => {
                let about = asking.agents.about(kind, &asking.identity, &question).await;
                about.map(|view| (asking, view)).map_err(Problem::from)
            }
            Err(problem) => Err(problem),
        };
        match found {
            Ok(found) => return Ok(found),
            // That there is none says more than that another kind is forbidden.
            Err(problem) if problem.is_not_found() => first = Some(problem),
            Err(problem) => first = first.or(Some(problem)),
        }
    }
    Err(first.unwrap_or_else(|| Problem::not_found(KIND, id.as_str())))
}

async fn list(
    state: State,
    requester: Requester,
    Path(names): Path<Names>,
) -> Result<Response, Problem> {
    let mut items = Vec::new();
    for kind in ShellKind::ALL {
        let asking = match (kind, Asking::new(&state, &requester, &names, kind).await) {
            (_, Ok(asking)) => asking,
            (ShellKind::Kubectl, Err(problem)) => return Err(problem),
            // They may have shells of the other kind alone.
            (_, Err(_)) => continue,
        };
        items.extend(asking.agents.list(kind, &asking.identity).await?);
    }
    items.sort_by_key(|view: &ShellView| std::cmp::Reverse(view.created));
    Ok(Json(ShellList { items }).into_response())
}

async fn open(
    state: State,
    requester: Requester,
    Path(names): Path<Names>,
    request: Request,
) -> Result<Response, Problem> {
    if asks_impersonation(request.headers()) {
        // Rule 16: a caller that acts as another user must not find the shell to be its own.
        let detail = "a shell is opened as the caller, and as nobody else: leave the Impersonate headers out";
        return Err(Problem::invalid(detail));
    }
    let wanted: ShellRequest = body::read(request, "a shell", limits::SHELL_BODY).await?;
    ShellRequest::check_command(&wanted.command)
        .map_err(|error| Problem::invalid(error.to_string()))?;
    let command = words(&wanted.command);
    let asking = Asking::new(&state, &requester, &names, wanted.kind).await?;
    let asking = asking.with_api(&state, &requester).await?;
    let keepers = state.sessions.keepers();
    let opening = Opening {
        agents: &asking.agents,
        kind: asking.kind,
        identity: &asking.identity,
        api: &asking.api,
        recordings: keepers.recordings(),
        holder: asking.permit.origin.holder(asking.permit.identity.user()),
    };
    // First: nothing is opened that has to be recorded and cannot be.
    opening.check().await?;
    asking.begin(&state, &requester)?;
    let about = |opened: &Opened, recording| {
        let Permit {
            cluster,
            identity,
            origin,
            ..
        } = &asking.permit;
        let recorded = (&opened.view, recording);
        Facts::new(
            cluster,
            recorded,
            (identity, origin),
            &asking.place,
            &opened.agent,
        )
    };
    let (opened, recorded) = match opening.open(wanted, about, &state.sessions).await {
        Ok(opened) => opened,
        Err(problem) => {
            let did = Did::to(KIND, "").subject(&asking.place).arguments(&command);
            return Ok(did.refused(&problem).with(problem.into_response()));
        }
    };
    let view = opened.view.clone();
    let mut grant = view.kind.to_string();
    if !view.missing.is_empty() {
        grant.push_str(&format!(", without {}", view.missing.join(", ")));
    }
    grant.push_str(&recorded);
    let did = asking.did(&view.id).grant(grant).arguments(&command);
    keepers.keep(opened, asking.into_keeping(&state));
    Ok(did.with((StatusCode::CREATED, Json(view))))
}

/// The words of a command, for the audit log: `command.00` and so on.
fn words(command: &[String]) -> BTreeMap<String, String> {
    let words = command.iter().enumerate();
    let words = words.map(|(at, word)| (format!("command.{at:02}"), word.clone()));
    words.collect()
}

async fn read(
    state: State,
    requester: Requester,
    Path(names): Path<Names>,
) -> Result<Response, Problem> {
    let (_, view) = named(&state, &requester, &names).await?;
    Ok(Json(view).into_response())
}

async fn end(
    state: State,
    requester: Requester,
    Path(names): Path<Names>,
) -> Result<Response, Problem> {
    let (asking, ShellView { id, .. }) = named(&state, &requester, &names).await?;
    asking.begin(&state, &requester)?;
    let question = ShellQuestion::End { id: id.clone() };
    let ending = asking
        .agents
        .about(asking.kind, &asking.identity, &question);
    let (ended, did) = (ending.await, asking.did(&id));
    Ok(match ended {
        Ok(_) => did.removed().with(StatusCode::NO_CONTENT),
        Err(error) => did.with(Problem::from(error).into_response()),
    })
}

impl From<ShellError> for Problem {
    fn from(error: ShellError) -> Self {
        match error {
            ShellError::Ask(error) => error.into(),
            ShellError::Refused(problem) => problem.into(),
            ShellError::Silent => Self::later(StatusCode::GATEWAY_TIMEOUT, error.to_string(), 1),
        }
    }
}

/// An agent's own words.
impl From<ShellProblem> for Problem {
    fn from(problem: ShellProblem) -> Self {
        let status = match problem.reason {
            ShellRefusal::Malformed => StatusCode::UNPROCESSABLE_ENTITY,
            ShellRefusal::Forbidden | ShellRefusal::Unprotected => StatusCode::FORBIDDEN,
            ShellRefusal::NotFound => StatusCode::NOT_FOUND,
            ShellRefusal::TooMany => StatusCode::CONFLICT,
            ShellRefusal::Stopping => {
                return Self::later(StatusCode::SERVICE_UNAVAILABLE, problem.detail, 1);
            }
            _ => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, problem.detail)
    }
}
