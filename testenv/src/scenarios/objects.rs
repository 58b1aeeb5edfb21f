//! Objects: created, read, watched, changed, deleted.

use serde_json::{Value, json};

use crate::testing::{Client, Reading, run, spawn, text};

fn config_map(name: &str, data: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": name, "labels": { "app": name } },
        "data": data,
    })
}

async fn data(client: &Client<'_>, name: &str) -> Value {
    let data = client.field(&format!("configmap/{name}"), ".data").await;
    serde_json::from_str(&data).unwrap_or(Value::Null)
}

/// create, get, list by label, delete.
pub async fn created_read_and_deleted(client: &Client<'_>) {
    let name = client.name("created");
    client
        .create(&config_map(&name, &json!({ "a": "1" })))
        .await;
    assert_eq!(data(client, &name).await, json!({ "a": "1" }));
    let list = [
        "get",
        "configmaps",
        "-l",
        &format!("app={name}"),
        "-o",
        "name",
    ];
    let object = format!("configmap/{name}");
    assert_eq!(client.run(&list).await.trim(), object);
    let again = config_map(&name, &json!({})).to_string();
    let again = run(
        client.kubectl().args(["create", "-f", "-"]),
        again.as_bytes(),
    )
    .await;
    assert!(text(&again.stderr).contains("AlreadyExists"), "{again:?}");
    client.run(&["delete", &object]).await;
    assert_eq!(client.run(&list).await, "");
    let gone = client.fail(&["get", &object]).await;
    assert!(gone.contains("NotFound"), "{gone}");
}

/// An event is seen while the watch is open.
pub async fn a_watch_shows_events_as_they_happen(client: &Client<'_>) {
    let name = client.name("watched");
    client
        .create(&config_map(&name, &json!({ "a": "1" })))
        .await;
    let mut command = client.kubectl();
    let label = format!("app={name}");
    command.args(["get", "configmaps", "-l", &label, "--watch"]);
    command.args([
        "--output-watch-events",
        "-o",
        "jsonpath={.type} {.object.data.a}{'\\n'}",
    ]);
    let mut watch = spawn(&mut command);
    let mut events = Reading::new(watch.stdout.take().unwrap());
    events.until("ADDED 1\n").await;
    let object = format!("configmap/{name}");
    for value in ["2", "3"] {
        let patch = json!({ "data": { "a": value } }).to_string();
        client
            .run(&["patch", &object, "--type=merge", "-p", &patch])
            .await;
        events.until(&format!("MODIFIED {value}\n")).await;
    }
    client.run(&["delete", &object]).await;
    events.until("DELETED 3\n").await;
    watch.kill().await.unwrap();
}

/// `kubectl apply` keeps what it has not written itself, and removes what it no longer writes.
pub async fn applied(client: &Client<'_>) {
    let name = client.name("applied");
    let apply = async |data: Value| {
        client
            .feed(&["apply", "-f", "-"], &config_map(&name, &data))
            .await
    };
    assert!(
        apply(json!({ "a": "1", "b": "1" }))
            .await
            .contains("created")
    );
    let foreign = json!({ "data": { "foreign": "1" } }).to_string();
    client
        .run(&["patch", "configmap", &name, "-p", &foreign])
        .await;
    assert!(apply(json!({ "a": "2" })).await.contains("configured"));
    assert_eq!(
        data(client, &name).await,
        json!({ "a": "2", "foreign": "1" })
    );
    assert!(apply(json!({ "a": "2" })).await.contains("unchanged"));
}

/// `kubectl apply --server-side`: fields have owners.
pub async fn applied_by_the_server_with_conflicts(client: &Client<'_>) {
    let name = client.name("server-side");
    let arguments = |manager: &str| {
        let mut command = client.kubectl();
        let manager = format!("--field-manager={manager}");
        command.args(["apply", "--server-side", &manager, "-f", "-"]);
        command
    };
    let manifest = |value: &str| config_map(&name, &json!({ "a": value })).to_string();
    let first = run(&mut arguments("one"), manifest("1").as_bytes()).await;
    assert!(
        text(&first.stdout).contains("serverside-applied"),
        "{first:?}"
    );
    let conflict = run(&mut arguments("two"), manifest("2").as_bytes()).await;
    let said = text(&conflict.stderr);
    assert!(said.contains("conflict with \"one\": .data.a"), "{said}");
    assert_eq!(data(client, &name).await, json!({ "a": "1" }));
    let forced = run(
        arguments("two").arg("--force-conflicts"),
        manifest("2").as_bytes(),
    )
    .await;
    assert!(forced.status.success(), "{forced:?}");
    assert_eq!(data(client, &name).await, json!({ "a": "2" }));
}

/// Strategic, merge and JSON patches.
pub async fn patched(client: &Client<'_>) {
    let name = client.name("patched");
    client
        .create(&config_map(&name, &json!({ "a": "1", "b": "1" })))
        .await;
    let patch = async |kind: &str, patch: Value| {
        let (kind, patch) = (format!("--type={kind}"), patch.to_string());
        client
            .run(&["patch", "configmap", &name, &kind, "-p", &patch])
            .await;
        data(client, &name).await
    };
    let strategic = patch("strategic", json!({ "data": { "a": "2" } })).await;
    assert_eq!(strategic, json!({ "a": "2", "b": "1" }));
    let merged = patch("merge", json!({ "data": { "b": null, "c": "3" } })).await;
    assert_eq!(merged, json!({ "a": "2", "c": "3" }));
    let replace = json!([{ "op": "replace", "path": "/data/a", "value": "4" }]);
    assert_eq!(patch("json", replace).await, json!({ "a": "4", "c": "3" }));
}
