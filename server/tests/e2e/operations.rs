//! Operations on a node, by the programs that people run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use underpass_testenv::testing::{alive, eventually, run, spawn, text};
use underpass_testenv::{Assets, Transport, progress_to_stderr};

use crate::cutter::{Cuts, Forgetful};
use crate::deployment::{AGENT_KUBECONFIG, CLUSTER, Deployment, PROGRAMS};
use crate::over_both_transports;

over_both_transports!(
    rule_8_a_node_runs_what_its_policy_names_for_whom_the_role_lets_in,
    an_agent_that_dies_leaves_an_interrupted_operation_which_is_not_run_again,
    rule_12_a_revoked_user_hears_no_more_of_an_operation,
    an_agent_joins_and_its_operations_output_arrives_through_cuts,
);

/// The agent's name, in the test environment.
pub(crate) const AGENT: &str = "node-agent";

/// Its cluster.
pub(crate) const CLUSTER_OF_NODES: &str = "machines";

pub(crate) const NODE: &str = "worker-1";

const POLICY: &str = r#"
operations:
  - name: greet
    command: /bin/sh
    arguments: [-c, 'echo "hello $1"; echo oops >&2; exit 3', sh, "{who}"]
    parameters: [{name: who, pattern: "[a-z]+"}]
    timeLimit: 1m
  - name: slow
    command: /bin/sh
    arguments: [-c, 'echo $$ >> "$1"; echo begun; exec sleep 1000', sh, "{log}"]
    parameters: [{name: log, longest: 200}]
    timeLimit: 1h
    exclusive: true
  - name: count
    command: /bin/sh
    arguments: [-c, ': > "$1.begun"; i=0; while [ ! -e "$1" ]; do echo $i; i=$((i+1)); sleep 0.05; done; echo end', sh, "{until}"]
    parameters: [{name: until, longest: 200}]
    timeLimit: 1h
  - {name: missing, command: /no/such/program, timeLimit: 1m}
"#;

/// A server, and an agent on a node.
pub(crate) struct Site {
    pub(crate) deployment: Deployment,
    key: PathBuf,
    token: PathBuf,
    pub(crate) policy: PathBuf,
    state: PathBuf,
    /// A port that leads to the server, for the agent.
    pub(crate) through: Option<u16>,
}

/// How a program ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

impl Ended {
    #[track_caller]
    fn assert_refused(&self, words: &[&str]) {
        assert_eq!(self.code, Some(1), "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "without {word:?}: {self:?}");
        }
    }
}

impl Site {
    pub(crate) async fn new(transport: Transport, policy: &str) -> Self {
        let site = Self::without_agent(transport, policy).await;
        site.start_agent();
        site.connected().await;
        site
    }

    /// The same with further flags of `underpass-server serve`.
    pub(crate) async fn with(transport: Transport, policy: &str, flags: &[&str]) -> Self {
        let site = Self::without_agent_with(transport, policy, flags).await;
        site.start_agent();
        site.connected().await;
        site
    }

    pub(crate) async fn without_agent(transport: Transport, policy: &str) -> Self {
        Self::without_agent_with(transport, policy, &[]).await
    }

    pub(crate) async fn without_agent_with(
        transport: Transport,
        policy: &str,
        flags: &[&str],
    ) -> Self {
        // It starts the cluster.
        let account = tokio::task::spawn_blocking(|| AGENT_KUBECONFIG.clone());
        let account = account.await.unwrap();
        let deployment = Deployment::start_as_with(transport, account, flags).await;
        Self::at(deployment, policy)
    }

    /// At a server that runs.
    pub(crate) fn at(deployment: Deployment, policy: &str) -> Self {
        let path = |name: &str| deployment.dir().join(name);
        let site = Self {
            key: path("node.key"),
            token: path("node.token"),
            policy: path("node-policy.yaml"),
            state: path("node-state"),
            through: None,
            deployment,
        };
        fs::write(&site.policy, policy).unwrap();
        let token = site.administer(&["cluster", "add", CLUSTER_OF_NODES, "--role", "node"]);
        fs::write(&site.token, token).unwrap();
        site
    }

