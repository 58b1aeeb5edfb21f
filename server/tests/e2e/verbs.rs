//! Twenty-four of kubectl's verbs through a path that forgets its connections each second.

use std::time::Duration;

use serde_json::json;
use underpass_testenv::Transport;
use underpass_testenv::scenarios::{attach, cp, exec, logs, objects, port_forward};
use underpass_testenv::testing::{Client, succeed};

use crate::cutter::Forgetful;
use crate::survive::Detour;

/// How long the path remembers.
const MEMORY: Duration = Duration::from_secs(1);

/// Commands that need no object, and commands that change one.
async fn commands(client: &Client<'_>) {
    let name = client.name("verbs");
    let object = format!("configmap/{name}");
    client.run(&["version"]).await;
    client.run(&["api-versions"]).await;
    client.run(&["api-resources"]).await;
    client.run(&["cluster-info"]).await;
    client.run(&["explain", "pods.spec"]).await;
    client.run(&["auth", "can-i", "create", "pods"]).await;
    client
        .run(&["create", "configmap", &name, "--from-literal=a=1"])
        .await;
    client.run(&["label", &object, "verb=label"]).await;
    client.run(&["annotate", &object, "verb=annotate"]).await;
    let described = client.run(&["describe", &object]).await;
    assert!(described.contains("verb=label"), "{described}");
    let mut edit = client.kubectl();
    edit.args(["edit", &object])
        .env("KUBE_EDITOR", "sed -i s/annotate/edit/");
    succeed(&mut edit, b"").await;
    let waited = "--for=jsonpath={.metadata.annotations.verb}=edit";
    client
        .run(&["wait", waited, "--timeout=20s", &object])
        .await;
    let replaced = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": name },
        "data": { "a": "2" },
    });
    client.feed(&["replace", "-f", "-"], &replaced).await;
    client.run(&["delete", &object]).await;
}

/// With those of [`commands`]: create, get, delete, patch, apply by client and server, a watch, and what streams.
async fn verbs(client: &Client<'_>) {
    commands(client).await;
    objects::created_read_and_deleted(client).await;
    objects::patched(client).await;
    objects::applied(client).await;
    objects::applied_by_the_server_with_conflicts(client).await;
    objects::a_watch_shows_events_as_they_happen(client).await;
    logs::are_followed_line_by_line(client).await;
    exec::on_a_terminal(client).await;
    attach::to_a_terminal(client).await;
    port_forward::twenty_requests(client).await;
    let file = cp::LargeFile::prepare(client).await;
    file.copy_there().await;
}

async fn through_cuts(transport: Transport, way: &'static str) {
    let detour = Detour::new(transport, way).await;
    let path = Forgetful::start(detour.server()).await;
    detour.start_agent(path.port).await;
    let client = detour.client();
    let mut cuts = 0;
    let cutting = async {
        loop {
            tokio::time::sleep(MEMORY).await;
            path.forget();
            cuts += 1;
        }
    };
    tokio::select! {
        () = verbs(&client) => {}
        () = cutting => {}
    }
    assert!(cuts > 5, "it was too fast: {cuts} cuts");
}

#[tokio::test]
async fn over_both_transports() {
    through_cuts(Transport::Auto, "verbs-auto").await;
}

#[tokio::test]
async fn over_quic() {
    through_cuts(Transport::Quic, "verbs-quic").await;
}

#[tokio::test]
async fn over_websocket() {
    through_cuts(Transport::WebSocket, "verbs-websocket").await;
}
