//! What kubectl streams, directly against the API server, over both of its protocols. This is what proves the kubelet
//! stand-in: a test that passes here and fails through the tunnel has found something in the tunnel.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests state expectations as tests do; the lints know only functions marked as tests"
)]

mod common;

use common::{
    CLUSTER, DEADLINE, Reading, Wire, create, eventually, idle_pod, kubectl, noise, pod, run,
    spawn, succeed, text, wait_ready,
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// What `cp` and the large transfers move.
const LARGE: usize = 8 << 20;

/// Every test of this file, over one protocol.
macro_rules! over {
    ($module:ident, $wire:expr, $($test:ident),* $(,)?) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test($wire).await;
                }
            )*
        }
    };
}

macro_rules! over_both {
    ($($test:ident),* $(,)?) => {
        over!(websocket, super::Wire::WebSocket, $($test),*);
        over!(spdy, super::Wire::Spdy, $($test),*);
    };
}

over_both!(
    exec_keeps_streams_and_exit_code_apart,
    exec_carries_the_end_of_input,
    exec_carries_8_mib_both_ways,
    exec_runs_where_the_pod_does,
    exec_reports_a_missing_command,
    exec_on_a_terminal,
    exec_ends_when_its_client_does,
    attach_reaches_the_main_process,
    attach_to_a_terminal,
    port_forward_to_a_pod,
    port_forward_to_a_service,
    port_forward_to_a_closed_port,
    cp_8_mib_both_ways,
    the_protocol_is_the_one_meant,
);

/// A pod of its own for a test.
async fn target(test: &str, wire: Wire) -> String {
    let name = format!("{test}-{}", wire.name());
    idle_pod(&CLUSTER, &name).await;
    name
}

fn exec(wire: Wire, pod: &str, flags: &[&str], command: &[&str]) -> Command {
    let mut kubectl = wire.kubectl(&CLUSTER);
    kubectl
        .arg("exec")
        .args(flags)
        .arg(pod)
        .arg("--")
        .args(command);
    kubectl
}

async fn exec_keeps_streams_and_exit_code_apart(wire: Wire) {
    let pod = target("exec", wire).await;
    let script = "echo out; echo err >&2; exit 7";
    let output = run(&mut exec(wire, &pod, &[], &["sh", "-c", script]), b"").await;
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(text(&output.stdout), "out\n");
    assert_eq!(
        text(&output.stderr),
        "err\ncommand terminated with exit code 7\n"
    );
}

async fn exec_carries_the_end_of_input(wire: Wire) {
    let pod = target("stdin-eof", wire).await;
    let output = succeed(
        &mut exec(wire, &pod, &["-i"], &["sh", "-c", "cat; echo end"]),
        b"some\n",
    )
    .await;
    assert_eq!(text(&output), "some\nend\n");
}

async fn exec_carries_8_mib_both_ways(wire: Wire) {
    let pod = target("large", wire).await;
    let input = noise(LARGE);
    let output = succeed(&mut exec(wire, &pod, &["-i"], &["cat"]), &input).await;
    assert_eq!(output.len(), input.len());
    assert!(
        output == input,
        "the same number of bytes, but not the same bytes"
    );
}

async fn exec_runs_where_the_pod_does(wire: Wire) {
    let pod = target("where", wire).await;
    let script = "echo here > file; echo $HOSTNAME; pwd; readlink /proc/$PPID/exe";
    let output = text(&succeed(&mut exec(wire, &pod, &[], &["sh", "-c", script]), b"").await);
    let mut lines = output.lines();
    assert_eq!(lines.next(), Some(pod.as_str()));
    let dir = lines.next().unwrap().to_owned();
    assert!(
        std::path::Path::new(&dir).starts_with(CLUSTER.dir()),
        "{dir}"
    );
    assert_eq!(
        std::fs::read_to_string(format!("{dir}/file")).unwrap(),
        "here\n"
    );
}

async fn exec_reports_a_missing_command(wire: Wire) {
    let pod = target("missing", wire).await;
    let output = run(&mut exec(wire, &pod, &[], &["no-such-command"]), b"").await;
    assert!(!output.status.success());
    assert!(
        text(&output.stderr).contains("executable file not found"),
        "{output:?}"
    );
}

/// A shell command on a pseudo-terminal, which `script` provides; its own first line says which one.
struct Terminal {
    child: Child,
    stdin: tokio::process::ChildStdin,
    screen: Reading<tokio::process::ChildStdout>,
    device: String,
}

