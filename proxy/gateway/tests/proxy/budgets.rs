//! One user's storm leaves others untouched, and what one has in flight comes back however it ends.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use underpass_audit::{AuditLog, BackendConfig};
use underpass_core::{Body, empty};
use underpass_gateway::BudgetConfig;

use crate::{
    api::{Api, channel},
    audit::Taken,
    upgrades::answer_at_the_end,
    world::{World, code, collect, soon, status, until},
};

type Chunks = mpsc::Sender<Result<Bytes, std::io::Error>>;

/// An API server that answers when the test says so.
struct Gated {
    api: Api,
    /// A permit for each request of `/held` that may be answered.
    gate: Arc<Semaphore>,
    /// The senders of `/body` and of watches, the latest last.
    bodies: Arc<Mutex<Vec<Chunks>>>,
}

impl Gated {
    async fn start() -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let bodies = Arc::<Mutex<Vec<Chunks>>>::default();
        let (may, sending) = (Arc::clone(&gate), Arc::clone(&bodies));
        let api = Api::start(move |request: Request<Incoming>| {
            let (may, sending) = (Arc::clone(&may), Arc::clone(&sending));
            async move {
                let target = request.uri().to_string();
                if target.contains("/exec") {
                    return answer_at_the_end(request).await;
                }
                if target.contains("/body") || target.contains("watch=1") {
                    let (sender, body) = channel();
                    sending.lock().unwrap().push(sender);
                    return Response::new(body);
                }
                if target.contains("/held") {
                    may.acquire().await.unwrap().forget();
                }
                if target.contains("/page") {
                    return Response::new(underpass_core::full(vec![b'x'; 4096]));
                }
                Response::new(underpass_core::full("ok"))
            }
        })
        .await;
        Self { api, gate, bodies }
    }

    async fn world(&self, budgets: BudgetConfig) -> World {
        World::with_budgets(&self.api, AuditLog::default(), budgets).await
    }

    /// Waits until so many requests have come through.
    async fn has_seen(&self, count: usize) {
        until(|| self.api.seen().len() >= count).await;
        assert_eq!(self.api.seen().len(), count);
    }

    /// The sender of the latest body.
    fn last_body(&self) -> Chunks {
        self.bodies.lock().unwrap().pop().unwrap()
    }
}

fn requests(per_user: usize, per_cluster: usize) -> BudgetConfig {
    let config = BudgetConfig::default().requests_per_user(per_user);
    config
        .and_then(|config| config.requests_per_cluster(per_cluster))
        .unwrap()
}

async fn send(
    mut http2: SendRequest<Body>,
    world: &World,
    token: &str,
    path: &str,
) -> Response<Incoming> {
    let mut request = world.request("GET", path, empty());
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.headers_mut().insert("authorization", bearer);
    http2.send_request(request).await.unwrap()
}

async fn json_of(response: Response<Incoming>) -> Value {
    serde_json::from_slice(&collect(response.into_body()).await).unwrap()
}

/// Requests that wait.
fn waiting(world: &World) -> usize {
    let clusters = world.budgets.occupancy();
    clusters.iter().map(|at| at.waiting).sum()
}

/// `count` GETs of `/held` as alice.
fn storm(
    world: &Arc<World>,
    http2: &SendRequest<Body>,
    count: usize,
) -> JoinSet<Response<Incoming>> {
    let mut storm = JoinSet::new();
    for _ in 0..count {
        let (http2, world) = (http2.clone(), Arc::clone(world));
        storm.spawn(async move { send(http2, &world, &world.alice, "/held").await });
    }
    storm
}

#[tokio::test]
async fn one_users_storm_leaves_another_untouched() {
    let gated = Gated::start().await;
    // Sixteen of them for one cluster.
    let world = Arc::new(gated.world(requests(4, 8).queue_per_user(21)).await);
    let http2 = world.http2().await;
    let mut storm = storm(&world, &http2, 21);
    // One is too many.
    let refused = soon(storm.join_next()).await.unwrap().unwrap();
    assert_eq!(refused.status(), 429);
    let retry: u64 = refused.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=15).contains(&retry), "{retry}");
    let told = json_of(refused).await;
    let wanted = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message":
            "user \"alice\" has too many requests in flight and waiting, please try again later",
        "reason": "TooManyRequests", "details": { "retryAfterSeconds": retry }, "code": 429
    });
    assert_eq!(told, wanted);
    gated.has_seen(4).await;
    // The other one has not to wait, on the same connection or another.
    for http2 in [http2, world.http2().await] {
        let answer = soon(send(http2, &world, &world.bob, "/version")).await;
        assert_eq!(answer.status(), 200);
    }
    gated.has_seen(6).await;
    // The waiting requests are served in the end.
    gated.gate.add_permits(20);
    while let Some(answer) = soon(storm.join_next()).await {
        assert_eq!(answer.unwrap().status(), 200);
    }
    gated.has_seen(22).await;
}

