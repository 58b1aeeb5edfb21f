//! Names that somebody else gives, and room in the directory (security rule 22).

use super::*;

/// A user who administers `edge` and `far`, and nothing else.
async fn local(world: &World) -> Requester {
    for name in ["edge", "far"] {
        let new = json!({"name": name, "spec": {}});
        let made = world.operate(Method::POST, "/v1/clusters", new).await;
        made.expect(201);
    }
    let access = json!({"clusters": ["edge", "far"], "role": "admin"});
    world.user("local", access).await
}

fn binding(name: &str, cluster: &str, subjects: impl Iterator<Item = usize>) -> Value {
    let subjects: Vec<_> = subjects
        .map(|number| json!({"user": format!("user-{number}")}))
        .collect();
    json!({"name": name, "spec": {
        "subjects": subjects, "clusters": {"names": [cluster]}, "role": "view",
    }})
}

#[tokio::test]
async fn rule_22_one_clusters_administrator_does_not_fill_the_directory() {
    let world = World::new().await;
    let local = local(&world).await;
    let fill = |draft: &mut Draft| {
        for number in 1..limits::BINDINGS_PER_CLUSTER {
            let clusters = [cluster("edge")];
            let subject = format!("someone-{number}").parse().unwrap();
            draft.grant(&Subject::user(subject), &clusters, false, Role::View)?;
        }
        Ok::<_, Problem>(())
    };
    world.directory.change(fill).await.unwrap();
    let one = |name: &str, cluster: &str| binding(name, cluster, 0..1);
    let ask = async |who: &Requester, body: Value| {
        world
            .ask(who, Method::POST, "/v1/bindings", &body, &[])
            .await
    };
    let refused = ask(&local, one("more", "edge")).await.expect(507);
    let said = refused["detail"].as_str().unwrap();
    assert!(
        said.contains("cluster edge") && said.contains("groups"),
        "{said}"
    );
    // Another cluster has room of its own. Administrators of everything have no such bound.
    ask(&local, one("more", "far")).await.expect(201);
    world
        .operate(Method::POST, "/v1/bindings", one("others", "edge"))
        .await
        .expect(201);
    // Existing bindings may be changed, and removed.
    let path = "/v1/bindings/user-someone-1-view";
    let role = json!({"role": "shell"});
    world
        .ask(&local, Method::PATCH, path, &role, &[])
        .await
        .expect(200);
    for path in [path, "/v1/bindings/user-someone-2-view"] {
        world
            .ask(&local, Method::DELETE, path, &Value::Null, &[])
            .await
            .expect(204);
    }
    ask(&local, one("now", "edge")).await.expect(201);
}

#[tokio::test]
async fn rule_22_subjects_of_a_cluster_are_bounded_together() {
    let world = World::new().await;
    let local = local(&world).await;
    let each = 4000;
    let ask = async |name: &str, count: usize| {
        let body = binding(name, "edge", 0..count);
        let (method, path) = (Method::POST, "/v1/bindings");
        world.ask(&local, method, path, &body, &[]).await
    };
    ask("one", each).await.expect(201);
    ask("two", each).await.expect(201);
    let refused = ask("three", each).await.expect(507);
    assert!(refused["detail"].as_str().unwrap().contains("groups"));
    ask("three", 10).await.expect(201);
    // A binding that shrinks always may.
    let fewer = json!({"subjects": [{"user": "user-1"}]});
    let path = "/v1/bindings/one";
    world
        .ask(&local, Method::PATCH, path, &fewer, &[])
        .await
        .expect(200);
    ask("four", each).await.expect(201);
}

#[tokio::test]
async fn rule_22_the_first_administrator_is_the_directorys() {
    let world = World::new().await;
    let token = underpass_authenticate::Token::generate().unwrap();
    let made = first_administrator(&world.directory, &token).await.unwrap();
    assert!(made);
    let shown = world
        .operate(Method::GET, "/v1/bindings/user-admin-admin", Value::Null)
        .await
        .expect(200);
    let wanted = json!([{"user": "admin", "authority": "directory"}]);
    assert_eq!(shown["spec"]["subjects"], wanted);
}

