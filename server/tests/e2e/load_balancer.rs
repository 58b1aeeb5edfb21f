//! Servers behind load balancers: where a caller is, and whose word that is.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use underpass_testenv::testing::providers::{Directory, SEARCHER};
use underpass_testenv::testing::{Wire, eventually};
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::audit::{one_of_ours, one_of_theirs};
use crate::deployment::{Deployment, changed, token_of};
use crate::raw::{self, Answer};

/// A load balancer that forwards TCP. It is on this machine as everybody in these tests, by another of its addresses.
const BALANCER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// One that ends TLS.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

const FLAGS: [&str; 4] = [
    "--proxy-protocol-from",
    "127.0.0.2",
    "--trusted-proxies",
    "127.0.0.3,198.51.100.0/24",
];

const VERSION: &str = "/k8s/clusters/edge/version";

static DEPLOYMENT: LazyLock<Deployment> =
    LazyLock::new(|| Deployment::start_blocking_with(Transport::WebSocket, &FLAGS));

fn deployment() -> &'static Deployment {
    &DEPLOYMENT
}

/// A header of version 1.
fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 198.51.100.2 4711 443\r\n").into_bytes()
}

/// A header of version 2 for this command and block.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    [&signature[..], &[command, family], &length, block].concat()
}

/// A header of version 2 as a load balancer of a cloud writes it, with TLVs.
fn v2_with_tlvs(client: Ipv4Addr) -> Vec<u8> {
    let addresses = [&client.octets()[..], &[198, 51, 100, 2, 0x12, 0x67, 1, 187]].concat();
    let checksum = [3, 0, 4, 1, 2, 3, 4];
    let id = [&[0xea, 0, 23, 1][..], b"vpce-08d2bf15fac5001c9"].concat();
    v2(0x21, 0x11, &[&addresses[..], &checksum, &id].concat())
}

/// A load balancer that begins each of its connections to the server with the same header.
struct Balancer {
    port: u16,
    _listening: JoinSet<()>,
}

impl Balancer {
    async fn start(header: Vec<u8>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server: SocketAddr = raw::authority(deployment()).parse().unwrap();
        let mut listening = JoinSet::new();
        listening.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                connections.spawn(forward(client, server, header.clone()));
            }
        });
        Self {
            port,
            _listening: listening,
        }
    }
}

