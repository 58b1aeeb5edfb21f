//! `/v1/join`: an agent registers its own key with a join token. Beside the login it is the one path that takes callers without
//! authentication.
//!
//! The join token stands in the `Authorization` header, so that nothing of a stranger's body is read (security rule 23). Wrong ones
//! count as wrong credentials of their network, which has to wait then, and each takes the same work: one hash, one look-up. A right
//! one waits for nobody's guesses: it has 256 bits. The body has the key, and
//! the proof that the agent holds it. The audit log has every outcome.

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use http::StatusCode;
use time::OffsetDateTime;
use underpass_api::{JoinAnswer, JoinRefusal, JoinRequest};
use underpass_authenticate::{Caller, PodReviewer, TokenHash};
use underpass_core::ConnectionInfo;
use underpass_directory::{Draft, JoinError, JoinToken, Joined, Joining};
use underpass_tunnel::{JoinProof, PublicKey};
use zeroize::Zeroizing;

use super::begun::Begun;
use super::join_metrics::{self, Method};
use super::join_tokens::{self, KIND};
use super::problem::Problem;
use super::share::Whose;
use super::{Did, State, body, join_pod, problem};
use crate::limits;

/// The authority of the shares of agents that join, in the place of an authenticator's name.
const AUTHORITY: &str = "join-token";

/// The same for tokens without uses left: their holders delay no agent with a good token, in any cluster.
const ENDED: &str = "ended-join-token";

pub(super) fn routes() -> Router<State> {
    Router::new().route("/v1/join", post(join))
}

async fn join(
    state: State,
    info: Option<Extension<ConnectionInfo>>,
    begun: Option<Extension<Begun>>,
    request: Request,
) -> Result<Response, Problem> {
    let Some(Extension(info)) = info else {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "the operator's socket takes no agents: use the server's URL",
        ));
    };
    let caller = Caller::read(request.headers(), &info);
    let shown = caller.as_ref().and_then(Caller::bearer);
    let shown = shown.ok_or_else(|| not_joined(unknown_token()))?;
    let client = info.peer.client(request.headers());
    if PodReviewer::is_for(shown) {
        let token = Zeroizing::new(shown.to_owned());
        return join_pod::join(&state, client, token, begun, request).await;
    }
    let sha256 = TokenHash::of(shown);
    let snapshot = state.directory.snapshot();
    let Some((id, token)) = snapshot.join_token(&sha256) else {
        state.guesses.allow(client).map_err(|wait| {
            let seconds = wait.as_secs().saturating_add(1);
            let detail = "too many wrong join tokens from your network";
            not_joined(Problem::later(
                StatusCode::TOO_MANY_REQUESTS,
                detail,
                seconds,
            ))
        })?;
        state.guesses.count(client);
        return Err(not_joined(unknown_token()));
    };
    let secret = Zeroizing::new(shown.to_owned());
    let (id, token) = (id.to_owned(), token.clone());
    let registered = match begun.is_none_or(|Extension(begun)| begun.begin()) {
        true => register(&state, &id, &token, &sha256, &secret, request).await,
        false => Err(unknown_token()),
    };
    match registered {
        Ok(joined) => Ok(answer(&state, &joined)),
        Err(problem) => {
            let problem = not_joined(problem);
            if problem.why() == Some(JoinRefusal::BadProof) {
                state.guesses.count(client);
            }
            let refused = Did::to(KIND, &id).subject(format!("cluster:{}", token.cluster));
            Ok(refused.refused(&problem).with(problem.into_response()))
        }
    }
}

/// From here on the token's own shares count: a place, and a pace for answers to agents that have joined. A new agent has a turn
/// among the changes of its cluster, and only a proof of its key and a token with uses left lead there.
async fn register(
    state: &State,
    id: &str,
    token: &JoinToken,
    sha256: &TokenHash,
    secret: &str,
    request: Request,
) -> Result<Joined, Problem> {
    let may_join = token.open_uses(OffsetDateTime::now_utc());
    let by = match may_join {
        0 => ENDED,
        _ => AUTHORITY,
    };
    let of = |by: &str, name: &str| Whose {
        by: by.to_owned(),
        name: name.to_owned(),
    };
    let _place = state.take_place(of(by, id), &token.cluster, may_join)?;
    let ready = state.audit_log.ready().await;
    ready.map_err(|_stuck| problem::unwritten())?;
    let (wanted, key) = proven(request, secret).await?;
    let joining = Joining {
        sha256,
        key: &key,
        cluster: wanted.cluster.as_ref(),
        role: wanted.role,
        node: wanted.node.as_ref(),
        labels: Some(&wanted.labels),
    };
    let before = state.directory.snapshot().joined_before(&joining);
    // Each answer is written into the audit log.
    if !matches!(before, Ok(None)) {
        state.pace.change(&of(ENDED, id))?;
    }
    if let Some(joined) = before? {
        return Ok(joined);
    }
    let whose = of(AUTHORITY, token.cluster.as_str());
    state.take_turn(&whose, &token.cluster, may_join)?;
    let register = |draft: &mut Draft| Ok(draft.register(&joining)?);
    state.write(register).await
}

