//! `/v1/server`: how users and agents reach the server.

use axum::routing::get;
use axum::{Json, Router};
use underpass_api::{SERVER, ServerInfo};

use super::{Requester, State};

pub(super) fn routes() -> Router<State> {
    Router::new().route(SERVER, get(read))
}

async fn read(state: State, _: Requester) -> Json<ServerInfo> {
    Json(ServerInfo::clone(&state.server))
}
