//! Agents that join by the tokens of their pods, which a real API server reviews.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_json::json;
use tokio::sync::OnceCell;
use underpass_testenv::testing::eventually;
use underpass_testenv::{CLUSTER_NAME, Cluster, ClusterOptions, Transport};

use crate::deployment::{ASSETS, Deployment, PROGRAMS};

/// The answer to a token that the cluster has not reviewed.
const NOT_REVIEWED: &str = "no pod joins with this token now";

/// A cluster of these tests' own: they give the server the right to have tokens reviewed.
static OWN: LazyLock<Cluster> = LazyLock::new(|| {
    let options = ClusterOptions::default().with_assets(ASSETS.clone());
    let cluster = Cluster::start_blocking(options).unwrap_or_else(|e| panic!("{e:?}"));
    let accounts = ["node", "other"].map(|name| {
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": NAMESPACE},
        })
    });
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    cluster.apply(&namespace).unwrap();
    for account in accounts {
        cluster.apply(&account).unwrap();
    }
    cluster
});

/// The first that needs it lets tokens be reviewed.
static REVIEWED: OnceCell<()> = OnceCell::const_new();

const NAMESPACE: &str = "agents";

struct Site {
    deployment: Deployment,
}

impl Site {
    /// An agent of the role cluster is connected.
    async fn new(transport: Transport) -> Self {
        let account = tokio::task::spawn_blocking(|| agent_account(&[])).await;
        let deployment = Deployment::start_as(transport, account.unwrap()).await;
        Self { deployment }
    }

    /// Tokens are reviewed.
    async fn reviewed(transport: Transport) -> Self {
        let site = Self::new(transport).await;
        let_review().await;
        site.name_account();
        site
    }

    fn name_account(&self) {
        let account = format!("{NAMESPACE}/node");
        let add = [
            "cluster",
            "join-account",
            "add",
            CLUSTER_NAME,
            &account,
            "--role",
            "node",
        ];
        self.deployment.administer(&add).unwrap();
    }

    fn path(&self, name: &str, suffix: &str) -> PathBuf {
        self.deployment.dir().join(format!("{name}.{suffix}"))
    }

    /// Starts an agent with this token, and gives its log.
    fn start(&self, name: &'static str, token: &str) -> PathBuf {
        let (key, file) = (self.path(name, "key"), self.path(name, "token"));
        fs::write(&file, token).unwrap();
        let flags = [
            ("--key-file", key.to_str().unwrap()),
            ("--join-service-account-token", file.to_str().unwrap()),
            ("--cluster", CLUSTER_NAME),
            ("--role", "node"),
        ];
        let transport = self.deployment.transport;
        let started = self.deployment.spawn_another_agent(name, transport, &flags);
        started.unwrap()
    }

    fn renew(&self, name: &str, token: &str) {
        fs::write(self.path(name, "token"), token).unwrap();
    }

    async fn log_says(&self, log: &Path, wanted: &[&str]) {
        eventually(&format!("{wanted:?} in the agent's log"), async || {
            let text = fs::read_to_string(log).unwrap();
            let says = |line: &str| wanted.iter().all(|word| line.contains(word));
            text.lines().any(says).then_some(()).ok_or(text.clone())
        })
        .await;
    }

    /// The server's log has the reason that its answer to a stranger leaves out.
    async fn server_says(&self, wanted: &str) {
        eventually(&format!("{wanted:?} in the server's log"), async || {
            let text = self.deployment.server_log().unwrap();
            text.contains(wanted).then_some(()).ok_or(text.clone())
        })
        .await;
    }

    /// The rows of the agents that have joined by the account, in cells.
    fn joined(&self) -> Vec<Vec<String>> {
        let list = ["agent", "list", "--cluster", CLUSTER_NAME];
        let list = self.deployment.administer(&list).unwrap();
        let cells = |row: &str| row.split_whitespace().map(str::to_owned).collect();
        let rows = list.lines().map(cells);
        let account = format!("{NAMESPACE}/node");
        rows.filter(|cells: &Vec<String>| cells[3] == account)
            .collect()
    }

    async fn connected(&self, count: usize) -> Vec<Vec<String>> {
        eventually("the pods' agents are connected", async || {
            let joined = self.joined();
            let connected = joined.iter().filter(|cells| cells[4] == "1").count();
            (connected == count).then_some(joined.clone()).ok_or(joined)
        })
        .await
    }

