//! The API as a client sees it, without a socket.

use http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use underpass_proxy::authenticate::{Authenticator, Caller, Passwords, Token, TokenAuthenticator};
use underpass_proxy::direct::Plugins;
use underpass_proxy::directory::{Cluster, MemoryStore};
use underpass_proxy::front::Protocol;
use underpass_proxy::seal::{Keyring, SealingKey};

use super::*;

/// The only program that may be run.
const PLUGIN: &str = "/opt/plugin";

struct World {
    api: Api,
    directory: Arc<Directory>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    async fn read(response: Response<Body>) -> Self {
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Self {
            status: head.status,
            headers: head.headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        }
    }

    fn tag(&self) -> String {
        self.headers[ETAG].to_str().unwrap().to_owned()
    }

    #[track_caller]
    fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }
}

impl World {
    async fn new() -> Self {
        let directory = Directory::open(Arc::new(MemoryStore::default()))
            .await
            .unwrap();
        let sessions: Sessions = Arc::new(|cluster| (cluster.as_str() == "prod").then_some(2));
        let key = SealingKey::from_text(&SealingKey::generate().unwrap()).unwrap();
        let keys = Arc::new(Keyring::new(key, vec![]));
        let plugins = Plugins::Only([PLUGIN.into()].into());
        let direct = Arc::new(DirectClusters::new(keys, plugins));
        let logins = Logins {
            authenticator: Arc::new(TokenAuthenticator::new("tokens", directory.clone())),
            passwords: Passwords::new().unwrap(),
        };
        let trail = Trail::default();
        let api = Api::new(Arc::clone(&directory), sessions, direct, logins, trail);
        Self { api, directory }
    }

    async fn ask(
        &self,
        who: &Requester,
        method: Method,
        path: &str,
        body: &Value,
        headers: &[(http::HeaderName, &str)],
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let body = if body.is_null() {
            Vec::new()
        } else {
            request = request.header("content-type", "application/json");
            serde_json::to_vec(body).unwrap()
        };
        let request = request.body(Full::from(body)).unwrap();
        Answer::read(self.api.answer(request, who.clone(), None).await).await
    }

    async fn operate(&self, method: Method, path: &str, body: Value) -> Answer {
        self.ask(&Requester::Operator, method, path, &body, &[])
            .await
    }

    /// A user of the directory with a token of theirs, as the listener would see them.
    async fn user(&self, name: &str, access: Value) -> Requester {
        let mut wanted = json!({"user": name, "role": "view", "token": {}});
        let (Value::Object(all), Value::Object(some)) = (&mut wanted, access) else {
            panic!("not an object");
        };
        all.extend(some);
        let given = self
            .operate(Method::POST, "/v1/access", wanted)
            .await
            .expect(200);
        self.holder(given["token"]["token"].as_str().unwrap()).await
    }

    async fn holder(&self, bearer: &str) -> Requester {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {bearer}").parse().unwrap());
        let caller = connection();
        let caller = Caller::read(&headers, &caller).unwrap();
        let tokens = TokenAuthenticator::new("tokens", self.directory.clone());
        let found = tokens.authenticate(&caller).await.unwrap().unwrap();
        let hash = Token::parse(bearer).unwrap().hash();
        let snapshot = self.directory.snapshot();
        Requester::User {
            identity: Box::new(found.identity().clone()),
            owner: snapshot.token(&hash).map(|(_, token)| token.owner.clone()),
        }
    }
}

fn connection() -> ConnectionInfo {
    ConnectionInfo {
        peer: std::net::IpAddr::from(std::net::Ipv4Addr::LOCALHOST).into(),
        protocol: Protocol::Http1,
        certificates: vec![],
    }
}

impl World {
    async fn log_in(&self, authorization: &str, body: Value) -> Answer {
        let request = Request::post(LOGIN)
            .header("authorization", authorization)
            .header("content-type", "application/json")
            .body(Full::from(body.to_string()))
            .unwrap();
        let answer = self.api.log_in(request, &connection()).await;
        Answer::read(answer).await
    }

    async fn log_in_with(&self, user: &str, password: &str) -> Answer {
        use base64::Engine as _;

        let basic = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        self.log_in(&format!("Basic {basic}"), json!({})).await
    }
}

