//! Agents that join by themselves, with a join token.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use underpass_testenv::testing::{Client, Wire, eventually};
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::deployment::{ADMIN, AGENT_KUBECONFIG, CLUSTER, Deployment, agent_account, led_to};
use crate::flight::{InFlight, assert_end_soon};
use crate::over_both_transports;

over_both_transports!(
    an_agent_joins_once_and_comes_back_with_its_key_alone,
    an_agent_that_has_lost_its_key_joins_again,
    rule_12_a_revoked_agent_that_joined_is_disconnected,
    what_stands_in_the_way_of_a_join_is_said_at_the_agent,
);

/// The agent that joins, beside the usual one of another cluster.
pub(crate) const JOINER: &str = "joiner";

/// The cluster that it joins.
pub(crate) const JOINED: &str = "joined";

/// A server, and the files of an agent that is to join.
pub(crate) struct Site {
    pub(crate) deployment: Deployment,
    pub(crate) key: PathBuf,
    pub(crate) token: PathBuf,
}

impl Site {
    pub(crate) async fn new(transport: Transport) -> Self {
        let deployment = Deployment::start(transport).await;
        Self {
            key: deployment.dir().join("joiner.key"),
            token: deployment.dir().join("join.token"),
            deployment,
        }
    }

    /// `underpass`, and its standard output.
    pub(crate) fn administer(&self, arguments: &[&str]) -> String {
        self.deployment.administer(arguments).unwrap()
    }

    /// A new join token.
    pub(crate) fn make_token(&self, flags: &[&str]) -> String {
        let create = ["cluster", "join-token", "create", JOINED];
        self.administer(&[&create[..], flags].concat())
    }

    /// Puts a new join token into its file.
    pub(crate) fn put_token(&self, flags: &[&str]) {
        fs::write(&self.token, self.make_token(flags)).unwrap();
    }

    /// The row of the join token with this description, in `cluster join-token list`.
    pub(crate) fn token_row(&self, description: &str) -> String {
        let list = self.administer(&["cluster", "join-token", "list", JOINED]);
        let row = list.lines().find(|row| row.ends_with(description));
        row.unwrap().to_owned()
    }

    pub(crate) fn start(&self, more: &[(&str, &str)]) -> PathBuf {
        let key = self.key.to_str().unwrap();
        self.start_as(JOINER, &[&[("--key-file", key)], more].concat())
    }

    pub(crate) fn start_as(&self, name: &'static str, flags: &[(&str, &str)]) -> PathBuf {
        let transport = self.deployment.transport;
        let started = self.deployment.spawn_another_agent(name, transport, flags);
        started.unwrap()
    }

    pub(crate) fn start_with_token(&self) -> PathBuf {
        self.start(&[("--join-token-file", self.token.to_str().unwrap())])
    }

    pub(crate) fn stop(&self) {
        self.deployment.stop_another_agent(JOINER).unwrap();
    }

    /// The rows of `agent list` of the cluster, in cells.
    pub(crate) fn agents(&self) -> Vec<Vec<String>> {
        let list = self.administer(&["agent", "list", "--cluster", JOINED]);
        let cells = |row: &str| row.split_whitespace().map(str::to_owned).collect();
        list.lines().skip(1).map(cells).collect()
    }

    /// Waits for an agent with a session, and gives its row.
    pub(crate) async fn connected(&self) -> Vec<String> {
        eventually("an agent is connected", async || {
            let agents = self.agents();
            let connected = agents.iter().find(|cells| cells[4] == "1");
            connected.cloned().ok_or(agents)
        })
        .await
    }

    pub(crate) async fn log_says(&self, log: &PathBuf, wanted: &[&str]) {
        eventually(&format!("{wanted:?} in the agent's log"), async || {
            let text = fs::read_to_string(log).unwrap();
            let says = |line: &str| wanted.iter().all(|word| line.contains(word));
            text.lines().any(says).then_some(()).ok_or(text.clone())
        })
        .await;
    }

    /// The administrator's kubeconfig of the cluster.
    pub(crate) fn admin(&self) -> PathBuf {
        self.administer(&["user", "add", ADMIN, "--cluster", JOINED]);
        let usual = self.deployment.admin_kubeconfig();
        let limited = led_to(usual, "joined-admin", CLUSTER_NAME, JOINED);
        let text = fs::read_to_string(&limited).unwrap();
        let create = ["token", "create", "--user", ADMIN, "--cluster", JOINED];
        let token = self.administer(&create);
        let old = crate::deployment::token_of(&limited);
        fs::write(&limited, text.replace(&old, token.trim())).unwrap();
        limited
    }
}

