//! The life of a pod on the kubelet stand-in.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests state expectations as tests do; the lints know only functions marked as tests"
)]

mod common;

use std::time::{Duration, Instant};

use common::{CLUSTER, admin};
use serde_json::{Value, json};
use underpass_testenv::testing::{alive, eventually, pod, text};

async fn wait_for(object: &str, path: &str, wanted: &str) {
    eventually(
        &format!("{object}{path} is {wanted}"),
        async || match admin().field(object, path).await {
            value if value == wanted => Ok(()),
            other => Err(other),
        },
    )
    .await;
}

async fn logs(pod: &str) -> String {
    admin().run(&["logs", pod]).await
}

#[tokio::test]
async fn the_node_is_ready_and_stays_so() {
    let node: Value =
        serde_json::from_str(&admin().run(&["get", "node", "node", "-o", "json"]).await).unwrap();
    assert_eq!(node["status"]["addresses"][0]["address"], "127.0.0.1");
    let lease = "lease/node";
    let renewed = async || {
        admin()
            .run(&[
                "get",
                lease,
                "-n",
                "kube-node-lease",
                "-o",
                "jsonpath={.spec.renewTime}",
            ])
            .await
    };
    let first = renewed().await;
    eventually("the lease is renewed", async || {
        let now = renewed().await;
        if now == first { Err(now) } else { Ok(()) }
    })
    .await;
    // The controller-manager takes its first taint off once it has seen the node ready.
    wait_for("node/node", ".spec.taints", "").await;
}

