//! Direct clusters: a credential goes in, and never comes out.

use underpass_directory::Cluster;

use super::*;

fn direct(credential: Value) -> Value {
    json!({"direct": {"server": "https://10.0.0.1:6443", "credential": credential}})
}

impl World {
    async fn add_direct(&self, name: &str, credential: Value) -> Answer {
        let new = json!({"name": name, "spec": direct(credential)});
        self.operate(Method::POST, "/v1/clusters", new).await
    }

    /// The store's text of a cluster.
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
    // `denyUsers` is not part of the endpoint.
    let policy = json!({"direct": {"policy": {"denyUsers": ["root"]}}});
    let changed = world.operate(Method::PATCH, path, policy).await.expect(200);
    assert_eq!(
        changed["spec"]["direct"]["policy"]["denyUsers"],
        json!(["root"])
    );
    // A removed credential is gone, and does not come back.
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
    for variable in ["LD_PRELOAD", "PATH", "CLOUDSDK_PYTHON", "B"] {
        let steered = json!({"exec": {"command": PLUGIN, "env": {variable: "/tmp/x.so"}}});
        let refused = world.add_direct("c", steered).await.expect(422).to_string();
        assert!(
            refused.contains("--allow-exec-plugin-variable"),
            "{refused}"
        );
    }
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
