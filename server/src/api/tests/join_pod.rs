//! Pods that join by their ServiceAccounts' tokens, which a cluster reviews.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use underpass_core::{BoxedIo, ConnectError, Open, limits as bounds};
use underpass_directory::Agent;
use underpass_tunnel::{AgentKey, JoinProof};

use super::*;

const PROD: &str = "/v1/clusters/prod";

/// As the server's URL is here.
const AUDIENCE: &str = "https://u.example.org:8443";

/// A cluster `prod` that answers about a token as the token's claim `review` says, and with a 403 where it says nothing; and no other
/// one with an agent.
pub(super) struct Reviewing;

#[async_trait::async_trait]
impl Clusters for Reviewing {
    async fn connect(&self, cluster: &ClusterName, open: &Open) -> Result<BoxedIo, ConnectError> {
        assert_eq!(open.target.to_string(), "kube-api");
        if cluster.as_str() != "prod" {
            return Err(ConnectError::NoAgent);
        }
        open.via.set(Through {
            role: underpass_core::AgentRole::Cluster,
            agent: "reviewer".to_owned(),
            by_credential: false,
        });
        let (here, there) = tokio::io::duplex(64 * 1024);
        tokio::spawn(review(there));
        Ok(Box::new(here))
    }
}

async fn review(mut client: tokio::io::DuplexStream) {
    let mut read = Vec::new();
    // The question's end: its last three braces close `spec` and itself.
    while !read.ends_with(b"}}") {
        let mut more = [0; 1024];
        match client.read(&mut more).await.unwrap() {
            0 => return,
            count => read.extend_from_slice(&more[..count]),
        }
    }
    let text = String::from_utf8(read).unwrap();
    assert!(
        text.starts_with("POST /apis/authentication.k8s.io/v1/tokenreviews "),
        "{text}"
    );
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    let question: Value = serde_json::from_str(body).unwrap();
    assert_eq!(question["spec"]["audiences"], json!([AUDIENCE]));
    let token = question["spec"]["token"].as_str().unwrap();
    let claims = BASE64URL.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    let answer = json!({"kind": "TokenReview", "status": claims["review"]}).to_string();
    let status = match claims["review"] {
        Value::Null => "403 Forbidden",
        _ => "201 Created",
    };
    let head = "\r\ncontent-type: application/json\r\ncontent-length: ";
    let answer = format!("HTTP/1.1 {status}{head}{}\r\n\r\n{answer}", answer.len());
    client.write_all(answer.as_bytes()).await.unwrap();
}

/// The token of a pod.
struct Pod {
    account: &'static str,
    uid: &'static str,
    node: Option<&'static str>,
}

impl Pod {
    fn token(&self) -> String {
        let mut extra = json!({ "authentication.kubernetes.io/pod-uid": [self.uid] });
        if let Some(node) = self.node {
            extra["authentication.kubernetes.io/node-name"] = json!([node]);
        }
        let account = self.account.replace('/', ":");
        let user = json!({"username": format!("system:serviceaccount:{account}"), "extra": extra});
        let review = json!({"authenticated": true, "audiences": [AUDIENCE], "user": user});
        says(&format!("system:serviceaccount:{account}"), &review)
    }
}

/// A token with this answer, that says it is for an account which is named.
fn of(review: &Value) -> String {
    says("system:serviceaccount:agents:node", review)
}

fn says(sub: &str, review: &Value) -> String {
    let claims = json!({"iss": "https://k", "aud": [AUDIENCE], "sub": sub, "review": review});
    format!("e30.{}.c2ln", BASE64URL.encode(claims.to_string()))
}

const ON_N1: Pod = Pod {
    account: "agents/node",
    uid: "u1",
    node: Some("n1"),
};

fn key(seed: u8) -> AgentKey {
    AgentKey::from_seed([seed; 32]).unwrap()
}

impl World {
    /// With a cluster `prod` whose accounts `agents/node` and `agents/cluster` join, and `dev` without an agent.
    async fn with_accounts() -> Self {
        Self::with_accounts_and(AuditLog::default()).await
    }

