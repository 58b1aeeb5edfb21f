//! `/v1/join?cluster=NAME`, for pods: an agent registers its own key with its ServiceAccount's token, which its cluster reviews.
//!
//! Until then the caller is a stranger, and nothing of the body is read (security rule 23). A review is a call through the cluster's
//! tunnel: a token for another audience, an account that the cluster's entry does not name, and a network that has shown too many
//! wrong ones cost none, and each cluster has so many. The review never goes through a node that stands in, whose administrator
//! could say yes to any token.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Extension;
use axum::Json;
use axum::extract::{Query, Request};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, Uri};
use serde::Deserialize;
use underpass_api::{JoinAnswer, JoinRefusal};
use underpass_authenticate::{PodReviewError, PodReviewer, ReviewedPod};
use underpass_core::rate::{Rate, RateLimiter};
use underpass_core::{ClusterName, Clusters, NodeName};
use underpass_directory::{Cluster, Draft, PodJoinError, PodJoined, PodJoining};
use underpass_tunnel::chain;
use zeroize::Zeroizing;

use super::begun::Begun;
use super::join::proven;
use super::problem::{self, Problem};
use super::share::Whose;
use super::{Did, State};
use crate::limits;

/// The kind of credential, for shares and the audit log.
const KIND: &str = "join-account";

/// Reviews of pods' tokens by their clusters.
pub(super) struct Reviews {
    reviewer: PodReviewer,
    pace: RateLimiter<ClusterName>,
}

