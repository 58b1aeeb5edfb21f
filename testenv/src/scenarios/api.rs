//! The API as a whole, and answers that are the API server's own.

use serde_json::{Value, json};

use crate::testing::{Client, eventually};

/// `api-resources` and `api-versions`: every group is found.
pub async fn discovery_is_complete(client: &Client<'_>) {
    let resources = client.run(&["api-resources", "-o", "name"]).await;
    for name in [
        "pods",
        "deployments.apps",
        "selfsubjectreviews.authentication.k8s.io",
    ] {
        assert!(resources.lines().any(|line| line == name), "{resources}");
    }
    let versions = client.run(&["api-versions"]).await;
    assert!(versions.lines().any(|line| line == "apps/v1"), "{versions}");
}

/// `explain`: documents of hundreds of KiB, by OpenAPI v3.
pub async fn explain_reads_the_openapi(client: &Client<'_>) {
    let said = client.run(&["explain", "pods.spec.containers.image"]).await;
    assert!(said.contains("FIELD: image <string>"), "{said}");
    let said = client.run(&["explain", "deployment", "--recursive"]).await;
    assert!(said.contains("progressDeadlineSeconds"), "{said}");
}

/// `get --raw`: the API server gets the same path as without anything between.
pub async fn raw_paths_arrive_as_they_are(client: &Client<'_>) {
    let marker = client.name("raw");
    let path = format!("/api/v1/namespaces/default/configmaps?labelSelector=a%2Fb%3D{marker}");
    let list: Value = serde_json::from_str(&client.run(&["get", "--raw", &path]).await).unwrap();
    assert_eq!(list["items"], json!([]));
    arrived(client, &path).await;
    // kubectl itself decodes one level; the rest must stay.
    let sent = format!("/api/v1/namespaces/default/configmaps/a%252F{marker}");
    client.fail(&["get", "--raw", &sent]).await;
    arrived(client, &sent).await;
    let slash = format!("/api/v1/namespaces/default/configmaps/{marker}/");
    client.fail(&["get", "--raw", &slash]).await;
    arrived(client, &slash).await;
}

async fn arrived(client: &Client<'_>, path: &str) {
    eventually("the path in the audit log", async || {
        match client.audit_events(|event| event["requestURI"] == path) {
            events if events.is_empty() => Err(path),
            _ => Ok(()),
        }
    })
    .await;
}

/// The API server refuses in its own words.
pub async fn errors_are_the_api_servers(client: &Client<'_>) {
    let missing = client.fail(&["get", "configmap", "no-such"]).await;
    assert_eq!(
        missing,
        "Error from server (NotFound): configmaps \"no-such\" not found\n"
    );
    let unknown = client.fail(&["get", "no-such-kind"]).await;
    assert!(
        unknown.contains("doesn't have a resource type \"no-such-kind\""),
        "{unknown}"
    );
    let namespace =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "Not_Valid" } });
    let mut create = client.kubectl();
    create.args(["create", "-f", "-"]);
    let output = crate::testing::run(&mut create, namespace.to_string().as_bytes()).await;
    let said = crate::testing::text(&output.stderr);
    assert!(
        said.contains("is invalid: metadata.name: Invalid value"),
        "{said}"
    );
}

/// Objects of half a MiB each, in one list.
pub async fn a_large_list_arrives_whole(client: &Client<'_>) {
    let name = client.name("large");
    let filling = "x".repeat(512 * 1024);
    let item = |number: u32| {
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": format!("{name}-{number}"), "labels": { "app": name } },
            "data": { "filling": filling },
        })
    };
    let items: Vec<Value> = (0..6).map(item).collect();
    client
        .create(&json!({ "apiVersion": "v1", "kind": "List", "items": items }))
        .await;
    let label = format!("app={name}");
    let list = client
        .run(&["get", "configmaps", "-l", &label, "-o", "json"])
        .await;
    let list: Value = serde_json::from_str(&list).unwrap();
    let found = list["items"].as_array().unwrap();
    assert_eq!(found.len(), items.len());
    assert!(
        found
            .iter()
            .all(|item| item["data"]["filling"] == filling.as_str())
    );
    client.run(&["delete", "configmaps", "-l", &label]).await;
}