#[tokio::test]
async fn a_password_gives_a_token_that_can_be_renewed() {
    let world = World::new().await;
    let alice = world.user("alice", json!({})).await;
    let (path, password) = ("/v1/users/alice/password", "correct horse battery");
    for early in [password, ""] {
        world.log_in_with("alice", early).await.expect(401);
    }
    let set = json!({"password": "short"});
    world.operate(Method::PUT, path, set).await.expect(422);
    let set = json!({"password": password});
    world.operate(Method::PUT, path, set).await.expect(204);
    let shown = world
        .operate(Method::GET, "/v1/users/alice", Value::Null)
        .await
        .expect(200);
    assert_eq!(shown["status"]["hasPassword"], true);
    assert!(!shown.to_string().contains("argon2"));
    // Other changes leave it.
    let patch = json!({"uid": "7"});
    world
        .operate(Method::PATCH, "/v1/users/alice", patch)
        .await
        .expect(200);

    let made = world.log_in_with("alice", password).await.expect(201);
    assert_eq!(made["about"]["user"], "alice");
    assert!(made["about"]["renewableUntil"].is_string());
    let first = made["token"].as_str().unwrap().to_owned();
    let renewed = world
        .log_in(&format!("Bearer {first}"), json!({}))
        .await
        .expect(201);
    assert_eq!(
        renewed["about"]["renewableUntil"],
        made["about"]["renewableUntil"]
    );
    world
        .log_in_with("alice", "correct horse batterx")
        .await
        .expect(401);
    world.log_in_with("nobody", password).await.expect(401);

    // Tokens that somebody made are not renewed.
    let api = json!({"user": "alice", "expiresInSeconds": 60});
    let made = world
        .operate(Method::POST, "/v1/tokens", api)
        .await
        .expect(201);
    let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
    world.log_in(&bearer, json!({})).await.expect(403);
    // Nobody gets more than they came with.
    let scoped = json!({"scope": {"readOnly": true}});
    let made = world
        .log_in(&format!("Bearer {first}"), scoped)
        .await
        .expect(201);
    let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
    world.log_in(&bearer, json!({})).await.expect(403);

    // One's own needs the one until now.
    let none = json!({"password": "another password"});
    world
        .ask(&alice, Method::PUT, path, &none, &[])
        .await
        .expect(422);
    let wrong = json!({"password": "another password", "current": "not it at all"});
    world
        .ask(&alice, Method::PUT, path, &wrong, &[])
        .await
        .expect(403);
    let right = json!({"password": "another password", "current": password});
    world
        .ask(&alice, Method::PUT, path, &right, &[])
        .await
        .expect(204);
    let bob = world.user("bob", json!({})).await;
    world
        .ask(&bob, Method::PUT, path, &right, &[])
        .await
        .expect(403);
    // Whoever logged in with the old one is logged out; the other tokens stay.
    world
        .log_in(&format!("Bearer {first}"), json!({}))
        .await
        .expect(401);
    world.log_in_with("alice", password).await.expect(401);
    let disable = json!({"disabled": true});
    world
        .operate(Method::PATCH, "/v1/users/alice", disable)
        .await
        .expect(200);
    world
        .log_in_with("alice", "another password")
        .await
        .expect(401);
}

#[tokio::test]
async fn rule_11_whoever_guesses_a_password_waits() {
    let world = World::new().await;
    let mut answer = world.log_in_with("alice", "guess").await;
    let mut guesses = 1;
    while answer.status == 401 {
        answer = world.log_in_with("alice", "guess").await;
        guesses += 1;
    }
    assert_eq!(guesses, underpass_proxy::limits::PASSWORD_TRIES + 2);
    assert!(answer.headers.contains_key("retry-after"));
    let body = answer.expect(429);
    assert!(body["retryAfterSeconds"].as_u64().unwrap() >= 1);
    world.log_in_with("bob", "guess").await.expect(401);
}

