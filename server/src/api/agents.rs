//! `/v1/agents`: the tokens of agents, each of which is the private half of a key.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use underpass_api::{AgentMade, AgentRequest, AgentView};
use underpass_core::ClusterName;
use underpass_directory::{Agent, Cluster, Draft, Entry, Expect, Labels};
use underpass_tunnel::AgentKey;

use super::page::{Page, tagged};
use super::problem::Problem;
use super::requester::{Rights, not_of_the_cluster};
use super::{Did, Requester, State, body};
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
}

fn view(id: &str, entry: &Entry<Agent>) -> AgentView {
    let agent = &entry.object;
    AgentView {
        id: id.to_owned(),
        revision: entry.revision,
        created: agent.created,
        cluster: agent.cluster.clone(),
        key: agent.key.clone(),
    }
}

fn is_visible(rights: &Rights<'_>, agent: &Agent) -> bool {
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
    let shown = page.of(snapshot.all::<Agent>(), |id, entry| {
        (wanted(&entry.object) && is_visible(&rights, &entry.object)).then(|| view(id, entry))
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
    Ok(tagged(&headers, entry.revision, &view(&id, entry)))
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
    let id: String = public
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(12)
        .collect();
    let make = |draft: &mut Draft| {
        requester.must_administer_cluster(draft.before(), &wanted.cluster)?;
        if wanted.make_cluster && draft.get::<Cluster>(wanted.cluster.as_str()).is_none() {
            requester.must_administer(draft.before())?;
            let cluster = Cluster {
                created: draft.now(),
                labels: Labels::default(),
                direct: None,
            };
            draft.put(wanted.cluster.as_str(), cluster, Expect::Absent)?;
        }
        must_fit(&requester, &wanted.cluster, draft)?;
        let agent = Agent {
            created: draft.now(),
            cluster: wanted.cluster.clone(),
            key: public.clone(),
        };
        draft.put(&id, agent, Expect::Absent)?;
        Ok::<_, Problem>(())
    };
    state.change(&requester, make).await?;
    let snapshot = state.directory.snapshot();
    let entry = snapshot
        .get::<Agent>(&id)
        .ok_or_else(|| Problem::not_found("agent", &id))?;
    let made = AgentMade {
        token: key.to_secret_text(),
        agent: view(&id, entry),
    };
    let did = Did::to("agent", &id).subject(format!("cluster:{}", wanted.cluster));
    Ok(did.with((StatusCode::CREATED, Json(made))))
}

/// Is there room for one more agent of the cluster? All clusters share the directory, so that each one's own administrators
/// have a share (security rule 23).
fn must_fit(requester: &Requester, cluster: &ClusterName, draft: &Draft) -> Result<(), Problem> {
    if requester.is_administrator(draft.before()) {
        return Ok(());
    }
    let agents = draft.all::<Agent>();
    let agents = agents.values();
    let count = agents
        .filter(|entry| entry.object.cluster == *cluster)
        .count();
    if count < limits::AGENTS_PER_CLUSTER {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::INSUFFICIENT_STORAGE,
        format!(
            "the cluster {cluster} has {count} agents, and its administrators may make no more: remove those that are not \
             needed, or ask an administrator of all clusters"
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
        Ok(agent)
    };
    let removed = state.change(&requester, remove).await?;
    let did = Did::to("agent", &id).subject(format!("cluster:{}", removed.cluster));
    Ok(did.removed().with(StatusCode::NO_CONTENT))
}
