//! kubectl through `underpass proxy`, while the user's network fails: it notices nothing.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use underpass_testenv::scenarios::{cp, exec, logs, objects, port_forward};
use underpass_testenv::testing::{Client, DEADLINE, Wire, eventually, run, spawn, text};
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::cutter::{Cuts, Cutter, Forgetful};
use crate::deployment::{CLUSTER, Deployment, PROGRAMS, token_of};
use crate::over_both_transports;
use crate::services::curl;

/// How long a connection lives: some get as far as their first streams, some do not.
const LIFE: Duration = Duration::from_millis(400);

/// How long the user has no network: TCP connections are reset, and UDP is swallowed.
pub(crate) const OUTAGE: Duration = Duration::from_secs(12);

/// A user's machine whose only way to the server fails when told to.
pub(crate) struct Laptop {
    pub(crate) deployment: Deployment,
    pub(crate) path: Forgetful,
    folder: tempfile::TempDir,
}

impl Laptop {
    pub(crate) async fn new() -> Self {
        let deployment = Deployment::start(Transport::Auto).await;
        let port = deployment.url().rsplit(':').next().unwrap().parse();
        let path = Forgetful::start(port.unwrap()).await;
        let folder = tempfile::tempdir().unwrap();
        let token = token_of(deployment.admin_kubeconfig());
        std::fs::write(folder.path().join("token"), token).unwrap();
        Self {
            deployment,
            path,
            folder,
        }
    }

    /// Has the user show another token from now on.
    pub(crate) fn set_token(&self, token: &str) {
        std::fs::write(self.folder.path().join("token"), token).unwrap();
    }

    /// `underpass` with these arguments, by this way.
    pub(crate) fn underpass(&self, arguments: &[&str]) -> Command {
        self.underpass_at(self.path.port, arguments)
    }

    /// `underpass proxy`, by this way, with these arguments.
    fn command(&self, transport: Transport, arguments: &[&str]) -> Command {
        self.command_at(self.path.port, transport, arguments)
    }

    /// The same at another port, which leads to the server.
    fn command_at(&self, port: u16, transport: Transport, arguments: &[&str]) -> Command {
        let proxy = ["proxy", "--transport", transport.as_str()];
        self.underpass_at(port, &[&proxy[..], arguments].concat())
    }

    pub(crate) fn underpass_at(&self, port: u16, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAMS.cli());
        command
            .env_clear()
            .env("HOME", self.folder.path())
            .env("TMPDIR", self.folder.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .args(["--api", &format!("https://localhost:{port}")])
            .arg("--api-ca-file")
            .arg(self.deployment.ca_file())
            .arg("--api-token-file")
            .arg(self.folder.path().join("token"))
            .args(arguments)
            .kill_on_drop(true);
        command
    }