#[tokio::test]
async fn an_object_is_made_read_changed_and_removed() {
    let world = World::new().await;
    let new = json!({"name": "prod", "spec": {"labels": {"env": "prod"}}});
    let made = world
        .operate(Method::POST, "/v1/clusters", new.clone())
        .await;
    assert_eq!(made.headers["location"], "/v1/clusters/prod");
    let tag = made.tag();
    let body = made.expect(201);
    assert_eq!(body["spec"]["labels"]["env"], "prod");
    assert_eq!(body["status"]["connected"], 2);
    world
        .operate(Method::POST, "/v1/clusters", new)
        .await
        .expect(409);

    // Whoever has seen another state changes nothing.
    let path = "/v1/clusters/prod";
    let spec = json!({"labels": {"env": "dev"}});
    let put = async |headers: &[(http::HeaderName, &str)]| {
        world
            .ask(&Requester::Operator, Method::PUT, path, &spec, headers)
            .await
    };
    put(&[]).await.expect(428);
    put(&[(IF_NONE_MATCH, "*")]).await.expect(409);
    put(&[(IF_MATCH, "\"999\"")]).await.expect(412);
    put(&[(IF_MATCH, "sesame")]).await.expect(412);
    put(&[(IF_MATCH, &tag), (IF_NONE_MATCH, "*")])
        .await
        .expect(400);
    let changed = put(&[(IF_MATCH, &tag)]).await;
    let newer = changed.tag();
    assert_ne!(newer, tag);
    let body = changed.expect(200);
    assert_eq!(body["spec"]["labels"], json!({"env": "dev"}));
    put(&[(IF_MATCH, &tag)]).await.expect(412);

    let patch = json!({"labels": {"zone": "a", "env": null}});
    let patched = world.operate(Method::PATCH, path, patch).await.expect(200);
    assert_eq!(patched["spec"]["labels"], json!({"zone": "a"}));

    let read = world.operate(Method::GET, path, Value::Null).await;
    let tag = read.tag();
    let again = world
        .ask(
            &Requester::Operator,
            Method::GET,
            path,
            &Value::Null,
            &[(IF_NONE_MATCH, &tag)],
        )
        .await;
    assert_eq!(again.status, 304);
    world
        .operate(Method::DELETE, path, Value::Null)
        .await
        .expect(204);
    world
        .operate(Method::DELETE, path, Value::Null)
        .await
        .expect(404);
    world
        .operate(Method::GET, path, Value::Null)
        .await
        .expect(404);
}

#[tokio::test]
async fn what_makes_no_sense_is_named() {
    let world = World::new().await;
    for (method, path, body, status, word) in [
        (
            Method::POST,
            "/v1/clusters",
            json!({"name": "Bad_Name", "spec": {}}),
            422,
            "a-z",
        ),
        (
            Method::POST,
            "/v1/clusters",
            json!({"name": "a", "spec": {"lables": {}}}),
            422,
            "lables",
        ),
        (
            Method::POST,
            "/v1/clusters",
            json!({"name": "a", "spec": {"labels": {"a b": ""}}}),
            422,
            "a b",
        ),
        (
            Method::POST,
            "/v1/clusters",
            json!([1]),
            422,
            "invalid type",
        ),
        (
            Method::POST,
            "/v1/bindings",
            json!({"name": "b", "spec": {"subjects": [], "clusters": {}, "role": "view"}}),
            422,
            "subject",
        ),
        (
            Method::POST,
            "/v1/bindings",
            json!({"name": "b", "spec": {"subjects": [{"user": "a"}], "clusters": {"all": true}, "role": "root"}}),
            422,
            "root",
        ),
        (
            Method::POST,
            "/v1/bindings",
            json!({"name": "b", "spec": {"subjects": [{"user": "a"}], "clusters": {"names": ["none"]}, "role": "view"}}),
            404,
            "none",
        ),
        (
            Method::POST,
            "/v1/groups",
            json!({"name": "g", "spec": {"members": ["nobody"]}}),
            404,
            "nobody",
        ),
        (
            Method::POST,
            "/v1/users",
            json!({"name": " a", "spec": {}}),
            422,
            "space",
        ),
        (
            Method::POST,
            "/v1/users",
            json!({"name": "a", "spec": {"extra": {"UPPER": ["x"]}}}),
            422,
            "extra key",
        ),
        (
            Method::POST,
            "/v1/agents",
            json!({"cluster": "none"}),
            404,
            "none",
        ),
        (
            Method::POST,
            "/v1/tokens",
            json!({"user": "nobody"}),
            404,
            "nobody",
        ),
        (Method::POST, "/v1/tokens", json!({}), 422, "whose"),
        (Method::GET, "/v1/nothing", Value::Null, 404, "openapi"),
        (Method::PUT, "/v1/clusters", json!({}), 405, "openapi"),
        (
            Method::GET,
            "/v1/clusters?limit=many",
            Value::Null,
            400,
            "limit",
        ),
    ] {
        let answer = world.operate(method, path, body).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        let kind = &answer.headers["content-type"];
        assert_eq!(kind, "application/problem+json", "{path}");
        assert_eq!(answer.body["status"], status);
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.contains(word), "{path}: {detail}");
    }
    assert_eq!(world.directory.snapshot().revision().0, 0);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let world = World::new().await;
    for number in 0..7 {
        let new = json!({"name": format!("c{number}"), "spec": {}});
        world
            .operate(Method::POST, "/v1/clusters", new)
            .await
            .expect(201);
    }
    let mut seen = Vec::new();
    let mut path = "/v1/clusters?limit=3".to_owned();
    let mut pages = 0;
    loop {
        let page = world
            .operate(Method::GET, &path, Value::Null)
            .await
            .expect(200);
        let names = page["items"].as_array().unwrap().iter();
        seen.extend(names.map(|item| item["name"].as_str().unwrap().to_owned()));
        pages += 1;
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/clusters?limit=3&after={next}"),
            None => break,
        }
    }
    assert_eq!(pages, 3);
    assert_eq!(seen, ["c0", "c1", "c2", "c3", "c4", "c5", "c6"]);
}

