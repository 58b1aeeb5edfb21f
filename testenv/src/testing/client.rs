//! How tests call kubectl.

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tokio::process::Command;

use super::{pod, run, succeed, text};
use crate::Cluster;

/// How kubectl streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// kubectl's default.
    WebSocket,
    /// kubectl's default before 1.30.
    Spdy,
}

impl Wire {
    /// For names of objects.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "ws",
            Self::Spdy => "spdy",
        }
    }

    /// The verb that the API server sees: WebSocket starts with a GET, SPDY with a POST.
    #[must_use]
    pub const fn verb(self) -> &'static str {
        match self {
            Self::WebSocket => "get",
            Self::Spdy => "create",
        }
    }
}

/// kubectl on one way to a cluster: straight to its API server, or through a tunnel.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    cluster: &'a Cluster,
    kubeconfig: &'a Path,
    way: &'a str,
    wire: Wire,
}

impl<'a> Client<'a> {
    /// The administrator, straight to the API server.
    #[must_use]
    pub fn direct(cluster: &'a Cluster, wire: Wire) -> Self {
        Self::new(cluster, cluster.admin_kubeconfig(), "direct", wire)
    }

    /// The kubeconfig's user, on the way that it leads to the same cluster; `way` names it, in the names of
    /// objects.
    #[must_use]
    pub fn new(cluster: &'a Cluster, kubeconfig: &'a Path, way: &'a str, wire: Wire) -> Self {
        Self {
            cluster,
            kubeconfig,
            way,
            wire,
        }
    }

    /// The cluster at the end of the way.
    #[must_use]
    pub const fn cluster(&self) -> &'a Cluster {
        self.cluster
    }

    /// How it streams.
    #[must_use]
    pub const fn wire(&self) -> Wire {
        self.wire
    }

    /// A name for a test's objects that the same test on another way does not use.
    #[must_use]
    pub fn name(&self, test: &str) -> String {
        format!("{test}-{}-{}", self.way, self.wire.name())
    }

    /// kubectl, without arguments yet.
    #[must_use]
    pub fn kubectl(&self) -> Command {
        let websocket = (self.wire == Wire::WebSocket).to_string();
        let mut command = Command::from(self.cluster.kubectl_with(self.kubeconfig));
        command
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", &websocket)
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", &websocket)
            .kill_on_drop(true);
        command
    }

    /// Runs kubectl, which has to succeed, and returns its standard output.
    pub async fn run(&self, arguments: &[&str]) -> String {
        text(&succeed(self.kubectl().args(arguments), b"").await)
    }

    /// Runs kubectl, however it ends.
    pub async fn output(&self, arguments: &[&str]) -> Output {
        run(self.kubectl().args(arguments), b"").await
    }

    /// Runs kubectl, which has to fail, and returns its standard error.
    pub async fn fail(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments).await;
        assert!(!output.status.success(), "{arguments:?}: {output:?}");
        text(&output.stderr)
    }

    /// Runs kubectl, which has to succeed, with a manifest as its input, and returns its standard output.
    pub async fn feed(&self, arguments: &[&str], manifest: &Value) -> String {
        let input = manifest.to_string();
        text(&succeed(self.kubectl().args(arguments), input.as_bytes()).await)
    }

    /// Creates an object.
    pub async fn create(&self, manifest: &Value) {
        self.feed(&["create", "-f", "-"], manifest).await;
    }

    /// Waits until a pod is ready.
    pub async fn wait_ready(&self, pod: &str) {
        let pod = format!("pod/{pod}");
        self.run(&["wait", "--for=condition=Ready", "--timeout=60s", &pod])
            .await;
    }

    /// Creates a pod, and waits until it is ready.
    pub async fn start_pod(&self, manifest: &Value) {
        self.create(manifest).await;
        let name = manifest["metadata"]["name"].as_str().unwrap();
        self.wait_ready(name).await;
    }

    /// Creates a pod that idles, and waits until it is ready.
    pub async fn idle_pod(&self, name: &str) {
        self.start_pod(&pod(name, "exec sleep 100000")).await;
    }

    /// A pod that idles, with a name of its own for the test.
    pub async fn target(&self, test: &str) -> String {
        let name = self.name(test);
        self.idle_pod(&name).await;
        name
    }

    /// A field of an object, by JSONPath.
    pub async fn field(&self, object: &str, path: &str) -> String {
        self.run(&["get", object, "-o", &format!("jsonpath={{{path}}}")])
            .await
    }

    /// `kubectl exec`.
    #[must_use]
    pub fn exec(&self, pod: &str, flags: &[&str], command: &[&str]) -> Command {
        let mut kubectl = self.kubectl();
        kubectl
            .arg("exec")
            .args(flags)
            .arg(pod)
            .arg("--")
            .args(command);
        kubectl
    }

    /// The API server's audit events that `wanted` picks.
    #[must_use]
    pub fn audit_events(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let log = self.cluster.audit_log().unwrap();
        // The last line may be half written.
        std::fs::read_to_string(log)
            .unwrap()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(wanted)
            .collect()
    }
}
