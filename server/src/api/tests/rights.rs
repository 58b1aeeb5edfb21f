//! The rights of requesters, and of their tokens.

use super::*;

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
            // The last one comes last: its change would change the others' answers.
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

    // The token's scope limits it here, too.
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
async fn rule_3_without_a_requester_nothing_is_answered() {
    let world = World::new().await;
    let request = Request::get("/v1/clusters")
        .body(axum::body::Body::empty())
        .unwrap();
    let response = world.api.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 401);
}

#[tokio::test]
async fn rule_8_who_may_see_nothing_gets_the_same_answer_whether_it_is_there_or_not() {
    let world = World::new().await;
    for (path, spec) in [
        ("clusters", json!({})),
        ("users", json!({})),
        ("groups", json!({})),
        (
            "bindings",
            json!({"subjects": [{"user": "zz-there"}], "clusters": {"all": true}, "role": "admin"}),
        ),
    ] {
        let new = json!({"name": "zz-there", "spec": spec});
        let path = format!("/v1/{path}");
        world.operate(Method::POST, &path, new).await.expect(201);
    }
    let new = json!({"name": "mine", "spec": {}});
    world
        .operate(Method::POST, "/v1/clusters", new)
        .await
        .expect(201);
    let agent = json!({"cluster": "zz-there"});
    let agent = world.operate(Method::POST, "/v1/agents", agent).await;
    let agent = agent.expect(201)["agent"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let token = json!({"user": "zz-there"});
    let token = world.operate(Method::POST, "/v1/tokens", token).await;
    let token = token.expect(201)["about"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let nobody = world.user("nobody", json!({})).await;
    let local = world
        .user("local", json!({"clusters": ["mine"], "role": "admin"}))
        .await;
    let paths = [
        ("/v1/clusters/{}", "zz-there"),
        ("/v1/clusters/{}/reachability", "zz-there"),
        ("/v1/users/{}", "zz-there"),
        ("/v1/users/{}/password", "zz-there"),
        ("/v1/groups/{}", "zz-there"),
        ("/v1/bindings/{}", "zz-there"),
        ("/v1/agents/{}", agent.as_str()),
        ("/v1/tokens/{}", token.as_str()),
    ];
    let binding =
        json!({"subjects": [{"user": "local"}], "clusters": {"names": ["mine"]}, "role": "view"});
    for (path, there) in paths {
        let missing = "x".repeat(there.len());
        for method in [
            Method::GET,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::POST,
        ] {
            for body in [&Value::Null, &json!({}), &json!({"unknown": 1}), &binding] {
                for tag in [None, Some((IF_MATCH, "*")), Some((IF_MATCH, "\"1\""))] {
                    for who in [&nobody, &local] {
                        let mut answers = Vec::new();
                        for name in [there, &missing] {
                            let path = path.replace("{}", name);
                            let headers = tag.as_slice();
                            let answer = world.ask(who, method.clone(), &path, body, headers).await;
                            let said = answer.body.to_string().replace(name, "NAME");
                            answers.push((answer.status, answer.headers, said));
                        }
                        assert!(!answers[0].0.is_success(), "{method} {path}");
                        assert_eq!(answers[0], answers[1], "{method} {path} {body}");
                    }
                }
            }
        }
    }
}
