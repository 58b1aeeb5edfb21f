//! `/v1/clusters/{name}/nodes`: nodes whose agents are connected, and the right to ask them.

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use underpass_api::{NodeList, OperationProblem, OperationRefusal};
use underpass_core::{
    Access, AgentRole, AuthorizeError, Authorizer, ClusterName, Identity, Revocation, ShellKind,
    Target,
};
use underpass_tunnel::{ResetCode, chain};

use super::problem::Problem;
use super::{Requester, State};
use crate::nodes::{self, Node};
use crate::questions::AskError;
use crate::recordings::Origin;

pub(super) fn routes() -> Router<State> {
    Router::new().route("/v1/clusters/{name}/nodes", get(list))
}

async fn list(
    state: State,
    requester: Requester,
    Path(cluster): Path<String>,
) -> Result<Response, Problem> {
    let permit = permit(&state, &requester, &cluster, &Wanted::OPERATIONS).await?;
    let nodes = connected(&state, &permit.cluster);
    let items = nodes.into_iter().map(|node| node.view).collect();
    Ok(Json(NodeList { items }).into_response())
}

/// A permission to ask a cluster's agents.
#[derive(Clone)]
pub(super) struct Permit {
    pub(super) cluster: ClusterName,
    /// The life of the permission.
    pub(super) revocation: Revocation,
    /// The caller, for the agents.
    pub(super) identity: Identity,
    /// The cluster and the caller as they were made.
    pub(super) origin: Origin,
}

/// The permission that a request needs.
pub(super) struct Wanted {
    pub(super) target: Target,
    /// The roles that give it, for people.
    pub(super) roles: &'static str,
}

impl Wanted {
    /// To ask about operations.
    pub(super) const OPERATIONS: Self = Self {
        target: Target::Operation,
        roles: "operations or admin",
    };

    /// To ask about shells of this kind.
    pub(super) const fn shells(kind: ShellKind) -> Self {
        Self {
            target: Target::Shells(kind),
            roles: match kind {
                ShellKind::Kubectl => "shell, operate or admin",
                ShellKind::Node => "admin",
            },
        }
    }
}

/// Rule 8: the role is asked about before anything is looked up.
pub(super) async fn permit(
    state: &State,
    requester: &Requester,
    cluster: &str,
    wanted: &Wanted,
) -> Result<Permit, Problem> {
    let Wanted { target, roles } = wanted;
    let denied = || Problem::forbidden(format!("this needs the role {roles} on the cluster"));
    let cluster = match ClusterName::new(cluster) {
        Ok(cluster) => cluster,
        Err(_) if requester.is_administrator(&state.directory.snapshot()) => {
            return Err(Problem::not_found("cluster", cluster));
        }
        Err(_) => return Err(denied()),
    };
    let (identity, revocation) = match requester {
        Requester::Operator => {
            let name = requester.name().to_owned();
            let identity = Identity::new(name, None, vec![], Default::default());
            (identity.map_err(|_| denied())?, Revocation::never())
        }
        Requester::User {
            identity,
            revocation,
        } => {
            if !requester.scope().includes(&cluster) {
                return Err(denied());
            }
            let access = Access::to(identity, &cluster, target);
            let right = match state.directory.authorize(&access).await {
                Ok(right) => right,
                Err(AuthorizeError::Denied { .. }) => return Err(denied()),
                Err(error) => {
                    tracing::error!("no decision about {target}: {}", chain(&error));
                    let detail = "the server cannot decide now: try again";
                    return Err(Problem::later(StatusCode::SERVICE_UNAVAILABLE, detail, 1));
                }
            };
            (Identity::clone(identity), right.and(revocation.clone()))
        }
    };
    let origin = Origin::now(&state.directory.snapshot(), &cluster, requester.identity());
    // Behind the look at the directory: the caller may have been removed, and made again, meanwhile.
    requester.must_count()?;
    if revocation.is_revoked() {
        return Err(denied());
    }
    let Some(origin) = origin else {
        return Err(Problem::not_found("cluster", cluster.as_str()));
    };
    Ok(Permit {
        cluster,
        revocation,
        identity,
        origin,
    })
}

fn connected(state: &State, cluster: &ClusterName) -> Vec<Node> {
    let sessions = state.sessions.in_role(AgentRole::Node);
    nodes::connected(sessions, &state.directory.snapshot(), cluster)
}

/// The node of this name; where there is none, that of the agent with this id.
pub(super) fn find(state: &State, cluster: &ClusterName, name: &str) -> Result<Node, Problem> {
    let mut nodes = connected(state, cluster);
    let named = nodes.iter().position(|node| node.view.name == name);
    let found = named.or_else(|| nodes.iter().position(|node| node.view.agent == name));
    found.map(|at| nodes.swap_remove(at)).ok_or_else(|| {
        let detail = format!("no agent of the node {name:?} is connected");
        Problem::new(StatusCode::NOT_FOUND, detail).about("node", name)
    })
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        tracing::debug!("a node gives no answer: {}", chain(&error));
        let status = match &error {
            AskError::Refused { code, .. } => match code {
                ResetCode::Forbidden => StatusCode::FORBIDDEN,
                ResetCode::UnknownTarget => StatusCode::NOT_IMPLEMENTED,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            },
            AskError::Gone | AskError::Dial(_) => {
                return Self::later(StatusCode::SERVICE_UNAVAILABLE, error.to_string(), 1);
            }
            // A 503 says that nothing was begun, and its event may be left out.
            AskError::Lost(_) | AskError::Unasked(_) => {
                return Self::later(StatusCode::GATEWAY_TIMEOUT, error.to_string(), 1);
            }
            AskError::Unreadable => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, error.to_string())
    }
}

/// An agent's own words: it says why, and about what.
impl From<OperationProblem> for Problem {
    fn from(problem: OperationProblem) -> Self {
        let status = match problem.reason {
            OperationRefusal::UnknownOperation | OperationRefusal::NotFound => {
                StatusCode::NOT_FOUND
            }
            OperationRefusal::Forbidden => StatusCode::FORBIDDEN,
            OperationRefusal::WrongArguments => StatusCode::UNPROCESSABLE_ENTITY,
            OperationRefusal::Conflict | OperationRefusal::Busy | OperationRefusal::Ended => {
                StatusCode::CONFLICT
            }
            OperationRefusal::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            OperationRefusal::Storage => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, problem.detail).of_operation(problem.reason, problem.parameter)
    }
}
