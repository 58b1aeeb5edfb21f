//! `/v1/clusters/{name}/registration`: the credential that an agent has registered, which never comes out.

use axum::extract::Path;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use underpass_api::RegistrationStatus;
use underpass_directory::{Draft, Expect, Registration};

use super::problem::Problem;
use super::{Did, Requester, State};

/// The kind, for problems and the audit log.
const KIND: &str = "registration";

pub(super) fn routes() -> Router<State> {
    let path = "/v1/clusters/{name}/registration";
    Router::new().route(path, get(read).delete(remove))
}

/// The visible part.
pub(super) fn status(registration: &Registration) -> RegistrationStatus {
    RegistrationStatus {
        server: registration.endpoint.server().to_owned(),
        account: registration.account.to_string(),
        agent: registration.agent.clone(),
        registered: registration.created,
        expires: registration.expires,
    }
}

async fn read(
    state: State,
    requester: Requester,
    Path(name): Path<String>,
) -> Result<Json<RegistrationStatus>, Problem> {
    let snapshot = state.directory.snapshot();
    // It says where the API server is.
    requester.must_administer(&snapshot)?;
    let found = snapshot.get::<Registration>(&name);
    let found = found.ok_or_else(|| Problem::not_found(KIND, &name))?;
    Ok(Json(status(&found.object)))
}

async fn remove(
    state: State,
    requester: Requester,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let remove = |draft: &mut Draft| {
        requester.must_administer(draft.before())?;
        let found = draft.get::<Registration>(&name);
        let found = found.map(|entry| entry.object.clone());
        let found = found.ok_or_else(|| Problem::not_found(KIND, &name))?;
        draft.remove::<Registration>(&name, Expect::Present)?;
        state.commit.is_to(did(&name, &found).removed());
        Ok(found)
    };
    let removed = state.change(&requester, remove).await?;
    Ok(did(&name, &removed).removed().with(StatusCode::NO_CONTENT))
}

fn did(name: &str, registration: &Registration) -> Did {
    let Registration {
        account, expires, ..
    } = registration;
    Did::to(KIND, name)
        .subject(format!("cluster:{name}"))
        .grant(format!("account {account}; until {expires}"))
}