async fn an_agent_joins_once_and_comes_back_with_its_key_alone(transport: Transport) {
    let site = Site::new(transport).await;
    let token = site.administer(&["cluster", "add", JOINED]);
    assert!(token.starts_with("upj_"), "{token}");
    fs::write(&site.token, &token).unwrap();
    let log = site.start_with_token();
    let agent = site.connected().await;
    assert_eq!(agent[1..3], [JOINED, "cluster"], "{agent:?}");
    let mode = fs::metadata(&site.key).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let admin = site.admin();
    let client = site.deployment.client(&admin, Wire::WebSocket);
    client.run(&["get", "--raw", "/version"]).await;
    site.stop();

    fs::remove_file(&site.token).unwrap();
    let log_again = site.start(&[]);
    let again = site.connected().await;
    assert_eq!(again[0], agent[0], "the same agent");
    client.run(&["get", "--raw", "/version"]).await;
    // A token that is used up, beside a key that the server knows, is no error.
    site.stop();
    fs::write(&site.token, &token).unwrap();
    site.start_with_token();
    site.connected().await;
    assert_eq!(site.agents().len(), 1);
    let secrets = [
        token.trim().to_owned(),
        fs::read_to_string(&site.key).unwrap(),
    ];
    let logs = site.deployment.server_log().unwrap()
        + &fs::read_to_string(log).unwrap()
        + &fs::read_to_string(log_again).unwrap();
    assert!(!logs.contains("ERROR"), "{logs}");
    for secret in secrets {
        assert!(!logs.contains(&secret[4..40]), "a secret in a log");
    }
}

async fn an_agent_that_has_lost_its_key_joins_again(transport: Transport) {
    let site = Site::new(transport).await;
    site.administer(&["cluster", "add", JOINED, "--static-token"]);
    site.put_token(&["--uses", "2"]);
    site.start_with_token();
    let first = site.connected().await;
    site.stop();
    fs::remove_file(&site.key).unwrap();
    site.start_with_token();
    let second = site.connected().await;
    assert_ne!(first[0], second[0], "another key is another agent");
    assert_eq!(first[3], second[3], "by the same token");
    // The static token's, and both of the agent's.
    assert_eq!(site.agents().len(), 3);
}

async fn rule_12_a_revoked_agent_that_joined_is_disconnected(transport: Transport) {
    let site = Site::new(transport).await;
    site.administer(&["cluster", "add", JOINED, "--static-token"]);
    site.put_token(&[]);
    let log = site.start_with_token();
    let agent = site.connected().await;
    let admin = site.admin();
    let client = site.deployment.client(&admin, Wire::WebSocket);
    let watch = InFlight::watch(&client).await;
    site.administer(&["agent", "revoke", &agent[0]]);
    assert_end_soon([watch]).await;
    // One that the registry still had would be counted.
    let list = site.administer(&["cluster", "list"]);
    let row = list.lines().find(|row| row.starts_with(JOINED)).unwrap();
    let cells: Vec<_> = row.split_whitespace().collect();
    assert_eq!(cells[..4], [JOINED, "agent", "1", "0"], "{list}");
    // Its key counts for nothing any more, and neither does the token that is used up.
    let wanted = ["ERROR", "used-up", "underpass cluster join-token create"];
    site.log_says(&log, &wanted).await;
    assert_eq!(site.agents().len(), 1);
    client.fail(&["get", "--raw", "/version"]).await;
}

async fn what_stands_in_the_way_of_a_join_is_said_at_the_agent(transport: Transport) {
    let site = Site::new(transport).await;
    site.administer(&["cluster", "add", JOINED, "--static-token"]);
    // No token at all: the key is made, and no server knows it.
    let log = site.start(&[]);
    site.log_says(&log, &["WARN", "give --join-token-file"])
        .await;
    let wanted = ["ERROR", "not known here", "underpass cluster add"];
    site.log_says(&log, &wanted).await;
    site.stop();

    // Deleted, and replaced by one that has expired, and by one for another role.
    site.put_token(&["--description", "deleted"]);
    let row = site.token_row("deleted");
    let id = row.split_whitespace().next().unwrap();
    site.administer(&["cluster", "join-token", "delete", JOINED, id]);
    let token = site.token.to_str().unwrap();
    let flags = [("--join-token-file", token), ("--role", "cluster")];
    let log = site.start(&flags);
    let another = "underpass cluster join-token create";
    let wanted = ["ERROR", "unknown-token", another];
    site.log_says(&log, &wanted).await;
    let short = site.make_token(&["--expires", "1s", "--description", "short"]);
    eventually("the token has expired", async || {
        let row = site.token_row("short");
        row.contains(" expired ").then_some(()).ok_or(row)
    })
    .await;
    fs::write(&site.token, short).unwrap();
    site.log_says(&log, &["ERROR", "expired", another]).await;
    site.put_token(&["--role", "node"]);
    site.log_says(&log, &["ERROR", "other-role", "--role"])
        .await;
    assert_eq!(site.agents().len(), 1, "the static one");
    // The right one, in the same file: no restart is needed.
    site.put_token(&[]);
    site.log_says(&log, &["INFO", "joined"]).await;
    site.connected().await;
    site.stop();
    // Used up, for another key.
    fs::remove_file(&site.key).unwrap();
    let log = site.start(&flags);
    site.log_says(&log, &["ERROR", "used-up", another]).await;
    assert_eq!(site.agents().len(), 2);
}

