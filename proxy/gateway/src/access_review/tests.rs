//! A cluster that answers, on a simulated clock.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicU16, AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use super::*;
use underpass_core::{BoxedIo, ClusterName, ConnectError, Open, RequestInfo};

/// Says to every review what it is told to.
struct Cluster {
    /// The code of its answers; 0 for none at all.
    code: AtomicU16,
    /// No group of this name is allowed.
    refuses: &'static str,
    asked: AtomicUsize,
    at_once: AtomicUsize,
    most: AtomicUsize,
}

impl Cluster {
    fn new(refuses: &'static str) -> Arc<Self> {
        Arc::new(Self {
            code: AtomicU16::new(201),
            refuses,
            asked: AtomicUsize::new(0),
            at_once: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        })
    }

    fn answer_with(&self, code: u16) {
        self.code.store(code, Ordering::Relaxed);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    async fn review(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        use http_body_util::BodyExt;
        self.asked.fetch_add(1, Ordering::Relaxed);
        let now = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let review: serde_json::Value = serde_json::from_slice(&body).unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.at_once.fetch_sub(1, Ordering::Relaxed);
        let code = self.code.load(Ordering::Relaxed);
        if code == 0 {
            std::future::pending::<()>().await;
        }
        let name = &review["spec"]["resourceAttributes"]["name"];
        let answer = match code {
            201 => serde_json::json!({ "status": { "allowed": name != self.refuses } }),
            _ => serde_json::json!({ "kind": "Status", "message": "no" }),
        };
        let mut response = Response::new(Full::from(answer.to_string()));
        *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
        response
    }
}

struct Tunnel(Arc<Cluster>);

#[async_trait]
impl Clusters for Tunnel {
    async fn connect(&self, cluster: &ClusterName, open: &Open) -> Result<BoxedIo, ConnectError> {
        if cluster.as_str() == "away" {
            return Err(ConnectError::NoAgent);
        }
        let reviewer = Identity::decode(&open.identity).unwrap();
        assert_eq!(reviewer.user(), ACCESS_REVIEWER);
        assert!(reviewer.groups().is_empty() && reviewer.extra().is_empty());
        let (ours, theirs) = tokio::io::duplex(4096);
        let cluster = Arc::clone(&self.0);
        let service = service_fn(move |request| {
            let cluster = Arc::clone(&cluster);
            async move { Ok::<_, Infallible>(cluster.review(request).await) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(theirs), service));
        Ok(Box::new(ours))
    }
}

fn reviews(cluster: &Arc<Cluster>) -> AccessReviews {
    AccessReviews::new(Arc::new(Tunnel(Arc::clone(cluster))))
}

fn identity(user: &str, groups: usize) -> Identity {
    let groups = (0..groups).map(|n| format!("group-{n}")).collect();
    Identity::new(user.to_owned(), None, groups, Default::default()).unwrap()
}

async fn may(
    reviews: &AccessReviews,
    cluster: &str,
    target: &Identity,
) -> Result<Revocation, Rejection> {
    let cluster = ClusterName::new(cluster).unwrap();
    let request = RequestInfo::parse(&Method::GET, "/api/v1/pods", None, false);
    let alice = identity("alice", 1);
    let access = Access::new(&alice, &cluster, &request);
    reviews.may(&access, target).await
}

#[tokio::test(start_paused = true)]
async fn three_hundred_groups_are_asked_for_a_few_at_a_time_and_once() {
    let cluster = Cluster::new("nobody");
    let reviews = reviews(&cluster);
    let bob = identity("bob", 300);
    let mut asking = JoinSet::new();
    for _ in 0..50 {
        let (reviews, bob) = (reviews.clone(), bob.clone());
        asking.spawn(async move { may(&reviews, "edge", &bob).await });
    }
    for allowed in asking.join_all().await {
        allowed.unwrap();
    }
    may(&reviews, "edge", &bob).await.unwrap();
    assert_eq!(cluster.asked(), 301);
    let most = cluster.most.load(Ordering::Relaxed);
    assert_eq!(most, limits::ACCESS_REVIEWS_AT_ONCE);
    tokio::time::sleep(limits::IMPERSONATION_ALLOWED).await;
    may(&reviews, "edge", &bob).await.unwrap();
    assert_eq!(cluster.asked(), 602);
}

#[tokio::test(start_paused = true)]
async fn rule_16_one_part_that_is_refused_refuses_all() {
    let cluster = Cluster::new("group-150");
    let reviews = reviews(&cluster);
    let refused = may(&reviews, "edge", &identity("bob", 300))
        .await
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "groups \"group-150\" is forbidden: User \"alice\" cannot impersonate resource \"groups\" in \
         API group \"\" at the cluster scope"
    );
    assert_eq!(refused.code(), 403);
    // The parts far behind it are not asked for.
    assert!(cluster.asked() < 200, "{}", cluster.asked());
    may(&reviews, "edge", &identity("bob", 150)).await.unwrap();
    may(&reviews, "edge", &identity("bob", 151))
        .await
        .unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn rule_16_a_cluster_that_does_not_say_yes_says_no() {
    let bob = identity("bob", 0);
    for (code, rejection) in [
        (
            403,
            Rejection::ImpersonationNotReviewed(ClusterName::new("edge").unwrap()),
        ),
        (200, Rejection::Unavailable),
        (302, Rejection::Unavailable),
        (429, Rejection::Unavailable),
        (500, Rejection::Unavailable),
        (0, Rejection::Timeout("the cluster's access review")),
    ] {
        let cluster = Cluster::new("nobody");
        cluster.answer_with(code);
        let refused = may(&reviews(&cluster), "edge", &bob).await.unwrap_err();
        assert_eq!(refused, rejection, "{code}");
    }
    let refused = may(&reviews(&Cluster::new("nobody")), "away", &bob).await;
    assert!(matches!(refused, Err(Rejection::NoAgent(_))));
}

#[tokio::test(start_paused = true)]
async fn a_no_is_asked_again_soon() {
    let cluster = Cluster::new("nobody");
    let (reviews, bob) = (reviews(&cluster), identity("bob", 0));
    cluster.answer_with(403);
    for _ in 0..5 {
        may(&reviews, "edge", &bob).await.unwrap_err();
    }
    assert_eq!(cluster.asked(), 1);
    cluster.answer_with(201);
    tokio::time::sleep(limits::IMPERSONATION_REFUSED).await;
    may(&reviews, "edge", &bob).await.unwrap();
    // An unknown answer is asked for again at once.
    let cluster = Cluster::new("nobody");
    let reviews = super::tests::reviews(&cluster);
    cluster.answer_with(500);
    may(&reviews, "edge", &bob).await.unwrap_err();
    cluster.answer_with(201);
    may(&reviews, "edge", &bob).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn rule_12_a_right_taken_away_in_the_cluster_ends_what_rests_on_it() {
    let cluster = Cluster::new("nobody");
    let (reviews, bob) = (reviews(&cluster), identity("bob", 0));
    let watch = may(&reviews, "edge", &bob).await.unwrap();
    // It is asked for again and again, and a cluster that cannot be asked ends nothing.
    tokio::time::sleep(5 * limits::IMPERSONATION_AGAIN).await;
    assert!(cluster.asked() >= 5, "{}", cluster.asked());
    cluster.answer_with(500);
    tokio::time::sleep(5 * limits::IMPERSONATION_AGAIN).await;
    assert!(!watch.is_revoked());
    cluster.answer_with(403);
    let soon = limits::IMPERSONATION_AGAIN + limits::IMPERSONATION_ALLOWED + Duration::from_secs(1);
    let ended = tokio::time::timeout(soon, watch.revoked()).await;
    ended.expect("it is taken back");
}

#[tokio::test(start_paused = true)]
async fn what_nothing_rests_on_is_not_asked_for() {
    let cluster = Cluster::new("nobody");
    let (reviews, bob) = (reviews(&cluster), identity("bob", 0));
    let first = may(&reviews, "edge", &bob).await.unwrap();
    let second = may(&reviews, "edge", &bob).await.unwrap();
    drop((first, second));
    let asked = cluster.asked();
    tokio::time::sleep(5 * limits::IMPERSONATION_AGAIN).await;
    assert_eq!(cluster.asked(), asked);
}
