//! The examples do what they say.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test states what it expects"
)]

use std::process::Command;

use underpass_testenv::{Cluster, ClusterOptions};

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {said}{complained}");
    said
}

#[test]
fn echo() {
    let said = run(env!("CARGO_BIN_EXE_echo"), &[]);
    assert_eq!(said, "hello from behind NAT\n");
}

#[test]
fn tcp_behind_nat() {
    let said = run(env!("CARGO_BIN_EXE_tcp-behind-nat"), &[]);
    assert_eq!(said, "hello from a TCP service\n");
}

#[test]
fn kube_pods() {
    let cluster = Cluster::start_blocking(ClusterOptions::default())
        .unwrap_or_else(|error| panic!("{error:?}"));
    cluster
        .run_kubectl(&["run", "listed", "--image=x", "--restart=Never"])
        .unwrap();
    let kubeconfig = cluster.admin_kubeconfig().to_str().unwrap();
    let said = run(env!("CARGO_BIN_EXE_kube-pods"), &[kubeconfig]);
    assert!(said.contains("default/listed\n"), "{said}");
}