/// Reads the wish of an agent, and its key, which it has proven to hold for this secret.
pub(super) async fn proven(
    request: Request,
    secret: &str,
) -> Result<(JoinRequest, String), Problem> {
    let wanted: JoinRequest = body::read(request, "a key to join", limits::JOIN_BODY).await?;
    let key: PublicKey = wanted.public_key.parse().map_err(invalid)?;
    let proof: JoinProof = wanted.proof.parse().map_err(invalid)?;
    match proof.is_by(&key, secret) {
        true => Ok((wanted, key.to_string())),
        false => Err(bad_proof()),
    }
}

/// Counts a refusal.
fn not_joined(problem: Problem) -> Problem {
    join_metrics::refused(Method::JoinToken, &problem);
    problem
}

fn answer(state: &State, joined: &Joined) -> Response {
    join_metrics::joined(Method::JoinToken, joined.role, joined.is_new);
    let snapshot = state.directory.snapshot();
    let token = snapshot.get::<JoinToken>(&joined.token);
    let uses = token.map(|entry| join_tokens::uses(&entry.object));
    let uses = uses.unwrap_or_else(|| "the token is deleted".to_owned());
    let how = if joined.is_new {
        ""
    } else {
        "; registered before"
    };
    let grant = format!("role {}; {uses}{how}", joined.role);
    let did = Did::to("agent", &joined.agent)
        .subject(format!("cluster:{}", joined.cluster))
        .grant(grant)
        .by(&format!("underpass:{KIND}:{}", joined.token));
    let status = match joined.is_new {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    let answer = JoinAnswer {
        agent: joined.agent.clone(),
        cluster: joined.cluster.clone(),
        role: joined.role,
        is_new: joined.is_new,
    };
    did.with((status, Json(answer)))
}

fn invalid(error: impl std::error::Error) -> Problem {
    Problem::invalid(error.to_string())
}

fn unknown_token() -> Problem {
    Problem::from(JoinError::UnknownToken)
}

fn bad_proof() -> Problem {
    let detail = "the proof is not a signature by the key for this join token";
    Problem::new(StatusCode::FORBIDDEN, detail).reason(JoinRefusal::BadProof)
}

impl From<JoinError> for Problem {
    fn from(error: JoinError) -> Self {
        let (status, refusal) = match error {
            JoinError::UnknownToken => (StatusCode::UNAUTHORIZED, JoinRefusal::UnknownToken),
            JoinError::Expired { .. } => (StatusCode::GONE, JoinRefusal::Expired),
            JoinError::UsedUp { .. } => (StatusCode::GONE, JoinRefusal::UsedUp),
            JoinError::OtherRole { .. } => (StatusCode::FORBIDDEN, JoinRefusal::OtherRole),
            JoinError::OtherCluster { .. } => (StatusCode::FORBIDDEN, JoinRefusal::OtherCluster),
            JoinError::KeyOfAnotherCluster => {
                (StatusCode::CONFLICT, JoinRefusal::KeyOfAnotherCluster)
            }
            JoinError::KeyKnown { .. } => (StatusCode::CONFLICT, JoinRefusal::KeyKnown),
            JoinError::KeyReplaced => (StatusCode::CONFLICT, JoinRefusal::KeyReplaced),
            JoinError::NodeTaken { .. } => (StatusCode::CONFLICT, JoinRefusal::NodeTaken),
            JoinError::Change(error) => return error.into(),
            _ => {
                tracing::error!("an agent did not join: {error}");
                let detail = "the agent did not join; the server's log says why";
                return Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail);
            }
        };
        Self::new(status, error.to_string()).reason(refusal)
    }
}