    /// A new pod that runs on a node, and a token of its account that is bound to it.
    async fn pod(&self, name: &str) -> String {
        let name = format!("{name}-{}", self.deployment.transport.as_str());
        let mut pod = underpass_testenv::testing::pod(&name, "exec sleep 100000");
        pod["spec"]["serviceAccountName"] = json!("node");
        pod["metadata"]["namespace"] = json!(NAMESPACE);
        OWN.apply(&pod).unwrap();
        let node = [
            "-n",
            NAMESPACE,
            "get",
            "pod",
            &name,
            "-o",
            "jsonpath={.spec.nodeName}",
        ];
        eventually("the pod is on a node", async || {
            let node = OWN.run_kubectl(&node).unwrap();
            if node.is_empty() { Err(node) } else { Ok(()) }
        })
        .await;
        let bound = ["--bound-object-kind", "Pod", "--bound-object-name", &name];
        token(&OWN, "node", self.deployment.url(), &bound)
    }
}

/// Lets the server have tokens reviewed.
async fn let_review() {
    let granted = || async {
        let granting = tokio::task::spawn_blocking(|| agent_account(&["--token-reviewer"]));
        granting.await.unwrap();
    };
    REVIEWED.get_or_init(granted).await;
}

/// The account of the cluster's agent. Blocks.
fn agent_account(flags: &[&str]) -> PathBuf {
    let account = OWN.agent_account(&PROGRAMS, "underpass-system", flags);
    account.unwrap_or_else(|e| panic!("{e:?}"))
}

/// A token of an account, by the real TokenRequest.
fn token(cluster: &Cluster, account: &str, audience: &str, bound: &[&str]) -> String {
    let create = [
        "-n",
        NAMESPACE,
        "create",
        "token",
        account,
        "--audience",
        audience,
    ];
    let token = cluster.run_kubectl(&[&create[..], bound].concat());
    token.unwrap().trim().to_owned()
}

#[tokio::test]
async fn rule_17_a_pod_joins_with_its_nodes_name() {
    for transport in [Transport::Quic, Transport::WebSocket] {
        joins_with_its_nodes_name(transport).await;
    }
}

async fn joins_with_its_nodes_name(transport: Transport) {
    let site = Site::reviewed(transport).await;
    let token = site.pod("joins").await;
    let log = site.start("joins", &token);
    let agents = site.connected(1).await;
    let agent = &agents[0];
    assert_eq!(
        agent[1..4],
        [CLUSTER_NAME, "node", "agents/node"],
        "{agents:?}"
    );
    let nodes = OWN.run_kubectl(&["get", "nodes", "-o", "name"]).unwrap();
    let node = nodes.trim().strip_prefix("node/").unwrap();
    assert_eq!(agent.last().unwrap(), node);
    // The key alone is enough from then on.
    site.deployment.stop_another_agent("joins").unwrap();
    site.renew("joins", "");
    site.deployment
        .spawn_another_agent(
            "joins",
            transport,
            &[
                ("--key-file", site.path("joins", "key").to_str().unwrap()),
                ("--role", "node"),
            ],
        )
        .unwrap();
    assert_eq!(site.connected(1).await[0][0], agent[0]);
    // A thief of the token registers no key of their own.
    let stolen = site.start("thief", &token);
    site.log_says(&stolen, &["ERROR", "pod-has-key", &agent[0]])
        .await;
    assert_eq!(site.joined().len(), 1);
    // Once the account is named no more, no other pod joins; those that have joined stay.
    let account = format!("{NAMESPACE}/node");
    let delete = ["cluster", "join-account", "delete", CLUSTER_NAME, &account];
    site.deployment.administer(&delete).unwrap();
    let late = site.start("late", &site.pod("late").await);
    site.log_says(&late, &["WARN", NOT_REVIEWED]).await;
    site.connected(1).await;
    let logs = site.deployment.server_log().unwrap() + &fs::read_to_string(log).unwrap();
    assert!(!logs.contains(&token[..40]), "a token in a log");
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_pods_join_is_said_at_its_agent() {
    let site = Site::new(Transport::WebSocket).await;
    let good = site.pod("hindered").await;
    // No account is named yet.
    let log = site.start("hindered", &good);
    let advice = "underpass cluster join-account add";
    site.log_says(&log, &["WARN", NOT_REVIEWED, advice]).await;
    site.server_says("may not join a cluster of this name")
        .await;
    let_review().await;
    site.name_account();
    let url = site.deployment.url().to_owned();
    site.renew("hindered", &token(&OWN, "node", "https://elsewhere", &[]));
    site.log_says(&log, &["ERROR", "wrong-audience", &url])
        .await;
    site.renew("hindered", &token(&OWN, "node", &url, &[]));
    site.log_says(&log, &["ERROR", "no-pod", "projects"]).await;
    let forged = format!("{}x", good.trim());
    site.renew("hindered", &forged);
    site.server_says("the cluster does not accept the token")
        .await;
    // Nobody is there to review.
    site.deployment.blocking(|u| u.stop_agent().unwrap()).await;
    site.renew("hindered", &good);
    site.server_says("no agent of the cluster is connected")
        .await;
    assert!(site.joined().is_empty());
    site.deployment
        .blocking(|u| u.start_agent(Transport::WebSocket).unwrap())
        .await;
    site.connected(1).await;
}
