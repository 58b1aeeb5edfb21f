//! `/v1/sessions`: a user registers the key of a session (PROTOCOL.md, "User sessions").
//!
//! The request is authenticated as every other: any credential of an authenticator will do, one that may only read included, since
//! a session grants nothing.

use axum::extract::Request;
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Json, Router};
use http::StatusCode;
use underpass_api::{SESSIONS, SessionMade, SessionRequest};
use underpass_core::ConnectionInfo;
use underpass_tunnel::PublicKey;

use super::problem::Problem;
use super::{Did, Requester, State, body};
use crate::limits;
use crate::sessions::{NotGranted, Shown};

pub(super) fn routes() -> Router<State> {
    Router::new().route(SESSIONS, post(register))
}

async fn register(
    state: State,
    Extension(requester): Extension<Requester>,
    info: Option<Extension<ConnectionInfo>>,
    request: Request,
) -> Result<Response, Problem> {
    let (
        Requester::User {
            identity,
            revocation,
        },
        Some(Extension(info)),
    ) = (&requester, info)
    else {
        let detail = "the operator's socket has no sessions: use the server's URL";
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    };
    if let Some(whose) = requester.whose() {
        state.pace.change(&whose)?;
    }
    let wanted: SessionRequest =
        body::read(request, "a session's key", limits::API_SMALL_BODY).await?;
    let key = wanted.public_key.parse::<PublicKey>();
    let key = key.map_err(|error| Problem::invalid(error.to_string()))?;
    requester.must_count()?;
    let shown = Shown::from(&info);
    let registered = state
        .grants
        .register(key, identity, revocation.clone(), shown);
    let is_new = registered.map_err(refused)?;
    let made = SessionMade {
        user: identity.user().to_owned(),
        is_new,
        unused_seconds: limits::SESSION_KEY_UNUSED.as_secs(),
    };
    let status = match is_new {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    Ok(Did::to("session", &key.to_string()).with((status, Json(made))))
}

fn refused(refusal: NotGranted) -> Problem {
    let detail = refusal.to_string();
    match refusal {
        NotGranted::AnothersKey => Problem::new(StatusCode::CONFLICT, detail),
        NotGranted::TooManyOfUser => Problem::later(
            StatusCode::TOO_MANY_REQUESTS,
            detail,
            limits::SESSION_KEY_UNUSED.as_secs(),
        ),
        NotGranted::TooMany => Problem::later(StatusCode::SERVICE_UNAVAILABLE, detail, 5),
    }
}
