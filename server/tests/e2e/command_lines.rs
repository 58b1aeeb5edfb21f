//! The programs' errors after a wrong start, and how they end.

use std::path::Path;

use tokio::net::{TcpListener, UdpSocket};
use tokio::process::Command;
use underpass_testenv::Transport;
use underpass_testenv::testing::{run, text};

use crate::deployment::{CLUSTER, Deployment, PROGRAMS, agent_token};

/// Runs a program that has to fail, and returns what it says.
async fn refusal(program: &Path, code: i32, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.env_clear().args(arguments);
    let output = run(&mut command, b"").await;
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}: {output:?}"
    );
    let said = text(&output.stderr);
    assert!(!said.contains("panicked"), "{said}");
    said
}

async fn server(code: i32, arguments: &[&str]) -> String {
    refusal(PROGRAMS.server(), code, arguments).await
}

async fn underpass(code: i32, arguments: &[&str]) -> String {
    refusal(PROGRAMS.cli(), code, arguments).await
}

async fn agent(code: i32, arguments: &[&str]) -> String {
    refusal(PROGRAMS.agent(), code, arguments).await
}

#[tokio::test]
async fn bad_flags_of_the_server_are_named() {
    for (arguments, wanted) in [
        (&["serve", "--listen", "nowhere"][..], "--listen"),
        (&["serve", "--drain", "soon"], "--drain"),
        (&["serve", "--no-such-flag"], "--no-such-flag"),
        (&["serve", "--log", "info,=debug"], "--log"),
        (
            &["serve", "--quic-congestion", "bbr"],
            "`bbr` is none of rate, cubic",
        ),
        (&["no-such-command"], "no-such-command"),
        (&["serve", "--api", "https://localhost:1"], "--api"),
    ] {
        let said = server(2, arguments).await;
        assert!(said.contains(wanted), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn bad_flags_of_underpass_are_named() {
    for (arguments, wanted) in [
        (&["cluster", "add", "Not_A_Name"][..], "Not_A_Name"),
        (&["kubeconfig", "--user", "alice"], "--cluster"),
        (&["no-such-command"], "no-such-command"),
        (&["login", "--data-dir", "data"], "--data-dir"),
    ] {
        let said = underpass(2, arguments).await;
        assert!(said.contains(wanted), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn a_reader_that_has_read_enough_is_no_error() {
    let mut command = std::process::Command::new(PROGRAMS.cli());
    command.env_clear().args(["completion", "zsh"]);
    command.stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(&output.stderr), "");
}

/// One login is the server to ask; with none, or several, both ways to name one are told.
#[tokio::test]
async fn underpass_says_how_to_name_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().to_str().unwrap();
    let asked = async |more: &[&str]| {
        let mut command = Command::new(PROGRAMS.cli());
        command.env_clear().env("HOME", home).current_dir(home);
        let output = run(command.args(more), b"").await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        text(&output.stderr)
    };
    let said = asked(&["cluster", "list"]).await;
    assert!(
        said.contains("--api URL") && said.contains("--socket PATH"),
        "{said}"
    );
    let both = ["--api", "https://localhost:1", "--socket", "x", "whoami"];
    let said = asked(&both).await;
    assert!(said.contains("give one of them"), "{said}");
    let mut command = Command::new(PROGRAMS.cli());
    command
        .env_clear()
        .env("UNDERPASS_API", "https://localhost:1");
    command.args(["whoami", "--socket", "/nowhere/api.sock"]);
    let said = text(&run(&mut command, b"").await.stderr);
    assert!(said.contains("no server answers at /nowhere"), "{said}");
    let said = asked(&["--api", "localhost:1", "whoami"]).await;
    assert!(said.contains("is not https://HOST[:PORT]"), "{said}");
    let logins = dir.path().join(".config/underpass/logins");
    std::fs::create_dir_all(&logins).unwrap();
    let log_in = |name: &str| {
        let login = serde_json::json!({
            "url": format!("https://{name}:1/"), "caPem": CLUSTER.ca_pem(), "user": "u", "tokenId": "i",
            "token": "upt_x", "created": "2020-01-01T00:00:00Z", "expires": "2020-01-02T00:00:00Z",
        });
        std::fs::write(logins.join(format!("{name}_1.json")), login.to_string()).unwrap();
    };
    log_in("one");
    let said = asked(&["whoami"]).await;
    assert!(said.contains("login at https://one:1 has ended"), "{said}");
    log_in("two");
    let said = asked(&["whoami"]).await;
    assert!(said.contains("https://one:1 and https://two:1"), "{said}");
    assert!(
        said.contains("--api URL") && said.contains("--socket PATH"),
        "{said}"
    );
}

#[tokio::test]
async fn a_budget_that_lets_nothing_through_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let flags = ["--listen", "127.0.0.1:0", "--requests-per-user", "0"];
    let said = server(1, &[&["--data-dir", data, "serve"][..], &flags].concat()).await;
    assert!(
        said.contains("the number of requests per user must be at least 1"),
        "{said}"
    );
}

#[tokio::test]
async fn bad_flags_of_the_agent_are_named() {
    for (arguments, wanted) in [
        (
            &["--server", "http://localhost"][..],
            "expected https://HOST[:PORT]",
        ),
        (
            &["--server", "localhost:8443"],
            "expected https://HOST[:PORT]",
        ),
        (&["--transport", "carrier-pigeon"], "auto, quic, websocket"),
        (&["--log", "a=b=c"], "--log"),
        (
            &["--quic-congestion", "bbr"],
            "`bbr` is none of rate, cubic",
        ),
        (&["--ca-pin", "abcd"], "`underpass-server ca-pin` prints it"),
        (&[], "--token-file"),
        (&[], "<--ca-file <FILE>|--ca-pin <sha256:HEX>>"),
    ] {
        let said = agent(2, arguments).await;
        assert!(said.contains(wanted), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn a_missing_data_directory_is_made_or_explained() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("not/there");
    let missing = missing.to_str().unwrap();
    let socket = format!("{missing}/api.sock");
    let write = ["kubeconfig", "--user", "a", "--cluster", "b"];
    let said = underpass(1, &[&["--socket", &socket][..], &write].concat()).await;
    assert!(said.contains("Start `underpass-server serve`"), "{said}");
    let said = server(1, &["--data-dir", missing, "recover"]).await;
    assert!(said.contains("has no directory to recover"), "{said}");
    let said = server(1, &["--data-dir", missing, "ca-pin"]).await;
    assert!(
        said.contains("start `underpass-server serve` once"),
        "{said}"
    );
    let said = server(1, &["--data-dir", "/dev/null/data", "serve"]).await;
    assert!(said.contains("cannot create /dev/null/data"), "{said}");
    let socket = Deployment::shared(Transport::Quic).socket();
    let socket = socket.to_str().unwrap();
    let said = underpass(1, &["--socket", socket, "token", "revoke", "abc"]).await;
    assert!(said.contains("there is no token `abc`"), "{said}");
}

#[tokio::test]
async fn a_kubeconfig_for_an_unknown_cluster_says_how_to_make_it() {
    let deployment = Deployment::shared(Transport::Quic);
    let socket = deployment.socket();
    let socket = socket.to_str().unwrap();
    let write = ["kubeconfig", "--user", "unmade", "--cluster", "b"];
    let said = underpass(1, &[&["--socket", socket][..], &write].concat()).await;
    assert!(said.contains("underpass cluster add b"), "{said}");
    let users = deployment.administer(&["user", "list"]).unwrap();
    assert_eq!(
        users
            .lines()
            .filter(|line| line.starts_with("unmade"))
            .count(),
        0,
        "a user was made nevertheless: {users}"
    );
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    let said = server(1, &["--data-dir", data, "serve", "--listen", &address]).await;
    assert!(
        said.contains(&format!("cannot listen on TCP {address}")),
        "{said}"
    );
    assert!(said.contains("in use"), "{said}");

    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap().to_string();
    let said = server(1, &["--data-dir", data, "serve", "--listen", &address]).await;
    assert!(
        said.contains("cannot listen for QUIC") && said.contains("in use"),
        "{said}"
    );
}

#[tokio::test]
async fn a_broken_directory_stops_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    std::fs::write(dir.path().join("directory.redb"), "users: 7\n").unwrap();
    let said = server(1, &["--data-dir", data, "serve", "--listen", "127.0.0.1:0"]).await;
    assert!(
        said.contains("directory.redb is no directory of Underpass's, or is damaged"),
        "{said}"
    );
}

#[tokio::test]
async fn files_that_the_agent_cannot_use_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let ca = file("ca.pem", CLUSTER.ca_pem());
    let noise = file("noise", "no PEM, no token, no kubeconfig: {");
    let secret = agent_token();
    let whole = file("whole.token", &secret);
    let half = file("half.token", &secret[..secret.len() / 2]);
    let absent = dir.path().join("absent").to_str().unwrap().to_owned();
    for (ca, token, kubeconfig, wanted) in [
        (&absent, &whole, &noise, format!("cannot read {absent}")),
        (&noise, &whole, &noise, "CA".to_owned()),
        (&ca, &absent, &noise, format!("cannot read {absent}")),
        (&ca, &noise, &noise, format!("no agent token in {noise}")),
        (&ca, &half, &noise, format!("no agent token in {half}")),
        (
            &ca,
            &whole,
            &absent,
            format!("cannot use kubeconfig {absent}"),
        ),
        (
            &ca,
            &whole,
            &noise,
            format!("cannot use kubeconfig {noise}"),
        ),
    ] {
        let files = [
            "--ca-file",
            ca,
            "--token-file",
            token,
            "--kubeconfig",
            kubeconfig,
        ];
        let said = agent(
            1,
            &[&["--server", "https://localhost:1"][..], &files].concat(),
        )
        .await;
        assert!(said.contains(&wanted), "{said}");
        assert!(!said.contains(secret.trim()), "a token in an error: {said}");
    }
}

/// The agent ends before it asks any server.
#[tokio::test]
async fn a_key_file_that_cannot_be_used_is_named() {
    use std::os::unix::fs::PermissionsExt as _;

    let set_mode = |path: &str, mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, permissions).unwrap();
    };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("ca"), CLUSTER.ca_pem()).unwrap();
    let secret = agent_token();
    std::fs::write(path("open"), &secret).unwrap();
    set_mode(&path("open"), 0o644);
    std::fs::write(path("noise"), "no key").unwrap();
    set_mode(&path("noise"), 0o600);
    for (key, wanted) in [
        (path("open"), "chmod 600"),
        (path("noise"), "holds no key"),
        (path("none/key"), "its folder must exist"),
    ] {
        let flags = ["--server", "https://localhost:1", "--ca-file", &path("ca")];
        let said = agent(1, &[&flags[..], &["--key-file", &key]].concat()).await;
        assert!(said.contains(wanted) && said.contains(&key), "{said}");
        assert!(!said.contains(secret.trim()), "a key in an error: {said}");
    }
}