    pub(crate) fn start_agent(&self) {
        let flags = [
            ("--key-file", &self.key),
            ("--join-token-file", &self.token),
            ("--policy", &self.policy),
            ("--state-dir", &self.state),
        ];
        let flags = flags.map(|(flag, path)| (flag, path.to_str().unwrap()));
        let more = [
            ("--role", "node"),
            ("--node-name", NODE),
            ("--node-label", "zone=a"),
        ];
        let through = self.through.map(|port| format!("https://localhost:{port}"));
        let through = through.as_deref().map(|server| ("--server", server));
        let flags = [&flags[..], &more, through.as_slice()].concat();
        let transport = self.deployment.transport;
        let started = self
            .deployment
            .spawn_another_agent(AGENT, transport, &flags);
        started.unwrap();
    }

    /// The server's port.
    pub(crate) fn port(&self) -> u16 {
        let port = self.deployment.url().rsplit(':').next().unwrap();
        port.parse().unwrap()
    }

    pub(crate) async fn connected(&self) {
        eventually("the node's agent is connected", async || {
            let list = self.administer(&["node", "list", CLUSTER_OF_NODES]);
            let has = list.lines().skip(1).any(|row| row.starts_with(NODE));
            has.then_some(()).ok_or(list)
        })
        .await;
    }

    /// `underpass` as the operator, and its standard output.
    pub(crate) fn administer(&self, arguments: &[&str]) -> String {
        self.deployment.administer(arguments).unwrap()
    }

    /// The file with a token of a new user.
    pub(crate) fn user(&self, name: &str, role: &str) -> PathBuf {
        let add = [
            "user",
            "add",
            name,
            "--cluster",
            CLUSTER_OF_NODES,
            "--role",
            role,
        ];
        self.administer(&add);
        let token = self.administer(&["token", "create", "--user", name]);
        let path = self.deployment.dir().join(format!("{name}.token"));
        fs::write(&path, token).unwrap();
        path
    }

    pub(crate) fn command(&self, token: &Path, arguments: &[&str]) -> Command {
        self.command_at(self.deployment.url(), token, arguments)
    }

    /// The same at another address of the server.
    pub(crate) fn command_at(&self, url: &str, token: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAMS.cli());
        command
            .env_clear()
            .args(["--api", url, "--api-ca-file"])
            .arg(self.deployment.ca_file())
            .arg("--api-token-file")
            .arg(token)
            .args(arguments);
        command
    }

    async fn ask(&self, token: &Path, arguments: &[&str]) -> Ended {
        run(&mut self.command(token, arguments), b"").await.into()
    }

    async fn run(&self, token: &Path, arguments: &[&str]) -> Ended {
        let run = ["node", "run", CLUSTER_OF_NODES, NODE];
        self.ask(token, &[&run[..], arguments].concat()).await
    }

    /// `node operations` of one run.
    async fn record(&self, token: &Path, id: &str) -> Ended {
        let operations = ["node", "operations", CLUSTER_OF_NODES, NODE, id];
        self.ask(token, &operations).await
    }

    async fn state_becomes(&self, token: &Path, id: &str, state: &str) -> String {
        let line = format!("state:     {state}\n");
        eventually(&format!("{id} is {state}"), async || {
            let ended = self.record(token, id).await;
            match ended.stdout.contains(&line) {
                true => Ok(ended.stdout),
                false => Err(ended),
            }
        })
        .await
    }
}

