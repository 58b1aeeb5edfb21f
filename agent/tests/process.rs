//! The agent as a process: signals, and its limit of open files.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests state expectations as tests do; the lints know only functions marked as tests"
)]

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use underpass_tunnel::AgentKey;

const DEADLINE: Duration = Duration::from_secs(60);

/// Nothing listens there.
const KUBECONFIG: &str = "{apiVersion: v1, kind: Config, current-context: x, clusters: [{name: c, cluster: {server: \
                          'https://127.0.0.1:1'}}], contexts: [{name: x, context: {cluster: c, user: u}}], users: [{name: \
                          u, user: {token: t}}]}";

/// An agent whose server and API server are away. It ends with its owner.
struct Agent {
    child: Child,
    folder: tempfile::TempDir,
}

fn write_token(folder: &Path, seed: u8) {
    let key = AgentKey::from_seed([seed; 32]).unwrap();
    fs::write(folder.join("token"), key.to_secret_text().as_str()).unwrap();
}

impl Agent {
    fn start() -> Self {
        Self::start_with(KUBECONFIG)
    }

    fn start_with(kubeconfig: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_token(folder.path(), 1);
        fs::write(folder.path().join("kubeconfig"), kubeconfig).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let child = Command::new("sh")
            .args(["-c", "ulimit -S -n 64; exec \"$0\" \"$@\""])
            .arg(env!("CARGO_BIN_EXE_underpass-agent"))
            .args(["--server", "https://127.0.0.1:1", "--ca-pin"])
            .arg(format!("sha256:{}", "0".repeat(64)))
            .args(["--token-file", "token", "--kubeconfig", "kubeconfig"])
            .current_dir(folder.path())
            .env_remove("UNDERPASS_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Waits until it has said so.
    fn logs(&mut self, what: &str) {
        let deadline = Instant::now() + DEADLINE;
        while !self.log().contains(what) {
            let ended = self.child.try_wait().unwrap();
            assert_eq!(ended, None, "{}", self.log());
            assert!(Instant::now() < deadline, "no {what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn signals_that_ask_for_files_to_be_read_end_no_agent() {
    let mut agent = Agent::start();
    agent.logs("trying again");
    for (signal, name) in [
        (Signal::HUP, "signal=\"SIGHUP\""),
        (Signal::USR1, "signal=\"SIGUSR1\""),
        (Signal::USR2, "signal=\"SIGUSR2\""),
    ] {
        agent.signal(signal);
        agent.logs(name);
    }
    assert!(!agent.log().contains("connecting anew"), "the same token");
    fs::write(agent.folder.path().join("token"), "damaged").unwrap();
    agent.signal(Signal::HUP);
    agent.logs("keeping the connection to the server as it was");
    fs::write(agent.folder.path().join("kubeconfig"), "clusters: 7").unwrap();
    agent.signal(Signal::HUP);
    agent.logs("keeping the API server as it was");
    write_token(agent.folder.path(), 2);
    agent.signal(Signal::HUP);
    agent.logs("connecting anew");
    agent.signal(Signal::TERM);
    assert!(agent.ended().success(), "{}", agent.log());
}

#[test]
fn the_soft_limit_of_open_files_is_none() {
    let mut agent = Agent::start();
    agent.logs("trying again");
    let limits = fs::read_to_string(format!("/proc/{}/limits", agent.child.id())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let mut numbers = files.unwrap().split_whitespace().skip(3);
    assert_eq!(numbers.next(), numbers.next(), "{limits}");
}

/// A kubeconfig whose user has a plugin that is told a secret.
fn with_plugin(script: &str) -> String {
    let exec = format!(
        "exec: {{apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, command: sh, args: [-c, '{script}'], \
         env: [{{name: KEY, value: hunter2}}]}}"
    );
    KUBECONFIG.replace("token: t", &exec)
}

#[test]
fn rule_11_an_agents_log_has_no_secret_of_its_kubeconfig() {
    let unusable = [
        KUBECONFIG.replace("token: t", "token: \"hunter2"),
        KUBECONFIG.replace("token: t}}]}", "token: hunter2"),
        KUBECONFIG.replace("token: t", "token: [hunter2]"),
        KUBECONFIG.replace(
            "token: t",
            "client-key-data: hunter2!, client-certificate-data: Y2E=",
        ),
        with_plugin("echo hunter2; echo hunter2 >&2; exit 1"),
        with_plugin("echo hunter2"),
        with_plugin("no-such-program hunter2"),
    ];
    for kubeconfig in &unusable {
        let mut agent = Agent::start_with(kubeconfig);
        assert!(!agent.ended().success());
        let log = agent.log();
        assert!(log.contains("ERROR"), "{log}");
        assert!(!log.contains("hunter2"), "{log}");
    }
    let mut agent = Agent::start();
    agent.logs("trying again");
    for (number, kubeconfig) in unusable.iter().enumerate() {
        fs::write(agent.folder.path().join("kubeconfig"), kubeconfig).unwrap();
        agent.signal(Signal::HUP);
        let deadline = Instant::now() + DEADLINE;
        let kept = "keeping the API server as it was";
        while agent.log().matches(kept).count() <= number {
            assert!(Instant::now() < deadline, "{}", agent.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    assert!(!agent.log().contains("hunter2"), "{}", agent.log());
}