impl Terminal {
    async fn run(wire: Wire, arguments: &str) -> Self {
        let kubectl = wire.kubectl(&CLUSTER);
        let kubectl = kubectl.as_std();
        let program = kubectl.get_program().to_str().unwrap();
        let script = format!("tty; stty rows 40 cols 100; exec '{program}' {arguments}");
        let mut command = Command::new("script");
        command.env_clear().args(["-qefc", &script, "/dev/null"]);
        command.envs(
            kubectl
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        command.env("SHELL", "/bin/sh").env("TERM", "xterm");
        let mut child = spawn(&mut command);
        let mut screen = Reading::new(child.stdout.take().unwrap());
        let device = screen.until("\n").await.trim().to_owned();
        Self {
            stdin: child.stdin.take().unwrap(),
            screen,
            child,
            device,
        }
    }

    async fn send(&mut self, keys: &str) {
        self.stdin.write_all(keys.as_bytes()).await.unwrap();
    }

    async fn expect(&mut self, wanted: &str) {
        self.screen.until(wanted).await;
    }

    async fn exit_code(mut self) -> Option<i32> {
        let status = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        status.expect("the terminal's command ends").unwrap().code()
    }
}

async fn exec_on_a_terminal(wire: Wire) {
    let pod = target("tty", wire).await;
    let mut terminal = Terminal::run(wire, &format!("exec -it {pod} -- sh")).await;
    // The quotes keep the terminal's echo of a command from looking like its output.
    terminal
        .send("test -t 0 && test -t 1 && echo is-a''-tty; stty size\n")
        .await;
    terminal.expect("is-a-tty").await;
    terminal.expect("40 100").await;

    let resize = ["-F", &terminal.device, "rows", "50", "cols", "120"];
    succeed(Command::new("stty").args(resize), b"").await;
    terminal
        .send("until [ \"$(stty size)\" = '50 120' ]; do :; done; echo resi''zed\n")
        .await;
    terminal.expect("resized").await;

    // What says so is already the terminal's foreground job: Ctrl-C cannot reach the shell in its place.
    terminal
        .send("sh -c \"echo sleep''ing; exec sleep 1000\"\n")
        .await;
    terminal.expect("sleeping").await;
    terminal.send("\x03").await;
    terminal.send("echo after=$?\n").await;
    terminal.expect("after=130").await;

    terminal.send("exit 5\n").await;
    assert_eq!(terminal.exit_code().await, Some(5));
}

async fn exec_ends_when_its_client_does(wire: Wire) {
    let pod = target("hangup", wire).await;
    let mut terminal = Terminal::run(wire, &format!("exec -it {pod} -- sh")).await;
    terminal.send("echo pid=''$$.\n").await;
    let find = |seen: &str| {
        let pid = seen
            .split("pid=")
            .find_map(|rest| rest.split_once('.')?.0.parse::<u32>().ok())?;
        Some((pid, seen.len()))
    };
    let pid = terminal.screen.until_some("pid=<number>.", find).await;
    assert!(common::alive(pid));
    terminal.child.kill().await.unwrap();
    eventually("the shell ends", async || {
        if common::alive(pid) { Err(pid) } else { Ok(()) }
    })
    .await;
}

/// A pod whose main process answers what it reads.
fn echoing(name: &str, tty: bool) -> Value {
    let mut manifest = pod(
        name,
        "while read line; do echo \"got $line\"; echo \"log $line\" >&2; done",
    );
    let container = &mut manifest["spec"]["containers"][0];
    container["stdin"] = json!(true);
    container["tty"] = json!(tty);
    manifest
}

async fn attach_reaches_the_main_process(wire: Wire) {
    let name = format!("attach-{}", wire.name());
    create(&CLUSTER, &echoing(&name, false)).await;
    wait_ready(&CLUSTER, &name).await;
    let mut attach = wire.kubectl(&CLUSTER);
    let mut child = spawn(attach.args(["attach", "-i", &name]));
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = Reading::new(child.stdout.take().unwrap());
    let mut stderr = Reading::new(child.stderr.take().unwrap());
    for line in ["one", "two"] {
        stdin
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
        stdout.until(&format!("got {line}\n")).await;
        stderr.until(&format!("log {line}\n")).await;
    }
    child.kill().await.unwrap();
    // Another client finds the same process, which has heard both.
    let logs = kubectl(&CLUSTER, &["logs", &name]).await;
    for line in ["got one", "got two"] {
        assert_eq!(logs.lines().filter(|l| *l == line).count(), 1, "{logs}");
    }
}

async fn attach_to_a_terminal(wire: Wire) {
    let name = format!("attach-tty-{}", wire.name());
    create(&CLUSTER, &echoing(&name, true)).await;
    wait_ready(&CLUSTER, &name).await;
    let mut terminal = Terminal::run(wire, &format!("attach -it {name}")).await;
    terminal.send("hello\n").await;
    terminal.expect("got hello").await;
    // The end of input, as the terminal's own key; then the pod's process ends, and attach with it.
    terminal.send("\x04").await;
    assert_eq!(terminal.exit_code().await, Some(0));
}

/// A server that answers each connection only when it has seen its end: with the length, then the bytes.
async fn echo_after_the_end() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut all = Vec::new();
                connection.read_to_end(&mut all).await.unwrap();
                connection
                    .write_all(format!("{}\n", all.len()).as_bytes())
                    .await
                    .unwrap();
                connection.write_all(&all).await.unwrap();
                connection.shutdown().await.unwrap();
            });
        }
    });
    port
}

