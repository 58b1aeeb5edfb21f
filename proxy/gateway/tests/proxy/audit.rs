//! The audit log's events of calls, and the calls' fate when it cannot be written (security rule 15).

use std::{
    error::Error as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
};
use underpass_audit::{AuditLog, Backend, BackendConfig, Full, Policy, Sink, Webhook};
use underpass_core::{Body, BoxError, limits};
use underpass_http_proxy::testing::{CREDENTIALS, HttpProxy};

use crate::{
    api::{Api, channel},
    upgrades::answer_at_the_end,
    world::{World, code, soon, until},
};

/// A sink that takes events while it is allowed to.
#[derive(Clone)]
pub(crate) struct Taken {
    events: Arc<Mutex<Vec<Value>>>,
    allowed: Arc<Semaphore>,
    /// So many writes fail first.
    failures: Arc<Mutex<u32>>,
}

#[async_trait]
impl Sink for Taken {
    async fn write(&mut self, events: &[Bytes]) -> Result<(), BoxError> {
        let allowed = self.allowed.acquire_many(events.len().try_into().unwrap());
        allowed.await.unwrap().forget();
        let mut failures = self.failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            self.allowed.add_permits(events.len());
            return Err("disk full".into());
        }
        let parsed = events
            .iter()
            .map(|event| serde_json::from_slice(event).unwrap());
        self.events.lock().unwrap().extend(parsed);
        Ok(())
    }
}

impl Taken {
    pub(crate) fn new() -> Self {
        Self {
            events: Arc::default(),
            allowed: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            failures: Arc::default(),
        }
    }

    fn stuck() -> Self {
        Self {
            allowed: Arc::new(Semaphore::new(0)),
            ..Self::new()
        }
    }

    pub(crate) fn audit_log(&self, config: BackendConfig) -> (AuditLog, Backend) {
        let backend = Backend::start("test", Box::new(self.clone()), config);
        let audit_log = AuditLog::new(Policy::everything(), vec![backend.clone()]);
        (audit_log, backend)
    }

    async fn world(&self, api: &Api) -> World {
        World::audited(api, self.audit_log(BackendConfig::default()).0).await
    }

    /// Waits for so many events.
    pub(crate) async fn all(&self, count: usize) -> Vec<Value> {
        until(|| self.events.lock().unwrap().len() >= count).await;
        let events = self.events.lock().unwrap().clone();
        assert_eq!(events.len(), count, "{events:#?}");
        events
    }
}

async fn hello(_: Request<Incoming>) -> Response<Body> {
    Response::new(underpass_core::full("hello"))
}

/// The fields that say what happened.
fn told(event: &Value) -> Value {
    json!([
        event["stage"],
        event["verb"],
        event["user"]["username"],
        event["responseStatus"]["code"],
        event["annotations"]["underpass.dev/outcome"],
    ])
}

#[tokio::test]
async fn rule_15_a_call_is_one_event_with_the_id_that_the_api_server_gets() {
    let api = Api::start(hello).await;
    let taken = Taken::new();
    let world = taken.world(&api).await;
    let path = "/api/v1/namespaces/shop/pods/web%2F?x=1";
    let answer = world.get(path, "User-Agent: kubectl/1\r\n").await;
    assert_eq!(code(&answer), 200);
    let event = &taken.all(1).await[0];
    let id = event["auditID"].as_str().unwrap();
    assert_eq!(api.seen()[0].all("audit-id"), [id]);
    assert!(answer.contains(&format!("audit-id: {id}")), "{answer}");
    let wanted = json!(["ResponseComplete", "get", "alice", 200, "complete"]);
    assert_eq!(told(event), wanted);
    assert_eq!(event["requestURI"], path);
    assert_eq!(event["userAgent"], "kubectl/1");
    assert_eq!(event["sourceIPs"], json!(["127.0.0.1"]));
    assert_eq!(event["user"]["groups"], json!(["dev"]));
    assert_eq!(event["user"]["uid"], "uid-1");
    assert_eq!(event["annotations"]["underpass.dev/cluster"], "c");
    assert_eq!(event["annotations"]["underpass.dev/bytes-down"], "5");
    assert_eq!(event["impersonatedUser"], Value::Null);
}

