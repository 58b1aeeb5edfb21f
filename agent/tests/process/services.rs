//! Services of a real cluster.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use serde_json::json;
use underpass_testenv::{Cluster, ClusterOptions, Programs};
use underpass_tunnel::ResetCode;

use crate::server::refused;
use crate::targets::{agent_in, ask, shouting_tcp};

/// An address of this machine that an EndpointSlice may have, which loopback addresses are not.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Sends nothing: it asks for the route.
    socket.connect("192.0.2.1:9").unwrap();
    let address = socket.local_addr().unwrap().ip();
    assert!(!address.is_unspecified() && !address.is_loopback());
    address
}

const POLICY: &str = "
tcp:
  - name: services
    services: [default/*, kube-system/*]
    ports: [80]
";

#[tokio::test]
async fn a_service_of_a_real_cluster_leads_to_its_ready_endpoint() {
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    let address = shouting_tcp(&own_address().to_string()).await;
    let slice = |name: &str, ip: &str, port: u16, ready: bool| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": name, "namespace": "default", "labels": { "kubernetes.io/service-name": "shout" },
            },
            "ports": [{ "name": "web", "port": port }],
            "endpoints": [{ "addresses": [ip], "conditions": { "ready": ready } }],
        })
    };
    let service = |namespace: &str, name: &str, spec: serde_json::Value| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": name, "namespace": namespace }, "spec": spec,
        })
    };
    let web = json!({ "ports": [{ "name": "web", "port": 80 }] });
    let elsewhere = json!({ "type": "ExternalName", "externalName": "web.example.org" });
    let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
        service("default", "shout", web.clone()),
        service("default", "idle", web.clone()),
        service("default", "elsewhere", elsewhere),
        service("kube-system", "hidden", web),
        slice("ready", &address.ip().to_string(), address.port(), true),
        slice("not-ready", "192.0.2.1", 8080, false),
    ]});
    cluster.apply(&objects).unwrap();
    let programs = Programs::beside(Path::new(env!("CARGO_BIN_EXE_underpass-agent")));
    let rights = ["--read-services", "default"];
    let kubeconfig = cluster.agent_account(&programs, "underpass-services", &rights);
    let folder = tempfile::tempdir().unwrap();
    fs::copy(kubeconfig.unwrap(), folder.path().join("kubeconfig")).unwrap();

    let (_agent, _server, session) = agent_in(folder, Some(POLICY)).await;
    for name in [
        "shout.default",
        "shout.default.svc",
        "shout.default.svc.cluster.local",
    ] {
        assert_eq!(ask(&session, &format!("tcp:{name}:80")).await, "HELLO");
    }
    for (target, code, says) in [
        (
            "tcp:idle.default:80",
            ResetCode::TargetUnreachable,
            "no ready endpoint",
        ),
        (
            "tcp:none.default:80",
            ResetCode::TargetUnreachable,
            "there is no such service",
        ),
        (
            "tcp:elsewhere.default:80",
            ResetCode::TargetUnreachable,
            "web.example.org",
        ),
        // The policy lets the agent do it, and the cluster's RBAC does not.
        (
            "tcp:hidden.kube-system:80",
            ResetCode::TargetUnreachable,
            "--read-services",
        ),
        (
            "tcp:shout.default:81",
            ResetCode::Forbidden,
            "but not its port 81",
        ),
    ] {
        let (found, reason) = refused(&session, target).await;
        assert_eq!(found, code, "{reason}");
        assert!(reason.contains(says), "{reason}");
    }
}
