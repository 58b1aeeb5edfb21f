//! `/v1/access`: lets a user in, in one go.

use axum::extract::Request;
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};
use underpass_api::{AccessGiven, AccessRequest};
use underpass_core::Authority;
use underpass_directory::{Draft, Expect, Owner, Subject, User};

use super::problem::Problem;
use super::tokens::{self, MadeBy};
use super::{Did, Requester, State, body};
use crate::limits;

pub(super) fn routes() -> Router<State> {
    Router::new().route("/v1/access", post(give))
}

async fn give(state: State, requester: Requester, request: Request) -> Result<Response, Problem> {
    requester.must_administer(&state.directory.snapshot())?;
    let wanted: AccessRequest = body::read(request, "access", limits::API_ACCESS_BODY).await?;
    let token = wanted
        .token
        .as_ref()
        .map(|_| tokens::generate())
        .transpose()?;
    let give = |draft: &mut Draft| {
        requester.must_administer(draft.before())?;
        let user = &wanted.user;
        let made = draft.get::<User>(user.as_str()).is_none();
        let before = draft.get::<User>(user.as_str());
        let mut there = before.map_or_else(
            || User::new(draft.now()),
            |entry| User::clone(&entry.object),
        );
        there.links.extend(wanted.links.iter().cloned());
        draft.put(user.as_str(), there, Expect::Anything)?;
        for group in &wanted.groups {
            draft.join(group, std::slice::from_ref(user))?;
        }
        let subject = Subject::user(user.clone()).of(Authority::Directory);
        let granted = draft.grant(&subject, &wanted.clusters, wanted.all_clusters, wanted.role)?;
        let id = match (&token, &wanted.token) {
            (Some(token), Some(wanted)) => {
                let owner = Owner::User(user.clone());
                let made_by = MadeBy::requester(&requester, draft.before())?;
                Some(tokens::put(draft, token, owner, &made_by, wanted)?)
            }
            _ => None,
        };
        state.commit.is_to(did(&wanted));
        Ok::<_, Problem>((made, granted, id))
    };
    let (made, granted, id) = state.change(&requester, give).await?;
    let token = match (id, token) {
        (Some(id), Some(token)) => Some(tokens::made(&state.directory.snapshot(), &id, &token)?),
        _ => None,
    };
    let did = did(&wanted);
    let given = AccessGiven {
        made,
        granted,
        token,
    };
    Ok(did.with(Json(given)))
}

/// The request as it was, for the audit log; the token's secret is not in it.
fn did(wanted: &AccessRequest) -> Did {
    let did = Did::to("user", wanted.user.as_str());
    did.subject(format!("user:{} (directory)", wanted.user))
        .spec(wanted)
}