async fn rule_8_a_node_runs_what_its_policy_names_for_whom_the_role_lets_in(transport: Transport) {
    let site = Site::new(transport, POLICY).await;
    let alice = site.user("alice", "operations");
    let greeted = site
        .run(&alice, &["greet", "who=world", "--id", "first"])
        .await;
    assert_eq!(greeted.code, Some(3), "{greeted:?}");
    assert_eq!(greeted.stdout, "hello world\n");
    assert!(greeted.stderr.contains("oops\n"), "{greeted:?}");
    // The same id is the same run.
    let again = site
        .run(&alice, &["greet", "who=world", "--id", "first"])
        .await;
    assert_eq!((again.code, &again.stdout), (greeted.code, &greeted.stdout));
    for (arguments, words) in [
        (
            &["greet", "who=you", "--id", "first"][..],
            &["another run"][..],
        ),
        (&["greet"], &["needs a value", "`who`"]),
        (&["greet", "who=$(id)"], &["`who`", "does not match"]),
        (
            &["greet", "who=a", "as=root"],
            &["no parameter `as`", "they are who"],
        ),
        (&["reboot"], &["no operation `reboot`"]),
        (&["missing"], &["/no/such/program", "`missing`"]),
    ] {
        site.run(&alice, arguments).await.assert_refused(words);
    }
    let list = ["node", "operations", CLUSTER_OF_NODES, NODE];
    let records = site.ask(&alice, &list).await.stdout;
    assert_eq!(records.lines().count(), 2, "{records}");
    let row: Vec<_> = records.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..4], ["first", "greet", "alice", "failed"], "{records}");
    let unknown = [
        "node",
        "run",
        CLUSTER_OF_NODES,
        "worker-2",
        "greet",
        "who=a",
    ];
    let unknown = site.ask(&alice, &unknown).await;
    unknown.assert_refused(&["worker-2", "is connected"]);

    // The usual role reaches no node, and a user without any learns nothing.
    let bob = site.user("bob", "operate");
    for (arguments, token) in [
        (&["node", "list", CLUSTER_OF_NODES][..], &bob),
        (&list, &bob),
    ] {
        let denied = site.ask(token, arguments).await;
        denied.assert_refused(&["role operations"]);
    }
    let denied = site.run(&bob, &["greet", "who=a"]).await;
    denied.assert_refused(&["role operations"]);

    // Rule 15: in the server's audit log, and in the agent's own.
    let log = site.deployment.server_log().unwrap();
    let path = format!("/v1/clusters/{CLUSTER_OF_NODES}/nodes/{NODE}/operations");
    let line = |line: &str| line.contains("alice") && line.contains(&path);
    assert!(log.lines().any(line), "{log}");
    let log = fs::read_to_string(site.deployment.dir().join(format!("{AGENT}.log"))).unwrap();
    for words in [
        "an operation begins",
        "an operation ended",
        "an operation is refused",
    ] {
        let line = |line: &str| line.contains(words) && line.contains("alice");
        assert!(log.lines().any(line), "{words}: {log}");
    }
}

#[tokio::test]
async fn output_arrives_through_cuts_of_both_links() {
    an_agent_joins_and_its_operations_output_arrives_through_cuts(Transport::Auto).await;
}