    pub(super) async fn with_accounts_and(audit_log: AuditLog) -> Self {
        let world = Self::audited(audit_log).await;
        let accounts = json!({"agents/node": "node", "agents/cluster": "cluster"});
        for name in ["prod", "dev"] {
            let new = json!({"name": name, "spec": {"joinAccounts": accounts}});
            let made = world.operate(Method::POST, "/v1/clusters", new).await;
            made.expect(201);
        }
        world
    }

    async fn join_pod(&self, query: &str, token: &str, body: &Value) -> Answer {
        let here = IpAddr::from([127, 0, 0, 1]);
        self.join_pod_from(here, query, token, body).await
    }

    async fn join_pod_from(&self, from: IpAddr, query: &str, token: &str, body: &Value) -> Answer {
        let request = Request::post(format!("{}{query}", underpass_api::JOIN))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(Full::from(body.to_string()))
            .unwrap();
        let connection = ConnectionInfo {
            peer: from.into(),
            ..connection()
        };
        Answer::read(self.api.admit(request, &connection).await).await
    }

    /// A pod of the account `agents/node` on the node `n1` joins `prod`.
    pub(super) async fn join_n1(&self, key: &AgentKey) -> Answer {
        self.join_prod(&ON_N1.token(), key).await
    }

    async fn join_prod(&self, token: &str, key: &AgentKey) -> Answer {
        let here = IpAddr::from([127, 0, 0, 1]);
        self.join_prod_from(here, token, key).await
    }

    async fn join_prod_from(&self, from: IpAddr, token: &str, key: &AgentKey) -> Answer {
        let body = json!({
            "publicKey": key.public_key().to_string(),
            "proof": JoinProof::new(key, token).to_string(),
        });
        self.join_pod_from(from, "?cluster=prod", token, &body)
            .await
    }

    fn registered(&self) -> Vec<Agent> {
        let snapshot = self.directory.snapshot();
        let agents = snapshot.all::<Agent>().values();
        agents.map(|entry| Agent::clone(&entry.object)).collect()
    }
}