#[tokio::test]
async fn environment_and_arguments() {
    let mut manifest = pod("environment", "");
    manifest["spec"]["restartPolicy"] = json!("Never");
    manifest["spec"]["containers"][0] = json!({
        "name": "main",
        "image": "none",
        "command": ["sh", "-c", "echo \"$0 $GREETING $POD $KUBERNETES_SERVICE_PORT\"; pwd"],
        "args": ["$(WHO)-$$(WHO)-$(NOBODY)"],
        "workingDir": "/",
        "env": [
            { "name": "WHO", "value": "world" },
            { "name": "GREETING", "value": "hello $(WHO)" },
            { "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
        ],
    });
    admin().create(&manifest).await;
    wait_for("pod/environment", ".status.phase", "Succeeded").await;
    let port = CLUSTER.api_server_url().rsplit(':').next().unwrap();
    let expected = format!("world-$(WHO)-$(NOBODY) hello world environment {port}\n/\n");
    assert_eq!(logs("environment").await, expected);
}

#[tokio::test]
async fn a_pod_that_fails_says_so() {
    let mut manifest = pod("fails", "exit 3");
    manifest["spec"]["restartPolicy"] = json!("Never");
    admin().create(&manifest).await;
    wait_for("pod/fails", ".status.phase", "Failed").await;
    let terminated = ".status.containerStatuses[0].state.terminated";
    assert_eq!(
        admin()
            .field("pod/fails", &format!("{terminated}.exitCode"))
            .await,
        "3"
    );
    assert_eq!(
        admin()
            .field("pod/fails", &format!("{terminated}.reason"))
            .await,
        "Error"
    );
}

#[tokio::test]
async fn on_failure_restarts_until_it_succeeds() {
    let script = "echo run >> runs; [ $(wc -l < runs) -ge 3 ]";
    let mut manifest = pod("on-failure", script);
    manifest["spec"]["restartPolicy"] = json!("OnFailure");
    admin().create(&manifest).await;
    wait_for("pod/on-failure", ".status.phase", "Succeeded").await;
    wait_for(
        "pod/on-failure",
        ".status.containerStatuses[0].restartCount",
        "2",
    )
    .await;
}

#[tokio::test]
async fn a_container_that_keeps_failing_backs_off() {
    admin().create(&pod("crashes", "exit 1")).await;
    wait_for(
        "pod/crashes",
        ".status.containerStatuses[0].state.waiting.reason",
        "CrashLoopBackOff",
    )
    .await;
    wait_for("pod/crashes", ".status.phase", "Running").await;
}

#[tokio::test]
async fn init_containers_run_first_and_in_order() {
    let mut manifest = pod("init", "echo main >> order; cat order; exec sleep 100000");
    let step = |name: &str| {
        json!({
            "name": name,
            "image": "none",
            "command": ["sh", "-c", format!("echo {name} >> order")],
        })
    };
    manifest["spec"]["initContainers"] = json!([step("one"), step("two")]);
    admin().create(&manifest).await;
    admin().wait_ready("init").await;
    eventually("the order", async || match logs("init").await {
        log if log == "one\ntwo\nmain\n" => Ok(()),
        other => Err(other),
    })
    .await;
}

#[tokio::test]
async fn an_image_alone_is_refused_with_a_reason() {
    let mut manifest = pod("image", "");
    manifest["spec"]["containers"][0] = json!({ "name": "main", "image": "nginx" });
    admin().create(&manifest).await;
    let waiting = ".status.containerStatuses[0].state.waiting";
    wait_for(
        "pod/image",
        &format!("{waiting}.reason"),
        "CreateContainerError",
    )
    .await;
    let message = admin()
        .field("pod/image", &format!("{waiting}.message"))
        .await;
    assert!(message.contains("needs a command or args"), "{message}");
    let output = admin().output(&["logs", "image"]).await;
    assert!(
        text(&output.stderr).contains("is waiting to start"),
        "{output:?}"
    );
}

#[tokio::test]
async fn deleting_gives_time_to_end() {
    let script = "trap 'echo ending > said; mv said $OUT; exit 0' TERM; echo up; while :; do sleep 0.1; done";
    let out = tempfile::tempdir().unwrap();
    let said = out.path().join("said");
    let mut manifest = pod("graceful", script);
    manifest["spec"]["containers"][0]["env"] = json!([{ "name": "OUT", "value": said }]);
    manifest["spec"]["terminationGracePeriodSeconds"] = json!(60);
    admin().create(&manifest).await;
    // Ready means that it was started; the trap is set when it says so.
    eventually("the trap", async || match logs_or_error("graceful").await {
        log if log == "up\n" => Ok(()),
        other => Err(other),
    })
    .await;
    let begin = Instant::now();
    admin().run(&["delete", "pod", "graceful"]).await;
    assert!(
        begin.elapsed() < Duration::from_secs(30),
        "it did not wait for the whole period"
    );
    assert_eq!(std::fs::read_to_string(said).unwrap(), "ending\n");
}

async fn logs_or_error(pod: &str) -> String {
    let output = admin().output(&["logs", pod]).await;
    text(&output.stdout) + &text(&output.stderr)
}

#[tokio::test]
async fn deleting_insists_in_the_end() {
    // Kubernetes reads two dollar signs as one.
    let script = "trap '' TERM; sleep 100000 & echo $$$$ $!; while :; do wait; sleep 1; done";
    admin().create(&pod("stubborn", script)).await;
    let pids: Vec<u32> = eventually("the pids", async || {
        let log = logs_or_error("stubborn").await;
        let pids: Vec<u32> = log
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect();
        if pids.len() == 2 { Ok(pids) } else { Err(log) }
    })
    .await;
    assert!(alive(pids[0]) && alive(pids[1]));
    let begin = Instant::now();
    admin().run(&["delete", "pod", "stubborn"]).await;
    assert!(
        begin.elapsed() >= Duration::from_secs(2),
        "the grace period is 2 s"
    );
    assert!(
        !alive(pids[0]) && !alive(pids[1]),
        "the object is gone before its processes"
    );
    let gone = admin().output(&["get", "pod", "stubborn"]).await;
    assert!(text(&gone.stderr).contains("NotFound"), "{gone:?}");
}

#[tokio::test]
async fn a_name_can_be_used_again() {
    for _ in 0..2 {
        admin().idle_pod("again").await;
        admin()
            .run(&["delete", "pod", "again", "--force", "--grace-period=0"])
            .await;
    }
}

#[tokio::test]
async fn controllers_make_pods() {
    let template = |restart: &str, script: &str| {
        json!({
            "metadata": { "labels": { "app": "made" } },
            "spec": {
                "restartPolicy": restart,
                "terminationGracePeriodSeconds": 1,
                "containers": [{ "name": "main", "image": "none", "command": ["sh", "-c", script] }],
            },
        })
    };
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": "made" },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": "made" } },
            "template": template("Always", "exec sleep 100000"),
        },
    });
    let job = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": { "name": "made" },
        "spec": { "template": template("Never", "echo done") },
    });
    admin().create(&deployment).await;
    admin().create(&job).await;
    admin()
        .run(&["rollout", "status", "deployment/made", "--timeout=60s"])
        .await;
    admin()
        .run(&[
            "wait",
            "--for=condition=Complete",
            "job/made",
            "--timeout=60s",
        ])
        .await;
    admin()
        .run(&["delete", "deployment", "made", "--cascade=foreground"])
        .await;
    assert_eq!(logs("job/made").await, "done\n");
}