async fn an_agent_joins_and_its_operations_output_arrives_through_cuts(transport: Transport) {
    let mut site = Site::without_agent(transport, POLICY).await;
    let path = Forgetful::start(site.port()).await;
    site.through = Some(path.port);
    let cuts = Cuts::default();
    // Too fast for many a TLS handshake: the first attempts to join are cut.
    let soon = path.forget_each(Duration::from_millis(10), &cuts);
    let joining = async {
        site.start_agent();
        cuts.wait_for(3).await;
    };
    tokio::select! {
        () = joining => {}
        never = soon => match never {},
    }
    let alice = site.user("alice", "operations");
    let until = site.deployment.dir().join("enough");
    let argument = format!("until={}", until.display());
    // Of a flow that is forgotten while nothing is sent, QUIC by itself learns when the agent next asks whether the server is there. So
    // its path forgets one that carries output, and one is enough.
    let enough = CancellationToken::new();
    let most = match transport {
        Transport::Quic => 1,
        _ => 5,
    };
    let counting = async {
        site.connected().await;
        let arguments = ["count", argument.as_str()];
        let run = site.run(&alice, &arguments);
        let ending = async {
            cuts.wait_for(most).await;
            enough.cancel();
            fs::write(&until, "").unwrap();
        };
        tokio::join!(run, ending).0
    };
    let begun = until.with_extension("begun");
    let cutting = async {
        if transport == Transport::Quic {
            eventually("the command runs", async || fs::metadata(&begun)).await;
        }
        tokio::select! {
            never = path.forget_each(Duration::from_secs(1), &cuts) => match never {},
            () = enough.cancelled() => std::future::pending().await,
        }
    };
    let counted = tokio::select! {
        counted = counting => counted,
        () = cutting => unreachable!("it does not end"),
    };
    assert_eq!(counted.code, Some(0), "{counted:?}");
    let mut lines: Vec<_> = counted.stdout.lines().collect();
    assert_eq!(lines.pop(), Some("end"), "{counted:?}");
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(*line, number.to_string(), "{counted:?}");
    }
    assert!(lines.len() >= 10, "{counted:?}");
}

async fn an_agent_that_dies_leaves_an_interrupted_operation_which_is_not_run_again(
    transport: Transport,
) {
    let site = Site::new(transport, POLICY).await;
    let alice = site.user("alice", "operations");
    let log = site.deployment.dir().join("slow.log");
    let argument = format!("log={}", log.display());
    let begin = ["slow", &argument, "--id", "slow", "--detach"];
    let begun = site.run(&alice, &begin).await;
    assert_eq!((begun.code, begun.stdout.as_str()), (Some(0), "slow\n"));
    let pid = eventually("the command runs", async || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        text.trim().parse::<u32>()
    })
    .await;
    let busy = site.run(&alice, &["slow", &argument]).await;
    busy.assert_refused(&["`slow` runs already", "as slow"]);

    // A client that waits for it meanwhile goes on waiting.
    let output = [
        "node",
        "operations",
        CLUSTER_OF_NODES,
        NODE,
        "slow",
        "--output",
    ];
    let waiting = spawn(&mut site.command(&alice, &output));
    site.deployment.kill_another_agent(AGENT).unwrap();
    site.start_agent();
    site.connected().await;
    let record = site.state_becomes(&alice, "slow", "interrupted").await;
    assert!(record.contains("the agent died"), "{record}");
    eventually("nothing of it is left", async || match alive(pid) {
        true => Err(pid),
        false => Ok(()),
    })
    .await;
    let waited: Ended = waiting.wait_with_output().await.unwrap().into();
    assert_eq!(
        (waited.code, waited.stdout.as_str()),
        (Some(1), "begun\n"),
        "{waited:?}"
    );
    assert!(waited.stderr.contains("interrupted"), "{waited:?}");
    let again = site.run(&alice, &["slow", &argument, "--id", "slow"]).await;
    again.assert_refused(&["interrupted"]);
    assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 1);
}

async fn rule_12_a_revoked_user_hears_no_more_of_an_operation(transport: Transport) {
    let site = Site::new(transport, POLICY).await;
    let (alice, carol) = (
        site.user("alice", "operations"),
        site.user("carol", "operations"),
    );
    let argument = format!("log={}", site.deployment.dir().join("slow.log").display());
    let begin = [
        "node",
        "run",
        CLUSTER_OF_NODES,
        NODE,
        "slow",
        &argument,
        "--id",
        "slow",
    ];
    let following = spawn(&mut site.command(&alice, &begin));
    site.state_becomes(&carol, "slow", "running").await;
    site.administer(&["user", "remove", "alice"]);
    let soon = Duration::from_secs(5);
    let ended = tokio::time::timeout(soon, following.wait_with_output()).await;
    let ended: Ended = ended.expect("it ends soon").unwrap().into();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    // The command goes on: half of its work would be worse. Others may end it.
    site.state_becomes(&carol, "slow", "running").await;
    let cancel = ["node", "cancel", CLUSTER_OF_NODES, NODE, "slow"];
    assert_eq!(site.ask(&carol, &cancel).await.code, Some(0));
    let record = site.state_becomes(&carol, "slow", "cancelled").await;
    assert!(record.contains("carol cancelled it"), "{record}");
    site.ask(&carol, &cancel)
        .await
        .assert_refused(&["has ended"]);
}

