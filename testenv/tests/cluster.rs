//! A cluster by itself: it comes up, knows its users, survives a restart, and leaves nothing behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests state expectations as tests do; the lints know only functions marked as tests"
)]

mod common;

use std::path::Path;
use std::sync::Barrier;
use std::thread;

use common::{CLUSTER, admin};
use serde_json::{Value, json};
use tokio::process::Command;
use underpass_testenv::testing::{Client, Wire, alive, eventually, pod, run, succeed, text};
use underpass_testenv::{Cluster, ClusterOptions, KUBERNETES_VERSION, NODE_NAME};

/// Objects that two threads apply: more than one has applied when the other begins.
const APPLIED: usize = 30;

fn direct(cluster: &Cluster) -> Client<'_> {
    Client::direct(cluster, Wire::WebSocket)
}

#[tokio::test]
async fn namespaces_are_listed() {
    let names = admin().run(&["get", "namespaces", "-o", "name"]).await;
    for name in ["namespace/default", "namespace/kube-system"] {
        assert!(names.lines().any(|line| line == name), "{names}");
    }
}

#[tokio::test]
async fn everything_is_the_pinned_release() {
    let versions: Value =
        serde_json::from_str(&admin().run(&["version", "-o", "json"]).await).unwrap();
    assert_eq!(versions["clientVersion"]["gitVersion"], KUBERNETES_VERSION);
    assert_eq!(versions["serverVersion"]["gitVersion"], KUBERNETES_VERSION);
    let node = admin()
        .field("node/node", ".status.nodeInfo.kubeletVersion")
        .await;
    assert_eq!(node, KUBERNETES_VERSION);
}

#[tokio::test]
async fn a_user_has_all_of_their_groups_and_no_rights() {
    let groups = ["developers", "on call", "ünïcode", "a:b", "last"];
    let kubeconfig = CLUSTER
        .kubeconfig_for("alice@example.com", &groups)
        .unwrap();
    let mut whoami = Command::from(CLUSTER.kubectl_with(&kubeconfig));
    let answer = run(whoami.args(["auth", "whoami", "-o", "json"]), b"").await;
    let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
    let user = &answer["status"]["userInfo"];
    assert_eq!(user["username"], "alice@example.com");
    for group in groups {
        assert!(
            user["groups"]
                .as_array()
                .unwrap()
                .iter()
                .any(|g| g == group),
            "{user}"
        );
    }
    let mut secrets = Command::from(CLUSTER.kubectl_with(&kubeconfig));
    let refused = run(secrets.args(["get", "secrets"]), b"").await;
    assert!(text(&refused.stderr).contains("forbidden"), "{refused:?}");
}

#[test]
fn tests_apply_the_same_objects_at_the_same_time() {
    let mut objects: Vec<_> = (0..APPLIED)
        .map(|number| {
            let name = format!("applied-{number}");
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
        })
        .collect();
    let list = |objects: &[Value]| json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let there = list(&objects);
    objects.reverse();
    // They meet in the middle: one creates what the other has just looked for.
    let back = list(&objects);
    let at_once = Barrier::new(2);
    let apply = |list| {
        at_once.wait();
        CLUSTER.apply(list)
    };
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| apply(&there));
        let second = scope.spawn(|| apply(&back));
        (first.join(), second.join())
    });
    first.unwrap().unwrap();
    second.unwrap().unwrap();
}

#[tokio::test]
async fn the_agent_may_impersonate_and_nothing_else() {
    let kubeconfig = CLUSTER.agent_kubeconfig().unwrap();
    let agent = |arguments: &[&str]| {
        let mut command = Command::from(CLUSTER.kubectl_with(&kubeconfig));
        command.args(arguments);
        command
    };
    let alone = run(&mut agent(&["get", "namespaces"]), b"").await;
    assert!(text(&alone.stderr).contains("forbidden"), "{alone:?}");
    let impersonating = [
        "auth",
        "whoami",
        "-o",
        "json",
        "--as=bob",
        "--as-group=ops",
        "--as-uid=7",
        "--as-user-extra=example.com/reason=pager",
    ];
    let answer = run(&mut agent(&impersonating), b"").await;
    let answer: Value = serde_json::from_slice(&answer.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", text(&answer.stderr)));
    let user = &answer["status"]["userInfo"];
    assert_eq!(user["username"], "bob");
    assert_eq!(user["uid"], "7");
    assert_eq!(user["extra"]["example.com/reason"][0], "pager");
}

#[tokio::test]
async fn the_audit_log_names_the_impersonator() {
    let mut command = Command::from(CLUSTER.kubectl());
    command.args([
        "get",
        "configmaps",
        "--as=carol-of-the-audit",
        "--as-group=system:masters",
    ]);
    succeed(&mut command, b"").await;
    let log = CLUSTER.audit_log().unwrap();
    let event = eventually("an audit event", async || {
        std::fs::read_to_string(log)
            .unwrap()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|e| e["impersonatedUser"]["username"] == "carol-of-the-audit")
            .ok_or("none yet")
    })
    .await;
    assert_eq!(event["user"]["username"], "testenv-admin");
    assert_eq!(event["objectRef"]["resource"], "configmaps");
    assert_eq!(event["level"], "Metadata");
}

