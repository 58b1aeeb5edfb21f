//! `/v1/tokens`: bearer tokens of users.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use time::OffsetDateTime;
use underpass_api::{TokenMade, TokenRequest, TokenView};
use underpass_authenticate::Token;
use underpass_core::{ClusterName, Identity, Provenance, Scope};
use underpass_directory::{
    AccessToken, ChangeError, Draft, Entry, Expect, ObjectKind, Owner, Snapshot, TokenUse,
};

use zeroize::Zeroizing;

use super::page::{Page, tagged};
use super::problem::Problem;
use super::{Did, Requester, State, body, calendar};
use crate::limits;

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

pub(super) fn view(id: &str, entry: &Entry<AccessToken>, snapshot: &Snapshot) -> TokenView {
    let token = &entry.object;
    let authenticated_by = match &token.owner {
        Owner::User(_) => None,
        Owner::Login(login) => Some(login.authenticated_by.clone()),
    };
    let used = snapshot.get::<TokenUse>(id);
    TokenView {
        id: id.to_owned(),
        revision: entry.revision,
        user: token.owner.name().to_owned(),
        authenticated_by,
        created: token.created,
        expires: token.expires,
        renewable_until: token.renewable_until,
        last_used: used.map(|used| used.object.last),
        parent: token.parent.clone(),
        scope: token.scope.clone(),
        description: token.description.clone(),
    }
}

/// May the requester see the token, and take it back?
fn is_visible(requester: &Requester, snapshot: &Snapshot, token: &AccessToken) -> bool {
    is_own(requester, snapshot, token) || requester.is_administrator(snapshot)
}

fn is_own(requester: &Requester, snapshot: &Snapshot, token: &AccessToken) -> bool {
    let own = requester.token(snapshot).map(|(_, own)| &own.owner);
    match (requester, own, &token.owner) {
        (Requester::Operator, _, _) => true,
        // Two users of one name, of different authorities, do not see each other's.
        (_, Some(Owner::User(own)), Owner::User(other)) => own == other,
        (_, Some(Owner::Login(own)), Owner::Login(other)) => {
            own.user == other.user && own.authenticated_by == other.authenticated_by
        }
        (Requester::User { identity, .. }, None, Owner::Login(other)) => {
            let by = identity.provenance().map(ToString::to_string);
            identity.user() == other.user && by.as_ref() == Some(&other.authenticated_by)
        }
        _ => false,
    }
}

async fn list(
    state: State,
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
    // Once, and not for each token that there is.
    let all = requester.is_administrator(&snapshot);
    let shown = page.of(snapshot.all::<AccessToken>(), |id, entry| {
        let token = &entry.object;
        (wanted(token) && (all || is_own(&requester, &snapshot, token)))
            .then(|| view(id, entry, &snapshot))
    });
    Ok(tagged(&headers, snapshot.revision(), &shown))
}

async fn read(
    state: State,
    requester: Requester,
    Path(id): Path<String>,
) -> Result<Json<TokenView>, Problem> {
    let snapshot = state.directory.snapshot();
    let entry = snapshot
        .get::<AccessToken>(&id)
        .filter(|entry| is_visible(&requester, &snapshot, &entry.object))
        .ok_or_else(|| Problem::not_found("token", &id))?;
    // Without an ETag: when it was last used is no change of it.
    Ok(Json(view(&id, entry, &snapshot)))
}

