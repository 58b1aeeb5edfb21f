//! Requests that go nowhere, and what kubectl makes of them.

use std::path::PathBuf;
use std::time::Duration;

use http::Request;
use underpass_testenv::testing::Wire;
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::deployment::{Deployment, led_to, token_of};
use crate::raw;
use crate::services::{curl, output};

/// Less than the three seconds that an agent's answer is waited for: nothing was.
const AT_ONCE: Duration = Duration::from_secs(2);

fn deployment() -> &'static Deployment {
    Deployment::shared(Transport::Quic)
}

/// Someone who may reach every cluster.
fn traveller() -> PathBuf {
    let all = ["user", "add", "traveller", "--all-clusters"];
    deployment().administer(&all).unwrap();
    deployment().kubeconfig("traveller", &[]).unwrap()
}

#[tokio::test]
async fn an_unknown_cluster_is_not_found() {
    let kubeconfig = traveller();
    let token = token_of(&kubeconfig);
    let path = "/k8s/clusters/nowhere/api/v1/namespaces";
    let answer = raw::get(deployment(), path, Some(&token)).await;
    answer.assert_status(404, "NotFound");
    let kubeconfig = led_to(&kubeconfig, "nowhere", CLUSTER_NAME, "nowhere");
    let client = deployment().client(&kubeconfig, Wire::WebSocket);
    assert_eq!(
        client.fail(&["get", "--raw", "/api/v1/namespaces"]).await,
        "Error from server (NotFound): clusters.underpass.dev \"nowhere\" not found\n"
    );
    // Of the errors of discovery kubectl reads the code only.
    let said = client.fail(&["get", "pods"]).await;
    assert!(said.contains("Error from server (NotFound)"), "{said}");
}

/// A user of a cluster that no agent has ever served.
fn user_of_silence(user: &str) -> PathBuf {
    let deployment = deployment();
    let add = ["cluster", "add", "silent"];
    deployment.administer(&add).unwrap();
    let path = deployment.dir().join(format!("{user}.kubeconfig"));
    let output = path.to_string_lossy();
    let write = ["kubeconfig", "--user", user, "--cluster", "silent"];
    let write = [&write[..], &["--output", &output]].concat();
    deployment.administer(&write).unwrap();
    path
}

#[tokio::test]
async fn a_cluster_without_an_agent_is_a_503_at_once() {
    let kubeconfig = user_of_silence("patient");
    let token = token_of(&kubeconfig);
    let path = "/k8s/clusters/silent/api/v1/pods";
    let answer = raw::get(deployment(), path, Some(&token)).await;
    answer.assert_status(503, "ServiceUnavailable");
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.body["details"]["retryAfterSeconds"], 1);
    let message = "cluster \"silent\" has no agent connected";
    assert_eq!(answer.message(), message);
    assert!(answer.took < AT_ONCE, "{:?}", answer.took);
    // kubectl asks ten times, a second apart, before it says why.
    let client = deployment().client(&kubeconfig, Wire::WebSocket);
    let said = client.fail(&["get", "--raw", "/api/v1/pods"]).await;
    assert_eq!(
        said,
        format!("Error from server (ServiceUnavailable): {message}\n")
    );
}

/// With a `Retry-After` in discovery it would ask a hundred times, and take most of a minute.
#[tokio::test]
async fn kubectl_gives_up_soon_on_a_cluster_without_an_agent() {
    let kubeconfig = user_of_silence("hasty");
    let client = deployment().client(&kubeconfig, Wire::WebSocket);
    let said = client.fail(&["get", "pods"]).await;
    assert!(said.contains("(ServiceUnavailable)"), "{said}");
    let log = deployment().server_log().unwrap();
    let asked = log.lines().filter(|line| line.contains("user=\"hasty\""));
    let asked = asked.count();
    assert!((1..=15).contains(&asked), "{asked} requests");
}

#[tokio::test]
async fn a_path_outside_of_every_cluster_is_not_found() {
    let token = token_of(deployment().admin_kubeconfig());
    for path in [
        "/",
        "/api/v1/namespaces",
        "/k8s/clusters/",
        "/k8s/clusters/Not_A_Name/api",
    ] {
        let answer = raw::get(deployment(), path, Some(&token)).await;
        answer.assert_status(404, "NotFound");
    }
}

#[tokio::test]
async fn a_path_keeps_its_escapes() {
    let token = token_of(deployment().admin_kubeconfig());
    let rest = "/api/v1/namespaces/default/configmaps/a%2Fb%20c%2f";
    let path = format!("/k8s/clusters/{CLUSTER_NAME}{rest}");
    let answer = raw::get(deployment(), &path, Some(&token)).await;
    let id = answer.headers["audit-id"].to_str().unwrap();
    let admin = deployment().admin(Wire::WebSocket);
    underpass_testenv::testing::eventually("the API server's event", async || {
        let found = admin.audit_events(|event| event["auditID"] == id);
        let event = found.into_iter().next().ok_or("none")?;
        assert_eq!(event["requestURI"], rest);
        Ok::<_, &str>(())
    })
    .await;
}

/// A request of so many header lines of so many bytes each.
async fn with_headers(lines: usize, bytes: usize) -> raw::Answer {
    let token = token_of(deployment().admin_kubeconfig());
    let mut request = Request::get(format!("/k8s/clusters/{CLUSTER_NAME}/version"))
        .header("authorization", format!("Bearer {token}"));
    for number in 0..lines {
        request = request.header(format!("x-filling-{number}"), "x".repeat(bytes));
    }
    raw::send(deployment(), request).await
}

#[tokio::test]
async fn large_headers_pass() {
    let answer = with_headers(64, 8 * 1024).await;
    assert_eq!(answer.code, 200, "{answer:?}");
}

#[tokio::test]
async fn rule_11_oversized_headers_are_a_431() {
    let answer = with_headers(1015, 16).await;
    answer.assert_status(431, "RequestHeaderFieldsTooLarge");
    // Hyper itself refuses headers beyond its buffer, without reading them to their end.
    let answer = with_headers(256, 8 * 1024).await;
    assert_eq!(answer.code, 431, "{answer:?}");
    // Nobody else notices.
    let admin = deployment().admin(Wire::WebSocket);
    admin.run(&["get", "--raw", "/version"]).await;
}

/// hyper refuses such heads before anybody sees a request.
#[tokio::test]
async fn a_head_that_cannot_be_read_gets_a_status() {
    let deployment = deployment();
    let (url, ca) = (deployment.url(), deployment.ca_file());
    for wrong in [
        ["--request-target", "/version of what"],
        ["--header", "x-a : b"],
    ] {
        let way = ["--http1.1", "--cacert", ca.to_str().unwrap(), url];
        let answer = output(curl([&wrong[..], &way[..]].concat())).await;
        let status: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(status["kind"], "Status", "{answer}");
        assert_eq!(status["code"], 400, "{answer}");
    }
}