impl Reviews {
    pub(super) fn new(agents: Arc<dyn Clusters>, audience: String) -> Self {
        Self {
            reviewer: PodReviewer::new(agents, audience),
            pace: RateLimiter::new(Rate {
                burst: limits::JOIN_REVIEWS,
                every: limits::JOIN_REVIEW_EVERY,
                sources: limits::JOIN_REVIEW_CLUSTERS,
            }),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    cluster: ClusterName,
}

pub(super) async fn join(
    state: &State,
    client: IpAddr,
    token: Zeroizing<String>,
    begun: Option<Extension<Begun>>,
    request: Request,
) -> Result<Response, Problem> {
    state.guesses.allow(client).map_err(|wait| {
        let seconds = wait.as_secs().saturating_add(1);
        let detail = "too many wrong tokens from your network";
        Problem::later(StatusCode::TOO_MANY_REQUESTS, detail, seconds)
    })?;
    let uri = request.uri().clone();
    let reviewed = review(state, &token, &uri).await;
    let (cluster, pod) = reviewed.inspect_err(|problem| {
        if problem
            .why()
            .is_some_and(|why| why != JoinRefusal::CannotReview)
        {
            state.guesses.count(client);
        }
    })?;
    let begins = begun.is_none_or(|Extension(begun)| begun.begin());
    let registered = match begins {
        true => register(state, &cluster, &pod, &token, request).await,
        false => Err(rejected()),
    };
    let of_cluster = format!("cluster:{cluster}");
    match registered {
        Ok(joined) => Ok(answer(&cluster, &pod, joined)),
        Err(problem) => {
            let name = pod.account.to_string();
            let refused = Did::to(KIND, &name).subject(of_cluster);
            Ok(refused.refused(&problem).with(problem.into_response()))
        }
    }
}

/// The cluster that the token is for, and the pod that this one says it belongs to.
async fn review(
    state: &State,
    token: &str,
    uri: &Uri,
) -> Result<(ClusterName, ReviewedPod), Problem> {
    let reviews = &state.reviews;
    reviews.reviewer.check_audience(token)?;
    let wanted = Query::<Wanted>::try_from_uri(uri);
    let Query(Wanted { cluster }) = wanted.map_err(|_| {
        let detail =
            "a ServiceAccount's token needs the name of its cluster: /v1/join?cluster=NAME";
        Problem::invalid(detail)
    })?;
    let snapshot = state.directory.snapshot();
    let entry = snapshot.get::<Cluster>(cluster.as_str());
    if entry.is_none_or(|entry| entry.object.join_accounts.is_empty()) {
        let detail = format!("no pods may join a cluster {cluster}");
        return Err(
            Problem::new(StatusCode::FORBIDDEN, detail).reason(JoinRefusal::AccountNotNamed)
        );
    }
    let _place = state.places.take(whose(&cluster))?;
    if reviews.pace.take(cluster.clone()).is_none() {
        let detail = "too many pods join this cluster at once";
        let seconds = limits::JOIN_REVIEW_EVERY.as_secs().max(1);
        return Err(Problem::later(
            StatusCode::TOO_MANY_REQUESTS,
            detail,
            seconds,
        ));
    }
    let reviewing = reviews.reviewer.review(&cluster, token);
    let reviewed = tokio::time::timeout(limits::JOIN_REVIEW_TIME, reviewing).await;
    let pod = reviewed.map_err(|_| cannot_review("it does not answer"))??;
    Ok((cluster, pod))
}

fn whose(cluster: &ClusterName) -> Whose {
    Whose {
        by: KIND.to_owned(),
        name: cluster.to_string(),
    }
}

async fn register(
    state: &State,
    cluster: &ClusterName,
    pod: &ReviewedPod,
    token: &str,
    request: Request,
) -> Result<PodJoined, Problem> {
    let _place = state.places.take(whose(cluster))?;
    let ready = state.audit_log.ready().await;
    ready.map_err(|_stuck| problem::unwritten())?;
    let (wanted, key) = proven(request, token).await?;
    state.pace.change(&whose(cluster))?;
    let joining = PodJoining {
        cluster,
        account: &pod.account,
        uid: &pod.uid,
        node: pod.node.as_ref(),
        key: &key,
        role: wanted.role,
    };
    let sessions = state.sessions.by_key();
    let register = |draft: &mut Draft| {
        let is_connected = |key: &str| sessions.contains_key(key);
        Ok(draft.register_pod(&joining, is_connected)?)
    };
    state.write(register).await
}

fn answer(cluster: &ClusterName, pod: &ReviewedPod, joined: PodJoined) -> Response {
    let how = if joined.is_new {
        ""
    } else {
        "; registered before"
    };
    let node = pod.node.as_ref().map_or("(unknown)", NodeName::as_str);
    let grant = format!("role {}; node {node}; pod {}{how}", joined.role, pod.uid);
    let did = Did::to("agent", &joined.agent)
        .subject(format!("cluster:{cluster}"))
        .grant(grant)
        .by(&format!("underpass:{KIND}:{cluster}:{}", pod.account));
    let status = match joined.is_new {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    let answer = JoinAnswer {
        agent: joined.agent,
        cluster: cluster.clone(),
        role: joined.role,
        is_new: joined.is_new,
    };
    did.with((status, Json(answer)))
}

fn rejected() -> Problem {
    Problem::from(PodReviewError::Rejected)
}

fn cannot_review(why: &str) -> Problem {
    let detail = format!("the cluster cannot review the token now: {why}");
    Problem::later(
        StatusCode::SERVICE_UNAVAILABLE,
        detail,
        limits::JOIN_REVIEW_AGAIN,
    )
    .reason(JoinRefusal::CannotReview)
}

impl From<PodReviewError> for Problem {
    fn from(error: PodReviewError) -> Self {
        let (status, refusal) = match &error {
            PodReviewError::Audience(_) => (StatusCode::FORBIDDEN, JoinRefusal::WrongAudience),
            PodReviewError::Rejected => (StatusCode::UNAUTHORIZED, JoinRefusal::TokenRejected),
            PodReviewError::NoAccount => (StatusCode::FORBIDDEN, JoinRefusal::AccountNotNamed),
            PodReviewError::NoPod => (StatusCode::FORBIDDEN, JoinRefusal::NoPod),
            PodReviewError::NoAgent(_) => {
                return cannot_review("none of its agents in the role cluster is connected");
            }
            PodReviewError::Forbidden(_) => {
                tracing::warn!("{}", chain(&error));
                return cannot_review("`underpass-agent rbac --token-reviewer` gives the right to");
            }
            _ => {
                tracing::warn!("{}", chain(&error));
                return cannot_review("the server's log says why");
            }
        };
        Self::new(status, error.to_string()).reason(refusal)
    }
}

impl From<PodJoinError> for Problem {
    fn from(error: PodJoinError) -> Self {
        let (status, refusal) = match error {
            PodJoinError::NotNamed { .. } => (StatusCode::FORBIDDEN, JoinRefusal::AccountNotNamed),
            PodJoinError::OtherRole { .. } => (StatusCode::FORBIDDEN, JoinRefusal::OtherRole),
            PodJoinError::NoNode => (StatusCode::FORBIDDEN, JoinRefusal::NoNodeName),
            PodJoinError::PodHasKey { .. } => (StatusCode::CONFLICT, JoinRefusal::PodHasKey),
            PodJoinError::KeyOfAnotherCluster => {
                (StatusCode::CONFLICT, JoinRefusal::KeyOfAnotherCluster)
            }
            PodJoinError::KeyKnown { .. } => (StatusCode::CONFLICT, JoinRefusal::KeyKnown),
            PodJoinError::Change(error) => return error.into(),
            _ => {
                tracing::error!("a pod did not join: {error}");
                let detail = "the agent did not join; the server's log says why";
                return Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail);
            }
        };
        Self::new(status, error.to_string()).reason(refusal)
    }
}
