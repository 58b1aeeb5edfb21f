//! A shell's listener, by programs that write their requests themselves, before an API server that answers with what it got.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use underpass_agent_policy::{Policy, ShellKind};
use underpass_core::{AgentRole, ImpersonationPolicy};
use underpass_upstream::{ApiServer, ApiServerOptions};

use super::*;
use crate::policy::Policies;

const ALL: &[Permission] = &Permission::OF_API_SERVER;
const SHELL: &[Permission] = &[Permission::Read, Permission::Write, Permission::Shell];
const POLICY: &str = "shells: {kubectl: {program: /bin/sh}}";
const SOON: Duration = Duration::from_secs(30);
const EXEC: &str = "/api/v1/namespaces/a/pods/b/exec?command=sh";
const FORWARD: &str = "/api/v1/namespaces/a/pods/b/portforward";
const WATCH: &str = "/api/v1/pods?watch=1";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";

/// An API server over plain HTTP: it upgrades what asks for it, never ends a watch, and answers all else with the head that it got.
async fn api_server() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(ANY_PORT).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::<AtomicUsize>::default();
    let counter = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(serve(BufReader::new(tcp), Arc::clone(&counter)));
        }
    });
    (url, asked)
}

async fn serve(mut tcp: BufReader<TcpStream>, asked: Arc<AtomicUsize>) {
    while let Some(head) = read_head(&mut tcp).await {
        asked.fetch_add(1, Ordering::Relaxed);
        let small = head.to_ascii_lowercase();
        if small.contains("upgrade: spdy/3.1") {
            let answer = "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
            tcp.write_all(answer.as_bytes()).await.unwrap();
            let (mut from, mut to) = tokio::io::split(tcp);
            let _ = tokio::io::copy(&mut from, &mut to).await;
            return;
        }
        let answer = match small.contains("watch=1") {
            true => "HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n".to_owned(),
            false => format!(
                "HTTP/1.1 200 X\r\ncontent-length: {}\r\nset-cookie: a=b\r\n\r\n{head}",
                head.len()
            ),
        };
        tcp.write_all(answer.as_bytes()).await.unwrap();
    }
}

