//! Sockets and ports at a node, by the programs that people run.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use underpass_testenv::Transport;
use underpass_testenv::testing::{DEADLINE, eventually};

use super::forward::Forward;
use super::programs::{curl, output, serve_pages, serve_pages_at};
use crate::operations::{AGENT, CLUSTER_OF_NODES, NODE, Site};
use crate::over_both_transports;

over_both_transports!(
    rule_8_a_nodes_sockets_and_ports_are_for_the_role_admin,
    rule_17_a_nodes_own_policy_decides_about_its_sockets,
    a_forward_to_a_node_outlives_its_agent,
    rule_12_a_connection_to_a_node_ends_with_its_role,
);

/// A node with a container runtime's socket and a port, which its policy has.
struct Node {
    site: Site,
    /// The runtime's.
    socket: PathBuf,
    port: u16,
    /// Short: the path of a socket has 108 bytes at the most.
    folder: tempfile::TempDir,
    runtime: Option<UnixListener>,
    listener: Option<TcpListener>,
}

impl Node {
    async fn new(transport: Transport) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The agent's policy is about paths without links.
        let socket = folder.path().canonicalize().unwrap().join("docker.sock");
        let runtime = UnixListener::bind(&socket).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let policy = format!(
            "unix: [{{name: runtime, paths: [{}]}}]\n\
             tcp: [{{name: own, addresses: [127.0.0.1], ports: [{port}]}}]\n",
            socket.display()
        );
        Self {
            site: Site::new(transport, &policy).await,
            socket,
            port,
            folder,
            runtime: Some(runtime),
            listener: Some(listener),
        }
    }

    /// `PATH:unix:SOCKET`, and its path on this side.
    fn rule(&self) -> (PathBuf, String) {
        let near = self.folder.path().join("near.sock");
        let rule = format!("{}:unix:{}", near.display(), self.socket.display());
        (near, rule)
    }

    fn forward(&self, token: &Path, arguments: &[&str]) -> Forward {
        let node = ["--node", NODE];
        let arguments = [&node[..], arguments].concat();
        Forward::start_in(CLUSTER_OF_NODES, &self.site.deployment, token, &arguments)
    }
}

/// HTTP over the socket, as docker speaks it.
async fn ask(near: &Path, path: &str) -> String {
    let socket = near.to_str().unwrap();
    let url = format!("http://docker{path}");
    output(curl(["--unix-socket", socket, &url])).await
}

/// A connection that is refused ends without a byte, and the command says why.
async fn refused(near: &Path, forward: &mut Forward) -> String {
    let mut socket = UnixStream::connect(near).await.unwrap();
    let mut heard = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut heard));
    ended.await.expect("it ends").unwrap();
    assert_eq!(heard, b"");
    forward.line().await
}

async fn rule_8_a_nodes_sockets_and_ports_are_for_the_role_admin(transport: Transport) {
    let mut node = Node::new(transport).await;
    let _runtime = serve_pages_at(node.runtime.take().unwrap());
    let _port = serve_pages(node.listener.take().unwrap());
    let list = node.site.administer(&["node", "list", CLUSTER_OF_NODES]);
    assert!(list.contains(" zone=a "), "{list}");
    let root = node.site.user("root", "admin");
    let (near, rule) = node.rule();
    let port = format!("0:127.0.0.1:{}", node.port);
    let mut forward = node.forward(&root, &[&rule, &port, "--socks5", "0"]);
    let said = forward.line().await;
    let there = format!("at node {NODE} of cluster {CLUSTER_OF_NODES}");
    assert!(
        said.starts_with(near.to_str().unwrap()) && said.ends_with(&there),
        "{said}"
    );
    let (address, _) = forward.port().await;
    let (socks, _) = forward.port().await;
    assert_eq!(ask(&near, "/version").await, "GET /version ");
    let url = format!("http://127.0.0.1:{}/port", node.port);
    let by_port = output(curl([format!("http://{address}/port")])).await;
    assert_eq!(by_port, "GET /port ");
    let socks = socks.to_string();
    let by_name = output(curl(["--socks5-hostname", &socks, &url])).await;
    assert_eq!(by_name, "GET /port ");
    // As a program does it by itself.
    let bearer = fs::read_to_string(&root).unwrap();
    let ca = node.site.deployment.ca_file();
    let headers = [
        format!("Proxy-Authorization: Bearer {}", bearer.trim()),
        format!("Underpass-Cluster: {CLUSTER_OF_NODES}"),
        format!("Underpass-Node: {NODE}"),
    ];
    let mut proxied = curl(["--proxytunnel", "--proxy-cacert", ca.to_str().unwrap()]);
    proxied.args(["--proxy", node.site.deployment.url(), &url]);
    for header in &headers {
        proxied.args(["--proxy-header", header]);
    }
    assert_eq!(output(proxied).await, "GET /port ");
    forward.interrupt().await;
    assert!(!near.exists(), "the socket goes with the command");
    // Rule 15: with the node's name, at both ends.
    let log = node.site.deployment.server_log().unwrap();
    let unix = format!("unix:{}", node.socket.display());
    let line = |line: &str| line.contains(&unix) && line.contains(NODE) && line.contains("root");
    assert!(log.lines().any(line), "{log}");
    for (role, signal) in [
        ("services", Signal::INT),
        ("operate", Signal::TERM),
        ("operations", Signal::HUP),
    ] {
        let token = node.site.user(role, role);
        let mut forward = node.forward(&token, &[&rule]);
        forward.line().await;
        let told = refused(&near, &mut forward).await;
        let words = format!(
            "the role here is {role}, which does not include a connection to a socket or a port at a node"
        );
        assert!(told.contains(&words), "{told}");
        forward.end(signal).await;
        assert!(!near.exists(), "{signal:?} leaves the socket");
    }
}