/// Runs `kubectl port-forward` and returns it with the local port that it has chosen.
async fn forward(wire: Wire, target: &str, port: &str) -> (Child, u16) {
    let mut command = wire.kubectl(&CLUSTER);
    command.args(["port-forward", "--address=127.0.0.1", target, port]);
    let mut child = spawn(&mut command);
    let mut stdout = Reading::new(child.stdout.as_mut().unwrap());
    let seen = stdout.until(" -> ").await;
    let local = seen
        .split("127.0.0.1:")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    (child, local.parse().unwrap())
}

async fn round_trip(port: u16, bytes: &[u8]) {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let exchange = async {
        connection.write_all(bytes).await.unwrap();
        connection.shutdown().await.unwrap();
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(DEADLINE, exchange)
        .await
        .expect("an answer");
    let expected = [format!("{}\n", bytes.len()).as_bytes(), bytes].concat();
    assert_eq!(answer.len(), expected.len());
    assert!(
        answer == expected,
        "the same number of bytes, but not the same bytes"
    );
}

async fn port_forward_to_a_pod(wire: Wire) {
    let pod = target("forward", wire).await;
    let server = echo_after_the_end().await;
    let (mut child, local) = forward(wire, &format!("pod/{pod}"), &format!(":{server}")).await;
    round_trip(local, b"a little").await;
    round_trip(local, b"").await;
    let large = noise(LARGE);
    tokio::join!(
        round_trip(local, &large),
        round_trip(local, &large),
        round_trip(local, b"beside")
    );
    child.kill().await.unwrap();
}

async fn port_forward_to_a_service(wire: Wire) {
    let pod = target("service", wire).await;
    let server = echo_after_the_end().await;
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": pod },
        "spec": { "selector": { "app": pod }, "ports": [{ "port": 80, "targetPort": server }] },
    });
    create(&CLUSTER, &service).await;
    let (mut child, local) = forward(wire, &format!("svc/{pod}"), ":80").await;
    round_trip(local, b"to the service").await;
    child.kill().await.unwrap();
}

async fn port_forward_to_a_closed_port(wire: Wire) {
    let pod = target("closed", wire).await;
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let (mut child, local) = forward(wire, &format!("pod/{pod}"), &format!(":{free}")).await;
    let mut connection = TcpStream::connect(("127.0.0.1", local)).await.unwrap();
    let mut stderr = Reading::new(child.stderr.as_mut().unwrap());
    stderr.until("connection refused").await;
    let mut nothing = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, connection.read_to_end(&mut nothing)).await;
    assert!(ended.is_ok(), "the local connection stays open");
    assert!(nothing.is_empty());
}

async fn cp_8_mib_both_ways(wire: Wire) {
    let pod = target("cp", wire).await;
    let dir = tempfile::tempdir().unwrap();
    let (there, back) = (dir.path().join("there"), dir.path().join("back"));
    let bytes = noise(LARGE);
    std::fs::write(&there, &bytes).unwrap();
    let copy = |from: String, to: String| {
        let mut command = wire.kubectl(&CLUSTER);
        command.args(["cp", &from, &to]);
        command
    };
    let remote = format!("{pod}:copied");
    succeed(&mut copy(there.display().to_string(), remote.clone()), b"").await;
    let sum = succeed(&mut exec(wire, &pod, &[], &["wc", "-c", "copied"]), b"").await;
    assert_eq!(text(&sum), format!("{LARGE} copied\n"));
    succeed(&mut copy(remote, back.display().to_string()), b"").await;
    assert!(
        std::fs::read(&back).unwrap() == bytes,
        "what came back differs"
    );
}