#[tokio::test]
async fn lists_of_tokens_can_be_narrowed() {
    let world = World::new().await;
    for user in ["alice", "bob"] {
        world.user(user, json!({})).await;
    }
    for (query, found) in [
        ("", 2),
        ("?user=alice", 1),
        ("?user=alice&limit=1", 1),
        ("?user=eve", 0),
    ] {
        let list = world
            .operate(Method::GET, &format!("/v1/tokens{query}"), Value::Null)
            .await
            .expect(200);
        assert_eq!(list["items"].as_array().unwrap().len(), found, "{query}");
        assert!(list["next"].is_null());
    }
    for query in [
        "/v1/tokens?usr=alice",
        "/v1/agents?cluser=a",
        "/v1/users?x=1",
    ] {
        world
            .operate(Method::GET, query, Value::Null)
            .await
            .expect(400);
    }
    world
        .operate(Method::GET, "/v1/agents?cluster=a", Value::Null)
        .await
        .expect(200);
}

#[tokio::test]
async fn rule_8_only_administrators_change_the_directory() {
    let world = World::new().await;
    for name in ["prod", "dev"] {
        let new = json!({"name": name, "spec": {}});
        world
            .operate(Method::POST, "/v1/clusters", new)
            .await
            .expect(201);
    }
    let viewer = world.user("viewer", json!({"clusters": ["prod"]})).await;
    let local = world
        .user("local", json!({"clusters": ["prod"], "role": "admin"}))
        .await;
    let root = world
        .user("root", json!({"allClusters": true, "role": "admin"}))
        .await;
    let binding = |cluster: &str| json!({"subjects": [{"user": "viewer"}], "clusters": {"names": [cluster]}, "role": "admin"});
    let named = |name: &str, spec: Value| json!({"name": name, "spec": spec});
    let all = json!({"subjects": [{"user": "local"}], "clusters": {"all": true}, "role": "admin"});
    let labelled = json!({"subjects": [{"user": "local"}], "clusters": {"labels": {"a": "b"}}, "role": "admin"});
    let none = Value::Null;
    // Path, body, and the answers for the viewer, prod's administrator, and everything's.
    for (method, path, body, answers) in [
        (
            Method::POST,
            "/v1/users",
            named("eve", json!({})),
            [403, 403, 201],
        ),
        (Method::GET, "/v1/users/root", none.clone(), [404, 404, 200]),
        (
            Method::DELETE,
            "/v1/users/eve",
            none.clone(),
            [403, 403, 204],
        ),
        (
            Method::POST,
            "/v1/groups",
            named("g", json!({})),
            [403, 403, 201],
        ),
        (
            Method::PATCH,
            "/v1/clusters/prod",
            json!({"labels": {"a": "b"}}),
            [403, 403, 200],
        ),
        (
            Method::GET,
            "/v1/clusters/dev",
            none.clone(),
            [404, 404, 200],
        ),
        (
            Method::GET,
            "/v1/clusters/prod",
            none.clone(),
            [200, 200, 200],
        ),
        (
            Method::POST,
            "/v1/bindings",
            named("1", binding("dev")),
            [403, 403, 201],
        ),
        (
            Method::POST,
            "/v1/bindings",
            named("2", all),
            [403, 403, 201],
        ),
        (
            Method::POST,
            "/v1/bindings",
            named("3", labelled),
            [403, 403, 201],
        ),
        (
            Method::GET,
            "/v1/bindings/user-root-admin",
            none.clone(),
            [404, 404, 200],
        ),
        (
            Method::DELETE,
            "/v1/bindings/none",
            none.clone(),
            [403, 403, 404],
        ),
        (
            Method::POST,
            "/v1/agents",
            json!({"cluster": "dev"}),
            [403, 403, 201],
        ),
        (
            Method::POST,
            "/v1/agents",
            json!({"cluster": "new", "makeCluster": true}),
            [403, 403, 201],
        ),
        (
            Method::POST,
            "/v1/tokens",
            json!({"user": "root", "expiresInSeconds": 9}),
            [403, 403, 201],
        ),
        (
            Method::POST,
            "/v1/access",
            json!({"user": "viewer", "allClusters": true, "role": "admin"}),
            [403, 403, 200],
        ),
    ] {
        for (who, status) in [&viewer, &local, &root].into_iter().zip(answers) {
            // What the last one is allowed would change what the others are.
            let answer = world.ask(who, method.clone(), path, &body, &[]).await;
            assert_eq!(answer.status, status, "{method} {path} by {}", who.name());
        }
        if path == "/v1/bindings" {
            for name in ["1", "2", "3"] {
                let path = format!("/v1/bindings/{name}");
                world.operate(Method::DELETE, &path, Value::Null).await;
            }
        }
    }
}