#[tokio::test]
async fn only_the_api_server_may_talk_to_the_node() {
    // The administrator's certificate is of the same authority as the API server's.
    let port = admin()
        .field(
            &format!("node/{NODE_NAME}"),
            ".status.daemonEndpoints.kubeletEndpoint.Port",
        )
        .await;
    let mut healthz = Command::from(CLUSTER.kubectl());
    healthz.args([
        "get",
        "--raw=/healthz",
        &format!("--server=https://127.0.0.1:{port}"),
    ]);
    let refused = run(&mut healthz, b"").await;
    assert!(!refused.status.success());
    assert!(
        text(&refused.stderr).contains("may not use this node's API"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_address_state_and_pods() {
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    direct(&cluster).idle_pod("before").await;
    let url = cluster.api_server_url().to_owned();
    let pid = || processes(&cluster, "kube-apiserver");
    let old = pid();
    let cluster = tokio::task::spawn_blocking(move || {
        cluster.restart_api_server().unwrap();
        cluster
    })
    .await
    .unwrap();
    assert_ne!(old, processes(&cluster, "kube-apiserver"));
    assert_eq!(url, cluster.api_server_url());
    let restarts = ".status.containerStatuses[0].restartCount";
    assert_eq!(direct(&cluster).field("pod/before", restarts).await, "0");
    // The node notices as well: it still runs what is new.
    direct(&cluster).idle_pod("after").await;
    cluster.stop().await;
}

#[tokio::test]
async fn dropping_leaves_nothing_behind() {
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    direct(&cluster).idle_pod("left").await;
    let dir = cluster.dir().to_owned();
    let running = processes(&cluster, "");
    assert!(
        running.len() >= 5,
        "etcd, three of Kubernetes and a pod: {running:?}"
    );
    drop(cluster);
    let left: Vec<_> = running.into_iter().filter(|pid| alive(*pid)).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_failing_api_server_is_quoted() {
    let options = ClusterOptions::api_only().with_api_server_arguments(["--no-such-flag"]);
    let error = Cluster::start(options).await.unwrap_err().to_string();
    assert!(
        error.contains("kube-apiserver ended (exit status 1)"),
        "{error}"
    );
    assert!(error.contains("unknown flag: --no-such-flag"), "{error}");
}

#[tokio::test]
async fn the_api_alone_takes_pods_and_agents_and_runs_nothing() {
    let options = ClusterOptions::api_only().with_goaway_chance(0.02);
    let cluster = Cluster::start(options).await.unwrap();
    direct(&cluster).create(&pod("waits", "true")).await;
    assert_eq!(
        direct(&cluster).field("pod/waits", ".status.phase").await,
        "Pending"
    );
    let agent = cluster.agent_kubeconfig().unwrap();
    let mut whoami = Command::from(cluster.kubectl_with(&agent));
    let name = [
        "auth",
        "whoami",
        "-o",
        "jsonpath={.status.userInfo.username}",
    ];
    let name = text(&succeed(whoami.args(name), b"").await);
    assert_eq!(
        name,
        "system:serviceaccount:underpass-system:underpass-agent"
    );
    assert_eq!(
        direct(&cluster).run(&["get", "nodes", "-o", "name"]).await,
        ""
    );
}

/// The processes that have the cluster's folder in their command line or run in it, of the given program if one is
/// named.
fn processes(cluster: &Cluster, program: &str) -> Vec<u32> {
    let dir = cluster.dir().to_str().unwrap();
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let read = |name| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let command = text(&read("cmdline"));
            let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            let name = Path::new(command.split('\0').next().unwrap_or_default());
            (command.contains(dir) || cwd.starts_with(dir))
                && (program.is_empty() || name.ends_with(program))
        })
        .collect()
}