/// The policy that we ship, with this machine's paths.
fn etcd_policy(tools: &Path, backups: &Path) -> String {
    let shipped = include_str!("../../../deploy/operations/etcd.yaml");
    let own = shipped
        .replace("/usr/local/bin", tools.to_str().unwrap())
        .replace("https://127.0.0.1:2379", &CLUSTER.etcd_url())
        .replace("/var/backups/etcd", backups.to_str().unwrap());
    // The test environment's etcd speaks plain HTTP.
    let no_tls = |line: &&str| !line.contains("/etc/kubernetes/pki");
    let mut own: String = own
        .lines()
        .filter(no_tls)
        .fold(String::new(), |text, line| text + line + "\n");
    // Nobody but root switches users.
    if !rustix::process::geteuid().is_root() {
        own = own.replace("    user: root\n", "");
    }
    own
}

#[tokio::test]
async fn a_snapshot_of_etcd_is_taken_and_restored() {
    let tools = tokio::task::spawn_blocking(|| Assets::etcd_tools(progress_to_stderr)).await;
    let tools = tools.unwrap().unwrap_or_else(|error| panic!("{error:?}"));
    let backups = tempfile::tempdir().unwrap();
    let site = Site::new(Transport::Auto, &etcd_policy(&tools, backups.path())).await;
    let alice = site.user("alice", "operations");
    let saved = site.run(&alice, &["etcd-snapshot", "name=monday"]).await;
    assert_eq!(saved.code, Some(0), "{saved:?}");
    let status = site
        .run(&alice, &["etcd-snapshot-status", "name=monday"])
        .await;
    let about: Value =
        serde_json::from_str(&status.stdout).unwrap_or_else(|_| panic!("{status:?}"));
    assert!(about["totalKey"].as_u64() > Some(100), "{about}");
    let restored = site.run(&alice, &["etcd-restore", "name=monday"]).await;
    assert_eq!(restored.code, Some(0), "{restored:?}");
    let namespaces = keys_of(&tools, &backups.path().join("restored-monday")).await;
    assert!(
        namespaces.contains("/registry/namespaces/kube-system\n"),
        "{namespaces}"
    );
    let outside = site.run(&alice, &["etcd-snapshot", "name=../x"]).await;
    outside.assert_refused(&["`name`", "does not match"]);
}

/// The keys of the cluster's namespaces in an etcd that serves this data.
async fn keys_of(tools: &Path, data: &Path) -> String {
    let assets = tokio::task::spawn_blocking(|| Assets::ensure(progress_to_stderr)).await;
    let assets = assets.unwrap().unwrap_or_else(|error| panic!("{error:?}"));
    let port = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let (clients, peers) = (port(), port());
    let mut etcd = Command::new(assets.etcd());
    etcd.arg("--data-dir")
        .arg(data)
        .args([
            "--listen-client-urls",
            &clients,
            "--advertise-client-urls",
            &clients,
        ])
        .args(["--listen-peer-urls", &peers])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let _etcd = etcd.spawn().unwrap();
    eventually("etcd serves the restored data", async || {
        let mut get = Command::new(tools.join("etcdctl"));
        get.args(["--endpoints", &clients, "get", "--keys-only", "--prefix"]);
        let got: Ended = run(get.arg("/registry/namespaces/"), b"").await.into();
        match got.code {
            Some(0) => Ok(got.stdout),
            _ => Err(got),
        }
    })
    .await
}