#[tokio::test]
async fn rule_8_who_is_admin_of_a_cluster_decides_who_reaches_it() {
    let world = World::new().await;
    let new = json!({"name": "prod", "spec": {}});
    world
        .operate(Method::POST, "/v1/clusters", new)
        .await
        .expect(201);
    let local = world
        .user("local", json!({"clusters": ["prod"], "role": "admin"}))
        .await;
    let spec =
        json!({"subjects": [{"group": "ops"}], "clusters": {"names": ["prod"]}, "role": "shell"});
    let new = json!({"name": "ops", "spec": spec});
    let none = Value::Null;
    world
        .ask(&local, Method::POST, "/v1/bindings", &new, &[])
        .await
        .expect(201);
    let widened = json!({"clusters": {"all": true}});
    world
        .ask(&local, Method::PATCH, "/v1/bindings/ops", &widened, &[])
        .await
        .expect(403);
    let made = world
        .ask(
            &local,
            Method::POST,
            "/v1/agents",
            &json!({"cluster": "prod"}),
            &[],
        )
        .await
        .expect(201);
    assert!(made["token"].as_str().unwrap().starts_with("upa_"));
    let agents = format!("/v1/agents/{}", made["agent"]["id"].as_str().unwrap());
    world
        .ask(&local, Method::DELETE, &agents, &none, &[])
        .await
        .expect(204);
    world
        .ask(&local, Method::DELETE, "/v1/bindings/ops", &none, &[])
        .await
        .expect(204);
}