async fn the_protocol_is_the_one_meant(wire: Wire) {
    let pod = target("protocol", wire).await;
    succeed(&mut exec(wire, &pod, &[], &["true"]), b"").await;
    let log = CLUSTER.audit_log().unwrap();
    let events: Vec<Value> = eventually("the exec in the audit log", async || {
        let events: Vec<Value> = std::fs::read_to_string(log)
            .unwrap()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|e| e["objectRef"]["name"] == pod && e["objectRef"]["subresource"] == "exec")
            .collect();
        if events.is_empty() {
            Err("none")
        } else {
            Ok(events)
        }
    })
    .await;
    for event in events {
        assert_eq!(event["verb"], wire.verb(), "{event}");
        assert_eq!(event["responseStatus"]["code"], 101, "{event}");
    }
}

#[tokio::test]
async fn logs_select_and_stamp() {
    let script = "echo first; echo second >&2; printf 'no end'; exec sleep 100000";
    create(&CLUSTER, &pod("logs", script)).await;
    wait_ready(&CLUSTER, "logs").await;
    let logs = async |flags: &[&str]| kubectl(&CLUSTER, &[&["logs", "logs"], flags].concat()).await;
    let all = eventually("both lines", async || {
        let all = logs(&[]).await;
        if all.lines().count() == 2 {
            Ok(all)
        } else {
            Err(all)
        }
    })
    .await;
    // Two pipes: their order is the scheduler's.
    let mut lines: Vec<_> = all.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["first", "second"]);
    assert_eq!(logs(&["--tail=1"]).await.lines().count(), 1);
    assert_eq!(logs(&["--tail=0"]).await, "");
    assert_eq!(logs(&["--limit-bytes=3"]).await.len(), 3);
    assert_eq!(logs(&["--since=1h"]).await, all);
    assert_eq!(logs(&["--since-time=2100-01-01T00:00:00Z"]).await, "");
    for line in logs(&["--timestamps"]).await.lines() {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(
            time.starts_with("20") && time.contains('T') && time.ends_with('Z'),
            "{line}"
        );
        assert!(["first", "second"].contains(&rest), "{line}");
    }
}

#[tokio::test]
async fn logs_are_followed_line_by_line() {
    // It writes a line for each that it is told to, so that a line seen is one that was written just now.
    let script = "mkfifo go; while :; do read line < go || continue; echo \"line $line\"; \
                  if [ $line = last ]; then exit 0; fi; done";
    let mut manifest = pod("follow", script);
    manifest["spec"]["restartPolicy"] = json!("Never");
    create(&CLUSTER, &manifest).await;
    wait_ready(&CLUSTER, "follow").await;
    let mut command = Command::from(CLUSTER.kubectl());
    let mut child = spawn(command.args(["logs", "-f", "follow"]));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for word in ["1", "2", "last"] {
        let tell = format!("until [ -p go ]; do sleep 0.1; done; echo {word} > go");
        // Whether the last one succeeds is open: it ends with the container, which it has just told to end.
        run(
            &mut exec(Wire::WebSocket, "follow", &[], &["sh", "-c", &tell]),
            b"",
        )
        .await;
        let line = tokio::time::timeout(DEADLINE, lines.next_line())
            .await
            .expect("a line")
            .unwrap();
        assert_eq!(line, Some(format!("line {word}")));
    }
    // The container has ended, and so does what follows it.
    let end = tokio::time::timeout(DEADLINE, lines.next_line())
        .await
        .expect("the end")
        .unwrap();
    assert_eq!(end, None);
    assert!(child.wait().await.unwrap().success());
}

#[tokio::test]
async fn logs_of_the_previous_run_are_kept() {
    let script =
        "if [ -e ran ]; then echo second; exec sleep 100000; fi; touch ran; echo first; exit 1";
    create(&CLUSTER, &pod("previous", script)).await;
    let restarts = eventually("a restart", async || {
        let path = ".status.containerStatuses[0].restartCount";
        let count = common::field(&CLUSTER, "pod/previous", path).await;
        if count == "1" { Ok(count) } else { Err(count) }
    })
    .await;
    assert_eq!(restarts, "1");
    assert_eq!(
        kubectl(&CLUSTER, &["logs", "--previous", "previous"]).await,
        "first\n"
    );
    eventually("the second run's log", async || {
        match kubectl(&CLUSTER, &["logs", "previous"]).await {
            log if log == "second\n" => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn a_node_without_websockets_streams_too() {
    let options = underpass_testenv::ClusterOptions::default().with_node_websockets(false);
    let cluster = underpass_testenv::Cluster::start(options).await.unwrap();
    idle_pod(&cluster, "older").await;
    for wire in [Wire::WebSocket, Wire::Spdy] {
        let mut command = wire.kubectl(&cluster);
        command.args(["exec", "-i", "older", "--", "sh", "-c", "cat; exit 3"]);
        let output = run(&mut command, b"through").await;
        assert_eq!(text(&output.stdout), "through");
        assert_eq!(output.status.code(), Some(3));
    }
}