#[tokio::test]
async fn rule_15_what_was_refused_is_written_too() {
    let api = Api::start(hello).await;
    let (taken, strangers) = (Taken::new(), Taken::new());
    let (audit_log, _) = taken.audit_log(BackendConfig::default());
    let audit_log = audit_log.strangers("strangers", Box::new(strangers.clone()));
    let world = World::audited(&api, audit_log).await;
    let head = |token: &str| {
        format!(
            "GET /k8s/clusters/c/version HTTP/1.1\r\nHost: front\r\nConnection: close\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        )
    };
    assert_eq!(code(&world.raw(&head(&world.mallory)).await), 403);
    assert_eq!(code(&world.raw(&head("upt_wrong")).await), 401);
    let events = [taken.all(1).await, strangers.all(1).await].concat();
    let forbidden = json!(["ResponseComplete", "get", "mallory", 403, "refused"]);
    assert_eq!(told(&events[0]), forbidden);
    let answer = &events[0]["responseStatus"];
    assert_eq!(
        [&answer["status"], &answer["reason"]],
        ["Failure", "Forbidden"]
    );
    let message = answer["message"].as_str().unwrap();
    assert!(message.contains("\"mallory\" cannot get"), "{message}");
    let nobody = json!(["ResponseComplete", "GET", null, 401, "refused"]);
    assert_eq!(told(&events[1]), nobody);
    assert!(
        !events[1].to_string().contains("upt_"),
        "rule 11: no credential"
    );
    assert!(api.seen().is_empty());
}

#[tokio::test]
async fn rule_16_both_identities_are_written() {
    let api = Api::start(hello).await;
    let taken = Taken::new();
    let world = taken.world(&api).await;
    for (target, wanted) in [("bob", 200), ("carol", 403)] {
        let lines = format!("Impersonate-User: {target}\r\nImpersonate-Group: g\r\n");
        assert_eq!(code(&world.get("/version", &lines).await), wanted);
    }
    let events = taken.all(2).await;
    for (event, target, code) in [(&events[0], "bob", 200), (&events[1], "carol", 403)] {
        assert_eq!(event["user"]["username"], "alice");
        assert_eq!(event["impersonatedUser"]["username"], target);
        assert_eq!(event["impersonatedUser"]["groups"], json!(["g"]));
        assert_eq!(event["responseStatus"]["code"], code);
    }
}

#[tokio::test]
async fn a_watch_is_written_when_it_begins_and_when_it_ends() {
    let (sender, body) = channel();
    let body = Arc::new(Mutex::new(Some(body)));
    let api = Api::start(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async move { Response::new(body) }
    })
    .await;
    let taken = Taken::new();
    let world = taken.world(&api).await;
    let mut http2 = world.http2().await;
    let request = world.request("GET", "/api/v1/pods?watch=1", underpass_core::empty());
    let response = soon(http2.send_request(request)).await.unwrap();
    let begun = taken.all(1).await;
    assert_eq!(
        told(&begun[0]),
        json!(["ResponseStarted", "watch", "alice", 200, null])
    );
    sender.send(Ok(Bytes::from_static(b"{}"))).await.unwrap();
    drop(sender);
    crate::world::collect(response.into_body()).await;
    let ended = taken.all(2).await;
    let wanted = json!(["ResponseComplete", "watch", "alice", 200, "complete"]);
    assert_eq!(told(&ended[1]), wanted);
    assert_eq!(ended[0]["auditID"], ended[1]["auditID"]);
    assert_eq!(ended[1]["annotations"]["underpass.dev/bytes-down"], "2");
}