#[tokio::test]
async fn rule_14_a_token_is_shown_once_and_within_its_makers_limits() {
    let world = World::new().await;
    let new = json!({"name": "prod", "spec": {}});
    world
        .operate(Method::POST, "/v1/clusters", new)
        .await
        .expect(201);
    let alice = world.user("alice", json!({"clusters": ["prod"]})).await;
    let endless = world
        .ask(&alice, Method::POST, "/v1/tokens", &json!({}), &[])
        .await;
    endless.expect(422);
    let wanted = json!({"expiresInSeconds": 60, "scope": {"clusters": ["prod"], "readOnly": true}, "description": "ci"});
    let made = world
        .ask(&alice, Method::POST, "/v1/tokens", &wanted, &[])
        .await
        .expect(201);
    let secret = made["token"].as_str().unwrap().to_owned();
    let list = world
        .ask(&alice, Method::GET, "/v1/tokens", &Value::Null, &[])
        .await
        .expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    assert!(!list.to_string().contains(&secret));

    // What it was made with limits what it may do here, too.
    let limited = world.holder(&secret).await;
    let read = world
        .ask(&limited, Method::GET, "/v1/self", &Value::Null, &[])
        .await
        .expect(200);
    assert_eq!(read["scope"], wanted["scope"]);
    assert_eq!(read["clusters"][0]["name"], "prod");
    let write = world
        .ask(&limited, Method::POST, "/v1/tokens", &wanted, &[])
        .await
        .expect(403);
    assert!(write["detail"].as_str().unwrap().contains("read-only"));
    let scoped = json!({"expiresInSeconds": 60, "scope": {"clusters": ["prod"]}});
    let made = world
        .ask(&alice, Method::POST, "/v1/tokens", &scoped, &[])
        .await
        .expect(201);
    let scoped = world.holder(made["token"].as_str().unwrap()).await;
    for more in [
        json!({"expiresInSeconds": 60}),
        json!({"expiresInSeconds": 60, "scope": {"clusters": ["prod", "dev"]}}),
    ] {
        world
            .ask(&scoped, Method::POST, "/v1/tokens", &more, &[])
            .await
            .expect(403);
    }
    let far = json!({"expiresInSeconds": u64::MAX});
    world
        .ask(&alice, Method::POST, "/v1/tokens", &far, &[])
        .await
        .expect(422);
    // Nobody else sees it, or takes it back.
    let bob = world.user("bob", json!({})).await;
    let path = format!("/v1/tokens/{}", made["about"]["id"].as_str().unwrap());
    for method in [Method::GET, Method::DELETE] {
        world
            .ask(&bob, method, &path, &Value::Null, &[])
            .await
            .expect(404);
    }
    world
        .ask(&alice, Method::DELETE, &path, &Value::Null, &[])
        .await
        .expect(204);
}

#[tokio::test]
async fn rule_5_an_administrators_token_for_one_cluster_administers_nothing_else() {
    let world = World::new().await;
    for name in ["prod", "dev"] {
        let new = json!({"name": name, "spec": {}});
        world
            .operate(Method::POST, "/v1/clusters", new)
            .await
            .expect(201);
    }
    let access =
        json!({"allClusters": true, "role": "admin", "token": {"scope": {"clusters": ["prod"]}}});
    let limited = world.user("root", access).await;
    for (path, body) in [
        ("/v1/users", json!({"name": "eve", "spec": {}})),
        ("/v1/agents", json!({"cluster": "dev"})),
        (
            "/v1/tokens",
            json!({"user": "alice", "expiresInSeconds": 9}),
        ),
    ] {
        world
            .ask(&limited, Method::POST, path, &body, &[])
            .await
            .expect(403);
    }
    world
        .ask(&limited, Method::GET, "/v1/clusters/dev", &Value::Null, &[])
        .await
        .expect(404);
    world
        .ask(
            &limited,
            Method::POST,
            "/v1/agents",
            &json!({"cluster": "prod"}),
            &[],
        )
        .await
        .expect(201);
}

#[tokio::test]
async fn letting_somebody_in_is_all_or_nothing() {
    let world = World::new().await;
    let wanted = json!({"user": "alice", "groups": ["ops"], "clusters": ["none"], "role": "view", "token": {}});
    world
        .operate(Method::POST, "/v1/access", wanted)
        .await
        .expect(404);
    assert_eq!(world.directory.snapshot().revision().0, 0);
}

