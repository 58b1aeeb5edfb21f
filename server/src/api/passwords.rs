//! `/v1/users/{name}/password`

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State as From};
use axum::routing::put;
use axum::{Json, Router};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use underpass_proxy::authenticate::{LoginError, Password, PasswordHash};
use underpass_proxy::directory::{AccessToken, Draft, Expect, Owner, Snapshot, User};
use zeroize::Zeroizing;

use super::problem::Problem;
use super::{Requester, State};

/// A new password.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPassword {
    /// What it is to be: twelve characters at least.
    #[schema(value_type = String)]
    pub(crate) password: Zeroizing<String>,
    /// What it is now, where one's own is changed; administrators leave it out for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) current: Option<Zeroizing<String>>,
}

pub(super) fn routes() -> Router<State> {
    Router::new().route("/v1/users/{name}/password", put(set).delete(remove))
}

async fn set(
    From(state): From<State>,
    requester: Requester,
    Path(name): Path<String>,
    body: Result<Json<NewPassword>, JsonRejection>,
) -> Result<StatusCode, Problem> {
    let Json(NewPassword { password, current }) = body?;
    let snapshot = state.directory.snapshot();
    if !is_own(&requester, &snapshot, &name) {
        requester.must_administer(&snapshot)?;
    } else if let Some(problem) = wrong(&state, &name, current).await {
        return Err(problem);
    }
    let hashed = tokio::task::spawn_blocking(move || PasswordHash::new(&password)).await;
    let hash = match hashed {
        Ok(Ok(hash)) => hash,
        Ok(Err(error)) => return Err(Problem::invalid(error.to_string())),
        Err(_) => return Err(Problem::invalid("the password cannot be hashed now")),
    };
    change(&state, &requester, &name, Some(&hash)).await
}

fn is_own(requester: &Requester, snapshot: &Snapshot, name: &str) -> bool {
    let user = requester.user(snapshot);
    user.is_some_and(|user| user.as_str() == name)
}

/// Why somebody who changes their own password may not: a token that was found somewhere is not enough to take the
/// account over.
async fn wrong(state: &State, name: &str, current: Option<Zeroizing<String>>) -> Option<Problem> {
    let snapshot = state.directory.snapshot();
    let kept = snapshot
        .get::<User>(name)
        .and_then(|user| user.object.password.clone());
    if kept.is_none() {
        return Some(Problem::forbidden(
            "an administrator gives the first password",
        ));
    }
    let (Some(current), Some(logins)) = (current, &state.logins) else {
        return Some(Problem::invalid(
            "say what the password is now, as `current`",
        ));
    };
    let login = Password::new(name, current);
    let here = std::net::Ipv4Addr::UNSPECIFIED.into();
    match logins.passwords.check(&login, kept, here).await {
        Ok(()) => None,
        Err(LoginError::Locked(wait)) => {
            let seconds = wait.as_secs().saturating_add(1);
            let status = StatusCode::TOO_MANY_REQUESTS;
            Some(Problem::later(status, "too many wrong passwords", seconds))
        }
        Err(_) => Some(Problem::forbidden("the password is another one now")),
    }
}

async fn remove(
    From(state): From<State>,
    requester: Requester,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    change(&state, &requester, &name, None).await
}

/// Whoever logged in with the old one is logged out.
async fn change(
    state: &State,
    requester: &Requester,
    name: &str,
    password: Option<&PasswordHash>,
) -> Result<StatusCode, Problem> {
    let change = |draft: &mut Draft| {
        // Asked again: hashing takes a while, and roles are taken back meanwhile (rule 25).
        if password.is_none() || !is_own(requester, draft.before(), name) {
            requester.must_administer(draft.before())?;
        }
        let user = draft
            .get::<User>(name)
            .ok_or_else(|| Problem::not_found("user", name))?;
        let user = User {
            password: password.cloned(),
            ..User::clone(&user.object)
        };
        draft.put(name, user, Expect::Present)?;
        let logins: Vec<_> = draft
            .all::<AccessToken>()
            .iter()
            .filter(|(_, token)| {
                let own =
                    matches!(&token.object.owner, Owner::User(owner) if owner.as_str() == name);
                own && token.object.renewable_until.is_some()
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in logins {
            draft.remove::<AccessToken>(&id, Expect::Anything)?;
        }
        Ok(())
    };
    state.change(requester, change).await?;
    Ok(StatusCode::NO_CONTENT)
}