#[tokio::test]
async fn rule_15_a_shell_is_written_with_its_bytes() {
    let api = Api::start(answer_at_the_end).await;
    let taken = Taken::new();
    let world = taken.world(&api).await;
    let mut socket = TcpStream::connect(world.http1).await.unwrap();
    let path = "/api/v1/namespaces/a/pods/p/exec?command=sh";
    let lines = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n";
    let head = world.head("POST", path, lines);
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(soon(socket.read_u8()).await.unwrap());
    }
    socket.write_all(b"ls -l").await.unwrap();
    socket.shutdown().await.unwrap();
    let mut heard = Vec::new();
    soon(socket.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, b"l- sl");
    let events = taken.all(2).await;
    assert_eq!(
        told(&events[0]),
        json!(["ResponseStarted", "create", "alice", 101, null])
    );
    let wanted = json!(["ResponseComplete", "create", "alice", 101, "complete"]);
    assert_eq!(told(&events[1]), wanted);
    let annotations = &events[1]["annotations"];
    assert_eq!(annotations["underpass.dev/bytes-up"], "5");
    assert_eq!(annotations["underpass.dev/bytes-down"], "5");
    assert_eq!(events[1]["objectRef"]["subresource"], "exec");
}

#[tokio::test]
async fn calls_wait_for_an_audit_log_that_blocks() {
    let api = Api::start(hello).await;
    let taken = Taken::stuck();
    let config = BackendConfig {
        capacity: 2,
        full: Full::Block,
        batch: 1,
        ..BackendConfig::default()
    };
    let (audit_log, backend) = taken.audit_log(config);
    let world = World::audited(&api, audit_log.clone()).await;
    for _ in 0..2 {
        assert_eq!(code(&world.get("/version", "").await), 200);
    }
    assert_eq!(backend.waiting(), 2);
    assert_eq!(audit_log.flush(Duration::from_millis(10)).await, 2);
    let third = world.get("/version", "");
    tokio::pin!(third);
    let early = tokio::time::timeout(Duration::from_millis(200), third.as_mut()).await;
    assert!(early.is_err(), "it waits: {early:?}");
    assert_eq!(api.seen().len(), 2, "and nothing happens");
    taken.allowed.add_permits(1);
    assert_eq!(code(&soon(third).await), 200);
    taken.allowed.add_permits(100);
    assert_eq!(audit_log.flush(Duration::from_secs(20)).await, 0);
    taken.all(3).await;
}

#[tokio::test]
async fn calls_do_not_wait_for_one_that_drops() {
    let api = Api::start(hello).await;
    let taken = Taken::stuck();
    let config = BackendConfig {
        capacity: 2,
        full: Full::Drop,
        batch: 1,
        ..BackendConfig::default()
    };
    let (audit_log, backend) = taken.audit_log(config);
    let world = World::audited(&api, audit_log.clone()).await;
    for _ in 0..5 {
        assert_eq!(code(&world.get("/version", "").await), 200);
    }
    assert_eq!(backend.waiting(), 2, "it is bounded");
    taken.allowed.add_permits(100);
    assert_eq!(audit_log.flush(Duration::from_secs(20)).await, 0);
    taken.all(2).await;
}

#[tokio::test]
async fn what_could_not_be_written_is_tried_again() {
    let api = Api::start(hello).await;
    let taken = Taken::new();
    *taken.failures.lock().unwrap() = 2;
    let world = taken.world(&api).await;
    assert_eq!(code(&world.get("/version", "").await), 200);
    taken.all(1).await;
    assert_eq!(*taken.failures.lock().unwrap(), 0);
}

