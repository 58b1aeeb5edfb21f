//! Credentials that agents register: a real TokenRequest, and calls while no agent is connected.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use serde_json::{Value, json};
use underpass_testenv::testing::{Wire, eventually};
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::audit::{one_of_ours, one_of_theirs};
use crate::deployment::{ADMIN, Deployment, agent_account, token_of};
use crate::flight::{InFlight, assert_end_soon};
use crate::over_both_transports;
use crate::raw::{self, Answer};

over_both_transports!(
    calls_go_on_with_the_registered_credential_while_no_agent_is_connected,
    rule_12_a_registered_credential_ends_with_its_agent_and_at_its_owners_word,
);

/// The agent of these tests.
const AGENT: &str = "registering";

const NAMESPACE: &str = "underpass-registering";

/// By what `underpass-agent rbac` prints: a ServiceAccount of its own for the credential.
static KUBECONFIG: LazyLock<PathBuf> =
    LazyLock::new(|| agent_account(NAMESPACE, &["--registered-account", "registered"]));

struct Site {
    deployment: Deployment,
    log: PathBuf,
}

impl Site {
    /// No agent is connected, and the server has allowed nothing.
    async fn new(transport: Transport) -> Self {
        let deployment = Deployment::start_as(transport, KUBECONFIG.clone()).await;
        deployment.blocking(|u| u.stop_agent().unwrap()).await;
        let log = deployment.dir().join(format!("{AGENT}.log"));
        Self { deployment, log }
    }

    fn credentials(&self, arguments: &[&str]) -> String {
        let command = [&["cluster", "credentials"][..], arguments].concat();
        self.deployment.administer(&command).unwrap()
    }

    /// The API server of these tests is on this machine.
    fn allow(&self) {
        self.credentials(&["allow", CLUSTER_NAME, "--address", "127.0.0.1"]);
    }

    /// Starts the agent, and waits until it is connected.
    async fn start(&self, flags: &[(&str, &str)]) {
        let account = format!("{NAMESPACE}/registered");
        let registered = [
            ("--register-credentials", ""),
            ("--registered-account", account.as_str()),
        ];
        self.start_with(&[&registered[..], flags].concat()).await;
    }

    async fn start_with(&self, flags: &[(&str, &str)]) {
        let transport = self.deployment.transport;
        let started = self.deployment.spawn_another_agent(AGENT, transport, flags);
        started.unwrap();
        self.served_by("cluster").await;
    }

    async fn kill(&self) {
        self.deployment
            .blocking(|u| u.kill_another_agent(AGENT).unwrap())
            .await;
    }

    async fn stop(&self) {
        self.deployment
            .blocking(|u| u.stop_another_agent(AGENT).unwrap())
            .await;
    }

    /// The cells of `credentials list`.
    fn listed(&self) -> Vec<String> {
        let list = self.credentials(&["list"]);
        let row = list.lines().find(|row| row.starts_with(CLUSTER_NAME));
        let cells = row.unwrap_or_default().split_whitespace();
        cells.map(str::to_owned).collect()
    }

    /// Waits for a credential that was registered at another time.
    async fn registered(&self, before: Option<&str>) -> String {
        eventually("a credential is registered", async || {
            let cells = self.listed();
            match cells.get(4) {
                Some(at) if at != "-" && Some(at.as_str()) != before => Ok(at.clone()),
                _ => Err(cells),
            }
        })
        .await
    }

    async fn none_is_registered(&self) {
        eventually("no credential is registered", async || {
            let cells = self.listed();
            match cells.get(1).is_none_or(|server| server == "-") {
                true => Ok(()),
                false => Err(cells),
            }
        })
        .await;
    }

    /// Waits until `cluster list` says so.
    async fn served_by(&self, who: &str) {
        eventually(&format!("served by {who}"), async || {
            let list = self.deployment.administer(&["cluster", "list"]).unwrap();
            let row = list.lines().find(|row| row.starts_with(CLUSTER_NAME));
            let cell = row.unwrap().split_whitespace().nth(4).unwrap();
            let found = cell.split('/').next().unwrap().to_owned();
            (found == who).then_some(()).ok_or(list)
        })
        .await;
    }

    async fn get(&self) -> Answer {
        let token = token_of(self.deployment.admin_kubeconfig());
        let path = format!("/k8s/clusters/{CLUSTER_NAME}/api/v1/namespaces/default");
        raw::get(&self.deployment, &path, Some(&token)).await
    }

    /// A call that succeeds, and its way by the audit log.
    async fn way(&self, wanted: &str) -> Value {
        eventually(&format!("a call by {wanted}"), async || {
            let answer = self.get().await;
            if answer.code != 200 {
                return Err(format!("{answer:?}"));
            }
            let id = answer.headers["audit-id"].to_str().unwrap().to_owned();
            let event = one_of_ours(&self.deployment, |event| event["auditID"] == id).await;
            let way = event["annotations"]["underpass.dev/agent"].as_str();
            match way.is_some_and(|way| way.starts_with(wanted)) {
                true => Ok(event),
                false => Err(event.to_string()),
            }
        })
        .await
    }

    async fn log_says(&self, wanted: &str) {
        eventually(&format!("{wanted:?} in the agent's log"), async || {
            let text = fs::read_to_string(&self.log).unwrap_or_default();
            text.contains(wanted).then_some(()).ok_or(text)
        })
        .await;
    }

