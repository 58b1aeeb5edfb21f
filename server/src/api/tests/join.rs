//! Join tokens, and agents that register their keys with them.

use underpass_core::limits as bounds;
use underpass_directory::{Agent, JoinToken};
use underpass_tunnel::{AgentKey, JoinProof};

use super::*;

const TOKENS: &str = "/v1/clusters/prod/join-tokens";

fn key(seed: u8) -> AgentKey {
    AgentKey::from_seed([seed; 32]).unwrap()
}

/// The body that an agent with this key sends.
fn request(key: &AgentKey, token: &str) -> Value {
    json!({
        "publicKey": key.public_key().to_string(),
        "proof": JoinProof::new(key, token).to_string(),
    })
}

impl World {
    async fn with_prod() -> Self {
        let world = Self::new().await;
        world.make_cluster("prod").await;
        world
    }

    pub(super) async fn make_cluster(&self, name: &str) {
        let new = json!({"name": name, "spec": {}});
        let made = self.operate(Method::POST, "/v1/clusters", new).await;
        made.expect(201);
    }

    pub(super) async fn join_token(&self, wanted: Value) -> (String, String) {
        let made = self.operate(Method::POST, TOKENS, wanted).await;
        let made = made.expect(201);
        let id = made["about"]["id"].as_str().unwrap().to_owned();
        (made["token"].as_str().unwrap().to_owned(), id)
    }

    async fn join(&self, token: &str, body: &Value) -> Answer {
        let request = Request::post(underpass_api::JOIN)
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(Full::from(body.to_string()))
            .unwrap();
        Answer::read(self.api.admit(request, &connection()).await).await
    }

    pub(super) async fn join_with(&self, token: &str, key: &AgentKey) -> Answer {
        self.join(token, &request(key, token)).await
    }

    #[track_caller]
    fn agents(&self) -> usize {
        self.directory.snapshot().all::<Agent>().len()
    }
}