#[tokio::test]
async fn links_and_authorities_are_set_and_shown() {
    let world = World::new().await;
    let access = json!({"user": "alice", "role": "view", "links": ["ldap/corp"]});
    for links in ["ldap/corp", "jwt/hub"] {
        let mut access = access.clone();
        access["links"] = json!([links]);
        world
            .operate(Method::POST, "/v1/access", access)
            .await
            .expect(200);
    }
    let shown = world
        .operate(Method::GET, "/v1/users/alice", Value::Null)
        .await
        .expect(200);
    assert_eq!(shown["spec"]["links"], json!(["jwt/hub", "ldap/corp"]));
    for (path, body, status) in [
        ("/v1/users/alice", json!({"links": ["github/hub"]}), 200),
        ("/v1/users/alice", json!({"links": ["corp"]}), 422),
        ("/v1/users/alice", json!({"links": ["directory"]}), 422),
        ("/v1/users/alice", json!({"disabled": true}), 200),
    ] {
        world
            .operate(Method::PATCH, path, body.clone())
            .await
            .expect(status);
    }
    let shown = world
        .operate(Method::GET, "/v1/users/alice", Value::Null)
        .await
        .expect(200);
    assert_eq!(shown["spec"]["links"], json!(["github/hub"]));
    let group = json!({"name": "ops", "spec": {"links": ["ldap/corp"]}});
    let shown = world
        .operate(Method::POST, "/v1/groups", group)
        .await
        .expect(201);
    assert_eq!(shown["spec"]["links"], json!(["ldap/corp"]));
    for (subject, status) in [
        (json!({"group": "ops", "authority": "ldap/corp"}), 201),
        (json!({"group": "ops", "authority": "corp"}), 422),
        (json!({"group": "ops", "user": "alice"}), 422),
        (json!({}), 422),
    ] {
        let binding = json!({"name": "b", "spec": {
            "subjects": [subject], "clusters": {"all": true}, "role": "view",
        }});
        world
            .operate(Method::POST, "/v1/bindings", binding)
            .await
            .expect(status);
    }
}

fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

#[tokio::test]
async fn rule_23_one_clusters_administrator_does_not_fill_the_directory_with_agents() {
    let world = World::new().await;
    let local = local(&world).await;
    let ask = async |who: &Requester, cluster: &str| {
        let body = json!({"cluster": cluster});
        let (method, path) = (Method::POST, "/v1/agents");
        world.ask(who, method, path, &body, &[]).await
    };
    let mut last = Value::Null;
    for _ in 0..limits::AGENTS_PER_CLUSTER {
        last = ask(&local, "edge").await.expect(201);
    }
    let refused = ask(&local, "edge").await.expect(507);
    let said = refused["detail"].as_str().unwrap();
    assert!(
        said.contains("cluster edge") && said.contains("remove"),
        "{said}"
    );
    // Another cluster has room of its own, and an administrator of everything makes more.
    ask(&local, "far").await.expect(201);
    let body = json!({"cluster": "edge"});
    world
        .operate(Method::POST, "/v1/agents", body)
        .await
        .expect(201);
    // Both of what is too much.
    let page = world
        .operate(Method::GET, "/v1/agents?cluster=edge", Value::Null)
        .await;
    let page = page.expect(200);
    let ids = page["items"].as_array().unwrap().iter();
    let ids: Vec<_> = ids.map(|agent| agent["id"].as_str().unwrap()).collect();
    assert!(ids.contains(&last["agent"]["id"].as_str().unwrap()));
    for id in &ids[..2] {
        let path = format!("/v1/agents/{id}");
        world
            .ask(&local, Method::DELETE, &path, &Value::Null, &[])
            .await
            .expect(204);
    }
    ask(&local, "edge").await.expect(201);
}