    /// Neither log has a token, and neither has the directory.
    fn assert_no_token(&self) {
        let dir = self.deployment.data_dir();
        let logs = [
            self.deployment.server_log().unwrap().into_bytes(),
            fs::read(&self.log).unwrap(),
            fs::read(dir.join("directory.redb")).unwrap(),
        ];
        // A JWT begins with the base64 of `{"alg":`.
        for bytes in logs {
            assert!(!bytes.windows(7).any(|window| window == b"eyJhbGc"));
        }
    }
}

async fn calls_go_on_with_the_registered_credential_while_no_agent_is_connected(
    transport: Transport,
) {
    let site = Site::new(transport).await;
    site.start(&[]).await;
    site.log_says("underpass cluster credentials allow").await;
    site.allow();
    let first = site.registered(None).await;
    assert_eq!(site.listed()[2], format!("{NAMESPACE}/registered"));
    let through = site.way("cluster/").await;
    site.kill().await;
    let event = site.way("registered-credential/").await;
    // The same agent, which is away.
    let agent = |event: &Value| {
        let way = event["annotations"]["underpass.dev/agent"].as_str();
        way.unwrap().split('/').nth(1).unwrap().to_owned()
    };
    assert_eq!(agent(&event), agent(&through));
    site.served_by("registered-credential").await;
    let client = site.deployment.admin(Wire::WebSocket);
    let id = event["auditID"].as_str().unwrap();
    let theirs = one_of_theirs(&client, |event| event["auditID"] == id).await;
    let account = format!("system:serviceaccount:{NAMESPACE}:registered");
    assert_eq!(theirs["user"]["username"], account.as_str());
    assert_eq!(theirs["impersonatedUser"]["username"], ADMIN);
    // kubectl, an upgrade and acting as somebody else, as through the agent.
    client.run(&["get", "namespaces"]).await;
    let question = ["auth", "whoami", "-o", "json", "--as", "bob"];
    let answer: Value = serde_json::from_str(&client.run(&question).await).unwrap();
    let user = &answer["status"]["userInfo"];
    assert_eq!(user["username"], "bob");
    assert_eq!(user["extra"]["underpass.dev/original-user"], json!([ADMIN]));
    let masters = [
        "get",
        "--raw",
        "/version",
        "--as",
        "bob",
        "--as-group",
        "system:masters",
    ];
    let said = client.fail(&masters).await;
    assert!(said.contains("may not be impersonated"), "{said}");
    let shell = InFlight::shell(&client, "registered-shell").await;
    // New calls go through the agent again, and open streams stay where they are. Its token is another one.
    site.start(&[]).await;
    site.way("cluster/").await;
    site.registered(Some(&first)).await;
    assert!(shell.goes_on());
    site.stop().await;
    site.way("registered-credential/").await;
    let watch = InFlight::watch(&client).await;
    site.credentials(&["delete", CLUSTER_NAME]);
    assert_end_soon([watch]).await;
    let answer = site.get().await;
    answer.assert_status(503, "ServiceUnavailable");
    // Its session may still wait for it.
    let said = ["no agent connected", "its connection may be lost"];
    assert!(
        said.iter().any(|said| answer.message().contains(said)),
        "{answer:?}"
    );
    site.assert_no_token();
}

async fn rule_12_a_registered_credential_ends_with_its_agent_and_at_its_owners_word(
    transport: Transport,
) {
    let site = Site::new(transport).await;
    site.allow();
    site.start(&[]).await;
    site.registered(None).await;
    // An owner who denies somebody.
    site.stop().await;
    site.start(&[("--deny-user", "root")]).await;
    site.log_says("no credential is registered: the policy")
        .await;
    site.none_is_registered().await;
    site.stop().await;
    site.get().await.assert_status(503, "ServiceUnavailable");
    // One who does not want it any more.
    site.start(&[]).await;
    site.registered(None).await;
    site.stop().await;
    site.start_with(&[]).await;
    site.none_is_registered().await;
    site.stop().await;
    // An administrator who forbids it, and one who revokes the agent.
    site.start(&[]).await;
    site.registered(None).await;
    site.stop().await;
    let client = site.deployment.admin(Wire::WebSocket);
    let watch = InFlight::watch(&client).await;
    site.credentials(&["deny", CLUSTER_NAME]);
    assert_end_soon([watch]).await;
    site.get().await.assert_status(503, "ServiceUnavailable");
    site.allow();
    site.start(&[]).await;
    site.registered(None).await;
    site.stop().await;
    let watch = InFlight::watch(&client).await;
    let agent = site.listed()[5].clone();
    site.deployment
        .administer(&["agent", "revoke", &agent])
        .unwrap();
    assert_end_soon([watch]).await;
    site.none_is_registered().await;
    site.get().await.assert_status(503, "ServiceUnavailable");
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_registration_is_said_at_the_agent() {
    let site = Site::new(Transport::WebSocket).await;
    // Its own account: the right to that one's tokens is not among its rights.
    site.credentials(&["allow", CLUSTER_NAME]);
    site.start_with(&[("--register-credentials", "")]).await;
    site.log_says("underpass-agent rbac --register-credentials")
        .await;
    site.stop().await;
    // The API server's address is this machine's, which nobody has allowed.
    site.start(&[]).await;
    site.log_says("refuses the credential (address)").await;
    site.none_is_registered().await;
    site.stop().await;
    // Nor is there anything elsewhere: it is registered, and cannot be reached.
    site.credentials(&["allow", CLUSTER_NAME, "--address", "192.0.2.0/24"]);
    site.start(&[("--api-server-address", "https://localhost:1")])
        .await;
    site.registered(None).await;
    site.stop().await;
    let answer = site.get().await;
    assert_eq!(answer.code, 502, "{answer:?}");
    assert!(answer.message().contains("cannot connect"), "{answer:?}");
    site.assert_no_token();
}
