//! `/v1/access`: lets a user in, in one go.

use std::collections::BTreeSet;

use axum::extract::{Request, State as From};
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use underpass_core::{Authority, ClusterName};
use underpass_directory::{Draft, Expect, Name, Owner, Role, Subject, User};

use super::problem::Problem;
use super::tokens::{self, MadeBy, TokenMade, TokenRequest};
use super::{Did, Requester, State, body};
use crate::limits;

/// Who is to be let in, and where. All of it happens, or nothing.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct AccessRequest {
    /// The user, who is made where there is none.
    #[schema(value_type = String)]
    pub(crate) user: Name,
    /// Authenticators whose user of this name they are, by kind and name: `ldap/corp`. They are added to those that there are.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub(crate) links: BTreeSet<Authority>,
    /// Groups to be in, which are made where there are none.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub(crate) groups: Vec<Name>,
    /// Clusters to reach.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub(crate) clusters: Vec<ClusterName>,
    /// Every cluster, those to come included.
    #[serde(default)]
    pub(crate) all_clusters: bool,
    /// What the user may do there.
    pub(crate) role: Role,
    /// A token of theirs, to make with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<TokenRequest>,
}

/// What was done.
#[derive(Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AccessGiven {
    /// There was no such user before.
    pub(crate) made: bool,
    /// The clusters that the user could not reach in this role by a binding of their own.
    #[schema(value_type = Vec<String>)]
    pub(crate) granted: Vec<ClusterName>,
    /// The token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<TokenMade>,
}

pub(super) fn routes() -> Router<State> {
    Router::new().route("/v1/access", post(give))
}

async fn give(
    From(state): From<State>,
    requester: Requester,
    request: Request,
) -> Result<Response, Problem> {
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
        Ok::<_, Problem>((made, granted, id))
    };
    let (made, granted, id) = state.change(&requester, give).await?;
    let token = match (id, token) {
        (Some(id), Some(token)) => Some(tokens::made(&state.directory.snapshot(), &id, &token)?),
        _ => None,
    };
    let did = Did::to("user", wanted.user.as_str());
    let did = did.subject(format!("user:{} (directory)", wanted.user));
    // The request as it was; the token's secret is not in it.
    let did = did.spec(&wanted);
    let given = AccessGiven {
        made,
        granted,
        token,
    };
    Ok(did.with(Json(given)))
}