async fn forward(mut client: TcpStream, server: SocketAddr, header: Vec<u8>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((BALANCER, 0).into()).unwrap();
    // Either side may go away at any time.
    if let Ok(mut server) = socket.connect(server).await
        && server.write_all(&header).await.is_ok()
    {
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}

/// Where the server's and the API server's audit logs say that a call came from.
async fn sources(id: &str) -> (Value, Value) {
    let client = deployment().admin(Wire::WebSocket);
    let of_call = |event: &Value| event["auditID"] == id;
    let theirs = one_of_theirs(&client, of_call).await;
    let ours = one_of_ours(deployment(), of_call).await;
    (ours["sourceIPs"].clone(), theirs["sourceIPs"].clone())
}

/// That both logs and the server's own say that the call came from `client`.
async fn assert_came_from(answer: &Answer, client: &str) {
    assert_eq!(answer.code, 200, "{answer:?}");
    let id = answer.headers["audit-id"].to_str().unwrap();
    let (ours, theirs) = sources(id).await;
    assert_eq!(ours, json!([client]));
    // One address from us; the API server adds whom it was asked by, which is the agent.
    let agent = "127.0.0.1";
    let both = [client, agent];
    let distinct = if client == agent { &both[..1] } else { &both };
    assert_eq!(theirs, json!(distinct));
    let log = deployment().server_log().unwrap();
    let mut lines = log.lines().filter(|line| line.contains(id));
    let line = lines.find(|line| line.contains("underpass::audit"));
    let line = line.unwrap();
    assert!(line.contains(&format!("client={client} ")), "{line}");
}

/// A call of the administrator from this address, with this before TLS, and these header lines.
async fn call(source: Ipv4Addr, first: &[u8], lines: &[(&str, &str)]) -> Answer {
    let tls = raw::connect_from(deployment(), source, first, &[b"http/1.1"]);
    let token = token_of(deployment().admin_kubeconfig());
    let mut request = Request::get(VERSION).header("authorization", format!("Bearer {token}"));
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    raw::send_on(tls.await.unwrap(), request).await
}

#[tokio::test]
async fn a_proxy_protocol_header_says_where_the_caller_is() {
    for (header, client) in [
        (v1("203.0.113.9"), "203.0.113.9"),
        (v2_with_tlvs([203, 0, 113, 10].into()), "203.0.113.10"),
        // Nobody's: the load balancer's own.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.2"),
        (v2(0x20, 0, &[]), "127.0.0.2"),
        (v2(0x21, 0x31, &[1; 216]), "127.0.0.2"),
    ] {
        let answer = call(BALANCER, &header, &[]).await;
        assert_came_from(&answer, client).await;
    }
}

#[tokio::test]
async fn kubectl_works_through_a_load_balancer() {
    let balancer = Balancer::start(v1("203.0.113.77")).await;
    let server = raw::authority(deployment());
    let port = server.rsplit(':').next().unwrap();
    let kubeconfig = deployment().kubeconfig("balanced", &[]).unwrap();
    let there = format!("localhost:{}", balancer.port);
    let kubeconfig = changed(
        &kubeconfig,
        "balanced",
        &format!("localhost:{port}"),
        &there,
    );
    let client = deployment().client(&kubeconfig, Wire::WebSocket);
    client.run(&["get", "--raw", "/version"]).await;
    let balanced = |event: &Value| event["impersonatedUser"]["username"] == "balanced";
    let event = one_of_theirs(&client, balanced).await;
    assert_eq!(event["sourceIPs"], json!(["203.0.113.77", "127.0.0.1"]));
}

#[tokio::test]
async fn an_agents_address_is_its_own() {
    let balancer = Balancer::start(v1("203.0.113.88")).await;
    let through = format!("https://localhost:{}", balancer.port);
    let flags = [("--server", through.as_str())];
    deployment()
        .spawn_another_agent("balanced", Transport::WebSocket, &flags)
        .unwrap();
    eventually("the agent is known by its address", async || {
        let log = deployment().server_log().unwrap();
        let told = log
            .lines()
            .any(|line| line.contains("agent connected") && line.contains("remote=203.0.113.88:"));
        if told { Ok(()) } else { Err(log) }
    })
    .await;
}

#[tokio::test]
async fn rule_4_nobody_but_a_load_balancer_may_write_a_header() {
    for header in [v1("203.0.113.66"), v2_with_tlvs([203, 0, 113, 66].into())] {
        for source in [Ipv4Addr::LOCALHOST, PROXY] {
            let refused = raw::connect_from(deployment(), source, &header, &[b"http/1.1"]).await;
            refused.expect_err("it is no TLS");
        }
    }
    let log = deployment().server_log().unwrap();
    assert!(!log.contains("203.0.113.66"), "{log}");
    // A client without one is served meanwhile.
    let answer = call(Ipv4Addr::LOCALHOST, b"", &[]).await;
    assert_came_from(&answer, "127.0.0.1").await;
}

#[tokio::test]
async fn rule_4_a_load_balancer_must_write_a_header() {
    for header in [
        &b""[..],
        b"PROXY TCP4 203.0.113.66\r\n",
        &v2(0x21, 0x11, &[1; 4]),
    ] {
        let refused = raw::connect_from(deployment(), BALANCER, header, &[b"http/1.1"]).await;
        refused.expect_err("no header, no connection");
    }
    eventually("the log says why", async || {
        let log = deployment().server_log().unwrap();
        let told = log.lines().any(|line| {
            line.contains("WARN")
                && line.contains("a connection is refused: no PROXY protocol header")
                && line.contains("balancer=127.0.0.2")
        });
        if told { Ok(()) } else { Err(log) }
    })
    .await;
    let metrics = deployment().metrics().unwrap();
    assert!(
        metrics.contains("underpass_proxy_protocol_refused_total"),
        "{metrics}"
    );
}

#[tokio::test]
async fn rule_11_a_header_has_an_end() {
    let address: SocketAddr = raw::authority(deployment()).parse().unwrap();
    for endless in [
        // Longer than any line, and never ended.
        [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat(),
        // As long as can be said, and nothing of it sent.
        v2(0x20, 0, &[0; 65_535])[..16].to_vec(),
    ] {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((BALANCER, 0).into()).unwrap();
        let mut tcp = socket.connect(address).await.unwrap();
        tcp.write_all(&endless).await.unwrap();
        let mut answer = Vec::new();
        // A reset, where the server has left bytes unread.
        let _ = tcp.read_to_end(&mut answer).await;
        assert_eq!(answer, b"");
    }
}

#[tokio::test]
async fn a_trusted_proxy_says_where_a_request_comes_from() {
    for (line, client) in [
        ("192.0.2.8", "192.0.2.8"),
        // The client's own entries stand to the left of it, and trusted proxies to the right.
        ("203.0.113.66, 192.0.2.8:999, 198.51.100.4", "192.0.2.8"),
        ("[2001:db8::8]:443", "2001:db8::8"),
        ("203.0.113.66, nonsense", "127.0.0.3"),
    ] {
        let answer = call(PROXY, b"", &[("x-forwarded-for", line)]).await;
        assert_came_from(&answer, client).await;
    }
}

#[tokio::test]
async fn rule_4_nobody_but_a_trusted_proxy_says_where_a_request_comes_from() {
    let forged = [
        ("x-forwarded-for", "203.0.113.66"),
        ("X-Forwarded-For", "198.51.100.4"),
        ("forwarded", "for=203.0.113.66"),
        ("x-real-ip", "203.0.113.66"),
    ];
    let answer = call(Ipv4Addr::LOCALHOST, b"", &forged).await;
    assert_came_from(&answer, "127.0.0.1").await;
    // A load balancer that forwards TCP has seen no header of HTTP.
    let answer = call(BALANCER, &v1("203.0.113.9"), &forged).await;
    assert_came_from(&answer, "203.0.113.9").await;
    // But it may forward for a proxy that has.
    let answer = call(BALANCER, &v1("198.51.100.7"), &forged[..1]).await;
    assert_came_from(&answer, "203.0.113.66").await;
}

/// Asks for an agent's WebSocket from this address, without a hello: the log names the client's address.
async fn asks_for_a_session(source: Ipv4Addr, client: &str) {
    let tls = raw::connect_from(deployment(), source, b"", &[b"http/1.1"]);
    let mut tls = tls.await.unwrap();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: underpass.v1\r\nX-Forwarded-For: 192.0.2.55\r\n\r\nnonsense",
        underpass_tunnel::transport::websocket::PATH
    );
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    tls.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    eventually("the log says who it was", async || {
        let log = deployment().server_log().unwrap();
        let wanted = format!("remote={client}");
        let mut lines = log.lines();
        let told = lines.any(|line| line.contains("no session") && line.ends_with(&wanted));
        if told { Ok(()) } else { Err(log) }
    })
    .await;
}

#[tokio::test]
async fn an_agents_address_is_what_a_trusted_proxy_says() {
    asks_for_a_session(PROXY, "192.0.2.55").await;
    asks_for_a_session(Ipv4Addr::LOCALHOST, "127.0.0.1").await;
}

/// A password of somebody of the directory, by way of the load balancer.
async fn log_in(deployment: &Deployment, client: &str, user: &str, password: &str) -> u16 {
    let header = v1(client);
    let tls = raw::connect_from(deployment, BALANCER, &header, &[b"http/1.1"]);
    let basic = STANDARD.encode(format!("{user}:{password}"));
    let request = Request::get(VERSION).header("authorization", format!("Basic {basic}"));
    raw::send_on(tls.await.unwrap(), request).await.code
}

#[tokio::test]
async fn rule_11_who_guesses_behind_a_load_balancer_locks_out_nobody_else() {
    let start = || Deployment::start_blocking_with(Transport::WebSocket, &FLAGS);
    let deployment = tokio::task::spawn_blocking(start).await.unwrap();
    let directory = Directory::start().await;
    std::fs::write(deployment.dir().join("ldap.password"), SEARCHER.1).unwrap();
    let file = json!({ "authenticators": [
        { "name": "tokens", "tokens": {} },
        { "name": "directory", "ldap": {
            "url": directory.ldaps(),
            "certificateAuthorityFile": directory.ca_file(),
            "bindDN": SEARCHER.0,
            "bindPasswordFile": "ldap.password",
            "userSearch": {
                "base": "ou=people,dc=example,dc=org",
                "filter": "(&(objectClass=inetOrgPerson)(uid={username}))",
                "nameAttribute": "uid",
                "prefix": "",
            },
        } },
    ] });
    std::fs::write(deployment.authentication_file(), file.to_string()).unwrap();
    let let_in = [
        "binding", "set", "alice", "--role", "operate", "--user", "alice",
    ];
    let let_in = [&let_in[..], &["--cluster", CLUSTER_NAME]].concat();
    deployment.administer(&let_in).unwrap();
    eventually("the directory is asked", async || {
        match log_in(&deployment, "192.0.2.1", "alice", "alice-secret").await {
            200 => Ok(()),
            code => Err(code),
        }
    })
    .await;
    let mut guess = 0;
    eventually("the guesser has to wait", async || {
        guess += 1;
        match log_in(
            &deployment,
            "203.0.113.66",
            "alice",
            &format!("guess-{guess}"),
        )
        .await
        {
            429 => Ok(()),
            code => Err(code),
        }
    })
    .await;
    // Not what is remembered of alice: this has to be asked for as well.
    let other = log_in(&deployment, "192.0.2.2", "bob", "bob-secret").await;
    assert_eq!(other, 403, "bob is known, and may reach nothing");
}
