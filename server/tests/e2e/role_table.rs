//! The API, asked by a program that reads its description and knows nothing else: as a stranger, as a user who may look
//! at one cluster, as that cluster's administrator, and as an administrator of everything. Each answer is held against
//! the role table here, and what others have against what it was before.

use serde_json::{Value, json};
use underpass_testenv::testing::eventually;
use underpass_testenv::testing::providers::{Roles, schemathesis};
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::deployment::Deployment;
use crate::raw;

/// The requests that need no credential.
const STRANGER: &[&str] = &["GET /v1/login"];

/// The requests of any user: reads of visible objects, and their own tokens and password.
const USER: &[&str] = &[
    "GET /v1/login",
    "POST /v1/login",
    "POST /v1/sessions",
    "GET /v1/self",
    "GET /v1/server",
    "GET /v1/clusters",
    "GET /v1/clusters/{name}",
    "GET /v1/users",
    "GET /v1/users/{name}",
    "GET /v1/groups",
    "GET /v1/groups/{name}",
    "GET /v1/bindings",
    "GET /v1/bindings/{name}",
    "GET /v1/agents",
    "GET /v1/agents/{id}",
    "GET /v1/tokens",
    "POST /v1/tokens",
    "GET /v1/tokens/{id}",
    "DELETE /v1/tokens/{id}",
    "PUT /v1/users/{name}/password",
];

/// The further requests of a cluster's administrator, for that cluster.
const CLUSTER_ADMIN: &[&str] = &[
    "POST /v1/bindings",
    "PUT /v1/bindings/{name}",
    "PATCH /v1/bindings/{name}",
    "DELETE /v1/bindings/{name}",
    "POST /v1/agents",
    "DELETE /v1/agents/{id}",
    "POST /v1/agents/{id}/rotate",
    "GET /v1/clusters/{name}/join-tokens",
    "POST /v1/clusters/{name}/join-tokens",
    "GET /v1/clusters/{name}/join-tokens/{id}",
    "DELETE /v1/clusters/{name}/join-tokens/{id}",
    "DELETE /v1/clusters/{name}/recordings/{id}",
];

/// The further requests of a user with the role `operations` in a cluster, which its administrators may make as well. They ask
/// nodes, and change nothing of the directory.
const OPERATIONS: &[&str] = &[
    "GET /v1/clusters/{name}/nodes",
    "GET /v1/clusters/{name}/nodes/{node}/operations",
    "POST /v1/clusters/{name}/nodes/{node}/operations",
    "GET /v1/clusters/{name}/nodes/{node}/operations/{id}",
    "DELETE /v1/clusters/{name}/nodes/{node}/operations/{id}",
    "GET /v1/clusters/{name}/nodes/{node}/operations/{id}/output",
];

/// The further requests of a user with the role `shell` in a cluster, which its administrators may make as well.
const SHELLS: &[&str] = &[
    "GET /v1/clusters/{name}/shells",
    "POST /v1/clusters/{name}/shells",
    "GET /v1/clusters/{name}/shells/{id}",
    "DELETE /v1/clusters/{name}/shells/{id}",
    "GET /v1/clusters/{name}/nodes/{node}/shells",
    "POST /v1/clusters/{name}/nodes/{node}/shells",
    "GET /v1/clusters/{name}/nodes/{node}/shells/{id}",
    "DELETE /v1/clusters/{name}/nodes/{node}/shells/{id}",
    "GET /v1/clusters/{name}/recordings",
    "GET /v1/clusters/{name}/recordings/{id}",
];

/// The request of an agent with a join token, and of nobody else.
const JOINING: &[&str] = &["POST /v1/join"];

/// The further requests of administrators of everything.
const ADMINISTRATOR: &[&str] = &[
    "POST /v1/access",
    "POST /v1/clusters",
    "PUT /v1/clusters/{name}",
    "PATCH /v1/clusters/{name}",
    "DELETE /v1/clusters/{name}",
    "GET /v1/clusters/{name}/reachability",
    "GET /v1/clusters/{name}/registration",
    "DELETE /v1/clusters/{name}/registration",
    "POST /v1/users",
    "PUT /v1/users/{name}",
    "PATCH /v1/users/{name}",
    "DELETE /v1/users/{name}",
    "DELETE /v1/users/{name}/password",
    "POST /v1/groups",
    "PUT /v1/groups/{name}",
    "PATCH /v1/groups/{name}",
    "DELETE /v1/groups/{name}",
];

const KINDS: [&str; 6] = [
    "clusters", "users", "groups", "bindings", "agents", "tokens",
];

struct World {
    deployment: Deployment,
    openapi: Value,
    /// Of an administrator who only looks.
    observer: String,
}

impl World {
    async fn new() -> Self {
        let deployment = Deployment::start(Transport::Quic).await;
        let administer = |arguments: &[&str]| deployment.administer(arguments).unwrap();
        administer(&["cluster", "add", "other", "--label", "env=prod"]);
        for (user, rights) in [
            ("viewer", ["--cluster", CLUSTER_NAME, "--role", "view"]),
            (
                "operator",
                ["--cluster", CLUSTER_NAME, "--role", "operations"],
            ),
            ("keeper", ["--cluster", CLUSTER_NAME, "--role", "admin"]),
            ("stranger", ["--cluster", "other", "--role", "shell"]),
        ] {
            administer(&[&["user", "add", user][..], &rights].concat());
        }
        for user in ["root", "observer"] {
            administer(&["user", "add", user, "--all-clusters", "--role", "admin"]);
        }
        administer(&["group", "set", "ops", "--member", "stranger"]);
        let observer = administer(&["token", "create", "--user", "observer"]);
        let observer = observer.trim().to_owned();
        let openapi = raw::get(&deployment, "/v1/openapi.json", Some(&observer)).await;
        Self {
            openapi: openapi.body,
            observer,
            deployment,
        }
    }