/// A webhook as kube-apiserver's: its URL is the kubeconfig's, with the path; its credential, too.
#[tokio::test]
async fn a_webhook_gets_lists_of_events() {
    use base64::{Engine, engine::general_purpose::STANDARD};

    let lists = Arc::new(Mutex::new(Vec::<(String, Value)>::new()));
    let heard = Arc::clone(&lists);
    let service = Api::start(move |request: Request<Incoming>| {
        let heard = Arc::clone(&heard);
        async move {
            let token = request.headers()["authorization"].to_str().unwrap();
            let told = format!("{} {token}", request.uri().path());
            let list = crate::world::collect(request.into_body()).await;
            let list = serde_json::from_slice(&list).unwrap();
            let mut lists = heard.lock().unwrap();
            lists.push((told, list));
            // The first time it is not there yet.
            let code = if lists.len() == 1 { 503 } else { 200 };
            Response::builder()
                .status(code)
                .body(underpass_core::empty())
                .unwrap()
        }
    })
    .await;
    let pem = format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        STANDARD.encode(&service.certificate)
    );
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {
            "server": format!("https://{}/audit/here", service.address),
            "certificate-authority-data": STANDARD.encode(pem),
        }}],
        "users": [{"name": "u", "user": {"token": "hook-token"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), kubeconfig.to_string()).unwrap();
    // Through a proxy, which HTTPS_PROXY names or else the kubeconfig.
    let proxy = HttpProxy::start().await.unwrap();
    let config = proxy.config();
    let webhook = Webhook::from_kubeconfig(file.path(), Some(&config)).await;
    let webhook = webhook.unwrap();
    let backend = Backend::start("webhook", Box::new(webhook), BackendConfig::default());
    let audit_log = AuditLog::new(Policy::everything(), vec![backend]);
    let api = Api::start(hello).await;
    let world = World::audited(&api, audit_log.clone()).await;
    assert_eq!(code(&world.get("/version", "").await), 200);
    assert_eq!(audit_log.flush(Duration::from_secs(20)).await, 0);
    let lists = lists.lock().unwrap();
    assert_eq!(lists.len(), 2, "what failed is sent again");
    assert_eq!(lists[0], lists[1]);
    assert_eq!(lists[1].0, "/audit/here Bearer hook-token");
    assert_eq!(lists[1].1["kind"], "EventList");
    assert_eq!(lists[1].1["items"][0]["user"]["username"], "alice");
    let asked = proxy.asked();
    assert!(!asked.is_empty());
    assert!(
        asked
            .iter()
            .all(|server| *server == service.address.to_string()),
        "{asked:?}"
    );
}

#[tokio::test]
async fn rule_11_a_webhooks_own_proxy_counts_and_its_password_is_not_shown() {
    let proxy = HttpProxy::start().await.unwrap();
    let mut kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {
            "server": "https://127.0.0.1:1/audit",
            "proxy-url": proxy.url(CREDENTIALS),
        }}],
        "users": [{"name": "u", "user": {"token": "hook-token"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), kubeconfig.to_string()).unwrap();
    let mut webhook = Webhook::from_kubeconfig(file.path(), None).await.unwrap();
    let error = webhook.write(&[]).await.unwrap_err();
    assert_eq!(proxy.asked(), ["127.0.0.1:1"]);
    let mut said = vec![error.to_string()];
    let mut source = error.source();
    while let Some(error) = source {
        said.push(error.to_string());
        source = error.source();
    }
    let said = said.join(": ");
    let way = format!("no way through the proxy {}", proxy.url(""));
    assert!(said.contains(&way) && said.contains("502"), "{said}");
    assert!(!said.contains("s3cr"), "{said}");
    kubeconfig["clusters"][0]["cluster"]["proxy-url"] = json!("ftp://alice:s3cret@p:1");
    std::fs::write(file.path(), kubeconfig.to_string()).unwrap();
    let error = Webhook::from_kubeconfig(file.path(), None)
        .await
        .err()
        .unwrap();
    let said = format!("{error}: {}", error.source().unwrap());
    assert!(
        said.contains("starts with http://, https:// or socks5://"),
        "{said}"
    );
    assert!(!said.contains("s3cret"), "{said}");
}

#[tokio::test]
async fn a_webhook_that_cannot_be_used_is_an_error_at_once() {
    let error = Webhook::from_kubeconfig("/nonexistent".as_ref(), None).await;
    let error = error.err().unwrap();
    assert!(error.to_string().contains("kubeconfig"), "{error}");
}

/// Requests for `/version` with this token, all refused with `wanted`.
async fn flood(world: &World, token: &str, wanted: u16, count: usize) {
    let mut http2 = world.http2().await;
    for _ in 0..count {
        let mut request = world.request("GET", "/version", underpass_core::empty());
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", bearer);
        let response = soon(http2.send_request(request)).await.unwrap();
        assert_eq!(response.status(), wanted);
    }
}