/// The head of the next message.
async fn read_head(from: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> Option<String> {
    let mut head = String::new();
    loop {
        match from.read_line(&mut head).await.unwrap_or(0) {
            0 => return None,
            2 if head.len() > 2 => return Some(head),
            _ => {}
        }
    }
}

struct World {
    kubectl: Kubectl,
    kubeconfig: Value,
    notices: Vec<String>,
    policies: Arc<Policies>,
    asked: Arc<AtomicUsize>,
}

type Connected = BufReader<TlsStream<TcpStream>>;

impl World {
    async fn new(may: &[Permission]) -> Self {
        Self::with(POLICY, AgentRole::Cluster, may).await
    }

    async fn with(policy: &str, role: AgentRole, may: &[Permission]) -> Self {
        let (url, asked) = api_server().await;
        let config = kube::Config::new(url.parse().unwrap());
        let options = ApiServerOptions {
            insecure: true,
            ..ApiServerOptions::default()
        };
        let api_server = ApiServer::new(config, options).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy");
        std::fs::write(&file, policy).unwrap();
        let flags = ImpersonationPolicy::default();
        let policies = Arc::new(Policies::read(Some(file), flags).unwrap());
        let kube = KubeApi::new(Some(Arc::new(api_server)), role, Arc::clone(&policies));
        let targets = &policies.current().targets;
        let rule = targets.decide_shell(ShellKind::Kubectl, "alice", &[]);
        let (extra, groups) = ([("team".to_owned(), vec!["ops".to_owned()])], ["dev", "qa"]);
        let groups = groups.map(str::to_owned).to_vec();
        let alice = Identity::new("alice".into(), Some("7".into()), groups, extra.into());
        let opened = Kubectl::open(&kube, &rule.unwrap(), &alice.unwrap(), may).await;
        let (kubectl, given) = opened.unwrap();
        let [kubeconfig] = &given.files[..] else {
            panic!("{given:?}")
        };
        assert_eq!(kubeconfig.variable.as_deref(), Some("KUBECONFIG"));
        Self {
            kubectl,
            kubeconfig: serde_json::from_slice(&kubeconfig.content).unwrap(),
            notices: given.notices,
            policies,
            asked,
        }
    }

    fn address(&self) -> SocketAddr {
        let server = self.kubeconfig["clusters"][0]["cluster"]["server"].as_str();
        let address = server.unwrap().strip_prefix("https://").unwrap();
        address.parse().unwrap()
    }

    fn token(&self) -> String {
        let token = self.kubeconfig["users"][0]["user"]["token"].as_str();
        token.unwrap().to_owned()
    }

    async fn connect(&self) -> Connected {
        use base64::Engine as _;
        use rustls::pki_types::pem::PemObject as _;
        let ca = &self.kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"];
        let ca = base64::prelude::BASE64_STANDARD.decode(ca.as_str().unwrap());
        let ca = rustls::pki_types::CertificateDer::from_pem_slice(&ca.unwrap());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(self.address()).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let name = "127.0.0.1".try_into().unwrap();
        BufReader::new(connector.connect(name, tcp).await.unwrap())
    }

    /// Sends a request with these lines beside the token, and gives the head of its answer.
    async fn begin(&self, request: &str, lines: &str) -> (Connected, String) {
        let lines = format!("Authorization: Bearer {}\r\n{lines}", self.token());
        self.begin_with(request, &lines).await
    }

    async fn begin_with(&self, request: &str, lines: &str) -> (Connected, String) {
        let mut connected = self.connect().await;
        let host = self.address();
        let text = format!("{request} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n");
        connected.write_all(text.as_bytes()).await.unwrap();
        let head = timeout(SOON, read_head(&mut connected)).await.unwrap();
        (connected, head.unwrap_or_default())
    }

    /// The status of the answer to a request, and the answer.
    async fn ask(&self, request: &str, lines: &str) -> (u16, String) {
        let lines = format!("Connection: close\r\n{lines}");
        let (mut connected, head) = self.begin(request, &lines).await;
        let mut body = String::new();
        let reading = connected.read_to_string(&mut body);
        timeout(SOON, reading).await.unwrap().unwrap();
        (status(&head), head + &body)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn status(head: &str) -> u16 {
    let status = head.split(' ').nth(1).unwrap_or_default();
    status.parse().unwrap_or_default()
}

/// Waits until the other end has closed a connection, or cut it.
async fn closed(mut connected: Connected) {
    let mut rest = Vec::new();
    let _ = timeout(SOON, connected.read_to_end(&mut rest))
        .await
        .expect("the connection ends");
}

#[tokio::test]
async fn rule_3_the_api_server_gets_the_shells_user_and_nothing_of_the_programs() {
    let world = World::new(SHELL).await;
    let smuggled = "X-Remote-User: root\r\nX-REMOTE-GROUP: system:masters\r\nx_remote_user: root\r\nCookie: a=b\r\nX-Forwarded-For: 10.0.0.1\r\n\
                    X-Original-URL: /api/v1/secrets\r\nProxy-Authorization: Basic eA==\r\nConnection: x-one, X-Remote-Extra-a\r\nX-One: 1\r\n\
                    TE: trailers\r\nX-Two: 2\r\n";
    let (status, answer) = world.ask("GET /api/v1/pods?limit=1", smuggled).await;
    assert_eq!(status, 200, "{answer}");
    assert!(!answer.contains("set-cookie"), "{answer}");
    let (_, head) = answer.split_once("\r\n\r\n").unwrap();
    let small = head.to_ascii_lowercase();
    assert!(
        small.starts_with("get /api/v1/pods?limit=1 http/1.1\r\n"),
        "{head}"
    );
    for line in [
        "impersonate-user: alice",
        "impersonate-uid: 7",
        "impersonate-group: dev",
        "impersonate-group: qa",
        "impersonate-extra-team: ops",
        "x-two: 2",
        "te: trailers",
    ] {
        assert_eq!(small.matches(line).count(), 1, "{line}: {head}");
    }
    assert_eq!(small.matches("impersonate-").count(), 5, "{head}");
    for gone in [
        "remote",
        "cookie",
        "forwarded",
        "original",
        "authorization",
        "x-one",
        "bearer",
    ] {
        assert!(!small.contains(gone), "{gone}: {head}");
    }
}

#[tokio::test]
async fn rule_16_a_shell_acts_as_its_user_and_as_nobody_else() {
    let world = World::new(ALL).await;
    for lines in [
        "Impersonate-User: bob\r\n",
        "IMPERSONATE-GROUP: system:masters\r\n",
        "Impersonate-Uid: 0\r\n",
        "Impersonate-Extra-scopes: all\r\n",
        "Impersonate-Future: x\r\n",
        "Connection: Impersonate-User\r\nImpersonate-User: bob\r\n",
    ] {
        let (status, answer) = world.ask("GET /api/v1/pods", lines).await;
        assert_eq!(status, 403, "{lines}: {answer}");
        assert!(answer.contains(r#""kind":"Status""#), "{answer}");
        assert!(
            answer.contains("the user of the shell") && answer.contains("--as"),
            "{answer}"
        );
    }
    // client-go prints a plain text where it asks which APIs there are.
    let lines = "Impersonate-User: bob\r\nAccept: application/json;g=apidiscovery.k8s.io\r\n";
    let (status, answer) = world.ask("GET /apis", lines).await;
    assert_eq!(status, 403, "{answer}");
    assert!(!answer.contains(r#""kind""#), "{answer}");
    assert_eq!(world.asked(), 0);
}

#[tokio::test]
async fn rule_4_another_shells_token_opens_nothing() {
    let (world, other) = (World::new(ALL).await, World::new(ALL).await);
    assert_ne!(world.token(), other.token());
    for token in [other.token(), String::new(), format!("{}x", world.token())] {
        let line = format!("Authorization: Bearer {token}\r\n");
        let (_, head) = world.begin_with("GET /version", &line).await;
        assert_eq!(status(&head), 401, "{head}");
    }
    let (_, head) = world.begin_with("GET /version", "").await;
    assert_eq!(status(&head), 401, "{head}");
    assert_eq!(world.asked(), 0);
}

#[tokio::test]
async fn rule_26_what_has_two_meanings_goes_nowhere_from_a_shell() {
    let world = World::new(ALL).await;
    for (request, expected) in [
        ("GET /api/v1/namespaces/a/../../secrets", 400),
        ("GET /api/v1/namespaces/a/%2e%2e/secrets", 400),
        ("GET //api/v1/secrets", 400),
        ("TRACE /api/v1/pods", 405),
        ("FROB /api/v1/pods", 405),
    ] {
        let (status, answer) = world.ask(request, "").await;
        assert_eq!(status, expected, "{request}: {answer}");
    }
    let with_body = format!("{UPGRADE}Content-Length: 1\r\n");
    let (_, head) = world.begin(&format!("POST {EXEC}"), &with_body).await;
    assert_eq!(status(&head), 400, "{head}");
    assert_eq!(world.asked(), 0);
}

#[tokio::test]
async fn rule_8_a_shell_asks_for_what_its_user_may_ask_for() {
    let world = World::new(SHELL).await;
    for (request, lines) in [
        (format!("POST {FORWARD}"), UPGRADE),
        (format!("GET {FORWARD}"), ""),
        ("GET /api/v1/namespaces/a/services/b/proxy/x".to_owned(), ""),
        ("GET /api/v1/nodes/n/proxy/run/a/b/c?cmd=id".to_owned(), ""),
    ] {
        let (status, answer) = world.ask(&request, lines).await;
        assert_eq!(status, 403, "{request}: {answer}");
        assert!(answer.contains("a connection to a"), "{answer}");
    }
    assert_eq!(world.asked(), 0);
    let nothing = World::new(&[]).await;
    let (status, answer) = nothing.ask("GET /version", "").await;
    assert_eq!(status, 403, "{answer}");
    assert_eq!(nothing.asked(), 0);
}

#[tokio::test]
async fn rule_1_an_exec_of_a_shell_is_a_pipe_which_ends_with_the_shell() {
    let world = World::new(SHELL).await;
    let (mut exec, head) = world.begin(&format!("POST {EXEC}"), UPGRADE).await;
    assert_eq!(status(&head), 101, "{head}");
    exec.write_all(b"over").await.unwrap();
    let mut echoed = [0; 4];
    exec.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"over");
    let (mut watch, head) = world.begin(&format!("GET {WATCH}"), "").await;
    assert_eq!(status(&head), 200, "{head}");
    let mut event = [0; 7];
    watch.read_exact(&mut event).await.unwrap();
    let idle = world.connect().await;
    world.kubectl.close();
    for connected in [exec, watch, idle] {
        closed(connected).await;
    }
    let address = world.address();
    let refused = timeout(SOON, async {
        // The listener's task may not have run yet.
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    refused.await.expect("nothing listens there any more");
}

#[tokio::test]
async fn rule_12_what_the_server_takes_back_ends_in_the_shell() {
    let world = World::new(ALL).await;
    let (mut forward, head) = world.begin(&format!("POST {FORWARD}"), UPGRADE).await;
    assert_eq!(status(&head), 101, "{head}");
    let (mut exec, head) = world.begin(&format!("POST {EXEC}"), UPGRADE).await;
    assert_eq!(status(&head), 101, "{head}");
    // Nothing is given that was not there.
    world
        .kubectl
        .narrow(&[SHELL, &[Permission::NodeShell]].concat());
    let mut byte = [0];
    let ended = timeout(SOON, forward.read(&mut byte)).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    exec.write_all(b"x").await.unwrap();
    exec.read_exact(&mut byte).await.unwrap();
    let (status, answer) = world.ask(&format!("GET {FORWARD}"), "").await;
    assert_eq!(status, 403, "{answer}");
}

#[tokio::test]
async fn rule_17_a_shell_has_no_way_that_the_policy_does_not_allow() {
    let world = World::new(ALL).await;
    assert_eq!(world.ask("GET /version", "").await.0, 200);
    let (watch, head) = world.begin(&format!("GET {WATCH}"), "").await;
    assert_eq!(status(&head), 200, "{head}");
    let denied = format!("{POLICY}\napiServer: false");
    let denied = Policy::from_yaml(&denied).unwrap();
    world.policies.enforce(denied);
    closed(watch).await;
    let (status, answer) = world.ask("GET /version", "").await;
    assert_eq!(status, 403, "{answer}");
    let by_name = format!("{POLICY}\nimpersonation: {{deniedUsers: [alice]}}");
    world.policies.enforce(Policy::from_yaml(&by_name).unwrap());
    let (status, answer) = world.ask("GET /version", "").await;
    assert_eq!(status, 403, "{answer}");
    assert!(answer.contains("may not be impersonated"), "{answer}");
    // A node's agent carries nothing to the API server, unless its policy says so.
    let node = World::with(POLICY, AgentRole::Node, ALL).await;
    assert!(
        node.notices
            .iter()
            .any(|line| line.contains("does not reach the API server")),
        "{:?}",
        node.notices
    );
    assert_eq!(node.ask("GET /version", "").await.0, 403);
    assert_eq!(node.asked(), 0);
    let allowed = format!("{POLICY}\napiServer: true");
    let node = World::with(&allowed, AgentRole::Node, ALL).await;
    assert_eq!(node.ask("GET /version", "").await.0, 200);
}

#[tokio::test]
async fn rule_23_a_shell_has_so_many_requests_at_a_time() {
    let world = World::new(ALL).await;
    let mut watches = Vec::new();
    // Over few connections they would be as many.
    let shared = &world.kubectl.shared;
    let held = shared.hold(limits::SHELL_REQUESTS - 1);
    watches.push(world.begin(&format!("GET {WATCH}"), "").await);
    let (status, answer) = world.ask("GET /version", "").await;
    assert_eq!(status, 429, "{answer}");
    assert!(
        answer.to_ascii_lowercase().contains("retry-after"),
        "{answer}"
    );
    drop((held, watches));
    let freed = timeout(SOON, async {
        while world.ask("GET /version", "").await.0 != 200 {
            tokio::task::yield_now().await;
        }
    });
    freed.await.expect("an ended watch gives its place back");
}

#[tokio::test]
async fn a_shell_without_kubectl_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let policy = |path: &str| {
        format!(
            "shells: {{kubectl: {{program: /bin/sh, environment: {{set: {{PATH: {path:?}}}}}}}}}"
        )
    };
    let path = folder.path().to_str().unwrap();
    let missing = || World::with_path(policy(&format!("/no/folder:{path}")));
    let notices = missing().await;
    assert!(
        notices.iter().any(|line| line.contains("no kubectl")),
        "{notices:?}"
    );
    let program = folder.path().join("kubectl");
    std::fs::write(&program, "").unwrap();
    assert!(!missing().await.is_empty(), "it cannot be run");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, executable).unwrap();
    assert_eq!(missing().await, [""; 0]);
}

impl World {
    async fn with_path(policy: String) -> Vec<String> {
        Self::with(&policy, AgentRole::Cluster, ALL).await.notices
    }
}
