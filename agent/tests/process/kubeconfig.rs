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
