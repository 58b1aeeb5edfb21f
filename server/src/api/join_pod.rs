//! `/v1/join?cluster=NAME`, for pods: an agent registers its own key with its ServiceAccount's token, which its cluster reviews.
//!
//! Until then the caller is a stranger, and nothing of the body is read (security rule 23). A review is a call through the cluster's
//! tunnel: a token for another audience, one that says an account which the cluster's entry does not name, and a network that has
//! shown too many wrong ones cost none, and each cluster has so many. The review never goes through a node that stands in, whose
//! administrator could say yes to any token. A stranger gets one answer for every reason: it tells of no cluster. The log has the
//! reason.

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
use underpass_core::{ClusterName, Clusters, NetworkLogShare, NodeName};
use underpass_directory::{Cluster, Draft, PodJoinError, PodJoined, PodJoining};
use underpass_tunnel::chain;
use zeroize::Zeroizing;

use super::begun::Begun;
use super::join::proven;
use super::join_metrics::{self, Method};
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
    /// About tokens that were not reviewed.
    lines: NetworkLogShare,
}

/// Why there is no review that says whose token it is. For the log.
#[derive(Debug, thiserror::Error)]
enum Unreviewed {
    #[error("the token is for an account whose pods may not join a cluster of this name")]
    NotNamed,
    #[error("too many pods join this cluster at once")]
    Busy,
    #[error("the cluster does not answer")]
    Silent,
    #[error(transparent)]
    Failed(PodReviewError),
}

impl Unreviewed {
    /// Has it cost, or shown, as much as a guess? A pod that comes before its cluster's agent has guessed nothing.
    fn is_guess(&self) -> bool {
        !matches!(self, Self::Busy | Self::Failed(PodReviewError::NoAgent(_)))
    }
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
            lines: NetworkLogShare::default(),
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
        not_joined(Problem::later(
            StatusCode::TOO_MANY_REQUESTS,
            detail,
            seconds,
        ))
    })?;
    let uri = request.uri().clone();
    let reviewed = review(state, client, &token, &uri).await;
    let (cluster, pod) = reviewed.map_err(not_joined)?;
    let begins = begun.is_none_or(|Extension(begun)| begun.begin());
    let registered = match begins {
        true => register(state, &cluster, &pod, &token, request).await,
        false => Err(not_reviewed()),
    };
    let of_cluster = format!("cluster:{cluster}");
    match registered {
        Ok(joined) => Ok(answer(&cluster, &pod, joined)),
        Err(problem) => {
            let problem = not_joined(problem);
            if problem.why().is_some() {
                state.guesses.count(client);
            }
            let name = pod.account.to_string();
            let refused = Did::to(KIND, &name)
                .subject(of_cluster)
                .vouched_by(pod.vouched_by.as_ref());
            Ok(refused.refused(&problem).with(problem.into_response()))
        }
    }
}

/// Counts a refusal.
fn not_joined(problem: Problem) -> Problem {
    join_metrics::refused(Method::ServiceAccount, &problem);
    problem
}

/// The cluster that the token is for, and the pod that this one says it belongs to.
async fn review(
    state: &State,
    client: IpAddr,
    token: &str,
    uri: &Uri,
) -> Result<(ClusterName, ReviewedPod), Problem> {
    let reviews = &state.reviews;
    let checked = reviews.reviewer.check_audience(token);
    checked.inspect_err(|_| state.guesses.count(client))?;
    let wanted = Query::<Wanted>::try_from_uri(uri);
    let Query(Wanted { cluster }) = wanted.map_err(|_| {
        let detail =
            "a ServiceAccount's token needs the name of its cluster: /v1/join?cluster=NAME";
        Problem::invalid(detail)
    })?;
    let why = match ask(state, &cluster, token).await {
        Ok(pod) => return Ok((cluster, pod)),
        Err(why) => why,
    };
    if why.is_guess() {
        state.guesses.count(client);
    }
    if let Unreviewed::Failed(error) = &why
        && let Some(problem) = vouched(error)
    {
        return Err(problem);
    }
    if let Some(suppressed) = reviews.lines.take(client) {
        let suppressed = (suppressed > 0).then_some(suppressed);
        tracing::warn!(suppressed, %client, %cluster, "a pod does not join: {}", chain(&why));
    }
    Err(not_reviewed())
}

