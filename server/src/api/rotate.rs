//! `POST /v1/agents/{id}/rotate`: has an agent that is connected rotate its key now.

use axum::Json;
use axum::extract::Path;
use axum::response::Response;
use http::StatusCode;
use underpass_api::KeyRotated;
use underpass_directory::Agent;
use underpass_tunnel::chain;

use super::agents::{did, is_visible};
use super::problem::{self, Problem};
use super::{Requester, State};
use crate::tunnel::{AskError, have_rotated};

pub(super) async fn rotate(
    state: State,
    requester: Requester,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let snapshot = state.directory.snapshot();
    let agent = snapshot
        .get::<Agent>(&id)
        .filter(|entry| is_visible(&requester.rights(&snapshot), &entry.object))
        .ok_or_else(|| Problem::not_found("agent", &id))?;
    let agent = &agent.object;
    if agent.has_static_token() {
        let detail = "the key of a static token is not rotated: make another token for the cluster (`underpass cluster add \
                      NAME --static-token`), give it to the agent, and revoke this one";
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    let sessions = state.sessions.of_agent(&id);
    let session = sessions.first().ok_or_else(not_connected)?;
    if let Some(whose) = requester.whose() {
        state.pace.change(&whose)?;
    }
    // From here on it is not taken back.
    state.commit.is_to(did(&id, &agent.cluster));
    requester.must_count()?;
    if !state.commit.begin() {
        return Err(problem::too_slow());
    }
    let rotated = have_rotated(session, &state.directory, &id, &agent.key).await;
    let key = rotated.inspect_err(|error| tracing::debug!(agent = id, "{}", chain(error)))?;
    let key = key.to_string();
    let did = did(&id, &agent.cluster).grant(format!("key {key}"));
    Ok(did.with(Json(KeyRotated { agent: id, key })))
}

fn not_connected() -> Problem {
    let detail = "the agent is not connected; it rotates its key by itself when it is old enough (`--key-lifetime`)";
    Problem::new(StatusCode::CONFLICT, detail)
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        let status = match error {
            AskError::Unknown | AskError::Failed(_) | AskError::Kept | AskError::Revoked => {
                StatusCode::CONFLICT
            }
            AskError::Gone(_) | AskError::NotYet => StatusCode::SERVICE_UNAVAILABLE,
            AskError::Timeout => StatusCode::GATEWAY_TIMEOUT,
            AskError::Unreadable(_) | AskError::Untrue => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, error.to_string())
    }
}
