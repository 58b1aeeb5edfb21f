//! Clusters at names of their own: by TLS alone (`tls-server-name`) and by DNS (`--cluster-domain`). Kubernetes' own tests of
//! `kubectl proxy` and of HTTP proxies (test/e2e/kubectl/kubectl.go) are here, without a flag for a path.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, copy_bidirectional,
};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use underpass_testenv::testing::{Client, DEADLINE, Reading, Wire, spawn, succeed, text};
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::deployment::{Deployment, changed, led_to};

const DOMAIN: &str = "k8s.example.org";

static NAMED: LazyLock<Deployment> = LazyLock::new(|| {
    Deployment::start_blocking_with(Transport::Quic, &["--cluster-domain", DOMAIN])
});

/// A proxy that knows CONNECT, and takes every host for this machine: the DNS of these tests.
pub(crate) struct HttpProxy {
    port: u16,
    tunnels: Arc<AtomicUsize>,
    _listening: JoinSet<()>,
}

impl HttpProxy {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tunnels = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&tunnels);
        let mut listening = JoinSet::new();
        listening.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(carry(client, Arc::clone(&counted)));
            }
        });
        Self {
            port,
            tunnels,
            _listening: listening,
        }
    }

    pub(crate) fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

async fn carry(client: TcpStream, tunnels: Arc<AtomicUsize>) {
    let mut client = BufReader::new(client);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if client.read_line(&mut head).await.unwrap() == 0 {
            return;
        }
    }
    let target = head
        .strip_prefix("CONNECT ")
        .and_then(|rest| rest.split(' ').next());
    let port = target.and_then(|target| target.rsplit(':').next()?.parse().ok());
    let port: u16 = port.unwrap_or_else(|| panic!("{head}"));
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .unwrap();
    tunnels.fetch_add(1, Ordering::SeqCst);
    client
        .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await
        .unwrap();
    // Either side may go away at any time.
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

/// A kubeconfig by TLS alone, as `underpass kubeconfig` writes it unasked.
fn by_tls() -> PathBuf {
    let deployment = Deployment::shared(Transport::Quic);
    let kubeconfig = deployment.admin_kubeconfig().to_owned();
    let text = std::fs::read_to_string(&kubeconfig).unwrap();
    assert!(text.contains("tls-server-name: edge.clusters.underpass.internal"));
    assert!(!text.contains("/k8s/clusters/"), "{text}");
    kubeconfig
}

/// A kubeconfig by DNS, which `proxy` is.
fn by_dns(proxy: &HttpProxy, name: &str) -> PathBuf {
    let kubeconfig = NAMED.admin_kubeconfig();
    let text = std::fs::read_to_string(kubeconfig).unwrap();
    assert!(!text.contains("tls-server-name"), "{text}");
    let url = format!("server: https://{CLUSTER_NAME}.{DOMAIN}:");
    let line = text.lines().find(|line| line.contains(&url));
    let (indent, _) = line
        .unwrap_or_else(|| panic!("{text}"))
        .split_once(&url)
        .unwrap();
    let through = format!("proxy-url: {}\n{indent}{url}", proxy.url());
    changed(kubeconfig, name, &url, &through)
}

fn client(kubeconfig: &Path, wire: Wire) -> Client<'_> {
    Deployment::shared(Transport::Quic).client(kubeconfig, wire)
}

/// `kubectl proxy`, and its first line.
async fn kubectl_proxy(client: &Client<'_>, flags: &[&str]) -> (Child, String) {
    let mut child = spawn(client.kubectl().arg("proxy").args(flags));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(DEADLINE, lines.next_line()).await;
    let line = line.unwrap().unwrap().expect("kubectl proxy serves");
    (child, line)
}

/// The port that `kubectl proxy` says.
fn port(line: &str) -> u16 {
    let port = line.rsplit(':').next().and_then(|port| port.parse().ok());
    port.unwrap_or_else(|| panic!("{line}"))
}

/// `GET` of a path, over a connection to `kubectl proxy`.
async fn get<I>(io: I, path: &str) -> (u16, Value)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(io));
    let (mut sender, connection) = handshake.await.unwrap();
    let driver = tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, "localhost");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let answer = tokio::time::timeout(DEADLINE, sender.send_request(request)).await;
    let (head, body) = answer.unwrap().unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    driver.abort();
    let body = serde_json::from_slice(&body).unwrap_or_else(|_| text(&body).into());
    (head.status.as_u16(), body)
}

#[tokio::test]
async fn what_is_asked_raw_is_answered_by_the_cluster() {
    let proxy = HttpProxy::start().await;
    let dns = by_dns(&proxy, "raw");
    // For an administrator only.
    client(&by_tls(), Wire::WebSocket)
        .run(&["get", "--raw", "/metrics"])
        .await
        .lines()
        .find(|line| line.starts_with("apiserver_request_total{"))
        .expect("metrics of the API server");
    for kubeconfig in [by_tls(), dns] {
        let client = client(&kubeconfig, Wire::WebSocket);
        let version = client.run(&["get", "--raw", "/version"]).await;
        assert!(version.contains("gitVersion"), "{version}");
        assert_eq!(client.run(&["get", "--raw", "/readyz"]).await, "ok");
        // The server's own API is not there.
        let said = client.fail(&["get", "--raw", "/v1/self"]).await;
        let absent = said.contains("NotFound") || said.contains("Forbidden");
        assert!(absent, "{said}");
        assert!(!said.contains("underpass"), "{said}");
    }
    assert!(proxy.tunnels() > 0);
}