#[tokio::test]
async fn agents_share_a_key_in_a_secret_of_their_cluster() {
    const NAMESPACE: &str = "underpass-keys";

    let site = Site::new(Transport::WebSocket).await;
    let account = agent_account(NAMESPACE, &["--key-secret", "agent-key"]);
    site.administer(&["cluster", "add", JOINED, "--static-token"]);
    site.put_token(&["--uses", "2"]);
    let secret = format!("{NAMESPACE}/agent-key");
    let token = site.token.to_str().unwrap();
    let usual = [
        ("--key-secret", secret.as_str()),
        ("--kubeconfig", account.to_str().unwrap()),
    ];
    let joining = [&usual[..], &[("--join-token-file", token)]].concat();
    site.start_as(JOINER, &joining);
    site.start_as("second", &joining);
    let both = async || {
        let agents = site.agents();
        let both = agents.iter().find(|cells| cells[4] == "2");
        both.cloned().ok_or(agents)
    };
    let agent = eventually("two sessions of one agent", both).await;
    assert_eq!(site.agents().len(), 2, "it, and the static token's");
    site.stop();
    site.deployment.stop_another_agent("second").unwrap();
    // The key alone.
    site.start_as(JOINER, &usual);
    assert_eq!(site.connected().await[0], agent[0]);
    site.stop();
    // A Secret that is lost is a key that is lost; one without the entry gets it.
    let kubectl = Client::new(
        &CLUSTER,
        CLUSTER.admin_kubeconfig(),
        "keys",
        Wire::WebSocket,
    );
    let patch = r#"{"data":{"agent.key":null,"other":"eA=="}}"#;
    let remove = [
        "-n",
        NAMESPACE,
        "patch",
        "secret",
        "agent-key",
        "--type=merge",
        "-p",
        patch,
    ];
    kubectl.run(&remove).await;
    site.start_as(JOINER, &joining);
    assert_ne!(site.connected().await[0], agent[0]);
    let entries = [
        "-n",
        NAMESPACE,
        "get",
        "secret",
        "agent-key",
        "-o",
        "jsonpath={.data.other}",
    ];
    assert_eq!(kubectl.run(&entries).await, "eA==");
    // An account that may not is told what to apply.
    let plain = AGENT_KUBECONFIG.to_str().unwrap();
    let flags = [("--key-secret", secret.as_str()), ("--kubeconfig", plain)];
    let log = site.start_as("plain", &flags);
    let wanted = ["ERROR", "underpass-agent rbac --key-secret agent-key"];
    site.log_says(&log, &wanted).await;
}

#[tokio::test]
async fn the_api_server_takes_the_manifests_of_an_agent() {
    // The namespace, and the account.
    let _ = &*AGENT_KUBECONFIG;
    let deployment = Deployment::shared(Transport::WebSocket);
    let add = ["cluster", "add", "manifested", "--manifest"];
    let image = ["registry.example.org/agent:1"];
    let yaml = deployment.administer(&[&add[..], &image].concat()).unwrap();
    assert!(
        yaml.contains("upj_") && yaml.contains(deployment.url()),
        "{yaml}"
    );
    let path = deployment.dir().join("agent.yaml");
    fs::write(&path, yaml).unwrap();
    let admin = CLUSTER.admin_kubeconfig();
    let kubectl = Client::new(&CLUSTER, admin, "manifests", Wire::WebSocket);
    let apply = ["apply", "--dry-run=server", "-f", path.to_str().unwrap()];
    let said = kubectl.run(&apply).await;
    for made in [
        "secret/underpass-agent-join",
        "deployment.apps/underpass-agent",
    ] {
        assert!(said.contains(made), "{said}");
    }
}

#[tokio::test]
async fn an_agent_keeps_the_role_and_the_node_that_it_has_joined_in() {
    let site = Site::new(Transport::WebSocket).await;
    site.administer(&["cluster", "add", JOINED, "--static-token"]);
    site.put_token(&["--role", "node"]);
    let token = site.token.to_str().unwrap();
    let flags = [
        ("--join-token-file", token),
        ("--role", "node"),
        ("--node-name", "worker-7"),
    ];
    site.start(&flags);
    let agent = site.connected().await;
    assert_eq!(agent[2], "node");
    let text = fs::read_to_string(&site.key).unwrap();
    assert!(
        text.contains("\nrole node\n") && text.contains("\nnode worker-7\n"),
        "{agent:?}"
    );
    site.stop();
    // Without --role it is what it was: its policy is that of a node, which does not serve the API server.
    site.start(&[]);
    site.connected().await;
    let stand_in = ["cluster", "stand-in", JOINED, "allow"];
    site.administer(&stand_in);
    let admin = site.admin();
    let client = site.deployment.client(&admin, Wire::WebSocket);
    client.fail(&["get", "--raw", "/version"]).await;
    site.stop();
    for (flags, wanted) in [
        (&[("--role", "cluster")][..], "has joined in the role node"),
        (
            &[("--role", "node"), ("--node-name", "worker-8")],
            "has joined as the node worker-7",
        ),
    ] {
        let log = site.start(flags);
        site.log_says(&log, &["ERROR", wanted]).await;
    }
}
