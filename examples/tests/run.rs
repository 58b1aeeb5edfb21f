//! The examples do what they say.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test states what it expects"
)]

use std::process::Command;

use underpass_testenv::testing::providers::Postgres;
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

/// A real PostgreSQL, and its client library as it is published.
#[tokio::test]
async fn postgres() {
    let postgres = Postgres::start().await;
    let address = format!("127.0.0.1:{}", postgres.port());
    let program = env!("CARGO_BIN_EXE_postgres");
    let asking = tokio::task::spawn_blocking(move || run(program, &[&address, "postgres"]));
    let said = asking.await.unwrap();
    assert!(said.starts_with("PostgreSQL 1"), "{said}");
    assert!(said.ends_with("\n1 1\n2 4\n3 9\n"), "{said}");
}

/// A real API server, for as long as it is kept.
fn cluster() -> Cluster {
    Cluster::start_blocking(ClusterOptions::default()).unwrap_or_else(|error| panic!("{error:?}"))
}

#[test]
fn gateway() {
    let cluster = cluster();
    let kubeconfig = cluster.admin_kubeconfig().to_str().unwrap();
    let said = run(env!("CARGO_BIN_EXE_gateway"), &[kubeconfig]);
    assert!(said.starts_with("guess: 401 Unauthorized {"), "{said}");
    let (_, read) = said.split_once("sesame: ").unwrap();
    assert!(read.starts_with("200 OK {"), "{said}");
    assert!(read.contains("\"gitVersion\""), "{said}");
}

#[test]
fn server() {
    let cluster = cluster();
    let kubeconfig = cluster.admin_kubeconfig().to_str().unwrap();
    let said = run(env!("CARGO_BIN_EXE_server"), &[kubeconfig]);
    let (refused, read) = said.split_once('\n').unwrap();
    assert!(
        refused.starts_with("guess: ") && refused.contains("401"),
        "{said}"
    );
    assert!(read.starts_with("sesame: Some(String(\"v1."), "{said}");
}

#[test]
fn target() {
    let cluster = cluster();
    let kubeconfig = cluster.admin_kubeconfig().to_str().unwrap();
    let said = run(env!("CARGO_BIN_EXE_target"), &[kubeconfig]);
    let (load, answer) = said.split_once('\n').unwrap();
    assert!(load.starts_with("load: ") && load.len() > 6, "{said}");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{said}");
    assert!(answer.contains("\"gitVersion\""), "{said}");
}

#[test]
fn kube_pods() {
    let cluster = cluster();
    cluster
        .run_kubectl(&["run", "listed", "--image=x", "--restart=Never"])
        .unwrap();
    let kubeconfig = cluster.admin_kubeconfig().to_str().unwrap();
    let said = run(env!("CARGO_BIN_EXE_kube-pods"), &[kubeconfig]);
    assert!(said.contains("default/listed\n"), "{said}");
}
