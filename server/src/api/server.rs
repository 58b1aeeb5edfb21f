//! `/v1/server`: how users and agents reach the server.

use axum::extract::State as From;
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use underpass_api::{SERVER, ServerInfo};

use super::problem::Problem;
use super::{Requester, State};

pub(super) fn routes() -> Router<State> {
    Router::new().route(SERVER, get(read))
}

async fn read(From(state): From<State>, _: Requester) -> Result<Json<ServerInfo>, Problem> {
    let server = state.server.as_deref().cloned();
    server.map(Json).ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            "no server runs on this data directory",
        )
    })
}
