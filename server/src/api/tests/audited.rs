//! The audit log's events of the API's requests.

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;
use underpass_audit::{Backend, BackendConfig, Policy};
use underpass_directory::{CommitError, Contents, Revision, StoreError, Write};

use super::*;
use crate::audit::Kept;

#[tokio::test]
async fn rule_15_the_audit_names_object_subject_and_grant_and_no_secret() {
    let (known, strangers) = (Kept::default(), Kept::default());
    let backend = Backend::start("kept", Box::new(known.clone()), BackendConfig::default());
    let audit_log = AuditLog::new(Policy::everything(), vec![backend])
        .strangers("strangers", Box::new(strangers.clone()));
    let world = World::audited(audit_log).await;
    let mut secrets = vec!["hunter2".to_owned(), "correct horse battery".to_owned()];
    let mut count = 0;
    for (method, path, body, object, subject, grant) in [
        (
            Method::POST,
            "/v1/clusters",
            json!({"name": "edge", "spec": {}}),
            "cluster/edge",
            "",
            "{}",
        ),
        (
            Method::POST,
            "/v1/clusters",
            json!({"name": "direct", "spec": {"direct": {"server": "https://api.example", "credential": {"token": "hunter2"}}}}),
            "cluster/direct",
            "",
            "https://api.example",
        ),
        (
            Method::POST,
            "/v1/users",
            json!({"name": "alice", "spec": {}}),
            "user/alice",
            "",
            "{}",
        ),
        (
            Method::POST,
            "/v1/bindings",
            json!({"name": "b", "spec": {"subjects": [{"user": "alice"}], "clusters": {"names": ["edge"]}, "role": "view"}}),
            "binding/b",
            "",
            "\"role\":\"view\"",
        ),
        (
            Method::PUT,
            "/v1/users/alice/password",
            json!({"password": "correct horse battery"}),
            "user/alice",
            "",
            "a new password",
        ),
        (
            Method::POST,
            "/v1/tokens",
            json!({"user": "alice", "expiresInSeconds": 60, "scope": {"clusters": ["edge"], "readOnly": true}}),
            "token/",
            "user:alice (directory)",
            "for edge; read-only",
        ),
        (
            Method::POST,
            "/v1/access",
            json!({"user": "bob", "role": "admin", "clusters": ["edge"], "token": {}}),
            "user/bob",
            "user:bob (directory)",
            "\"role\":\"admin\"",
        ),
        (
            Method::POST,
            "/v1/agents",
            json!({"cluster": "edge"}),
            "agent/",
            "cluster:edge",
            "",
        ),
        (
            Method::POST,
            "/v1/clusters/edge/join-tokens",
            json!({"uses": 3, "role": "node"}),
            "join-token/",
            "cluster:edge",
            "role node; 3 of 3 uses left; until ",
        ),
        (
            Method::DELETE,
            "/v1/users/alice",
            Value::Null,
            "user/alice",
            "",
            "",
        ),
    ] {
        let answer = world.operate(method.clone(), path, body).await;
        assert!(answer.status.is_success(), "{path} {}", answer.body);
        let made = [&answer.body["token"], &answer.body["token"]["token"]];
        secrets.extend(
            made.iter()
                .filter_map(|made| made.as_str())
                .map(str::to_owned),
        );
        count += 1;
        let event = known.nth(count).await;
        let said = |key: &str| {
            event["annotations"][key]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        assert!(said("underpass.dev/object").starts_with(object), "{event}");
        assert_eq!(said("underpass.dev/subject"), subject, "{event}");
        assert!(said("underpass.dev/grant").contains(grant), "{event}");
        let removed = if method == Method::DELETE {
            "removed"
        } else {
            ""
        };
        assert_eq!(said("underpass.dev/change"), removed, "{event}");
    }
    // A login makes a user known; a failed one leaves a stranger.
    world
        .operate(
            Method::POST,
            "/v1/users",
            json!({"name": "carol", "spec": {}}),
        )
        .await
        .expect(201);
    let set = json!({"password": "correct horse battery"});
    world
        .operate(Method::PUT, "/v1/users/carol/password", set)
        .await
        .expect(204);
    let made = world
        .log_in_with("carol", "correct horse battery")
        .await
        .expect(201);
    secrets.push(made["token"].as_str().unwrap().to_owned());
    let event = known.nth(count + 3).await;
    assert_eq!(event["user"]["username"], "carol");
    assert_eq!(
        event["annotations"]["underpass.dev/subject"],
        "user:carol (directory)"
    );
    world
        .log_in_with("carol", "hunter2 hunter2")
        .await
        .expect(401);
    let failed = strangers.nth(1).await;
    assert_eq!(failed["user"]["username"], "carol");
    assert_eq!(failed["responseStatus"]["code"], 401);
    let everything = format!("{:?}{:?}", known.written(), strangers.written());
    for secret in secrets {
        assert!(!everything.contains(&secret), "{secret} in {everything}");
    }
}

/// A store that writes when it is told to.
struct Slow {
    store: MemoryStore,
    asked: Notify,
    go_on: Notify,
}

#[async_trait]
impl Store for Slow {
    async fn load(&self) -> Result<Contents, StoreError> {
        self.store.load().await
    }

    async fn commit(&self, at: Revision, writes: Vec<Write>) -> Result<Revision, CommitError> {
        self.asked.notify_one();
        self.go_on.notified().await;
        self.store.commit(at, writes).await
    }

    async fn changed(&self, after: Revision) -> Result<(), StoreError> {
        self.store.changed(after).await
    }
}

/// A store that fails once it has written.
#[derive(Default)]
struct Unsure(MemoryStore);

#[async_trait]
impl Store for Unsure {
    async fn load(&self) -> Result<Contents, StoreError> {
        self.0.load().await
    }

    async fn commit(&self, at: Revision, writes: Vec<Write>) -> Result<Revision, CommitError> {
        self.0.commit(at, writes).await?;
        Err(CommitError::Unknown("the disk says nothing".into()))
    }

    async fn changed(&self, after: Revision) -> Result<(), StoreError> {
        self.0.changed(after).await
    }
}

#[tokio::test]
async fn rule_15_a_change_that_may_have_been_written_is_written_down_with_its_effect() {
    let known = Kept::default();
    let world = World::over(Arc::<Unsure>::default(), known.audit_log()).await;
    let binding =
        json!({"subjects": [{"user": "alice"}], "clusters": {"all": true}, "role": "admin"});
    for (path, new, object, grant) in [
        (
            "/v1/bindings",
            json!({"name": "b", "spec": binding}),
            "binding/b",
            "\"role\":\"admin\"",
        ),
        (
            "/v1/access",
            json!({"user": "bob", "role": "admin", "allClusters": true}),
            "user/bob",
            "\"role\":\"admin\"",
        ),
    ] {
        let unsure = world.operate(Method::POST, path, new).await;
        unsure.expect(500);
        let event = known.about(object).await;
        assert_eq!(event["responseStatus"]["code"], 500);
        let said = &event["annotations"]["underpass.dev/grant"];
        assert!(said.as_str().unwrap().contains(grant), "{event}");
    }
    // Nothing is said of a change that did not begin.
    let wrong = json!({"name": "none", "spec": {"clusters": {"all": true}, "role": "admin", "subjects": []}});
    let refused = world.operate(Method::POST, "/v1/bindings", wrong).await;
    refused.expect(422);
    let event = known.nth(3).await;
    assert_eq!(event["annotations"], Value::Null, "{event}");
}

/// The time of a request may end while its change is being written.
#[tokio::test(start_paused = true)]
async fn rule_15_what_is_being_written_when_the_time_is_over_is_told_and_written_down() {
    let known = Kept::default();
    let store = Arc::new(Slow {
        store: MemoryStore::default(),
        asked: Notify::new(),
        go_on: Notify::new(),
    });
    let audit_log = known.audit_log();
    let world = World::over(store.clone(), audit_log).await;
    let binding = json!({"name": "b", "spec": {"subjects": [{"user": "alice"}], "clusters": {"all": true}, "role": "admin"}});
    let asking = world.operate(Method::POST, "/v1/bindings", binding);
    let late = async {
        store.asked.notified().await;
        tokio::time::sleep(2 * limits::API_TIME).await;
        store.go_on.notify_one();
    };
    let (answer, ()) = tokio::join!(asking, late);
    answer.expect(201);
    let event = known.nth(1).await;
    assert_eq!(event["responseStatus"]["code"], 201);
    assert_eq!(
        event["annotations"]["underpass.dev/object"], "binding/b",
        "{event}"
    );
    assert!(event["annotations"]["underpass.dev/grant"].is_string());

    // A change that waits for another one is taken back, and is not made later.
    let user = |name: &str| json!({"name": name, "spec": {}});
    let first = world.operate(Method::POST, "/v1/users", user("alice"));
    let second = async {
        store.asked.notified().await;
        let refused = world.operate(Method::POST, "/v1/users", user("bob")).await;
        store.go_on.notify_one();
        refused
    };
    let (first, second) = tokio::join!(first, second);
    first.expect(201);
    second.expect(408);
    let snapshot = world.directory.snapshot();
    let users = snapshot.all::<underpass_directory::User>();
    assert_eq!(users.keys().collect::<Vec<_>>(), ["alice"]);
}

/// A guess may have been counted against the name, or have reached a directory.
#[tokio::test]
async fn rule_15_a_login_whose_client_goes_away_is_written_down() {
    use base64::Engine as _;

    let strangers = Kept::default();
    let audit_log = AuditLog::new(Policy::everything(), vec![])
        .strangers("strangers", Box::new(strangers.clone()));
    let world = World::audited(audit_log).await;
    let basic = base64::engine::general_purpose::STANDARD.encode("alice:a guess");
    let request = Request::post(LOGIN)
        .header("authorization", format!("Basic {basic}"))
        .body(Full::<Bytes>::default())
        .unwrap();
    {
        let connection = connection();
        let mut guessing = std::pin::pin!(world.api.admit(request, &connection));
        assert!(futures_util::poll!(&mut guessing).is_pending());
    }
    let event = strangers.nth(1).await;
    assert_eq!(event["responseStatus"]["code"], 499, "{event}");
    assert!(event.to_string().contains("alice"), "{event}");
}

/// A server that stops waits for the requests whose clients are gone.
#[tokio::test]
async fn rule_15_what_has_begun_is_written_down_before_the_server_ends() {
    let known = Kept::default();
    let store = Arc::new(Slow {
        store: MemoryStore::default(),
        asked: Notify::new(),
        go_on: Notify::new(),
    });
    let audit_log = known.audit_log();
    let world = World::over(store.clone(), audit_log.clone()).await;
    let user = json!({"name": "alice", "spec": {}});
    tokio::select! {
        _ = world.operate(Method::POST, "/v1/users", user) => panic!("the store has not written"),
        () = store.asked.notified() => {}
    }
    {
        let mut finishing = std::pin::pin!(world.api.finish());
        assert!(futures_util::poll!(&mut finishing).is_pending());
        store.go_on.notify_one();
        finishing.await;
    }
    assert_eq!(audit_log.flush(Duration::from_secs(20)).await, 0);
    assert_eq!(known.nth(1).await["responseStatus"]["code"], 201);
}

#[tokio::test]
async fn rule_15_the_agent_that_vouched_for_a_pod_is_written_down() {
    use underpass_tunnel::AgentKey;

    let (known, strangers) = (Kept::default(), Kept::default());
    let backend = Backend::start("kept", Box::new(known.clone()), BackendConfig::default());
    let audit_log = AuditLog::new(Policy::everything(), vec![backend])
        .strangers("strangers", Box::new(strangers.clone()));
    let world = World::with_accounts_and(audit_log).await;
    let [first, second] = [1, 2].map(|seed| AgentKey::from_seed([seed; 32]).unwrap());
    world.join_n1(&first).await.expect(201);
    let event = known.nth(3).await;
    let vouched = |event: &Value| event["annotations"]["underpass.dev/agent"].clone();
    assert_eq!(vouched(&event), "cluster/reviewer", "{event}");
    world.join_n1(&second).await.expect(409);
    let event = strangers.nth(1).await;
    assert_eq!(vouched(&event), "cluster/reviewer", "{event}");
}

#[tokio::test]
async fn rule_15_every_join_is_written_down() {
    use underpass_tunnel::AgentKey;

    let (known, strangers) = (Kept::default(), Kept::default());
    let backend = Backend::start("kept", Box::new(known.clone()), BackendConfig::default());
    let audit_log = AuditLog::new(Policy::everything(), vec![backend])
        .strangers("strangers", Box::new(strangers.clone()));
    let world = World::audited(audit_log).await;
    world.make_cluster("prod").await;
    let (token, id) = world.join_token(json!({"uses": 1})).await;
    let [first, second] = [1, 2].map(|seed| AgentKey::from_seed([seed; 32]).unwrap());
    let said = |event: &Value, key: &str| {
        let text = event["annotations"][format!("underpass.dev/{key}")].as_str();
        text.unwrap_or_default().to_owned()
    };
    let joined = world.join_with(&token, &first).await.expect(201);
    let event = known.nth(3).await;
    assert_eq!(
        event["user"]["username"],
        format!("underpass:join-token:{id}")
    );
    assert_eq!(event["responseStatus"]["code"], 201);
    let agent = joined["agent"].as_str().unwrap();
    assert_eq!(said(&event, "object"), format!("agent/{agent}"));
    assert_eq!(said(&event, "subject"), "cluster:prod");
    assert_eq!(said(&event, "grant"), "role cluster; 0 of 1 uses left");
    world.join_with(&token, &first).await.expect(200);
    let event = known.nth(4).await;
    assert!(
        said(&event, "grant").ends_with("registered before"),
        "{event}"
    );
    world.join_with(&token, &second).await.expect(410);
    let event = strangers.nth(1).await;
    assert_eq!(event["responseStatus"]["code"], 410);
    assert_eq!(event["requestURI"], "/v1/join");
    assert_eq!(said(&event, "object"), format!("join-token/{id}"));
    assert_eq!(said(&event, "change"), "refused: used-up");
    world.join_with("upj_never_made", &second).await.expect(401);
    let event = strangers.nth(2).await;
    assert_eq!(
        (&event["responseStatus"]["code"], said(&event, "object")),
        (&json!(401), String::new())
    );
    let everything = format!("{:?}{:?}", known.written(), strangers.written());
    assert!(!everything.contains(&token[4..]) && !everything.contains("never_made"));
}
