//! Kubeconfigs of agents as people's tools write them, with a real API server behind them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use underpass_testenv::Transport;
use underpass_testenv::testing::{Wire, spawn};

use crate::deployment::{AGENT_KUBECONFIG, Deployment};
use crate::names::HttpProxy;

/// A copy of the agent's kubeconfig: through a proxy, its CA in lines, and with `null` and empty values.
fn through(proxy: &str, name: &str) -> PathBuf {
    let path: &Path = &AGENT_KUBECONFIG;
    let mut kubeconfig: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cluster = &mut kubeconfig["clusters"][0]["cluster"];
    let data = cluster["certificate-authority-data"].as_str().unwrap();
    let (begin, end) = data.split_at(64);
    cluster["certificate-authority-data"] = json!(format!("{begin}\n{end}\n"));
    cluster["proxy-url"] = json!(proxy);
    cluster["tls-server-name"] = json!("");
    cluster["insecure-skip-tls-verify"] = Value::Null;
    let user = &mut kubeconfig["users"][0]["user"];
    user["as"] = json!("");
    user["client-key-data"] = json!("");
    user["exec"] = Value::Null;
    let copy = path.with_file_name(format!("{name}.proxied"));
    std::fs::write(&copy, kubeconfig.to_string()).unwrap();
    copy
}

#[tokio::test]
async fn an_agent_reaches_its_api_server_through_the_kubeconfigs_proxy() {
    let proxy = HttpProxy::start().await;
    let agent = through(&proxy.url(), "http");
    let deployment = Deployment::start_as(Transport::WebSocket, agent).await;
    let before = proxy.tunnels();
    assert!(before > 0, "the agent has asked for the version");
    // An upgrade has a connection of its own.
    for wire in [Wire::WebSocket, Wire::Spdy] {
        let client = deployment.admin(wire);
        let pod = client.target("kubeconfig").await;
        client.run(&["get", "pods"]).await;
        let mut exec = spawn(&mut client.exec(&pod, &[], &["true"]));
        assert!(exec.wait().await.unwrap().success());
    }
    assert!(proxy.tunnels() >= before + 2, "{}", proxy.tunnels());
}