async fn rule_17_a_nodes_own_policy_decides_about_its_sockets(transport: Transport) {
    let node = Node::new(transport).await;
    let root = node.site.user("root", "admin");
    let near = node.folder.path().join("near.sock");
    let other = format!("{}:unix:/run/other.sock", near.display());
    let ssh = format!("{}:127.0.0.1:{}", near.display(), node.port ^ 1);
    for (rule, words) in [
        (
            other,
            "no rule of the agent's policy allows unix:/run/other.sock".to_owned(),
        ),
        (
            ssh,
            format!(
                "rule `own` of the agent's policy allows 127.0.0.1, but not its port {}",
                node.port ^ 1
            ),
        ),
    ] {
        let mut forward = node.forward(&root, &[&rule]);
        forward.line().await;
        let told = refused(&near, &mut forward).await;
        assert!(told.contains(&words), "{told}");
        assert!(
            told.contains(&format!("the agent of node \"{NODE}\"")),
            "{told}"
        );
        forward.interrupt().await;
    }
    // No node of that name.
    let rule = node.rule().1;
    let arguments = ["--node", "worker-2", &rule];
    let mut forward = Forward::start_in(CLUSTER_OF_NODES, &node.site.deployment, &root, &arguments);
    forward.line().await;
    let told = refused(&near, &mut forward).await;
    let remedy = format!("`underpass node list {CLUSTER_OF_NODES}`");
    assert!(
        told.contains("worker-2") && told.contains(&remedy),
        "{told}"
    );
    forward.interrupt().await;
}

async fn a_forward_to_a_node_outlives_its_agent(transport: Transport) {
    let mut node = Node::new(transport).await;
    let _runtime = serve_pages_at(node.runtime.take().unwrap());
    let root = node.site.user("root", "admin");
    let (near, rule) = node.rule();
    let mut forward = node.forward(&root, &[&rule]);
    forward.line().await;
    assert_eq!(ask(&near, "/before").await, "GET /before ");
    node.site.deployment.kill_another_agent(AGENT).unwrap();
    let told = refused(&near, &mut forward).await;
    assert!(told.contains(NODE), "{told}");
    node.site.start_agent();
    node.site.connected().await;
    let back = eventually("the node is reached again", async || {
        let asked = curl([
            "--unix-socket",
            near.to_str().unwrap(),
            "http://docker/after",
        ])
        .output()
        .await
        .unwrap();
        match asked.status.success() {
            true => Ok(String::from_utf8(asked.stdout).unwrap()),
            false => Err(asked),
        }
    })
    .await;
    assert_eq!(back, "GET /after ");
    forward.interrupt().await;
}

async fn rule_12_a_connection_to_a_node_ends_with_its_role(transport: Transport) {
    let mut node = Node::new(transport).await;
    let runtime = node.runtime.take().unwrap();
    let (near, rule) = node.rule();
    for number in 0..2 {
        let user = format!("root-{number}");
        let root = node.site.user(&user, "admin");
        let mut forward = node.forward(&root, &[&rule]);
        forward.line().await;
        let mut here = UnixStream::connect(&near).await.unwrap();
        let (mut there, _) = runtime.accept().await.unwrap();
        here.write_all(b"held").await.unwrap();
        there.read_exact(&mut [0; 4]).await.unwrap();
        match number {
            0 => drop(node.site.administer(&["user", "remove", &user])),
            // The node's owner takes it back.
            _ => fs::write(&node.site.policy, "{}").unwrap(),
        }
        for end in [&mut here, &mut there] {
            let mut byte = [0];
            let ended = tokio::time::timeout(DEADLINE, end.read(&mut byte));
            let ended = ended.await.expect("it ends");
            assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        }
        forward.interrupt().await;
    }
}