async fn ask(state: &State, cluster: &ClusterName, token: &str) -> Result<ReviewedPod, Unreviewed> {
    let reviews = &state.reviews;
    let snapshot = state.directory.snapshot();
    let entry = snapshot.get::<Cluster>(cluster.as_str());
    let said = PodReviewer::account(token);
    let is_named = entry
        .zip(said)
        .is_some_and(|(entry, said)| entry.object.join_accounts.contains_key(&said));
    if !is_named {
        return Err(Unreviewed::NotNamed);
    }
    let place = state.places.take(whose(cluster));
    let _place = place.map_err(|_| Unreviewed::Busy)?;
    if reviews.pace.take(cluster.clone()).is_none() {
        return Err(Unreviewed::Busy);
    }
    let reviewing = reviews.reviewer.review(cluster, token);
    let reviewed = tokio::time::timeout(limits::JOIN_REVIEW_TIME, reviewing).await;
    let reviewed = reviewed.map_err(|_| Unreviewed::Silent)?;
    reviewed.map_err(Unreviewed::Failed)
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
    let _place = state.take_place(whose(cluster), cluster, limits::JOIN_LINE)?;
    let ready = state.audit_log.ready().await;
    ready.map_err(|_stuck| problem::unwritten())?;
    let (wanted, key) = proven(request, token).await?;
    if let Some(other) = wanted.cluster.as_ref().filter(|wanted| *wanted != cluster) {
        let detail =
            format!("the token is for the cluster {cluster}, and the agent asks for {other}");
        return Err(Problem::new(StatusCode::FORBIDDEN, detail).reason(JoinRefusal::OtherCluster));
    }
    let joining = PodJoining {
        cluster,
        account: &pod.account,
        uid: &pod.uid,
        node: pod.node.as_ref(),
        labels: Some(&wanted.labels),
        key: &key,
        role: wanted.role,
    };
    if let Some(joined) = state.directory.snapshot().pod_joined_before(&joining)? {
        return Ok(joined);
    }
    // A pod that registers nothing takes no turn, and an account no other's.
    let of_account = Whose {
        by: KIND.to_owned(),
        name: format!("{cluster}/{}", pod.account),
    };
    state.take_turn(&of_account, cluster, limits::JOIN_LINE)?;
    let register = |draft: &mut Draft| {
        // An agent may have connected while the change waited (rule 25).
        let sessions = state.sessions.by_agent();
        let is_connected = |id: &str| sessions.contains_key(id);
        Ok(draft.register_pod(&joining, is_connected)?)
    };
    state.write(register).await
}

fn answer(cluster: &ClusterName, pod: &ReviewedPod, joined: PodJoined) -> Response {
    join_metrics::joined(Method::ServiceAccount, joined.role, joined.is_new);
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
        .vouched_by(pod.vouched_by.as_ref())
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

/// The one answer to a stranger.
fn not_reviewed() -> Problem {
    let detail = "no pod joins with this token now. Either the cluster is not here, or lets no pods of the ServiceAccount join \
        (`underpass cluster join-account add`), or does not accept the token, or lets the server review none \
        (`underpass-agent rbac --token-reviewer`), or none of its agents in the role cluster is connected. The server's log says which";
    Problem::later(
        StatusCode::SERVICE_UNAVAILABLE,
        detail,
        limits::JOIN_REVIEW_AGAIN,
    )
    .reason(JoinRefusal::CannotReview)
}

/// The answer to somebody for whom the cluster has vouched, though not as for a pod.
fn vouched(error: &PodReviewError) -> Option<Problem> {
    let refusal = match error {
        PodReviewError::Audience(_) => JoinRefusal::WrongAudience,
        PodReviewError::NoAccount => JoinRefusal::AccountNotNamed,
        PodReviewError::NoPod => JoinRefusal::NoPod,
        _ => return None,
    };
    Some(Problem::new(StatusCode::FORBIDDEN, error.to_string()).reason(refusal))
}

impl From<PodReviewError> for Problem {
    fn from(error: PodReviewError) -> Self {
        vouched(&error).unwrap_or_else(not_reviewed)
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
            PodJoinError::KeyReplaced => (StatusCode::CONFLICT, JoinRefusal::KeyReplaced),
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
