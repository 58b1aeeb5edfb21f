//! Kubeconfigs that cannot be used.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Agent, DEADLINE, KUBECONFIG};

/// A kubeconfig whose user has a plugin that is told a secret.
fn with_plugin(script: &str) -> String {
    let exec = format!(
        "exec: {{apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, command: sh, args: [-c, '{script}'], \
         env: [{{name: KEY, value: hunter2}}]}}"
    );
    KUBECONFIG.replace("token: t", &exec)
}

fn start_with(kubeconfig: &str) -> Agent {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("kubeconfig"), kubeconfig).unwrap();
    Agent::start_in(folder, &Agent::away())
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
    ];
    let failing = [
        with_plugin("echo hunter2; echo hunter2 >&2; exit 1"),
        with_plugin("echo hunter2"),
        with_plugin("no-such-program hunter2"),
    ];
    for kubeconfig in &unusable {
        let mut agent = start_with(kubeconfig);
        assert!(!agent.ended().success());
        let log = agent.log();
        assert!(log.contains("ERROR"), "{log}");
        assert!(!log.contains("hunter2"), "{log}");
    }
    for kubeconfig in &failing {
        let mut agent = start_with(kubeconfig);
        agent.logs("the exec plugin");
        agent.logs("trying again");
        assert!(!agent.log().contains("hunter2"), "{}", agent.log());
    }
    let mut agent = Agent::start();
    agent.logs("trying again");
    for (number, kubeconfig) in unusable.iter().chain(&failing).enumerate() {
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

/// Its users hear of it from requests, and the log says so.
#[test]
fn an_agent_whose_plugin_fails_connects_and_runs_it_again() {
    let answer = r#"{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"t"}}"#;
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("kubeconfig"),
        with_plugin("test -e works || exit 3; cat works"),
    )
    .unwrap();
    let mut agent = Agent::start_in(folder, &Agent::away());
    agent.logs("the exec plugin failed (exit status: 3)");
    agent.logs("asking again");
    agent.logs("trying again");
    fs::write(agent.folder.path().join("works"), answer).unwrap();
    // With a token it finds that nothing listens at the API server's address.
    agent.logs("cannot connect");
}

/// A process of the plugin's, by a file that it writes when it begins.
fn process(agent: &mut Agent, file: &str) -> String {
    let path = agent.folder.path().join(file);
    let deadline = Instant::now() + DEADLINE;
    loop {
        match fs::read_to_string(&path) {
            Ok(id) if id.ends_with('\n') => return id.trim().to_owned(),
            _ => assert!(Instant::now() < deadline, "{}", agent.log()),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn lives(process: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// A plugin has 20 s.
#[test]
fn an_agent_stops_at_once_while_a_plugin_hangs_and_ends_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = with_plugin("sleep 600 & echo $! > child; echo $$ > plugin; wait");
    fs::write(folder.path().join("kubeconfig"), kubeconfig).unwrap();
    let mut agent = Agent::start_in(folder, &Agent::away());
    let processes = ["child", "plugin"].map(|file| process(&mut agent, file));
    let asked = Instant::now();
    agent.signal(Signal::TERM);
    assert!(agent.ended().success(), "{}", agent.log());
    assert!(asked.elapsed() < Duration::from_secs(10), "{}", agent.log());
    let deadline = Instant::now() + DEADLINE;
    while processes.iter().any(|process| lives(process)) {
        assert!(Instant::now() < deadline, "{processes:?} live");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Reading it waits until something writes.
#[test]
fn an_agent_stops_while_it_reads_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
    let kubeconfig = KUBECONFIG.replace("token: t", "tokenFile: pipe");
    fs::write(folder.path().join("kubeconfig"), kubeconfig).unwrap();
    let mut agent = Agent::start_in(folder, &Agent::away());
    let deadline = Instant::now() + DEADLINE;
    while !hears(&agent) {
        assert!(Instant::now() < deadline, "{}", agent.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    agent.signal(Signal::TERM);
    assert!(agent.ended().success(), "{}", agent.log());
}

/// Whether a signal is heard: the last one that is caught at the start is.
fn hears(agent: &Agent) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.child.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
    caught & (1 << (Signal::XFSZ.as_raw() - 1)) != 0
}