#[tokio::test]
async fn an_agent_outside_of_a_pod_is_told_of_kubeconfig() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, CLUSTER.ca_pem()).unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, agent_token()).unwrap();
    let files = [
        "--ca-file",
        ca.to_str().unwrap(),
        "--token-file",
        token.to_str().unwrap(),
    ];
    let said = agent(
        1,
        &[&["--server", "https://localhost:1"][..], &files].concat(),
    )
    .await;
    assert!(said.contains("give --kubeconfig"), "{said}");
}

/// Reading it waits until something writes.
#[tokio::test]
async fn a_server_stops_while_it_reads_a_pipe_at_its_start() {
    use rustix::{fs, process};

    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    fs::mkfifoat(fs::CWD, &pipe, fs::Mode::RUSR | fs::Mode::WUSR).unwrap();
    let mut child = Command::new(PROGRAMS.server())
        .env_clear()
        .arg("--data-dir")
        .arg(folder.path().join("data"))
        .args(["serve", "--listen", "127.0.0.1:0", "--authentication"])
        .arg(&pipe)
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let id = child.id().unwrap();
    let signal = process::Signal::TERM;
    // The last signal that is caught at the start: from then on SIGTERM is heard.
    let last = process::Signal::XFSZ;
    let caught = || {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
        caught & (1 << (last.as_raw() - 1)) != 0
    };
    let ended = async {
        while !caught() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let pid = process::Pid::from_raw(id.cast_signed()).unwrap();
        process::kill_process(pid, signal).unwrap();
        child.wait().await.unwrap()
    };
    let ended = tokio::time::timeout(std::time::Duration::from_secs(60), ended).await;
    assert!(ended.expect("it ends").success());
}
