//! `/v1/clusters/{name}/join-tokens`: tokens with which agents register their own keys.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use underpass_api::{JoinTokenMade, JoinTokenRequest, JoinTokenView};
use underpass_authenticate::JoinSecret;
use underpass_core::ClusterName;
use underpass_directory::{Cluster, Draft, Entry, Expect, JoinToken};
use zeroize::Zeroizing;

use super::page::{Page, tagged};
use super::problem::Problem;
use super::requester::not_of_the_cluster;
use super::{Did, Requester, State, agents, body};
use crate::limits;

/// The kind, for problems and the audit log.
pub(super) const KIND: &str = "join-token";

pub(super) fn routes() -> Router<State> {
    let (many, one) = (
        "/v1/clusters/{name}/join-tokens",
        "/v1/clusters/{name}/join-tokens/{id}",
    );
    Router::new()
        .route(many, get(list).post(create))
        .route(one, get(read).delete(remove))
}

fn view(id: &str, entry: &Entry<JoinToken>) -> JoinTokenView {
    let token = &entry.object;
    JoinTokenView {
        id: id.to_owned(),
        revision: entry.revision,
        created: token.created,
        cluster: token.cluster.clone(),
        role: token.role,
        uses: token.uses,
        uses_left: token.uses_left,
        expires: token.expires,
        description: token.description.clone(),
    }
}

/// The name in the path. No cluster has another kind of name, and the answer is the same as for one that the requester does not
/// administer.
fn cluster(name: &str) -> Result<ClusterName, Problem> {
    ClusterName::new(name).map_err(|_| not_of_the_cluster())
}

fn must_exist(draft: &Draft, cluster: &ClusterName) -> Result<(), Problem> {
    match draft.get::<Cluster>(cluster.as_str()) {
        Some(_) => Ok(()),
        None => Err(Problem::not_found("cluster", cluster.as_str())),
    }
}

async fn list(
    state: State,
    requester: Requester,
    headers: HeaderMap,
    Path(name): Path<String>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Response, Problem> {
    let cluster = cluster(&name)?;
    let snapshot = state.directory.snapshot();
    requester.must_administer_cluster(&snapshot, &cluster)?;
    if !snapshot.has_cluster(&cluster) {
        return Err(Problem::not_found("cluster", &name));
    }
    let Query(page) = page?;
    let shown = page.of(snapshot.all::<JoinToken>(), |id, entry| {
        (entry.object.cluster == cluster).then(|| view(id, entry))
    });
    Ok(tagged(&headers, snapshot.revision(), &shown))
}

async fn read(
    state: State,
    requester: Requester,
    headers: HeaderMap,
    Path((name, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let cluster = cluster(&name)?;
    let snapshot = state.directory.snapshot();
    requester.must_administer_cluster(&snapshot, &cluster)?;
    let entry = snapshot
        .get::<JoinToken>(&id)
        .filter(|entry| entry.object.cluster == cluster)
        .ok_or_else(|| Problem::not_found(KIND, &id))?;
    Ok(tagged(&headers, entry.revision, &view(&id, entry)))
}

async fn create(
    state: State,
    requester: Requester,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let cluster = cluster(&name)?;
    requester.must_administer_cluster(&state.directory.snapshot(), &cluster)?;
    let wanted: JoinTokenRequest =
        body::read(request, "a join token", limits::API_SMALL_BODY).await?;
    let secret = JoinSecret::generate().map_err(|error| {
        tracing::error!("no join token: {error}");
        let detail = "no join token can be made";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    })?;
    let id: String = secret.hash().to_hex().chars().take(16).collect();
    let make = |draft: &mut Draft| {
        requester.must_administer_cluster(draft.before(), &cluster)?;
        if wanted.make_cluster {
            agents::make_cluster(draft, &requester, &cluster)?;
        }
        must_exist(draft, &cluster)?;
        let token = token(draft, &secret, &cluster, &wanted)?;
        // Before it is asked whether there is room for so many.
        token.check_uses()?;
        let more = usize::try_from(token.uses).unwrap_or(usize::MAX);
        agents::must_fit(&requester, &cluster, more, draft)?;
        state.commit.is_to(did(&id, &token));
        Ok::<_, Problem>(draft.put(&id, token, Expect::Absent)?)
    };
    state.change(&requester, make).await?;
    let snapshot = state.directory.snapshot();
    let entry = snapshot
        .get::<JoinToken>(&id)
        .ok_or_else(|| Problem::not_found(KIND, &id))?;
    let made = JoinTokenMade {
        token: Zeroizing::new(secret.expose().to_owned()),
        about: view(&id, entry),
    };
    Ok(did(&id, &entry.object).with((StatusCode::CREATED, Json(made))))
}

fn token(
    draft: &Draft,
    secret: &JoinSecret,
    cluster: &ClusterName,
    wanted: &JoinTokenRequest,
) -> Result<JoinToken, Problem> {
    if wanted.description.chars().count() > limits::DESCRIPTION_CHARS {
        return Err(Problem::invalid("the description is too long"));
    }
    let life = wanted.expires_in_seconds.map(Duration::from_secs);
    let life = life.unwrap_or(limits::JOIN_TOKEN);
    if life.is_zero() || life > limits::JOIN_TOKEN_MOST {
        return Err(Problem::invalid(format!(
            "a join token lasts {} days at the most, and a second at the least",
            limits::JOIN_TOKEN_MOST.as_secs() / (24 * 60 * 60)
        )));
    }
    let uses = wanted.uses.unwrap_or(1);
    Ok(JoinToken {
        created: draft.now(),
        sha256: secret.hash(),
        cluster: cluster.clone(),
        role: wanted.role,
        uses,
        uses_left: uses,
        expires: draft.now() + life,
        description: wanted.description.clone(),
    })
}

/// The audit log's text of a join token.
fn did(id: &str, token: &JoinToken) -> Did {
    let (role, uses) = (token.role, uses(token));
    Did::to(KIND, id)
        .subject(format!("cluster:{}", token.cluster))
        .grant(format!("role {role}; {uses}; until {}", token.expires))
}

/// The uses of a join token, for the audit log.
pub(super) fn uses(token: &JoinToken) -> String {
    format!("{} of {} uses left", token.uses_left, token.uses)
}

async fn remove(
    state: State,
    requester: Requester,
    Path((name, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let cluster = cluster(&name)?;
    let remove = |draft: &mut Draft| {
        requester.must_administer_cluster(draft.before(), &cluster)?;
        let token = draft
            .get::<JoinToken>(&id)
            .map(|entry| entry.object.clone())
            .filter(|token| token.cluster == cluster)
            .ok_or_else(|| Problem::not_found(KIND, &id))?;
        draft.remove::<JoinToken>(&id, Expect::Present)?;
        state.commit.is_to(did(&id, &token).removed());
        Ok(token)
    };
    let removed = state.change(&requester, remove).await?;
    Ok(did(&id, &removed).removed().with(StatusCode::NO_CONTENT))
}
