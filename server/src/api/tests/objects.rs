//! Objects: made, read, changed, listed, described.

use super::*;

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

    // A client that has seen another state changes nothing.
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
async fn letting_somebody_in_is_all_or_nothing() {
    let world = World::new().await;
    let wanted = json!({"user": "alice", "groups": ["ops"], "clusters": ["none"], "role": "view", "token": {}});
    world
        .operate(Method::POST, "/v1/access", wanted)
        .await
        .expect(404);
    assert_eq!(world.directory.snapshot().revision().0, 0);
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

#[tokio::test]
async fn everybody_who_is_known_learns_how_to_reach_the_server() {
    let world = World::new().await;
    let anna = world.user("anna", json!({})).await;
    let asked = world
        .ask(&anna, Method::GET, "/v1/server", &Value::Null, &[])
        .await
        .expect(200);
    assert_eq!(asked["url"], "https://u.example.org:8443");
    assert_eq!(asked["caPin"], "sha256:ab");
    assert!(asked["caPem"].as_str().unwrap().contains("CERTIFICATE"));
}