#[track_caller]
fn refused(answer: Answer, status: u16, reason: &str) -> String {
    let body = answer.expect(status);
    assert_eq!(body["reason"], reason, "{body}");
    body["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_agent_joins_with_a_token_and_is_listed() {
    let world = World::with_prod().await;
    let wanted =
        json!({"role": "node", "uses": 2, "expiresInSeconds": 60, "description": "rack 7"});
    let (token, id) = world.join_token(wanted).await;
    assert!(token.starts_with(underpass_api::JOIN_TOKEN_PREFIX));
    let joined = world.join_with(&token, &key(1)).await.expect(201);
    assert_eq!(
        (&joined["cluster"], &joined["role"]),
        (&json!("prod"), &json!("node"))
    );
    assert_eq!(joined["isNew"], true);
    let again = world.join_with(&token, &key(1)).await.expect(200);
    assert_eq!(
        (&again["agent"], &again["isNew"]),
        (&joined["agent"], &json!(false))
    );
    let path = format!("/v1/agents/{}", joined["agent"].as_str().unwrap());
    let agent = world
        .operate(Method::GET, &path, Value::Null)
        .await
        .expect(200);
    assert_eq!(agent["key"], key(1).public_key().to_string());
    assert_eq!(
        (&agent["role"], &agent["joinToken"]),
        (&json!("node"), &json!(id))
    );
    assert_eq!(agent["connected"], 0);
    let shown = world
        .operate(Method::GET, TOKENS, Value::Null)
        .await
        .expect(200);
    let shown = &shown["items"][0];
    assert_eq!((&shown["uses"], &shown["usesLeft"]), (&json!(2), &json!(1)));
    assert_eq!(shown["description"], "rack 7");
}

#[tokio::test]
async fn rule_14_a_join_token_is_shown_once_and_ends() {
    let world = World::with_prod().await;
    let (token, id) = world.join_token(json!({})).await;
    let one = format!("{TOKENS}/{id}");
    for path in [TOKENS, &one, "/v1/agents", "/v1/clusters/prod"] {
        let shown = world
            .operate(Method::GET, path, Value::Null)
            .await
            .expect(200);
        assert!(!shown.to_string().contains(&token[4..]), "{shown}");
    }
    let shown = world
        .operate(Method::GET, &one, Value::Null)
        .await
        .expect(200);
    assert_eq!((&shown["uses"], &shown["usesLeft"]), (&json!(1), &json!(1)));
    let kept = world.directory.snapshot();
    let kept = &kept.get::<JoinToken>(&id).unwrap().object;
    assert_eq!(kept.expires - kept.created, limits::JOIN_TOKEN);
    // It is no bearer token of anybody's.
    assert!(world.find_holder(&token).await.is_none());
    let most = limits::JOIN_TOKEN_MOST.as_secs();
    for wanted in [
        json!({"expiresInSeconds": most + 1}),
        json!({"expiresInSeconds": 0}),
        json!({"uses": 0}),
        json!({"uses": bounds::JOIN_TOKEN_USES + 1}),
        json!({"description": "x".repeat(limits::DESCRIPTION_CHARS + 1)}),
        json!({"role": "king"}),
    ] {
        let refused = world.operate(Method::POST, TOKENS, wanted.clone()).await;
        assert_eq!(refused.status, 422, "{wanted}");
    }
    world.join_with(&token, &key(1)).await.expect(201);
    let said = refused(world.join_with(&token, &key(2)).await, 410, "used-up");
    assert!(said.contains("made for 1"), "{said}");
    let (token, id) = world.join_token(json!({"uses": 5})).await;
    let expire = |draft: &mut Draft| {
        let mut token = JoinToken::clone(&draft.get(&id).unwrap().object);
        token.expires = draft.now();
        draft.put(&id, token, underpass_directory::Expect::Present)
    };
    world.directory.change(expire).await.unwrap();
    refused(world.join_with(&token, &key(2)).await, 410, "expired");
    let path = format!("{TOKENS}/{id}");
    world
        .operate(Method::DELETE, &path, Value::Null)
        .await
        .expect(204);
    refused(world.join_with(&token, &key(2)).await, 401, "unknown-token");
    assert_eq!(world.agents(), 1);
}

#[tokio::test]
async fn rule_8_a_join_token_gives_one_cluster_and_one_role() {
    let world = World::with_prod().await;
    world.make_cluster("dev").await;
    let (token, _) = world.join_token(json!({"uses": 9})).await;
    let asking = |more: Value| {
        let mut body = request(&key(1), &token);
        let (Value::Object(all), Value::Object(more)) = (&mut body, more) else {
            panic!("no objects");
        };
        all.extend(more);
        body
    };
    let said = refused(
        world.join(&token, &asking(json!({"cluster": "dev"}))).await,
        403,
        "other-cluster",
    );
    assert!(said.contains("cluster prod"), "{said}");
    let said = refused(
        world.join(&token, &asking(json!({"role": "node"}))).await,
        403,
        "other-role",
    );
    assert!(said.contains("role cluster"), "{said}");
    let dev = "/v1/clusters/dev/join-tokens";
    let made = world
        .operate(Method::POST, dev, json!({}))
        .await
        .expect(201);
    let devs = made["token"].as_str().unwrap();
    world.join_with(devs, &key(2)).await.expect(201);
    let said = refused(
        world.join_with(&token, &key(2)).await,
        409,
        "key-of-another-cluster",
    );
    assert!(!said.contains("dev"), "{said}");
    let (other, _) = world.join_token(json!({})).await;
    let wanted = json!({"cluster": "prod", "role": "cluster"});
    world.join(&token, &asking(wanted)).await.expect(201);
    let answer = world.join_with(&other, &key(1)).await;
    assert_eq!(answer.body["reason"], "key-known", "{}", answer.body);
    answer.expect(409);
    // The other cluster's administrators do not see it, and neither does its path.
    let id = made["about"]["id"].as_str().unwrap();
    for method in [Method::GET, Method::DELETE] {
        let path = format!("{TOKENS}/{id}");
        world.operate(method, &path, Value::Null).await.expect(404);
    }
}

#[tokio::test]
async fn rule_14_nobody_registers_a_key_that_they_do_not_hold() {
    let world = World::with_prod().await;
    let (token, _) = world.join_token(json!({"uses": 9})).await;
    let (others, _) = world.join_token(json!({})).await;
    let honest = request(&key(1), &token);
    let with = |field: &str, value: &Value| {
        let mut body = honest.clone();
        body[field] = value.clone();
        body
    };
    let foreign = request(&key(2), &token);
    for body in [
        // Of another key, of another key's proof, of a proof for another token.
        with("publicKey", &foreign["publicKey"]),
        with("proof", &foreign["proof"]),
        request(&key(1), &others),
    ] {
        refused(world.join(&token, &body).await, 403, "bad-proof");
    }
    for (field, value) in [
        ("publicKey", "ed25519:AA"),
        ("publicKey", "upa_x"),
        ("proof", ""),
        ("proof", "!"),
        ("role", "king"),
        ("cluster", "Not A Name"),
        ("unknown", "x"),
    ] {
        let answer = world.join(&token, &with(field, &json!(value))).await;
        answer.expect(422);
    }
    assert_eq!(world.agents(), 0);
    world.join(&token, &honest).await.expect(201);
}

#[tokio::test]
async fn rule_8_a_clusters_administrators_make_its_join_tokens() {
    let world = World::with_prod().await;
    world.make_cluster("dev").await;
    let viewer = world.user("viewer", json!({"clusters": ["prod"]})).await;
    let local = world
        .user("local", json!({"clusters": ["prod"], "role": "admin"}))
        .await;
    let root = world
        .user("root", json!({"allClusters": true, "role": "admin"}))
        .await;
    let (_, id) = world.join_token(json!({})).await;
    let one = format!("{TOKENS}/{id}");
    let dev = "/v1/clusters/dev/join-tokens";
    let devs = world
        .operate(Method::POST, dev, json!({}))
        .await
        .expect(201);
    let devs = format!("{dev}/{}", devs["about"]["id"].as_str().unwrap());
    let none = Value::Null;
    let make = json!({"makeCluster": true});
    for (method, path, body, answers) in [
        (Method::GET, TOKENS, &none, [403, 200, 200]),
        (Method::GET, &one, &none, [403, 200, 200]),
        (Method::POST, TOKENS, &json!({}), [403, 201, 201]),
        (
            Method::POST,
            "/v1/clusters/new/join-tokens",
            &make,
            [403, 403, 201],
        ),
        (
            Method::POST,
            "/v1/clusters/none/join-tokens",
            &json!({}),
            [403, 403, 404],
        ),
        (
            Method::GET,
            "/v1/clusters/none/join-tokens",
            &none,
            [403, 403, 404],
        ),
        (
            Method::GET,
            "/v1/clusters/No/join-tokens",
            &none,
            [403, 403, 403],
        ),
        (Method::POST, dev, &json!({}), [403, 403, 201]),
        (Method::GET, dev, &none, [403, 403, 200]),
        (Method::GET, &devs, &none, [403, 403, 200]),
        (Method::DELETE, &devs, &none, [403, 403, 204]),
        (Method::DELETE, &one, &none, [403, 204, 404]),
    ] {
        for (who, status) in [&viewer, &local, &root].into_iter().zip(answers) {
            let answer = world.ask(who, method.clone(), path, body, &[]).await;
            assert_eq!(answer.status, status, "{method} {path} by {}", who.name());
        }
    }
    let read_only = json!({"user": "root", "expiresInSeconds": 60, "scope": {"readOnly": true}});
    let made = world.operate(Method::POST, "/v1/tokens", read_only).await;
    let reader = made.expect(201)["token"].as_str().unwrap().to_owned();
    let reader = world.holder(&reader).await;
    let refused = world
        .ask(&reader, Method::POST, TOKENS, &json!({}), &[])
        .await;
    refused.expect(403);
}

#[tokio::test]
async fn rule_23_a_clusters_administrators_promise_no_more_agents_than_they_may_make() {
    let world = World::with_prod().await;
    let local = world
        .user("local", json!({"clusters": ["prod"], "role": "admin"}))
        .await;
    let ask =
        async |path: &str, body: Value| world.ask(&local, Method::POST, path, &body, &[]).await;
    let most = u32::try_from(limits::AGENTS_PER_CLUSTER).unwrap();
    ask(TOKENS, json!({"uses": most + 1})).await.expect(507);
    let made = ask(TOKENS, json!({"uses": most - 1})).await.expect(201);
    ask("/v1/agents", json!({"cluster": "prod"}))
        .await
        .expect(201);
    for (path, body) in [
        (TOKENS, json!({})),
        ("/v1/agents", json!({"cluster": "prod"})),
    ] {
        let said = ask(path, body).await.expect(507);
        let said = said["detail"].as_str().unwrap();
        assert!(said.contains("join tokens"), "{said}");
    }
    // Agents that join were counted before.
    let token = made["token"].as_str().unwrap();
    world.join_with(token, &key(1)).await.expect(201);
    ask(TOKENS, json!({})).await.expect(507);
    let path = format!("{TOKENS}/{}", made["about"]["id"].as_str().unwrap());
    let deleted = world.ask(&local, Method::DELETE, &path, &Value::Null, &[]);
    deleted.await.expect(204);
    ask(TOKENS, json!({"uses": 5})).await.expect(201);
}

#[tokio::test(start_paused = true)]
async fn rule_11_guesses_at_join_tokens_wait() {
    let world = World::with_prod().await;
    let (token, _) = world.join_token(json!({"uses": 9})).await;
    let body = request(&key(1), &token);
    for number in 0..bounds::FAILURES {
        // Wrong tokens, texts that are none, and proofs by others.
        let answer = match number % 3 {
            0 => world.join(&token.replace("upj_", "upj_x"), &body).await,
            1 => world.join("nonsense", &body).await,
            _ => world.join(&token, &request(&key(2), "upj_other")).await,
        };
        assert!(
            matches!(answer.status.as_u16(), 401 | 403),
            "{}",
            answer.body
        );
    }
    let wrong = token.replace("upj_", "upj_x");
    let waits = world.join(&wrong, &body).await;
    assert!(waits.headers.contains_key("retry-after"));
    waits.expect(429);
    // Nobody behind the same address keeps an agent with a right one from joining.
    world.join(&token, &body).await.expect(201);
    tokio::time::advance(bounds::FAILURE_FORGIVEN).await;
    world.join(&wrong, &body).await.expect(401);
    // Right ones are not counted.
    for _ in 0..2 * bounds::FAILURES {
        world.join(&token, &body).await.expect(200);
    }
}

#[tokio::test]
async fn rule_23_nothing_of_a_strangers_join_is_read() {
    let world = World::with_prod().await;
    let (token, _) = world.join_token(json!({})).await;
    for authorization in ["", "Bearer upj_x", "Basic eDp5"] {
        let read = Arc::<std::sync::atomic::AtomicBool>::default();
        let request = Request::post(underpass_api::JOIN)
            .header("authorization", authorization)
            .header("content-type", "application/json")
            .body(super::login::Watched(Arc::clone(&read)))
            .unwrap();
        let answer = world.api.admit(request, &connection()).await;
        refused(Answer::read(answer).await, 401, "unknown-token");
        assert!(
            !read.load(std::sync::atomic::Ordering::Relaxed),
            "{authorization}"
        );
    }
    let long = json!({"publicKey": "x".repeat(limits::JOIN_BODY), "proof": ""});
    let answer = world.join(&token, &long).await.expect(413);
    let most = format!("a key to join has at most {} bytes", limits::JOIN_BODY);
    assert_eq!(answer["detail"], most);
    // The operator's socket takes no agents.
    let body = request(&key(1), &token);
    let answer = world.operate(Method::POST, underpass_api::JOIN, body).await;
    answer.expect(404);
}

/// One cluster's agents do not take all changes, and one that joins again and again takes none.
#[tokio::test(start_paused = true)]
async fn rule_23_agents_that_join_have_a_share_of_the_changes() {
    let world = World::with_prod().await;
    world.make_cluster("dev").await;
    let (token, _) = world.join_token(json!({})).await;
    let body = request(&key(1), &token);
    let mut answer = world.join(&token, &body).await;
    let mut asked = 1;
    while answer.status.is_success() {
        answer = world.join(&token, &body).await;
        asked += 1;
    }
    // The first one was new.
    assert_eq!(asked, limits::CHANGES_PER_USER + 2);
    assert!(answer.headers.contains_key("retry-after"));
    answer.expect(429);
    let (other, _) = world.join_token(json!({})).await;
    world.join_with(&other, &key(3)).await.expect(201);
    // A cluster's new agents have a share.
    let many = limits::CHANGES_PER_USER + 1;
    let (many, _) = world.join_token(json!({"uses": many})).await;
    let mut joined = 2;
    loop {
        let new = AgentKey::from_seed(rand::random()).unwrap();
        let answer = world.join_with(&many, &new).await;
        if answer.status == 429 {
            assert_eq!(answer.headers["retry-after"], "1");
            break;
        }
        answer.expect(201);
        joined += 1;
    }
    assert_eq!(joined, limits::CHANGES_PER_USER);
    // The next ones have a later turn each.
    for wait in ["2", "3"] {
        let new = AgentKey::from_seed(rand::random()).unwrap();
        let answer = world.join_with(&many, &new).await;
        assert_eq!(
            (
                answer.status.as_u16(),
                answer.headers["retry-after"].to_str().unwrap()
            ),
            (429, wait)
        );
    }
    let dev = "/v1/clusters/dev/join-tokens";
    let made = world
        .operate(Method::POST, dev, json!({}))
        .await
        .expect(201);
    let devs = made["token"].as_str().unwrap();
    world.join_with(devs, &key(2)).await.expect(201);
}

/// The holder of a join token that has ended, or of one and no key, asks as much as it can.
#[tokio::test(start_paused = true)]
async fn rule_23_a_dead_join_token_keeps_no_agent_with_a_good_one_waiting() {
    let world = World::with_prod().await;
    let (dead, _) = world.join_token(json!({})).await;
    world.join_with(&dead, &key(1)).await.expect(201);
    let (stolen, _) = world.join_token(json!({})).await;
    let (good, _) = world.join_token(json!({})).await;
    for _ in 0..limits::CHANGES_PER_USER {
        refused(world.join_with(&dead, &key(2)).await, 410, "used-up");
    }
    world.join_with(&dead, &key(2)).await.expect(429);
    let mut held = Vec::new();
    for token in [&dead, &stolen] {
        let before = held.len();
        loop {
            let body = futures_util::stream::pending::<Result<bytes::Bytes, Infallible>>();
            let request = Request::post(underpass_api::JOIN)
                .header("authorization", format!("Bearer {token}"))
                .header("content-type", "application/json")
                .body(axum::body::Body::from_stream(body))
                .unwrap();
            let api = world.api.clone();
            let mut asking =
                Box::pin(async move { api.admit(request, &connection()).await.status() });
            // Only time passes where there is a place.
            match tokio::time::timeout(Duration::from_millis(100), asking.as_mut()).await {
                Ok(status) => {
                    assert_eq!(status, 429);
                    break;
                }
                Err(_) => held.push(asking),
            }
        }
        assert_eq!(held.len() - before, limits::API_PLACES_PER_USER);
    }
    world.join_with(&good, &key(3)).await.expect(201);
    drop(held);
}
