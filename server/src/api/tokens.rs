//! `/v1/tokens`: bearer tokens of users.

use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State as From};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use underpass_proxy::Scope;
use underpass_proxy::authenticate::Token;
use underpass_proxy::directory::{
    AccessToken, Draft, Entry, Expect, Name, Owner, Revision, Snapshot, TokenUse,
};

use zeroize::Zeroizing;

use super::page::{Page, tagged};
use super::problem::Problem;
use super::{Requester, State};
use crate::limits;

/// What a client sees of a token: never the secret.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Token)]
#[serde(rename_all = "camelCase")]
pub(crate) struct View {
    /// Its id: the beginning of its hash.
    pub(crate) id: String,
    /// Of its last change.
    #[schema(value_type = u64)]
    pub(crate) revision: Revision,
    /// Whose it is.
    pub(crate) user: String,
    /// Who vouched for them, where they logged in with somebody else's credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) authenticated_by: Option<String>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) created: OffsetDateTime,
    /// From when on it counts for nothing.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) expires: Option<OffsetDateTime>,
    /// Until when its holder may have another one for it, where it comes from a login.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) renewable_until: Option<OffsetDateTime>,
    /// When it was last used, to some minutes.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) last_used: Option<OffsetDateTime>,
    /// What it may be used for.
    #[serde(default, skip_serializing_if = "Scope::is_everything")]
    pub(crate) scope: Scope,
    /// What people call it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) description: String,
}

/// A token to make.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct TokenRequest {
    /// Whose; the requester's own without.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) user: Option<Name>,
    /// How long it counts. Only administrators make tokens without an end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires_in_seconds: Option<u64>,
    /// What it may be used for; at the most what the requester's own credential may.
    #[serde(skip_serializing_if = "Scope::is_everything")]
    pub(crate) scope: Scope,
    /// What people call it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) description: String,
}

/// A token that was just made.
#[derive(Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TokenMade {
    /// The token itself, which is kept nowhere.
    #[schema(value_type = String)]
    pub(crate) token: Zeroizing<String>,
    /// What is kept.
    pub(crate) about: View,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Filter {
    user: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) fn routes() -> Router<State> {
    Router::new()
        .route("/v1/tokens", get(list).post(create))
        .route("/v1/tokens/{id}", get(read).delete(remove))
}

pub(super) fn view(id: &str, entry: &Entry<AccessToken>, snapshot: &Snapshot) -> View {
    let token = &entry.object;
    let authenticated_by = match &token.owner {
        Owner::User(_) => None,
        Owner::Login(login) => Some(login.authenticated_by.clone()),
    };
    let used = snapshot.get::<TokenUse>(id);
    View {
        id: id.to_owned(),
        revision: entry.revision,
        user: token.owner.name().to_owned(),
        authenticated_by,
        created: token.created,
        expires: token.expires,
        renewable_until: token.renewable_until,
        last_used: used.map(|used| used.object.last),
        scope: token.scope.clone(),
        description: token.description.clone(),
    }
}

/// Who may see a token may take it back.
fn is_visible(requester: &Requester, snapshot: &Snapshot, token: &AccessToken) -> bool {
    let own = match requester {
        Requester::Operator => true,
        // Of two users of one name, whoever vouches for them, neither sees the other's.
        Requester::User { owner, identity } => match (owner, &token.owner) {
            (Some(Owner::User(own)), Owner::User(other)) => own == other,
            (_, Owner::Login(login)) => {
                let by = identity.provenance().map(ToString::to_string);
                let logged_in = match owner {
                    Some(Owner::Login(own)) => own.authenticated_by == login.authenticated_by,
                    _ => by.as_ref() == Some(&login.authenticated_by),
                };
                login.user == identity.user() && logged_in
            }
            _ => false,
        },
    };
    own || requester.is_administrator(snapshot)
}

async fn list(
    From(state): From<State>,
    requester: Requester,
    headers: HeaderMap,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(filter) = filter?;
    let page = Page {
        after: filter.after,
        limit: filter.limit,
    };
    let snapshot = state.directory.snapshot();
    let wanted = |token: &AccessToken| {
        let user = filter.user.as_deref();
        user.is_none_or(|user| user == token.owner.name())
    };
    let shown = page.of(snapshot.all::<AccessToken>(), |id, entry| {
        (wanted(&entry.object) && is_visible(&requester, &snapshot, &entry.object))
            .then(|| view(id, entry, &snapshot))
    });
    Ok(tagged(&headers, snapshot.revision(), &shown))
}

async fn read(
    From(state): From<State>,
    requester: Requester,
    Path(id): Path<String>,
) -> Result<Json<View>, Problem> {
    let snapshot = state.directory.snapshot();
    let entry = snapshot
        .get::<AccessToken>(&id)
        .filter(|entry| is_visible(&requester, &snapshot, &entry.object))
        .ok_or_else(|| Problem::not_found("token", &id))?;
    // Without an ETag: when it was last used is no change of it.
    Ok(Json(view(&id, entry, &snapshot)))
}

