//! `/v1/agents`: agents by their keys, and static tokens for them, each of which is the private half of a key.

use std::collections::HashMap;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use underpass_api::{AgentMade, AgentRequest, AgentView};
use underpass_core::ClusterName;
use underpass_directory::{Agent, Cluster, Draft, Entry, Expect};
use underpass_tunnel::AgentKey;

use super::page::{Page, tagged};
use super::problem::Problem;
use super::requester::{Rights, not_of_the_cluster};
use super::{Did, Requester, State, body, rotate};
use crate::limits;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Filter {
    cluster: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) fn routes() -> Router<State> {
    Router::new()
        .route("/v1/agents", get(list).post(create))
        .route("/v1/agents/{id}", get(read).delete(remove))
        .route("/v1/agents/{id}/rotate", post(rotate::rotate))
}

fn view(id: &str, entry: &Entry<Agent>, sessions: &HashMap<String, usize>) -> AgentView {
    let agent = &entry.object;
    AgentView {
        id: id.to_owned(),
        revision: entry.revision,
        created: agent.created,
        cluster: agent.cluster.clone(),
        key: agent.key.clone(),
        key_since: Some(agent.key_since()),
        next_key: agent.next_key.as_ref().map(|next| next.key.clone()),
        role: agent.role,
        join_token: agent.join_token.clone(),
        account: agent.pod.as_ref().map(|pod| pod.account.clone()),
        node: agent.node.clone(),
        connected: sessions.get(id).copied().unwrap_or_default(),
    }
}

pub(super) fn is_visible(rights: &Rights<'_>, agent: &Agent) -> bool {
    rights.administers(&agent.cluster) || rights.is_administrator()
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
    let wanted = |agent: &Agent| {
        filter
            .cluster
            .as_deref()
            .is_none_or(|cluster| cluster == agent.cluster.as_str())
    };
    let rights = requester.rights(&snapshot);
    let sessions = state.sessions.by_agent();
    let shown = page.of(snapshot.all::<Agent>(), |id, entry| {
        (wanted(&entry.object) && is_visible(&rights, &entry.object))
            .then(|| view(id, entry, &sessions))
    });
    Ok(tagged(&headers, snapshot.revision(), &shown))
}

async fn read(
    state: State,
    requester: Requester,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let snapshot = state.directory.snapshot();
    let entry = snapshot
        .get::<Agent>(&id)
        .filter(|entry| is_visible(&requester.rights(&snapshot), &entry.object))
        .ok_or_else(|| Problem::not_found("agent", &id))?;
    let view = view(&id, entry, &state.sessions.by_agent());
    Ok(tagged(&headers, entry.revision, &view))
}

async fn create(state: State, requester: Requester, request: Request) -> Result<Response, Problem> {
    if !requester
        .rights(&state.directory.snapshot())
        .administers_some()
    {
        return Err(not_of_the_cluster());
    }
    let wanted: AgentRequest = body::read(request, "an agent", limits::API_SMALL_BODY).await?;
    let no_key = |error: &dyn std::error::Error| {
        tracing::error!("no agent token: {error}");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "no agent token can be made",
        )
    };
    let key = AgentKey::from_seed(rand::random()).map_err(|error| no_key(&error))?;
    let public = key.public_key().to_string();
    let make = |draft: &mut Draft| {
        requester.must_administer_cluster(draft.before(), &wanted.cluster)?;
        if wanted.make_cluster {
            make_cluster(draft, &requester, &wanted.cluster)?;
        }
        must_fit(&requester, &wanted.cluster, 1, draft)?;
        let agent = Agent::new(draft.now(), wanted.cluster.clone(), public.clone());
        let id = agent.id();
        state.commit.is_to(did(&id, &wanted.cluster));
        draft.put(&id, agent, Expect::Absent)?;
        Ok::<_, Problem>(id)
    };
    let id = state.change(&requester, make).await?;
    let snapshot = state.directory.snapshot();
    let entry = snapshot
        .get::<Agent>(&id)
        .ok_or_else(|| Problem::not_found("agent", &id))?;
    let made = AgentMade {
        token: key.to_secret_text(),
        agent: view(&id, entry, &HashMap::new()),
    };
    Ok(did(&id, &wanted.cluster).with((StatusCode::CREATED, Json(made))))
}

/// The audit log's text of an agent.
pub(super) fn did(id: &str, cluster: &ClusterName) -> Did {
    Did::to("agent", id).subject(format!("cluster:{cluster}"))
}

/// Makes the cluster where there is none, for an administrator of all clusters.
pub(super) fn make_cluster(
    draft: &mut Draft,
    requester: &Requester,
    name: &ClusterName,
) -> Result<(), Problem> {
    if draft.get::<Cluster>(name.as_str()).is_some() {
        return Ok(());
    }
    requester.must_administer(draft.before())?;
    let cluster = Cluster::new(draft.now());
    Ok(draft.put(name.as_str(), cluster, Expect::Absent)?)
}

/// Is there room for so many more agents of the cluster, beside those that its join tokens may still register? All clusters share
/// the directory, so that each one's own administrators have a share (security rule 23).
pub(super) fn must_fit(
    requester: &Requester,
    cluster: &ClusterName,
    more: usize,
    draft: &Draft,
) -> Result<(), Problem> {
    if requester.is_administrator(draft.before()) {
        return Ok(());
    }
    let count = draft.agents_with_promised(cluster);
    if count.saturating_add(more) <= limits::AGENTS_PER_CLUSTER {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::INSUFFICIENT_STORAGE,
        format!(
            "the cluster {cluster} has {count} agents, those that may still join among them, and its administrators may have {} \
             altogether: remove agents and join tokens that are not needed, or ask an administrator of all clusters",
            limits::AGENTS_PER_CLUSTER
        ),
    ))
}

async fn remove(
    state: State,
    requester: Requester,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let remove = |draft: &mut Draft| {
        let agent = draft.get::<Agent>(&id).map(|entry| entry.object.clone());
        let agent = agent
            .filter(|agent| is_visible(&requester.rights(draft.before()), agent))
            .ok_or_else(|| Problem::not_found("agent", &id))?;
        draft.remove::<Agent>(&id, Expect::Present)?;
        state.commit.is_to(did(&id, &agent.cluster).removed());
        Ok(agent)
    };
    let removed = state.change(&requester, remove).await?;
    let did = did(&id, &removed.cluster).removed();
    Ok(did.with(StatusCode::NO_CONTENT))
}