#[track_caller]
fn refused(answer: Answer, status: u16, reason: &str) -> String {
    let body = answer.expect(status);
    assert_eq!(body["reason"], reason, "{body}");
    body["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn rule_17_a_pod_joins_as_its_cluster_says_and_its_account_may() {
    let world = World::with_accounts().await;
    let joined = world.join_prod(&ON_N1.token(), &key(1)).await.expect(201);
    assert_eq!(
        (&joined["cluster"], &joined["role"]),
        (&json!("prod"), &json!("node"))
    );
    let path = format!("/v1/agents/{}", joined["agent"].as_str().unwrap());
    let shown = world.operate(Method::GET, &path, Value::Null).await;
    let shown = shown.expect(200);
    assert_eq!(
        (&shown["node"], &shown["account"]),
        (&json!("n1"), &json!("agents/node"))
    );
    // The answer was lost.
    let again = world.join_prod(&ON_N1.token(), &key(1)).await.expect(200);
    assert_eq!(
        (&again["agent"], &again["isNew"]),
        (&joined["agent"], &json!(false))
    );
    // A token that was stolen registers no second key, and no word of the agent's names another node.
    let said = refused(
        world.join_prod(&ON_N1.token(), &key(2)).await,
        409,
        "pod-has-key",
    );
    assert!(said.contains(joined["agent"].as_str().unwrap()), "{said}");
    let body = json!({"publicKey": "", "proof": "", "node": "n2"});
    let answer = world.join_pod("?cluster=prod", &ON_N1.token(), &body).await;
    answer.expect(422);
    let without_node = Pod {
        node: None,
        uid: "u2",
        ..ON_N1
    };
    refused(
        world.join_prod(&without_node.token(), &key(3)).await,
        403,
        "no-node-name",
    );
    let cluster = Pod {
        account: "agents/cluster",
        uid: "u3",
        node: None,
    };
    let joined = world.join_prod(&cluster.token(), &key(4)).await.expect(201);
    assert_eq!(joined["role"], "cluster");
    let other = Pod {
        account: "agents/other",
        uid: "u4",
        ..ON_N1
    };
    refused(
        world.join_prod(&other.token(), &key(5)).await,
        503,
        "cannot-review",
    );
    let token = Pod { uid: "u5", ..ON_N1 }.token();
    let body = json!({
        "publicKey": key(6).public_key().to_string(), "role": "cluster",
        "proof": JoinProof::new(&key(6), &token).to_string(),
    });
    refused(
        world.join_pod("?cluster=prod", &token, &body).await,
        403,
        "other-role",
    );
    // A key needs its proof, for this token.
    let body = json!({
        "publicKey": key(6).public_key().to_string(),
        "proof": JoinProof::new(&key(6), &ON_N1.token()).to_string(),
    });
    refused(
        world.join_pod("?cluster=prod", &token, &body).await,
        403,
        "bad-proof",
    );
    let body = json!({
        "publicKey": key(6).public_key().to_string(), "cluster": "dev",
        "proof": JoinProof::new(&key(6), &token).to_string(),
    });
    refused(
        world.join_pod("?cluster=prod", &token, &body).await,
        403,
        "other-cluster",
    );
    assert_eq!(world.registered().len(), 2);
}

#[tokio::test]
async fn rule_17_a_token_that_the_cluster_does_not_vouch_for_registers_nobody() {
    let world = World::with_accounts().await;
    let account = "system:serviceaccount:agents:node";
    for (review, status, reason) in [
        (
            json!({"authenticated": false, "error": "expired"}),
            503,
            "cannot-review",
        ),
        (
            json!({"authenticated": true, "audiences": [], "user": {"username": account}}),
            403,
            "wrong-audience",
        ),
        (
            json!({"authenticated": true, "audiences": [AUDIENCE], "user": {"username": account}}),
            403,
            "no-pod",
        ),
        (
            json!({"authenticated": true, "audiences": [AUDIENCE], "user": {"username": "alice"}}),
            403,
            "account-not-named",
        ),
    ] {
        refused(world.join_prod(&of(&review), &key(1)).await, status, reason);
    }
    let claims = BASE64URL.encode(json!({"iss": "k", "aud": ["https://kubernetes"]}).to_string());
    let foreign = format!("e30.{claims}.c2ln");
    let said = refused(
        world.join_prod(&foreign, &key(1)).await,
        403,
        "wrong-audience",
    );
    assert!(said.contains(AUDIENCE), "{said}");
    let body = json!({});
    for query in ["", "?cluster=Not%20A%20Name", "?cluster=prod&x=y"] {
        world
            .join_pod(query, &ON_N1.token(), &body)
            .await
            .expect(422);
    }
    assert!(world.registered().is_empty());
}

#[tokio::test]
async fn keys_of_pods_that_are_gone_make_room() {
    let world = World::with_accounts().await;
    // A rollout: the node's new pod takes the place of the old one, which is not connected.
    for (seed, uid) in [(1, "a"), (2, "b")] {
        let pod = Pod { uid, ..ON_N1 };
        world.join_prod(&pod.token(), &key(seed)).await.expect(201);
        let other = Pod {
            node: Some("n2"),
            uid: "other",
            ..ON_N1
        };
        let answer = world.join_prod(&other.token(), &key(9)).await;
        assert!(answer.status.is_success());
    }
    let agents = world.registered();
    let uids: Vec<_> = agents
        .iter()
        .map(|agent| agent.pod.as_ref().unwrap().uid.as_str())
        .collect();
    assert_eq!(agents.len(), 2, "{uids:?}");
    assert!(uids.contains(&"b") && uids.contains(&"other"), "{uids:?}");
    // A key that another pod of the account has taken over, with its volume.
    let moved = Pod { uid: "c", ..ON_N1 };
    let answer = world.join_prod(&moved.token(), &key(2)).await.expect(200);
    assert_eq!(answer["isNew"], false);
    for number in 0..bounds::AGENTS_PER_ACCOUNT + 5 {
        let uid: &'static str = format!("d{number}").leak();
        let pod = Pod {
            account: "agents/cluster",
            uid,
            node: Some("n1"),
        };
        let seed = u8::try_from(100 + number).unwrap();
        world.join_prod(&pod.token(), &key(seed)).await.expect(201);
    }
    let of_cluster = world.registered().into_iter();
    let of_cluster = of_cluster.filter(|agent| agent.role == underpass_core::AgentRole::Cluster);
    assert_eq!(of_cluster.count(), bounds::AGENTS_PER_ACCOUNT);
    // Only so many accounts, with names.
    for (accounts, status) in [
        (json!({"agents/node": null}), 200),
        (json!({"agents": "node"}), 422),
        (json!({"agents/x": "king"}), 422),
    ] {
        let change = json!({ "joinAccounts": accounts });
        let answer = world.operate(Method::PATCH, PROD, change).await;
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    refused(
        world.join_prod(&moved.token(), &key(2)).await,
        503,
        "cannot-review",
    );
    let many: serde_json::Map<_, _> = (0..=bounds::JOIN_ACCOUNTS)
        .map(|number| (format!("agents/a{number}"), json!("node")))
        .collect();
    let change = json!({ "joinAccounts": many });
    world.operate(Method::PATCH, PROD, change).await.expect(507);
}

/// A stranger learns neither a cluster's name nor whether it has an agent.
#[tokio::test]
async fn rule_23_a_pods_worthless_token_tells_nothing_of_clusters() {
    let world = World::with_accounts().await;
    let mut answers = Vec::new();
    for token in [
        of(&json!({"authenticated": false})),
        of(&Value::Null),
        says("system:serviceaccount:agents:other", &Value::Null),
        says("alice", &Value::Null),
    ] {
        for cluster in ["none", "dev", "prod"] {
            let query = format!("?cluster={cluster}");
            let answer = world.join_pod(&query, &token, &json!({})).await;
            assert!(answer.headers.contains_key("retry-after"));
            answers.push((answer.status, answer.body));
        }
    }
    assert_eq!(answers[0].1["reason"], "cannot-review");
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

/// Pods of an account that is not named, and pods that register nothing, take no turn of those that join.
#[tokio::test(start_paused = true)]
async fn rule_23_pods_that_do_not_join_stop_no_others() {
    let world = World::with_accounts().await;
    let joined = world.join_prod(&ON_N1.token(), &key(1)).await;
    joined.expect(201);
    let other = Pod {
        account: "agents/other",
        ..ON_N1
    };
    let mut networks = (1..).map(|number: u32| IpAddr::from(number.to_be_bytes()));
    for number in 0..limits::JOIN_REVIEWS + limits::CHANGES_PER_USER + 100 {
        // Each from a network of its own, with its own guesses.
        let from = networks.next().unwrap();
        let unnamed = world.join_prod_from(from, &other.token(), &key(2)).await;
        refused(unnamed, 503, "cannot-review");
        tokio::time::advance(limits::JOIN_REVIEW_EVERY).await;
        let seed = number % 2 + 1;
        let from = networks.next().unwrap();
        let key = key(u8::try_from(seed).unwrap());
        let named = world.join_prod_from(from, &ON_N1.token(), &key).await;
        match seed {
            1 => drop(named.expect(200)),
            _ => drop(refused(named, 409, "pod-has-key")),
        }
    }
    let next = Pod {
        uid: "u2",
        node: Some("n2"),
        ..ON_N1
    };
    world.join_prod(&next.token(), &key(3)).await.expect(201);
}

/// Also where the cluster lets nobody review.
#[tokio::test(start_paused = true)]
async fn rule_23_strangers_tokens_cost_a_cluster_so_many_reviews() {
    for review in [json!({"authenticated": false}), Value::Null] {
        let world = World::with_accounts().await;
        let wrong = of(&review);
        let mut asked = 0;
        let waits = loop {
            let answer = world.join_prod(&wrong, &key(1)).await;
            if answer.status == 429 {
                break answer;
            }
            refused(answer, 503, "cannot-review");
            asked += 1;
        };
        assert_eq!(asked, bounds::FAILURES);
        assert!(waits.headers.contains_key("retry-after"));
        tokio::time::advance(bounds::FAILURE_FORGIVEN).await;
        let again = world.join_prod(&wrong, &key(1)).await;
        refused(again, 503, "cannot-review");
    }
}