/// Bare requests: none of them may cost the main log a line, nor the place that a call needs.
#[tokio::test]
async fn rule_23_strangers_neither_fill_nor_block_the_audit_log() {
    let api = Api::start(hello).await;
    let (taken, strangers) = (Taken::stuck(), Taken::new());
    let config = BackendConfig {
        capacity: 2,
        batch: 1,
        ..BackendConfig::default()
    };
    let (audit_log, main) = taken.audit_log(config);
    let audit_log = audit_log.strangers("strangers", Box::new(strangers.clone()));
    let world = World::audited(&api, audit_log.clone()).await;
    let share = usize::try_from(limits::STRANGER_EVENTS).unwrap();
    flood(&world, "", 401, 4 * share).await;
    assert_eq!(main.waiting(), 0, "strangers have no line in it");
    assert_eq!(code(&world.get("/version", "").await), 200);
    assert_eq!(main.waiting(), 1);
    taken.allowed.add_permits(1);
    assert_eq!(audit_log.flush(Duration::from_secs(20)).await, 0);
    let told = strangers.events.lock().unwrap().len();
    assert!((share..2 * share).contains(&told), "a share: {told}");
    assert_eq!(taken.all(1).await[0]["user"]["username"], "alice");
}

/// A sink of strangers that is stuck holds nobody up and stays small.
#[tokio::test]
async fn rule_23_events_of_strangers_are_short_and_never_waited_for() {
    let api = Api::start(hello).await;
    let (taken, strangers) = (Taken::new(), Taken::new());
    let (audit_log, _) = taken.audit_log(BackendConfig::default());
    let audit_log = audit_log.strangers("strangers", Box::new(strangers.clone()));
    let world = World::audited(&api, audit_log).await;
    let long = "x".repeat(10_000);
    let head = format!(
        "GET /k8s/clusters/c/{long} HTTP/1.1\r\nHost: front\r\nConnection: close\r\n\
         User-Agent: {long}\r\n\r\n"
    );
    assert_eq!(code(&world.raw(&head).await), 401);
    let event = &strangers.all(1).await[0];
    for text in [&event["requestURI"], &event["userAgent"]] {
        let chars = text.as_str().unwrap().chars().count();
        assert_eq!(chars, limits::STRANGER_TEXT_CHARS);
    }
    assert!(event.to_string().len() < 2048, "{event}");
}

/// A user without rights cannot rotate the history away either; the log says how much it left out.
#[tokio::test]
async fn rule_23_a_user_who_is_refused_has_a_share_of_the_audit_log() {
    let api = Api::start(hello).await;
    let taken = Taken::new();
    let (audit_log, _) = taken.audit_log(BackendConfig::default());
    let world = World::audited(&api, audit_log.clone()).await;
    let share = usize::try_from(limits::REFUSED_EVENTS).unwrap();
    flood(&world, &world.mallory, 403, 2 * share).await;
    assert_eq!(code(&world.get("/version", "").await), 200);
    assert_eq!(audit_log.flush(Duration::from_secs(20)).await, 0);
    let events = taken.events.lock().unwrap().clone();
    let of = |name| {
        let theirs = |event: &&Value| event["user"]["username"] == name;
        events.iter().filter(theirs).count()
    };
    assert!((share..share + share / 2).contains(&of("mallory")));
    assert_eq!(of("alice"), 1, "others are written");
}

/// While the log is stuck, calls that are refused for it must not fill its queue.
#[tokio::test]
async fn rule_23_refused_calls_do_not_fill_a_queue_that_is_full() {
    let api = Api::start(hello).await;
    let taken = Taken::stuck();
    let config = BackendConfig {
        capacity: 3,
        batch: 1,
        ..BackendConfig::default()
    };
    let (audit_log, backend) = taken.audit_log(config);
    let world = World::audited(&api, audit_log).await;
    flood(&world, &world.mallory, 403, 20).await;
    assert_eq!(backend.waiting(), 3);
}
