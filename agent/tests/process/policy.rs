//! `underpass-agent policy`, and an agent whose policy has a mistake.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::harness::Agent;

const POLICY: &str = "\
tcp:
  - name: databases
    services: [prod/postgres, monitoring/*]
    addresses: [10.0.0.0/8]
    ports: [5432, 8000-8099]
";

fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_underpass-agent"))
        .arg("policy")
        .args(arguments)
        .current_dir(folder)
        .env_remove("UNDERPASS_POLICY")
        .env_remove("UNDERPASS_LOG")
        .output()
        .unwrap()
}

#[test]
fn a_policy_is_checked_and_explained() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.yaml");
    fs::write(&path, POLICY).unwrap();
    let checked = run(folder.path(), &["check", "policy.yaml"]);
    assert!(checked.status.success(), "{checked:?}");
    let table = String::from_utf8(checked.stdout).unwrap();
    assert!(
        table.contains("databases  prod/postgres, monitoring/*, 10.0.0.0/8; port 5432, 8000-8099"),
        "{table}"
    );

    let explain = |target: &str| {
        let explained = run(
            folder.path(),
            &["explain", target, "--policy", "policy.yaml"],
        );
        let text = String::from_utf8(explained.stdout).unwrap();
        (explained.status.code(), text)
    };
    let (status, text) = explain("tcp:postgres.prod:5432");
    assert!(
        status == Some(0) && text.contains("rule `databases`"),
        "{text}"
    );
    let (status, text) = explain("tcp:postgres.prod:22");
    let sentence =
        "rule `databases` of the agent's policy allows prod/postgres, but not its port 22";
    assert!(status == Some(1) && text.contains(sentence), "{text}");

    fs::write(&path, POLICY.replace("8000-8099", "8099-8000")).unwrap();
    for arguments in [
        &["check", "policy.yaml"][..],
        &["explain", "kube-api", "--policy", "policy.yaml"],
    ] {
        let wrong = run(folder.path(), arguments);
        let error = String::from_utf8(wrong.stderr).unwrap();
        assert_eq!(wrong.status.code(), Some(1));
        for part in [
            "policy.yaml",
            "tcp[0].ports[1]",
            "line 5",
            "write 8000-8099",
        ] {
            assert!(error.contains(part), "{error} without {part}");
        }
    }
}

#[test]
fn rule_17_an_agent_whose_policy_has_a_mistake_does_not_start() {
    for (policy, says) in [
        (Some("tcp: [{name: a, adresses: [10.0.0.0/8]}]"), "adresses"),
        (Some(""), "the policy is empty"),
        (None, "there is no policy to use: cannot read policy.yaml"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        if let Some(policy) = policy {
            fs::write(folder.path().join("policy.yaml"), policy).unwrap();
        }
        let pin = format!("sha256:{}", "0".repeat(64));
        let flags = [
            "--server",
            "https://127.0.0.1:1",
            "--ca-pin",
            &pin,
            "--policy",
            "policy.yaml",
        ];
        let mut agent = Agent::start_in(folder, &flags);
        assert_eq!(agent.ended().code(), Some(1));
        assert!(agent.log().contains(says), "{}", agent.log());
    }
}
