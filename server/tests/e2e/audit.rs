//! What both sides keep: the API server's audit log names the user, and both logs have the same id.

use serde_json::{Value, json};
use underpass_testenv::testing::{Client, Wire, eventually, spawn};
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::deployment::{Deployment, token_of};
use crate::{over_both_transports, raw};

over_both_transports!(
    one_id_from_the_client_to_the_api_server,
    rule_15_every_call_is_in_both_logs,
);

const AGENT: &str = "system:serviceaccount:underpass-system:underpass-agent";

/// The API server's events of a user who was impersonated.
fn events_of(client: &Client<'_>, user: &str) -> Vec<Value> {
    client.audit_events(|event| event["impersonatedUser"]["username"] == user)
}

async fn one_id_from_the_client_to_the_api_server(transport: Transport) {
    let deployment = Deployment::shared(transport);
    let user = format!("audited-{}", transport.as_str());
    let kubeconfig = deployment.kubeconfig(&user, &["auditors"]).unwrap();
    let path = format!("/k8s/clusters/{CLUSTER_NAME}/version");
    let answer = raw::get(deployment, &path, Some(&token_of(&kubeconfig))).await;
    assert_eq!(answer.code, 200);
    let id = answer.headers["audit-id"].to_str().unwrap().to_owned();
    let client = deployment.client(&kubeconfig, Wire::WebSocket);
    let event = eventually("the API server's event", async || {
        let found = client.audit_events(|event| event["auditID"] == id.as_str());
        found.into_iter().next().ok_or("none")
    })
    .await;
    assert_eq!(event["requestURI"], "/version");
    assert_eq!(event["user"]["username"], AGENT);
    assert_eq!(event["impersonatedUser"]["username"], user.as_str());
    let groups = json!(["auditors", "system:authenticated"]);
    assert_eq!(event["impersonatedUser"]["groups"], groups);
    eventually("the server's line", async || {
        let log = deployment.server_log().unwrap();
        let line = log
            .lines()
            .find(|line| line.contains("underpass::audit") && line.contains(&id));
        line.map(|line| assert!(line.contains(&user), "{line}"))
            .ok_or("none")
    })
    .await;
}

/// What kubectl does in a session, shells and logs included, is in both logs under the same ids.
async fn rule_15_every_call_is_in_both_logs(transport: Transport) {
    let deployment = Deployment::shared(transport);
    let user = format!("busy-{}", transport.as_str());
    let kubeconfig = deployment.kubeconfig(&user, &["busy group"]).unwrap();
    let admin = deployment.admin(Wire::WebSocket);
    let binding = format!("--user={user}");
    let role = "--clusterrole=cluster-admin";
    admin
        .run(&["create", "clusterrolebinding", &user, role, &binding])
        .await;
    for wire in [Wire::WebSocket, Wire::Spdy] {
        let client = deployment.client(&kubeconfig, wire);
        let pod = client.target("audited").await;
        client.run(&["logs", &pod]).await;
        let mut exec = spawn(&mut client.exec(&pod, &[], &["true"]));
        assert!(exec.wait().await.unwrap().success());
        client.fail(&["get", "configmap", "no-such"]).await;
    }
    let client = deployment.client(&kubeconfig, Wire::WebSocket);
    eventually("the same ids in both logs", async || {
        let (theirs, ours) = (theirs(&client, &user), ours(deployment, &user));
        let execs = theirs.iter().filter(|(_, kind)| kind == "exec").count();
        let ids: Vec<_> = theirs.into_iter().map(|(id, _)| id).collect();
        if ids == ours && execs == 2 {
            Ok(())
        } else {
            Err((ids.len(), ours.len(), execs))
        }
    })
    .await;
    for event in events_of(&client, &user) {
        let groups = json!(["busy group", "system:authenticated"]);
        assert_eq!(event["impersonatedUser"]["groups"], groups, "{event}");
        assert_eq!(event["user"]["username"], AGENT, "{event}");
    }
}

/// The API server's ids, each with the subresource that was called.
fn theirs(client: &Client<'_>, user: &str) -> Vec<(String, String)> {
    let mut ids: Vec<_> = events_of(client, user)
        .iter()
        .map(|event| {
            let subresource = event["objectRef"]["subresource"].as_str();
            let id = event["auditID"].as_str().unwrap();
            (id.to_owned(), subresource.unwrap_or_default().to_owned())
        })
        .collect();
    ids.sort();
    ids.dedup();
    ids
}

/// The server's ids.
fn ours(deployment: &Deployment, user: &str) -> Vec<String> {
    let log = deployment.server_log().unwrap();
    let wanted = format!("user=\"{user}\"");
    let mut ids: Vec<_> = log
        .lines()
        .filter(|line| line.contains("underpass::audit") && line.contains(&wanted))
        .map(|line| {
            let id = line.split("audit_id=\"").nth(1).unwrap();
            id.split('"').next().unwrap().to_owned()
        })
        .collect();
    ids.sort();
    ids.dedup();
    ids
}