fn direct(credential: Value) -> Value {
    json!({"direct": {"server": "https://10.0.0.1:6443", "credential": credential}})
}

impl World {
    async fn add_direct(&self, name: &str, credential: Value) -> Answer {
        let new = json!({"name": name, "spec": direct(credential)});
        self.operate(Method::POST, "/v1/clusters", new).await
    }

    /// What the store would have of a cluster.
    fn stored(&self, name: &str) -> String {
        let snapshot = self.directory.snapshot();
        let cluster = snapshot.get::<Cluster>(name).unwrap();
        serde_json::to_string(&*cluster.object).unwrap()
    }
}

#[tokio::test]
async fn rule_9_a_credential_goes_in_and_never_comes_out() {
    let world = World::new().await;
    let exec = json!({"command": PLUGIN, "args": ["hunter2"], "env": {"A": "hunter2"}});
    let kinds = [("token", json!("hunter2")), ("exec", exec)];
    for (kind, credential) in kinds {
        let made = world.add_direct(kind, json!({ kind: credential })).await;
        let made = made.expect(201);
        assert_eq!(made["status"]["kind"], "direct");
        assert_eq!(made["status"]["credential"]["kind"], kind);
        let path = format!("/v1/clusters/{kind}");
        let read = world.operate(Method::GET, &path, Value::Null).await;
        let list = world
            .operate(Method::GET, "/v1/clusters", Value::Null)
            .await;
        let labels = json!({"labels": {"env": "prod"}});
        let before = world.stored(kind);
        let patched = world
            .operate(Method::PATCH, &path, labels)
            .await
            .expect(200);
        for shown in [made, read.expect(200), list.expect(200), patched] {
            let shown = shown.to_string();
            assert!(
                !shown.contains("hunter2") && !shown.contains("v1."),
                "{shown}"
            );
        }
        let after = world.stored(kind);
        assert!(!after.contains("hunter2"), "{after}");
        let credential = |json: &str| {
            let json: Value = serde_json::from_str(json).unwrap();
            json["direct"]["credential"].clone()
        };
        assert_eq!(credential(&before), credential(&after), "it stays");
    }
}

#[tokio::test]
async fn rule_9_a_credential_does_not_follow_to_another_server() {
    let world = World::new().await;
    let token = json!({"token": "hunter2"});
    world.add_direct("c", token.clone()).await.expect(201);
    let path = "/v1/clusters/c";
    let before = world.stored("c");
    for elsewhere in [
        json!({"direct": {"server": "https://attacker.example"}}),
        json!({"direct": {"tlsServerName": "attacker.example"}}),
    ] {
        let answer = world.operate(Method::PATCH, path, elsewhere).await;
        let problem = answer.expect(422);
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .contains("credential again")
        );
    }
    assert_eq!(world.stored("c"), before);
    let with = json!({"direct": {"server": "https://10.0.0.2:6443", "credential": token}});
    world.operate(Method::PATCH, path, with).await.expect(200);
    // Whom nobody becomes there is not about the endpoint.
    let policy = json!({"direct": {"policy": {"denyUsers": ["root"]}}});
    let changed = world.operate(Method::PATCH, path, policy).await.expect(200);
    assert_eq!(
        changed["spec"]["direct"]["policy"]["denyUsers"],
        json!(["root"])
    );
    // What was removed is gone, and does not come back.
    world
        .operate(Method::PATCH, path, json!({"direct": null}))
        .await
        .expect(200);
    let again = json!({"direct": {"server": "https://10.0.0.2:6443"}});
    world.operate(Method::PATCH, path, again).await.expect(422);
}

#[tokio::test]
async fn rule_9_a_problem_quotes_no_credential() {
    let world = World::new().await;
    for credential in [
        json!("hunter2"),
        json!({"hunter2": 1}),
        json!({"token": ["hunter2"]}),
        json!({"token": "hunter2 "}),
        json!({"token": "hunter2", "exec": {"command": "hunter2"}}),
        json!({"clientCertificate": {"certificate": "hunter2", "key": "hunter2"}}),
        json!({"clientCertificate": {"certificate": "x", "hunter2": "x"}}),
    ] {
        let problem = world.add_direct("c", credential).await.expect(422);
        let text = problem.to_string();
        assert!(!text.contains("hunter2"), "{text}");
    }
    let plain = json!({"name": "c", "spec": {"direct": {
        "server": "http://h", "credential": {"token": "x"},
    }}});
    let problem = world.operate(Method::POST, "/v1/clusters", plain).await;
    assert!(problem.expect(422).to_string().contains("https"));
}