#[tokio::test]
async fn rule_23_a_cluster_that_hangs_leaves_its_users_the_others() {
    let gated = Gated::start().await;
    let world = Arc::new(gated.world(requests(16, 600).queue_per_user(8)).await);
    let http2 = world.http2().await;
    let mut storm = storm(&world, &http2, 25);
    for _ in 0..25 - 12 - 6 {
        let refused = soon(storm.join_next()).await.unwrap().unwrap();
        assert_eq!(refused.status(), 429);
        let told = json_of(refused).await;
        let message = told["message"].as_str().unwrap();
        assert!(
            message.starts_with("user \"alice\" in cluster \"c\" has"),
            "{message}"
        );
    }
    gated.has_seen(12).await;
    // Another cluster is asked at once. (It has no agent; that is an answer of its own.)
    let mut request = world.request("GET", "/version", empty());
    *request.uri_mut() = "http://front/k8s/clusters/no-agent/version"
        .parse()
        .unwrap();
    let answer = soon(http2.clone().send_request(request)).await.unwrap();
    assert_eq!(answer.status(), 503);
    gated.gate.add_permits(18);
    while let Some(answer) = soon(storm.join_next()).await {
        assert_eq!(answer.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn where_a_cluster_is_full_users_take_turns() {
    let gated = Gated::start().await;
    let world = Arc::new(gated.world(requests(2, 2)).await);
    let http2 = world.http2().await;
    let mut storm = storm(&world, &http2, 10);
    gated.has_seen(2).await;
    let bob = {
        let (world, http2) = (Arc::clone(&world), world.http2().await);
        tokio::spawn(async move { send(http2, &world, &world.bob, "/held").await })
    };
    until(|| waiting(&world) == 9).await;
    // One of alice's at the most is before his.
    gated.gate.add_permits(2);
    gated.has_seen(4).await;
    let seen = gated.api.seen();
    let bobs = seen
        .iter()
        .filter(|seen| seen.all("impersonate-user") == ["bob"]);
    assert_eq!(bobs.count(), 1);
    gated.gate.add_permits(12);
    assert_eq!(soon(bob).await.unwrap().status(), 200);
    while let Some(answer) = soon(storm.join_next()).await {
        assert_eq!(answer.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn what_lasts_holds_no_place_of_what_does_not() {
    let gated = Gated::start().await;
    let world = gated.world(requests(1, 1)).await;
    let http2 = world.http2().await;
    let get = |path: &'static str| soon(send(http2.clone(), &world, &world.alice, path));
    let watch = get("/api/v1/pods?watch=1").await;
    let service = get("/api/v1/namespaces/a/services/s/proxy/body").await;
    let mut shell = shell(&world).await;
    for _ in 0..3 {
        assert_eq!(get("/version").await.status(), 200);
    }
    // Nor the other way round.
    let slow = get("/body").await;
    assert_eq!(get("/api/v1/nodes?watch=1").await.status(), 200);
    shell.shutdown().await.unwrap();
    let mut rest = Vec::new();
    soon(shell.read_to_end(&mut rest)).await.unwrap();
    assert_eq!([watch.status(), service.status(), slow.status()], [200; 3]);
}

/// A shell of alice.
async fn shell(world: &World) -> TcpStream {
    let (mut socket, head) = ask_for_shell(world).await;
    assert_eq!(code(&head), 101);
    socket.write_all(b"x").await.unwrap();
    socket
}

async fn ask_for_shell(world: &World) -> (TcpStream, String) {
    let mut socket = TcpStream::connect(world.http1).await.unwrap();
    let lines = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n";
    let head = world.head("POST", "/api/v1/namespaces/a/pods/p/exec?command=sh", lines);
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(socket.read_u8()).await.unwrap());
    }
    (socket, String::from_utf8(head).unwrap())
}

#[tokio::test]
async fn streams_beyond_their_bound_are_refused_at_once() {
    let gated = Gated::start().await;
    let streams = BudgetConfig::default().streams_per_user(2).unwrap();
    let world = gated.world(streams).await;
    let http2 = world.http2().await;
    let watch = |token| soon(send(http2.clone(), &world, token, "/api/v1/pods?watch=1"));
    let first = watch(&world.alice).await;
    let shell = shell(&world).await;
    let refused = watch(&world.alice).await;
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    let message = "user \"alice\" has too many watches, logs, shells and forwarded ports open, \
                   please try again later";
    assert_eq!(json_of(refused).await["message"], message);
    let (mut socket, head) = ask_for_shell(&world).await;
    assert_eq!(code(&head), 429);
    // Rule 1: nothing more is read on it.
    assert!(head.contains("connection: close"), "{head}");
    soon(socket.read_to_end(&mut Vec::new())).await.unwrap();
    assert_eq!(watch(&world.bob).await.status(), 200);
    gated.has_seen(3).await;

    // Each end makes room: of a watch, which its client lets go, and of a pipe.
    drop(first);
    let second = until_let_in(|| watch(&world.alice)).await;
    drop(shell);
    let third = until_let_in(|| watch(&world.alice)).await;
    assert_eq!(watch(&world.alice).await.status(), 429);
    // One that the cluster ends.
    gated.last_body();
    collect(third.into_body()).await;
    until_let_in(|| watch(&world.alice)).await;
    drop(second);
}

/// Asks until it is not 429 any more: that something has ended is heard of a little later.
async fn until_let_in<F>(mut ask: impl FnMut() -> F) -> Response<Incoming>
where
    F: Future<Output = Response<Incoming>>,
{
    soon(async {
        loop {
            let answer = ask().await;
            if answer.status() != 429 {
                assert_eq!(answer.status(), 200);
                return answer;
            }
        }
    })
    .await
}

/// With one place, each of these would wait in vain if one before it had kept the place.
#[tokio::test]
async fn places_come_back_however_a_request_ends() {
    let gated = Gated::start().await;
    let world = Arc::new(gated.world(requests(1, 1)).await);
    let http2 = world.http2().await;
    let get = |path: &'static str| send(http2.clone(), &world, &world.alice, path);
    let next = || async {
        let answer = soon(get("/version")).await;
        assert_eq!(answer.status(), 200);
        collect(answer.into_body()).await;
    };

    // The client goes before there is an answer, on HTTP/1.1 and on HTTP/2.
    let mut socket = TcpStream::connect(world.http1).await.unwrap();
    let head = world.head("GET", "/held", "");
    socket.write_all(head.as_bytes()).await.unwrap();
    gated.has_seen(1).await;
    drop(socket);
    next().await;
    let held = storm(&world, &http2, 1);
    gated.has_seen(3).await;
    // Waiters go, and then the holder of the place.
    let beside = storm(&world, &http2, 3);
    until(|| waiting(&world) == 3).await;
    drop(beside);
    until(|| waiting(&world) == 0).await;
    drop(held);
    next().await;
    gated.has_seen(4).await;

    // In the midst of the answer.
    let mut answer = soon(get("/body")).await;
    let sender = gated.last_body();
    sender.send(Ok("half".into())).await.unwrap();
    soon(answer.body_mut().frame()).await.unwrap().unwrap();
    drop(answer);
    next().await;

    // The API server fails in the midst of it; the client keeps what there was.
    let mut answer = soon(get("/body")).await;
    let sender = gated.last_body();
    sender.send(Ok("half".into())).await.unwrap();
    soon(answer.body_mut().frame()).await.unwrap().unwrap();
    let lost = std::io::Error::other("disk on fire");
    sender.send(Err(lost)).await.unwrap();
    next().await;
    assert!(soon(answer.body_mut().frame()).await.unwrap().is_err());

    // No stream, no agent, no such cluster.
    for cluster in ["no-agent", "lost", "vanishing", "garbage", "unknown"] {
        for _ in 0..2 {
            let mut request = world.request("GET", "/api", empty());
            let target = format!("http://front/k8s/clusters/{cluster}/api");
            *request.uri_mut() = target.parse().unwrap();
            let answer = soon(http2.clone().send_request(request)).await.unwrap();
            assert_ne!(answer.status(), 429, "{cluster}");
        }
    }

    // Answers without a body.
    for _ in 0..2 {
        let head = world.head("HEAD", "/version", "Connection: close\r\n");
        assert_eq!(code(&world.raw(&head).await), 200);
    }
    next().await;
    until(|| world.budgets.occupancy().is_empty()).await;
}

#[tokio::test]
async fn whom_somebody_acts_as_is_not_whose_budget_it_is() {
    let gated = Gated::start().await;
    let streams = BudgetConfig::default().streams_per_user(1).unwrap();
    let world = gated.world(streams).await;
    let http2 = world.http2().await;
    let as_bob = || {
        let mut request = world.request("GET", "/api/v1/pods?watch=1", empty());
        let headers = request.headers_mut();
        headers.insert("impersonate-user", "bob".parse().unwrap());
        let mut http2 = http2.clone();
        soon(async move { http2.send_request(request).await.unwrap() })
    };
    let first = as_bob().await;
    assert_eq!(first.status(), 200);
    let refused = as_bob().await;
    assert_eq!(refused.status(), 429);
    let message = json_of(refused).await["message"].to_string();
    assert!(
        message.contains("alice") && !message.contains("bob"),
        "{message}"
    );
    let own = send(http2, &world, &world.bob, "/api/v1/pods?watch=1");
    assert_eq!(soon(own).await.status(), 200);
}

/// hyper takes all of a short answer at once. Where its place did not wait for the client, a user with one connection after
/// another has any number of answers in memory.
#[tokio::test]
async fn rule_23_an_answer_has_a_place_until_it_is_sent() {
    let gated = Gated::start().await;
    let world = gated.world(requests(1, 1).queue_per_user(0)).await;
    let slow = world.http2_with_window(1024).await;
    let mut answer = soon(send(slow, &world, &world.alice, "/page")).await;
    let first = soon(answer.body_mut().frame()).await.unwrap().unwrap();
    let first = first.into_data().unwrap();
    assert!(first.len() < 4096);
    assert_eq!(code(&world.get("/version", "").await), 429);
    // The client reads on: hyper gives the window back.
    let rest = collect(answer.into_body()).await;
    assert_eq!(first.len() + rest.len(), 4096);
    until(|| world.budgets.occupancy().is_empty()).await;
    assert_eq!(code(&world.get("/version", "").await), 200);
}

/// The same where the client goes away without having read.
#[tokio::test]
async fn rule_23_an_answer_that_is_never_read_gives_its_place_back_with_its_connection() {
    let gated = Gated::start().await;
    let world = gated.world(requests(1, 1).queue_per_user(0)).await;
    let slow = world.http2_with_window(1024).await;
    let answer = soon(send(slow, &world, &world.alice, "/page")).await;
    assert_eq!(code(&world.get("/version", "").await), 429);
    drop(answer);
    until(|| world.budgets.occupancy().is_empty()).await;
}

#[tokio::test]
async fn discovery_is_told_without_a_time_to_come_back() {
    let gated = Gated::start().await;
    let world = gated.world(requests(1, 1).queue_per_user(0)).await;
    let _held = soon(send(world.http2().await, &world, &world.alice, "/body")).await;
    let accept = "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList\r\n";
    for (lines, told) in [(accept, false), ("", true)] {
        let answer = world.get("/apis", lines).await;
        assert_eq!(code(&answer), 429);
        assert_eq!(status(&answer)["reason"], "TooManyRequests");
        assert_eq!(answer.contains("retry-after: 1\r\n"), told, "{answer}");
    }
}

#[tokio::test]
async fn rule_15_a_spent_budget_is_written_with_whose_it_is() {
    let gated = Gated::start().await;
    let taken = Taken::new();
    let (audit_log, _outlet) = taken.audit_log(BackendConfig::default());
    let budgets = requests(1, 1).queue_per_user(0);
    let world = World::with_budgets(&gated.api, audit_log, budgets).await;
    let _held = soon(send(world.http2().await, &world, &world.alice, "/body")).await;
    assert_eq!(code(&world.get("/api/v1/pods", "").await), 429);
    let event = &taken.all(1).await[0];
    let message =
        "user \"alice\" has too many requests in flight and waiting, please try again later";
    let wanted = json!({
        "metadata": {}, "status": "Failure", "message": message, "reason": "TooManyRequests",
        "code": 429
    });
    assert_eq!(event["responseStatus"], wanted);
    assert_eq!(event["annotations"]["underpass.dev/outcome"], "refused");
    assert_eq!(event["verb"], "list");
}

#[tokio::test]
async fn rule_12_who_waits_is_revoked_like_who_is_served() {
    let gated = Gated::start().await;
    let world = Arc::new(gated.world(requests(1, 1)).await);
    let http2 = world.http2().await;
    let mut storm = storm(&world, &http2, 5);
    until(|| waiting(&world) == 4).await;
    // The one that is served has got there; else it never would.
    gated.has_seen(1).await;
    world.revoke.cancel();
    while let Some(answer) = soon(storm.join_next()).await {
        assert_eq!(answer.unwrap().status(), 403);
    }
    gated.has_seen(1).await;
    until(|| world.budgets.occupancy().is_empty()).await;
}
