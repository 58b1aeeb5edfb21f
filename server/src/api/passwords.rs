//! `/v1/users/{name}/password`

use std::net::IpAddr;

use axum::extract::{Path, Request};
use axum::response::Response;
use axum::routing::put;
use axum::{Extension, Router};
use http::StatusCode;
use underpass_api::NewPassword;
use underpass_authenticate::{LoginError, Password, PasswordHash};
use underpass_directory::{AccessToken, Draft, Expect, Owner, Snapshot, User};
use zeroize::Zeroizing;

use super::problem::Problem;
use super::{Client, Did, Requester, State, body};
use crate::limits;

pub(super) fn routes() -> Router<State> {
    Router::new().route("/v1/users/{name}/password", put(set).delete(remove))
}

async fn set(
    state: State,
    requester: Requester,
    Extension(Client(client)): Extension<Client>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let snapshot = state.directory.snapshot();
    let is_own = is_own(&requester, &snapshot, &name);
    if !is_own {
        requester.must_administer(&snapshot)?;
    }
    let NewPassword { password, current } =
        body::read(request, "a password", limits::API_SMALL_BODY).await?;
    let proved = match is_own {
        true => Some(prove(&state, &snapshot, &name, current, client).await?),
        false => None,
    };
    let hashed = tokio::task::spawn_blocking(move || PasswordHash::new(&password)).await;
    let hash = match hashed {
        Ok(Ok(hash)) => hash,
        Ok(Err(error)) => return Err(Problem::invalid(error.to_string())),
        Err(_) => return Err(Problem::invalid("the password cannot be hashed now")),
    };
    change(&state, &requester, &name, Some(&hash), proved).await
}

fn is_own(requester: &Requester, snapshot: &Snapshot, name: &str) -> bool {
    let user = requester.user(snapshot);
    user.is_some_and(|user| user.as_str() == name)
}

/// Users who change their own password prove that they know the current one: a token that was found somewhere is not
/// enough to take the account over. Gives what is kept of it.
async fn prove(
    state: &State,
    snapshot: &Snapshot,
    name: &str,
    current: Option<Zeroizing<String>>,
    client: IpAddr,
) -> Result<PasswordHash, Problem> {
    let kept = snapshot
        .get::<User>(name)
        .and_then(|user| user.object.password.clone());
    let Some(kept) = kept else {
        return Err(Problem::forbidden(
            "an administrator gives the first password",
        ));
    };
    let Some(current) = current else {
        return Err(Problem::invalid(
            "say what the password is now, as `current`",
        ));
    };
    let login = Password::new(name, current);
    let checked = state
        .logins
        .passwords
        .check(&login, Some(kept.clone()), client)
        .await;
    match checked {
        Ok(()) => Ok(kept),
        Err(LoginError::Locked(wait)) => {
            let seconds = wait.as_secs().saturating_add(1);
            let status = StatusCode::TOO_MANY_REQUESTS;
            Err(Problem::later(status, "too many wrong passwords", seconds))
        }
        Err(_) => Err(wrong()),
    }
}

fn wrong() -> Problem {
    Problem::forbidden("the password is another one now")
}

async fn remove(
    state: State,
    requester: Requester,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    change(&state, &requester, &name, None, None).await
}

/// Ends the logins with the old one. `proved` is the password that the user has proved to know; administrators prove
/// nothing.
async fn change(
    state: &State,
    requester: &Requester,
    name: &str,
    password: Option<&PasswordHash>,
    proved: Option<PasswordHash>,
) -> Result<Response, Problem> {
    let what = match password {
        Some(_) => "a new password",
        None => "no password",
    };
    let did = || Did::to("user", name).grant(what);
    let change = |draft: &mut Draft| {
        state.commit.is_to(did());
        // Asked again: hashing takes a while, and roles and passwords change meanwhile (rule 25). And before anything is
        // looked up: a caller without the right learns no names.
        if proved.is_none() {
            requester.must_administer(draft.before())?;
        }
        let user = draft
            .get::<User>(name)
            .ok_or_else(|| Problem::not_found("user", name))?;
        if proved.is_some() && user.object.password != proved {
            return Err(wrong());
        }
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
    Ok(did().with(StatusCode::NO_CONTENT))
}