async fn create(state: State, requester: Requester, request: Request) -> Result<Response, Problem> {
    requester.must_have_logged_in(&state.directory.snapshot())?;
    let wanted: TokenRequest = body::read(request, "a token", limits::API_SMALL_BODY).await?;
    let token = generate()?;
    let make = |draft: &mut Draft| {
        let rights = requester.rights(draft.before());
        let administrator = rights.is_administrator();
        let own = requester.user(draft.before());
        let owner = match (&wanted.user, own) {
            (Some(user), _) if administrator => Owner::User(user.clone()),
            (_, None) if matches!(requester, Requester::Operator) => {
                return Err(Problem::invalid(
                    "the operator has no tokens; say whose it is",
                ));
            }
            (None, Some(own)) => Owner::User(own.clone()),
            (Some(user), Some(own)) if user == own => Owner::User(own.clone()),
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
        let made_by = MadeBy::requester(&requester, draft.before())?;
        must_see(&wanted.scope, &made_by, |cluster| {
            administrator || rights.sees(cluster)
        })?;
        let id = put(draft, &token, owner, &made_by, &wanted)?;
        if let Some(did) = did(draft, &id) {
            state.commit.is_to(did);
        }
        Ok(id)
    };
    let id = state.change(&requester, make).await?;
    let made = made(&state.directory.snapshot(), &id, &token)?;
    Ok(Did::token(&made.about).with((StatusCode::CREATED, Json(made))))
}

pub(super) fn generate() -> Result<Token, Problem> {
    Token::generate().map_err(|error| {
        tracing::error!("no token: {error}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no token can be made")
    })
}

/// The credential that a token is made with. The token's scope is no wider, and it ends no later (rule 24).
#[derive(Debug, Clone, Default)]
pub(super) struct MadeBy {
    /// The directory's token that asks, by id.
    pub(super) parent: Option<String>,
    /// When another credential that asks ends.
    pub(super) ends: Option<OffsetDateTime>,
    /// Until when the token can be renewed; `None` where it cannot.
    pub(super) renewable_until: Option<OffsetDateTime>,
    /// The scope of the credential that asks.
    pub(super) scope: Scope,
}

impl MadeBy {
    /// A credential, as its authenticator describes it.
    pub(super) fn credential(identity: &Identity) -> Self {
        let provenance = identity.provenance();
        Self {
            parent: provenance.and_then(Provenance::token).map(str::to_owned),
            ends: provenance
                .and_then(Provenance::expires_at)
                .map(calendar::date),
            renewable_until: None,
            scope: provenance
                .map(|provenance| provenance.scope().clone())
                .unwrap_or_default(),
        }
    }

    /// A credential that somebody logs in with: its authenticator's configuration may let the login outlast it.
    pub(super) fn login(identity: &Identity) -> Self {
        let mut made_by = Self::credential(identity);
        let until = identity.provenance().and_then(Provenance::login_until);
        if let (Some(ends), Some(until)) = (&mut made_by.ends, until) {
            *ends = (*ends).max(calendar::date(until));
        }
        made_by
    }

    /// The directory's token of somebody who was authenticated; the operator needs none.
    pub(super) fn requester(requester: &Requester, snapshot: &Snapshot) -> Result<Self, Problem> {
        requester.must_have_logged_in(snapshot)?;
        Ok(requester
            .identity()
            .map(Self::credential)
            .unwrap_or_default())
    }

    /// Is a token that ends then within it? The directory asks the same of a parent; nobody else does of other
    /// credentials, which it does not know.
    fn check(&self, expires: Option<OffsetDateTime>, scope: &Scope) -> Result<(), Problem> {
        if let Some(end) = self.ends
            && expires.is_none_or(|expires| expires > end)
        {
            return Err(ChangeError::Outlasts { end }.into());
        }
        if !scope.is_within(&self.scope) {
            return Err(ChangeError::WiderScope.into());
        }
        Ok(())
    }
}

/// A scope is within that of the credential which asks for it, and names clusters that its maker knows of: of any other
/// nobody learns here whether there is such a one.
pub(super) fn must_see(
    scope: &Scope,
    made_by: &MadeBy,
    sees: impl Fn(&ClusterName) -> bool,
) -> Result<(), Problem> {
    if !scope.is_within(&made_by.scope) {
        return Err(ChangeError::WiderScope.into());
    }
    let mut named = scope.clusters.iter().flatten();
    match named.find(|cluster| !sees(cluster)) {
        None => Ok(()),
        Some(unseen) => Err(ChangeError::NotFound {
            kind: ObjectKind::Cluster,
            name: unseen.to_string(),
        }
        .into()),
    }
}

/// Keeps the token's hash. Gives its id.
pub(super) fn put(
    draft: &mut Draft,
    token: &Token,
    owner: Owner,
    made_by: &MadeBy,
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
    made_by.check(expires, &wanted.scope)?;
    let sha256 = token.hash();
    let id: String = sha256.to_hex().chars().take(16).collect();
    let object = AccessToken {
        created: draft.now(),
        sha256,
        owner,
        expires,
        renewable_until: made_by.renewable_until,
        parent: made_by.parent.clone(),
        scope: wanted.scope.clone(),
        description: wanted.description.clone(),
    };
    draft.put(&id, object, Expect::Absent)?;
    Ok(id)
}

/// The audit log's text of a token that is being made.
pub(super) fn did(draft: &Draft, id: &str) -> Option<Did> {
    let entry = draft.get::<AccessToken>(id)?;
    Some(Did::token(&view(id, entry, draft.before())))
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

async fn remove(
    state: State,
    requester: Requester,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let remove = |draft: &mut Draft| {
        let before = draft.before();
        let seen = before
            .get::<AccessToken>(&id)
            .filter(|entry| is_visible(&requester, before, &entry.object))
            .map(|entry| view(&id, entry, before))
            .ok_or_else(|| Problem::not_found("token", &id))?;
        draft.remove::<AccessToken>(&id, Expect::Present)?;
        state.commit.is_to(Did::token(&seen).removed());
        Ok(seen)
    };
    let removed = state.change(&requester, remove).await?;
    Ok(Did::token(&removed).removed().with(StatusCode::NO_CONTENT))
}
