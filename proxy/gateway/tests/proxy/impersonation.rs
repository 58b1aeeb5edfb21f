//! `kubectl --as`, which the cluster decides about (security rules 4, 5, 16, 17).

use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use underpass_core::{Body, full, names::ACCESS_REVIEWER};

use crate::{
    api::{Api, Seen},
    world::{World, code, status},
};

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// A cluster that lets everybody be `bob` and `ops` and nobody else, and what it was asked.
struct Cluster {
    api: Api,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Cluster {
    async fn start() -> Self {
        Self::with(|attributes| {
            let allowed = ["bob", "ops"]
                .map(Value::from)
                .contains(&attributes["name"]);
            (201, json!({ "status": { "allowed": allowed } }))
        })
        .await
    }

    async fn with(answer: fn(&Value) -> (u16, Value)) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let api = Api::start(move |request: Request<Incoming>| {
            let log = Arc::clone(&log);
            async move {
                if request.uri().path() != REVIEWS {
                    return Response::new(full("ok"));
                }
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let review: Value = serde_json::from_slice(&body).unwrap();
                let (code, answer) = answer(&review["spec"]["resourceAttributes"]);
                log.lock().unwrap().push(review);
                let mut response: Response<Body> = Response::new(full(answer.to_string()));
                *response.status_mut() = code.try_into().unwrap();
                response
            }
        })
        .await;
        Self { api, asked }
    }

    async fn world(&self) -> World {
        World::reviewed(&self.api, vec!["dev".to_owned()]).await
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }

    /// The API server's requests beside the reviews.
    fn served(&self) -> Vec<Seen> {
        let seen = self.api.seen().into_iter();
        seen.filter(|seen| seen.target != REVIEWS).collect()
    }
}

#[tokio::test]
async fn rule_16_the_cluster_is_asked_about_the_real_user() {
    let cluster = Cluster::start().await;
    let world = cluster.world().await;
    let lines = "Impersonate-User: bob\r\nImpersonate-Group: ops\r\n";
    assert_eq!(code(&world.get("/api", lines).await), 200);
    let asked = cluster.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    for review in &asked {
        let spec = &review["spec"];
        assert_eq!(spec["user"], "alice");
        assert_eq!(spec["uid"], "uid-1");
        assert_eq!(spec["groups"], json!(["dev", "system:authenticated"]));
        assert_eq!(spec["extra"], json!({ "team": ["ops"] }));
        assert_eq!(spec["resourceAttributes"]["verb"], "impersonate");
    }
    // Asked as somebody of the server's own, of whom nothing else is true.
    let seen = cluster.api.seen();
    for review in seen.iter().filter(|seen| seen.target == REVIEWS) {
        assert_eq!(review.all("impersonate-user"), [ACCESS_REVIEWER]);
        assert_eq!(review.all("impersonate-group"), [""; 0]);
        assert_eq!(review.all("authorization"), ["Bearer agent-token"]);
    }
    let [served] = &cluster.served()[..] else {
        panic!("one request");
    };
    assert_eq!(served.all("impersonate-user"), ["bob"]);
    let who = served.all("impersonate-extra-underpass.dev%2foriginal-user");
    assert_eq!(who, ["alice"]);
}

#[tokio::test]
async fn rule_16_what_the_cluster_refuses_is_not_forwarded() {
    let cluster = Cluster::start().await;
    let world = cluster.world().await;
    for (lines, trouble) in [
        ("Impersonate-User: carol\r\n", "users \"carol\""),
        (
            "Impersonate-User: bob\r\nImpersonate-Group: admins\r\n",
            "groups \"admins\"",
        ),
        (
            "Impersonate-User: bob\r\nImpersonate-Uid: 9\r\n",
            "uids.authentication.k8s.io \"9\"",
        ),
        (
            "Impersonate-User: bob\r\nImpersonate-Extra-example.org%2fa: x\r\n",
            "userextras.authentication.k8s.io \"x\"",
        ),
    ] {
        let answer = world.get("/api", lines).await;
        assert_eq!(code(&answer), 403, "{lines}");
        let status = status(&answer);
        assert_eq!(status["reason"], "Forbidden");
        let said = status["message"].as_str().unwrap();
        let expected = format!("{trouble} is forbidden: User \"alice\" cannot impersonate");
        assert!(said.starts_with(&expected), "{said}");
    }
    assert_eq!(cluster.served().len(), 0);
}

#[tokio::test]
async fn rule_16_a_cluster_that_may_not_be_asked_lets_nobody_act() {
    let cluster = Cluster::with(|_| {
        let said = "subjectaccessreviews is forbidden: secret";
        (403, json!({ "kind": "Status", "message": said }))
    })
    .await;
    let world = cluster.world().await;
    let answer = world.get("/api", "Impersonate-User: bob\r\n").await;
    assert_eq!(code(&answer), 403);
    let said = status(&answer)["message"].to_string();
    assert!(said.contains("does not let Underpass ask"), "{said}");
    assert!(!said.contains("secret"), "{said}");
    assert_eq!(cluster.served().len(), 0);
    // Nobody else is touched.
    assert_eq!(code(&world.get("/api", "").await), 200);
}

#[tokio::test]
async fn rule_17_a_cluster_is_not_even_asked_about_some() {
    // It would say yes.
    let cluster = Cluster::with(|_| (201, json!({ "status": { "allowed": true } }))).await;
    let world = cluster.world().await;
    for lines in [
        "Impersonate-User: system:node:worker-1\r\n",
        "Impersonate-User: system:kube-scheduler\r\n",
        "Impersonate-User: underpass:access-reviewer\r\n",
        "Impersonate-User: bob\r\nImpersonate-Group: system:masters\r\n",
        "Impersonate-User: bob\r\nImpersonate-Group: kubeadm:cluster-admins\r\n",
        "Impersonate-User: bob\r\nImpersonate-Extra-authentication.kubernetes.io%2fnode-name: n\r\n",
        "Impersonate-User: bob\r\nImpersonate-Extra-underpass.dev%2fx: y\r\n",
    ] {
        let answer = world.get("/api", lines).await;
        assert!(matches!(code(&answer), 400 | 403), "{lines}: {answer}");
    }
    assert_eq!(cluster.asked(), [Value::Null; 0]);
    // ServiceAccounts are the cluster's to decide about, and its agent's.
    let account = "Impersonate-User: system:serviceaccount:ci:deployer\r\n";
    assert_eq!(code(&world.get("/api", account).await), 403);
    assert_eq!(cluster.asked().len(), 1);
    assert_eq!(cluster.served().len(), 0);
}

/// RBAC's grants to `system:masters` would let their holder be anybody.
#[tokio::test]
async fn rule_17_who_may_not_be_themselves_acts_as_nobody() {
    let cluster = Cluster::with(|_| (201, json!({ "status": { "allowed": true } }))).await;
    let world = World::reviewed(&cluster.api, vec!["system:masters".to_owned()]).await;
    let answer = world.get("/api", "Impersonate-User: bob\r\n").await;
    assert_eq!(code(&answer), 403, "{answer}");
    assert_eq!(cluster.api.seen().len(), 0);
}
