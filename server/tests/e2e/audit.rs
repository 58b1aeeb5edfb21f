//! Both sides' audit logs: the API server's names the user, and both have the same id.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use underpass_testenv::testing::{Client, Wire, eventually, spawn};
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::deployment::{Deployment, token_of};
use crate::{over_both_transports, raw};

over_both_transports!(
    one_id_from_the_client_to_the_api_server,
    rule_15_every_call_is_in_both_logs,
);

pub(crate) const AGENT: &str = "system:serviceaccount:underpass-system:underpass-agent";

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
    let event = one_of_theirs(&client, |event| event["auditID"] == id.as_str()).await;
    assert_eq!(event["requestURI"], "/version");
    assert_eq!(event["user"]["username"], AGENT);
    assert_eq!(event["impersonatedUser"]["username"], user.as_str());
    let groups = json!(["auditors", "system:authenticated"]);
    assert_eq!(event["impersonatedUser"]["groups"], groups);
    let ours = one_of_ours(deployment, |event| event["auditID"] == id.as_str()).await;
    assert_eq!(ours["requestURI"], "/version");
    assert_eq!(ours["user"]["username"], user.as_str());
    assert_eq!(ours["user"]["groups"], json!(["auditors"]));
    assert_eq!(ours["annotations"]["underpass.dev/cluster"], CLUSTER_NAME);
    let log = deployment.server_log().unwrap();
    let line = log
        .lines()
        .find(|line| line.contains("underpass::audit") && line.contains(&id));
    assert!(line.unwrap().contains(&user), "{line:?}");
}

/// Every call of kubectl in a session, shells and logs included, is in both logs under the same id.
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
        let whole = |event: &Value| event["stage"] == "ResponseComplete";
        let ours = ours(deployment, |event| {
            event["user"]["username"] == user.as_str() && whole(event)
        });
        let theirs: Vec<_> = events_of(&client, &user)
            .into_iter()
            .filter(whole)
            .collect();
        let (ours, theirs) = (calls(&ours), calls(&theirs));
        let execs = theirs.values().filter(|call| call[3] == "exec").count();
        if ours == theirs && execs == 2 {
            Ok(())
        } else {
            Err((ours, theirs))
        }
    })
    .await;
    let begun = ours(deployment, |event| {
        event["user"]["username"] == user.as_str() && event["stage"] == "ResponseStarted"
    });
    let long: BTreeSet<_> = begun
        .iter()
        .filter_map(|event| event["verb"].as_str())
        .collect();
    assert!(long.contains("watch"), "{long:?}");
    for event in events_of(&client, &user) {
        let groups = json!(["busy group", "system:authenticated"]);
        assert_eq!(event["impersonatedUser"]["groups"], groups, "{event}");
        assert_eq!(event["user"]["username"], AGENT, "{event}");
    }
}

/// The fields that both logs must agree on, by call id. Not the names of new objects: these are in bodies.
fn calls(events: &[Value]) -> BTreeMap<String, [Value; 4]> {
    events
        .iter()
        .map(|event| {
            let object = &event["objectRef"];
            let call = [
                event["verb"].clone(),
                object["resource"].clone(),
                object["namespace"].clone(),
                object["subresource"].clone(),
            ];
            (event["auditID"].as_str().unwrap().to_owned(), call)
        })
        .collect()
}

/// The first of the API server's events that `wanted` picks.
pub(crate) async fn one_of_theirs(client: &Client<'_>, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually("an event in the API server's audit log", async || {
        let found = client.audit_events(&wanted);
        found.into_iter().next().ok_or("none")
    })
    .await
}

/// The first of the server's events that `wanted` picks. Events are written behind the answers they are about.
pub(crate) async fn one_of_ours(deployment: &Deployment, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually("an event in the server's audit log", async || {
        let found = ours(deployment, &wanted);
        found.into_iter().next().ok_or("none")
    })
    .await
}

/// The server's events that `wanted` picks, of those written by now.
pub(crate) fn ours(deployment: &Deployment, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let log = deployment.data_dir().join("audit.log");
    // The last line may be half written.
    std::fs::read_to_string(log)
        .unwrap()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(wanted)
        .collect()
}