    async fn proxy(&self, transport: Transport) -> Proxy {
        let mut command = self.command(transport, &[CLUSTER_NAME]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = next(&mut stdout).await;
        let path = line.strip_prefix("export KUBECONFIG='").unwrap();
        let kubeconfig = path.strip_suffix('\'').unwrap().into();
        let mut proxy = Proxy {
            child,
            kubeconfig,
            said,
            _stdout: stdout,
        };
        let line = proxy.line().await;
        assert!(
            line.ends_with("leads to cluster edge, until Ctrl-C"),
            "{line}"
        );
        proxy
    }
}

pub(crate) async fn next<R: tokio::io::AsyncBufRead + Unpin>(lines: &mut Lines<R>) -> String {
    let line = tokio::time::timeout(DEADLINE, lines.next_line()).await;
    line.expect("a line in time").unwrap().expect("a line")
}

struct Proxy {
    child: Child,
    kubeconfig: PathBuf,
    said: Lines<BufReader<ChildStderr>>,
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Proxy {
    fn client(&self, way: &'static str, wire: Wire) -> Client<'_> {
        Client::new(&CLUSTER, &self.kubeconfig, way, wire)
    }

    /// The URL of the cluster, by path, and the token of its kubeconfig.
    fn place(&self) -> (String, String) {
        let config = std::fs::read_to_string(&self.kubeconfig).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        (
            text(&config["clusters"][0]["cluster"]["server"]) + "/k8s/clusters/" + CLUSTER_NAME,
            text(&config["users"][0]["user"]["token"]),
        )
    }

    async fn line(&mut self) -> String {
        next(&mut self.said).await
    }

    async fn terminate(mut self) {
        kill(&self.child, Signal::TERM);
        let status = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        assert!(status.unwrap().unwrap().success());
        assert!(!self.kubeconfig.parent().unwrap().exists());
    }
}

pub(crate) fn kill(child: &Child, signal: Signal) {
    let id = i32::try_from(child.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
}

pub(crate) fn way(transport: Transport, test: &str) -> &'static str {
    format!("user-{test}-{}", transport.as_str()).leak()
}

over_both_transports![
    exec_and_logs_go_on_at_the_byte_after_12_s_without_network,
    bytes_both_ways_while_each_connection_is_cut,
    logs_while_each_connection_is_cut,
    a_watch_while_each_connection_is_cut,
    requests_to_a_forwarded_port_while_each_connection_is_cut,
    a_copy_while_each_connection_is_cut,
];

/// A script that counts, and what it has written when it ends.
const COUNT: &str = "i=0; while [ $i -lt 60 ]; do echo $i; i=$((i+1)); sleep 0.3; done";

async fn exec_and_logs_go_on_at_the_byte_after_12_s_without_network(transport: Transport) {
    let laptop = Laptop::new().await;
    let mut proxy = laptop.proxy(transport).await;
    let wanted: String = (0..60).map(|number| format!("{number}\n")).collect();
    let kubeconfig = proxy.kubeconfig.clone();
    let client = Client::new(
        &CLUSTER,
        &kubeconfig,
        way(transport, "outage"),
        Wire::WebSocket,
    );
    let pod = client.target("count").await;
    let mut exec = client.exec(&pod, &[], &["sh", "-c", COUNT]);
    let logging = client.name("log");
    client
        .start_pod(&underpass_testenv::testing::pod(
            &logging,
            &format!("{COUNT}; exec sleep 100000"),
        ))
        .await;
    let mut following = spawn(client.kubectl().args(["logs", "-f", &logging]));
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let network = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        laptop.path.fail_for(OUTAGE).await;
    };
    let followed = async {
        let mut got = String::new();
        while !got.ends_with("\n59\n") {
            got.push_str(&next(&mut lines).await);
            got.push('\n');
        }
        got
    };
    // A command of its own that begins while there is no network, and is answered when it is back.
    let late = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        client.run(&["get", "pod", &pod, "-o", "name"]).await
    };
    let (executed, followed, late, ()) = tokio::join!(run(&mut exec, b""), followed, late, network);
    assert!(executed.status.success(), "{executed:?}");
    assert_eq!(text(&executed.stdout), wanted);
    assert_eq!(followed, wanted);
    assert_eq!(late, format!("pod/{pod}\n"));
    let lost = proxy.line().await;
    assert!(lost.contains("is lost, connecting again"), "{lost}");
    let back = proxy.line().await;
    assert!(back.contains("again, and every stream goes on"), "{back}");
    proxy.terminate().await;
}

/// Runs a scenario while each connection of the user's is cut again and again.
async fn while_cut(transport: Transport, test: &str, scenario: impl AsyncFnOnce(&Client<'_>)) {
    let laptop = Laptop::new().await;
    let proxy = laptop.proxy(transport).await;
    let client = proxy.client(way(transport, test), Wire::WebSocket);
    let cuts = Cuts::default();
    tokio::select! {
        () = scenario(&client) => {}
        never = laptop.path.forget_each(LIFE, &cuts) => match never {},
    }
    assert!(cuts.count() > 0, "nothing was cut");
}

async fn bytes_both_ways_while_each_connection_is_cut(transport: Transport) {
    while_cut(transport, "exec", async |client| {
        exec::carries_8_mib_both_ways(client).await;
    })
    .await;
}

async fn logs_while_each_connection_is_cut(transport: Transport) {
    while_cut(transport, "logs", async |client| {
        logs::are_followed_line_by_line(client).await;
    })
    .await;
}

async fn a_watch_while_each_connection_is_cut(transport: Transport) {
    while_cut(transport, "watch", async |client| {
        objects::a_watch_shows_events_as_they_happen(client).await;
    })
    .await;
}

async fn requests_to_a_forwarded_port_while_each_connection_is_cut(transport: Transport) {
    while_cut(transport, "port", async |client| {
        port_forward::twenty_requests(client).await;
    })
    .await;
}

async fn a_copy_while_each_connection_is_cut(transport: Transport) {
    while_cut(transport, "copy", async |client| {
        let file = cp::LargeFile::prepare(client).await;
        file.copy_there().await;
    })
    .await;
}

#[tokio::test]
async fn spdy_passes_as_well() {
    let laptop = Laptop::new().await;
    let proxy = laptop.proxy(Transport::Auto).await;
    let client = proxy.client("user", Wire::Spdy);
    exec::keeps_streams_and_exit_code_apart(&client).await;
    exec::carries_the_end_of_input(&client).await;
    proxy.terminate().await;
}

#[tokio::test]
async fn a_command_runs_with_the_kubeconfig_and_its_end_is_the_proxys() {
    let laptop = Laptop::new().await;
    let script = r#"stat -c %a "$KUBECONFIG"; stat -c %a "$(dirname "$KUBECONFIG")"; echo "$KUBECONFIG"; exit 9"#;
    let arguments = [CLUSTER_NAME, "--", "sh", "-c", script];
    let output = run(&mut laptop.command(Transport::Auto, &arguments), b"").await;
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    let printed = text(&output.stdout);
    let [file, folder, path] = printed.lines().collect::<Vec<_>>()[..] else {
        panic!("{printed}");
    };
    assert_eq!((file, folder), ("600", "700"));
    assert!(!PathBuf::from(path).exists());
    // The signal is the command's, and so is the end.
    let arguments = [
        CLUSTER_NAME,
        "--",
        "sh",
        "-c",
        "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done",
    ];
    let mut command = laptop.command(Transport::Auto, &arguments);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(next(&mut lines).await, "up");
    kill(&child, Signal::TERM);
    let status = tokio::time::timeout(DEADLINE, child.wait()).await;
    assert_eq!(status.unwrap().unwrap().code(), Some(5));
}

/// Systems give 1,024 files and fewer to a user's programs.
#[tokio::test]
async fn the_limit_of_open_files_is_raised() {
    let laptop = Laptop::new().await;
    let arguments = [CLUSTER_NAME, "--", "sh", "-c", "ulimit -Sn; ulimit -Hn"];
    let command = laptop.command(Transport::Auto, &arguments);
    let command = command.as_std();
    let mut lowered = Command::new("sh");
    let set = command
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    lowered.env_clear().envs(set).kill_on_drop(true);
    lowered.args(["-c", "ulimit -Sn 64 && exec \"$@\"", "sh"]);
    lowered.arg(command.get_program()).args(command.get_args());
    let output = run(&mut lowered, b"").await;
    let printed = text(&output.stdout);
    let [soft, hard] = printed.lines().collect::<Vec<_>>()[..] else {
        panic!("{output:?}");
    };
    assert_eq!(soft, hard);
}

#[tokio::test]
async fn rule_27_the_local_port_opens_with_its_token_alone() {
    let laptop = Laptop::new().await;
    let proxy = laptop.proxy(Transport::Auto).await;
    let mode = proxy.kubeconfig.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let config = std::fs::read_to_string(&proxy.kubeconfig).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert!(
        !config
            .to_string()
            .contains(&token_of(laptop.deployment.admin_kubeconfig()))
    );
    // By name, so that the API server's root is the listener's: `get --raw` of older kubectl, and `kubectl proxy`, drop a path.
    let name = &config["clusters"][0]["cluster"]["tls-server-name"];
    assert_eq!(name, "edge.clusters.underpass.internal");
    let client = proxy.client("by-name", Wire::WebSocket);
    assert_eq!(client.run(&["get", "--raw", "/readyz"]).await, "ok");
    let (url, token) = proxy.place();
    let token = token.as_str();
    let asked = async |token: Option<&str>, path: &str| {
        let mut arguments = vec!["-k".to_owned(), "-o".into(), "/dev/null".into()];
        arguments.extend(["-w".into(), "%{http_code}".into(), format!("{url}{path}")]);
        arguments.extend(
            token
                .iter()
                .flat_map(|token| ["-H".to_owned(), format!("Authorization: Bearer {token}")]),
        );
        crate::services::output(curl(arguments)).await
    };
    assert_eq!(asked(Some(token), "/version").await, "200");
    for wrong in [
        None,
        Some("x"),
        Some(&*token_of(laptop.deployment.admin_kubeconfig())),
    ] {
        assert_eq!(asked(wrong, "/version").await, "401");
    }
    // Nothing but the clusters is reached: neither the server's API, nor another cluster.
    assert_eq!(asked(Some(token), "/../../../v1/self").await, "404");
    assert_eq!(asked(Some(token), "2/version").await, "404");
    proxy.terminate().await;
}

#[tokio::test]
async fn rule_12_revoking_the_token_ends_the_session_and_says_so() {
    let laptop = Laptop::new().await;
    let kubeconfig = laptop
        .deployment
        .blocking(|u| u.kubeconfig("revoked", &["ops"]).unwrap());
    let token = token_of(&kubeconfig.await);
    std::fs::write(laptop.folder.path().join("token"), token).unwrap();
    let mut proxy = laptop.proxy(Transport::Auto).await;
    let removed = laptop
        .deployment
        .blocking(|u| u.administer(&["user", "remove", "revoked"]).unwrap());
    removed.await;
    let ended = tokio::time::timeout(Duration::from_secs(5), proxy.line()).await;
    let ended = ended.expect("a line");
    assert!(ended.contains("has expired, or was revoked"), "{ended}");
    let refused = proxy.line().await;
    assert!(
        refused.contains("does not accept the credential"),
        "{refused}"
    );
    let client = proxy.client("revoked", Wire::WebSocket);
    // A request is answered, and does not wait for a session that does not come.
    let begun = Instant::now();
    let output = run(&mut curl_through(&proxy, "/version"), b"").await;
    assert_eq!(text(&output.stdout), "401", "{output:?}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    let said = client.fail(&["get", "--raw", "/version"]).await;
    assert!(said.contains("does not accept the credential"), "{said}");
    // Another token of the user's is shown, and requests are answered again.
    let kubeconfig = laptop
        .deployment
        .blocking(|u| u.kubeconfig("revoked", &["ops"]).unwrap());
    laptop.set_token(&token_of(&kubeconfig.await));
    eventually("requests are answered", async || {
        let output = run(&mut curl_through(&proxy, "/version"), b"").await;
        match text(&output.stdout).as_str() {
            "200" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
    proxy.terminate().await;
}

/// kubectl has nothing but the session's reset to show otherwise.
#[tokio::test]
async fn rule_12_a_watch_ends_with_a_status_before_its_session_does() {
    let laptop = Laptop::new().await;
    let kubeconfig = laptop
        .deployment
        .blocking(|u| u.kubeconfig("watcher", &["ops"]).unwrap());
    laptop.set_token(&token_of(&kubeconfig.await));
    let binding = ["--clusterrole=cluster-admin", "--user=watcher"];
    let bind = [
        &["create", "clusterrolebinding", "session-watcher"][..],
        &binding,
    ]
    .concat();
    laptop.deployment.admin(Wire::WebSocket).run(&bind).await;
    let mut proxy = laptop.proxy(Transport::Auto).await;
    let mut watches = Vec::new();
    for version in ["--http1.1", "--http2"] {
        let (url, token) = proxy.place();
        let path = "/api/v1/namespaces/default/configmaps?watch=true";
        let mut arguments = vec!["-k".to_owned(), "-sS".into(), "-N".into(), version.into()];
        arguments.push(format!("{url}{path}"));
        arguments.extend(["-H".into(), format!("Authorization: Bearer {token}")]);
        let mut command = curl(arguments);
        command.stdout(Stdio::piped()).kill_on_drop(true);
        let mut watch = command.spawn().unwrap();
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        let first = next(&mut lines).await;
        assert!(first.contains("ADDED"), "{first}");
        watches.push((watch, lines));
    }
    let removed = laptop
        .deployment
        .blocking(|u| u.administer(&["user", "remove", "watcher"]).unwrap());
    removed.await;
    for (mut watch, mut lines) in watches {
        let ending = async {
            let mut last = String::new();
            while let Some(line) = lines.next_line().await.unwrap() {
                last = line;
            }
            (last, watch.wait().await.unwrap())
        };
        let ended = tokio::time::timeout(Duration::from_secs(10), ending).await;
        let (last, status) = ended.expect("the watch goes on");
        let is_status = [r#""type":"ERROR""#, r#""kind":"Status""#];
        assert!(is_status.iter().all(|part| last.contains(part)), "{last}");
        assert!(status.success(), "{status}");
    }
    let ended = tokio::time::timeout(Duration::from_secs(5), proxy.line()).await;
    let ended = ended.expect("a line");
    assert!(ended.contains("has expired, or was revoked"), "{ended}");
    proxy.terminate().await;
}

/// A request through the proxy, which prints the status of the answer.
fn curl_through(proxy: &Proxy, path: &str) -> Command {
    let (url, token) = proxy.place();
    let mut arguments = vec![
        "-k".to_owned(),
        "-s".into(),
        "-o".into(),
        "/dev/null".into(),
    ];
    arguments.extend(["-w".into(), "%{http_code}".into(), format!("{url}{path}")]);
    arguments.extend(["-H".into(), format!("Authorization: Bearer {token}")]);
    curl(arguments)
}

/// The session is dialled where nothing answers.
#[tokio::test]
async fn a_command_that_never_ran_did_not_succeed() {
    let laptop = Laptop::new().await;
    let port = laptop.deployment.url().rsplit(':').next().unwrap().parse();
    let tcp_alone = Cutter::start(port.unwrap()).await;
    let arguments = [CLUSTER_NAME, "--", "true"];
    let mut command = laptop.command_at(tcp_alone.port, Transport::Quic, &arguments);
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let files = || std::fs::read_dir(laptop.folder.path()).unwrap().count();
    // The kubeconfig is written before the session is dialled.
    eventually("there is the kubeconfig", async || match files() {
        0 | 1 => Err(files()),
        _ => Ok(()),
    })
    .await;
    kill(&child, Signal::TERM);
    let ended = tokio::time::timeout(DEADLINE, child.wait()).await;
    assert_eq!(ended.unwrap().unwrap().code(), Some(143));
    assert_eq!(files(), 1, "the kubeconfig is left");
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let laptop = Laptop::new().await;
    let fails = async |arguments: &[&str], wanted: &str| {
        let output = run(&mut laptop.command(Transport::Auto, arguments), b"").await;
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(wanted), "{said}");
    };
    fails(&["nowhere"], "may not reach cluster nowhere").await;
    fails(
        &["--listen", "0.0.0.0:0"],
        "not an address of this machine alone",
    )
    .await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let holder = taken;
    let taken = holder.local_addr().unwrap().to_string();
    fails(&["--listen", &taken], &format!("cannot listen on {taken}")).await;
    fails(
        &["--kubeconfig", "/proc/none/x"],
        "cannot make /proc/none/x",
    )
    .await;
    laptop.path.set_down(true);
    fails(&[CLUSTER_NAME], "localhost:").await;
}