    fn token(&self, user: &str) -> String {
        let create = ["token", "create", "--user", user];
        let made = self.deployment.administer(&create).unwrap();
        made.trim().to_owned()
    }

    async fn list(&self, kind: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut path = format!("/v1/{kind}");
        loop {
            let page = raw::get(&self.deployment, &path, Some(&self.observer)).await;
            assert_eq!(page.code, 200, "{page:?}");
            items.extend(page.body["items"].as_array().unwrap().iter().cloned());
            match page.body["next"].as_str() {
                Some(next) => path = format!("/v1/{kind}?after={next}"),
                None => return items,
            }
        }
    }

    /// Everything that `is_theirs` is not true of, as far as it can be changed.
    async fn others(&self, is_theirs: impl Fn(&str, &Value) -> bool) -> Value {
        let mut all = json!({});
        for kind in KINDS {
            let mut items = self.list(kind).await;
            items.retain(|item| !is_theirs(kind, item));
            for item in &mut items {
                let item = item.as_object_mut().unwrap();
                for moving in ["lastUsed", "status", "connected"] {
                    item.remove(moving);
                }
            }
            all[kind] = Value::Array(items);
        }
        all
    }

    async fn attack(&self, token: Option<&str>, may: &[&str], leave_out: Option<&str>) {
        let mut names = vec![CLUSTER_NAME.to_owned(), "ops".to_owned()];
        for kind in KINDS {
            let items = self.list(kind).await;
            let key = if matches!(kind, "agents" | "tokens") {
                "id"
            } else {
                "name"
            };
            names.extend(
                items
                    .iter()
                    .map(|item| item[key].as_str().unwrap().to_owned()),
            );
        }
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let roles = Roles { may, names: &names };
        let (url, ca) = (self.deployment.url(), self.deployment.ca_file());
        schemathesis(url, &ca, token, &self.openapi, &roles, leave_out).await;
    }

    /// Asks as a user, and says that everybody else still has what they had.
    async fn attack_as(&self, user: &str, may: &[&str], is_theirs: impl Fn(&str, &Value) -> bool) {
        let token = self.token(user);
        let before = self.others(&is_theirs).await;
        self.attack(Some(&token), may, None).await;
        assert_eq!(self.others(&is_theirs).await, before, "{user}");
    }
}

/// The requests of a user with the role `operations` in a cluster.
fn operator() -> Vec<&'static str> {
    [USER, OPERATIONS].concat()
}

/// The requests of a cluster's administrator.
fn keeper() -> Vec<&'static str> {
    [USER, CLUSTER_ADMIN, OPERATIONS, SHELLS].concat()
}

/// The requests of an administrator of everything.
fn administrator() -> Vec<&'static str> {
    [&keeper()[..], ADMINISTRATOR].concat()
}

fn own_token(user: &'static str) -> impl Fn(&str, &Value) -> bool {
    move |kind, item| kind == "tokens" && item["user"] == user
}

#[tokio::test]
async fn rule_8_every_request_of_the_api_is_in_the_role_table() {
    let world = World::new().await;
    let paths = world.openapi["paths"].as_object().unwrap();
    let described: Vec<_> = paths
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let table = [&administrator()[..], JOINING].concat();
    for operation in &described {
        assert!(
            table.contains(&operation.as_str()),
            "{operation} is not in the table"
        );
    }
    for operation in &table {
        assert!(
            described.iter().any(|known| known == operation),
            "{operation} is no more"
        );
    }
}

// Each asker has a server of its own, so that they need not wait for each other.

#[tokio::test]
async fn rule_8_every_answer_to_a_stranger_is_within_the_role_table() {
    let world = World::new().await;
    let before = world.others(|_, _| false).await;
    world.attack(None, STRANGER, None).await;
    assert_eq!(world.others(|_, _| false).await, before);
}

#[tokio::test]
async fn rule_8_every_answer_to_a_viewer_is_within_the_role_table() {
    let world = World::new().await;
    world.attack_as("viewer", USER, own_token("viewer")).await;
}

#[tokio::test]
async fn rule_8_every_answer_to_an_operator_is_within_the_role_table() {
    let world = World::new().await;
    let theirs = own_token("operator");
    world.attack_as("operator", &operator(), theirs).await;
}

#[tokio::test]
async fn rule_8_every_answer_to_a_clusters_administrator_is_within_the_role_table() {
    let world = World::new().await;
    let of_cluster = |kind: &str, item: &Value| match kind {
        "bindings" => {
            let clusters = &item["spec"]["clusters"];
            clusters["names"] == json!([CLUSTER_NAME])
                && clusters.get("labels").is_none()
                && clusters.get("all").is_none()
        }
        "agents" => item["cluster"] == CLUSTER_NAME,
        _ => own_token("keeper")(kind, item),
    };
    world.attack_as("keeper", &keeper(), of_cluster).await;
}

/// An administrator may change everything, themselves included. Where a cluster is asked whether it can be reached, a made-up address
/// would be dialled.
#[tokio::test]
async fn rule_8_every_answer_to_an_administrator_is_within_the_role_table() {
    let world = World::new().await;
    let root = world.token("root");
    world
        .attack(Some(&root), &administrator(), Some("reachability$"))
        .await;
    eventually("the server is well", async || {
        let answer = raw::get(&world.deployment, "/readyz", None).await;
        (answer.code == 200).then_some(()).ok_or(answer)
    })
    .await;
}