async fn create(
    From(state): From<State>,
    requester: Requester,
    body: Result<Json<TokenRequest>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(wanted) = body?;
    let token = generate()?;
    let make = |draft: &mut Draft| {
        let administrator = requester.is_administrator(draft.before());
        let owner = match (&wanted.user, &requester) {
            (Some(user), _) if administrator => Owner::User(user.clone()),
            (_, Requester::Operator) => {
                return Err(Problem::invalid(
                    "the operator has no tokens; say whose it is",
                ));
            }
            (
                None,
                Requester::User {
                    owner: Some(Owner::User(own)),
                    ..
                },
            ) => Owner::User(own.clone()),
            (
                Some(user),
                Requester::User {
                    owner: Some(Owner::User(own)),
                    ..
                },
            ) if user == own => Owner::User(own.clone()),
            (Some(_), _) => {
                return Err(Problem::forbidden(
                    "only administrators make tokens of others",
                ));
            }
            (None, _) => {
                return Err(Problem::forbidden(
                    "only users of the directory make tokens; others log in",
                ));
            }
        };
        if wanted.expires_in_seconds.is_none() && !administrator {
            return Err(Problem::invalid(
                "say when the token is to end, as expiresInSeconds",
            ));
        }
        if !is_within(&wanted.scope, &requester.scope()) {
            return Err(Problem::forbidden(
                "the token would be for more than the credential that asks for it",
            ));
        }
        put(draft, &token, owner, &wanted)
    };
    let id = state.directory.change(make).await?.value;
    let made = made(&state.directory.snapshot(), &id, &token)?;
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

pub(super) fn generate() -> Result<Token, Problem> {
    Token::generate().map_err(|error| {
        tracing::error!("no token: {error}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no token can be made")
    })
}

/// Keeps the token's hash. Gives its id.
pub(super) fn put(
    draft: &mut Draft,
    token: &Token,
    owner: Owner,
    wanted: &TokenRequest,
) -> Result<String, Problem> {
    put_login(draft, token, owner, None, wanted)
}

/// The same for a token that can be renewed until then.
pub(super) fn put_login(
    draft: &mut Draft,
    token: &Token,
    owner: Owner,
    renewable_until: Option<OffsetDateTime>,
    wanted: &TokenRequest,
) -> Result<String, Problem> {
    if wanted.description.chars().count() > limits::DESCRIPTION_CHARS {
        return Err(Problem::invalid("the description is too long"));
    }
    let expires = match wanted.expires_in_seconds {
        None => None,
        Some(seconds) => {
            let end = time::Duration::try_from(Duration::from_secs(seconds))
                .ok()
                .and_then(|life| draft.now().checked_add(life))
                // RFC 3339 has four digits for a year.
                .filter(|end| end.year() <= 9999);
            let end = end.ok_or_else(|| {
                Problem::invalid(format!(
                    "an end in {seconds} seconds is beyond the calendar"
                ))
            })?;
            Some(end)
        }
    };
    let sha256 = token.hash();
    let id: String = sha256.to_hex().chars().take(16).collect();
    let object = AccessToken {
        created: draft.now(),
        sha256,
        owner,
        expires,
        renewable_until,
        scope: wanted.scope.clone(),
        description: wanted.description.clone(),
    };
    draft.put(&id, object, Expect::Absent)?;
    Ok(id)
}

pub(super) fn made(snapshot: &Snapshot, id: &str, token: &Token) -> Result<TokenMade, Problem> {
    let entry = snapshot
        .get::<AccessToken>(id)
        .ok_or_else(|| Problem::not_found("token", id))?;
    Ok(TokenMade {
        token: Zeroizing::new(token.expose().to_owned()),
        about: view(id, entry, snapshot),
    })
}

pub(super) fn is_within(inner: &Scope, outer: &Scope) -> bool {
    let clusters = match (&inner.clusters, &outer.clusters) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(inner), Some(outer)) => inner.is_subset(outer),
    };
    clusters && (inner.read_only || !outer.read_only)
}

async fn remove(
    From(state): From<State>,
    requester: Requester,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let remove = |draft: &mut Draft| {
        let token = draft
            .get::<AccessToken>(&id)
            .map(|entry| entry.object.clone());
        match token.filter(|token| is_visible(&requester, draft.before(), token)) {
            Some(_) => Ok(draft.remove::<AccessToken>(&id, Expect::Present)?),
            None => Err(Problem::not_found("token", &id)),
        }
    };
    state.directory.change(remove).await?;
    Ok(StatusCode::NO_CONTENT)
}