#[tokio::test]
async fn kubectl_proxy_needs_no_flag() {
    let proxy = HttpProxy::start().await;
    let dns = by_dns(&proxy, "proxied");
    for kubeconfig in [by_tls(), dns] {
        let client = client(&kubeconfig, Wire::WebSocket);
        // "should support proxy with --port 0"
        let (_kubectl, line) = kubectl_proxy(&client, &["--port=0", "--disable-filter"]).await;
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port(&line))).await;
        let (code, api) = get(tcp.unwrap(), "/api/").await;
        assert_eq!((code, &api["kind"]), (200, &"APIVersions".into()), "{api}");
        // "should support --unix-socket=/path"
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test");
        let flag = format!("--unix-socket={}", path.display());
        let (_kubectl, line) = kubectl_proxy(&client, &[&flag]).await;
        assert!(line.contains(path.to_str().unwrap()), "{line}");
        let (code, api) = get(UnixStream::connect(&path).await.unwrap(), "/api/").await;
        assert_eq!((code, &api["kind"]), (200, &"APIVersions".into()), "{api}");
    }
}

fn echo(mut kubectl: Command, pod: &str) -> Command {
    kubectl.args(["exec", pod, "--", "echo", "running in container"]);
    kubectl
}

/// "should support exec through kubectl proxy". (By the name in TLS only: `kubectl proxy` asks no HTTP proxy for upgrades, and these
/// tests have no DNS.)
#[tokio::test]
async fn exec_works_through_kubectl_proxy() {
    let kubeconfig = by_tls();
    let pod = client(&kubeconfig, Wire::WebSocket)
        .target("exec-proxy")
        .await;
    for wire in [Wire::WebSocket, Wire::Spdy] {
        let client = client(&kubeconfig, wire);
        let flags = ["--port=0", "--disable-filter"];
        let (_proxy, line) = kubectl_proxy(&client, &flags).await;
        let mut kubectl = client.kubectl();
        kubectl.arg(format!("--server=http://127.0.0.1:{}", port(&line)));
        let said = succeed(&mut echo(kubectl, &pod), b"").await;
        assert_eq!(text(&said), "running in container\n", "{wire:?}");
    }
}

/// "should support exec through an HTTP proxy": Go asks no proxy for a loopback address, so that the server has another name here,
/// which its certificate does not have.
#[tokio::test]
async fn exec_works_through_an_http_proxy() {
    let tls = by_tls();
    let pod = client(&tls, Wire::WebSocket).target("http-proxy").await;
    let elsewhere = changed(&tls, "http-proxy", "https://localhost:", "https://up.test:");
    for wire in [Wire::WebSocket, Wire::Spdy] {
        let proxy = HttpProxy::start().await;
        let client = client(&elsewhere, wire);
        let mut kubectl = client.kubectl();
        kubectl.env("https_proxy", proxy.url());
        let said = succeed(&mut echo(kubectl, &pod), b"").await;
        assert_eq!(text(&said), "running in container\n", "{wire:?}");
        assert!(proxy.tunnels() > 0, "{wire:?}");
    }
}

/// Input that ends, and a watch, by a name that only the proxy knows.
#[tokio::test]
async fn streams_work_by_dns() {
    let proxy = HttpProxy::start().await;
    let kubeconfig = by_dns(&proxy, "streams");
    for wire in [Wire::WebSocket, Wire::Spdy] {
        let client = client(&kubeconfig, wire);
        let pod = client.target("by-dns").await;
        let mut exec = client.exec(&pod, &["-i"], &["sh", "-c", "cat; echo end"]);
        assert_eq!(text(&succeed(&mut exec, b"some\n").await), "some\nend\n");
        let mut logs = spawn(
            client
                .kubectl()
                .args(["get", "pods", "--watch", "-o", "name"]),
        );
        let mut reading = Reading::new(logs.stdout.take().unwrap());
        reading.until(&format!("pod/{pod}")).await;
    }
}

/// A user of one cluster is nobody at another's name.
#[tokio::test]
async fn rule_6_by_a_name_nobody_reaches_another_cluster() {
    let deployment = Deployment::shared(Transport::Quic);
    let kubeconfig = deployment.kubeconfig("by-name", &[]).unwrap();
    let other = led_to(&kubeconfig, "by-name-other", CLUSTER_NAME, "not-mine");
    let said = client(&other, Wire::WebSocket).fail(&["get", "pods"]).await;
    let refused = "clusters.underpass.dev \"not-mine\" is forbidden: User \"by-name\" cannot";
    assert!(said.contains(refused), "{said}");
}