#[tokio::test]
async fn rule_6_only_allowed_plugins_run() {
    let world = World::new().await;
    for command in ["/bin/sh", "/opt/plugin2", "/opt/./plugin", "plugin"] {
        let credential = json!({"exec": {"command": command}});
        world.add_direct("c", credential).await.expect(422);
    }
    let steered = json!({"exec": {"command": PLUGIN, "env": {"LD_PRELOAD": "/tmp/x.so"}}});
    world.add_direct("c", steered).await.expect(422);
    let allowed = json!({"exec": {"command": PLUGIN}});
    world.add_direct("c", allowed).await.expect(201);
}

#[tokio::test]
async fn a_cluster_has_agents_or_a_direct_endpoint() {
    let world = World::new().await;
    let token = json!({"token": "t"});
    world.add_direct("direct", token.clone()).await.expect(201);
    let agent = json!({"cluster": "direct", "makeCluster": true});
    let refused = world.operate(Method::POST, "/v1/agents", agent).await;
    assert!(refused.expect(409).to_string().contains("agents"));
    let agent = json!({"cluster": "tunnelled", "makeCluster": true});
    world
        .operate(Method::POST, "/v1/agents", agent)
        .await
        .expect(201);
    let change = direct(token);
    let path = "/v1/clusters/tunnelled";
    world.operate(Method::PATCH, path, change).await.expect(409);
    let path = "/v1/clusters/tunnelled/reachability";
    world
        .operate(Method::GET, path, Value::Null)
        .await
        .expect(422);
}

#[tokio::test]
async fn rule_8_administrators_alone_see_and_set_endpoints() {
    let world = World::new().await;
    let token = json!({"token": "t"});
    world.add_direct("prod", token.clone()).await.expect(201);
    let local = json!({"clusters": ["prod"], "role": "admin"});
    let local = world.user("local", local).await;
    let path = "/v1/clusters/prod";
    let ask = async |method, path, body: Value| world.ask(&local, method, path, &body, &[]).await;
    let seen = ask(Method::GET, path, Value::Null).await.expect(200);
    assert_eq!(seen["status"]["kind"], "direct");
    assert!(!seen.to_string().contains("10.0.0.1"), "{seen}");
    assert_eq!(seen["status"]["credential"], Value::Null);
    ask(Method::PATCH, path, direct(token)).await.expect(403);
    let reachability = format!("{path}/reachability");
    ask(Method::GET, &reachability, Value::Null)
        .await
        .expect(403);
}

#[tokio::test]
async fn rule_3_without_a_requester_nothing_is_answered() {
    let world = World::new().await;
    let request = Request::get("/v1/clusters")
        .body(axum::body::Body::empty())
        .unwrap();
    let response = world.api.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 401);
}

#[tokio::test]
async fn what_is_described_exists() {
    let world = World::new().await;
    for operation in openapi::described() {
        let path = operation.path.replace("{name}", "x").replace("{id}", "x");
        let method = match operation.method {
            utoipa::openapi::HttpMethod::Get => Method::GET,
            utoipa::openapi::HttpMethod::Post => Method::POST,
            utoipa::openapi::HttpMethod::Put => Method::PUT,
            utoipa::openapi::HttpMethod::Patch => Method::PATCH,
            _ => Method::DELETE,
        };
        let answer = world.operate(method, &path, Value::Null).await;
        let detail = answer.body["detail"].as_str().unwrap_or_default();
        assert!(!detail.contains("openapi"), "{path}: {detail}");
    }
    let served = world
        .operate(Method::GET, "/v1/openapi.json", Value::Null)
        .await
        .expect(200);
    assert_eq!(served, serde_json::to_value(openapi::describe()).unwrap());
    // Every reference leads somewhere.
    let text = served.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(!served["components"]["schemas"][name].is_null(), "{name}");
    }
}
