mod client_certificates;

use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::task::Poll;
use std::time::Duration;

use clap::Parser as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use underpass_audit::AuditLog;
use underpass_authenticate::{
    AuthenticateError, Authenticated, Authenticator, Caller, Chain, Unowned,
};
use underpass_core::{Access, AuthorizeError, Authorizer, Nobody};
use underpass_core::{BoxedIo, ClusterName, Identity, ImpersonationPolicy, Revocation};
use underpass_core::{ClusterDomains, Clusters, ConnectError, Open};
use underpass_directory::{Directory, MemoryStore};
use underpass_gateway::{
    Budgets, FrontConfig, IdleTimeout, NoServiceRoots, NotFound, StrangerBounds, Strangers,
};

use super::*;
use crate::cli::{Cli, Command};

const DEADLINE: Duration = Duration::from_secs(20);

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn acceptor() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = made.signing_key.serialize_der().try_into().unwrap();
    let config = underpass_tunnel::tls::server(vec![made.cert.der().clone()], key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

fn door() -> Door {
    Door::new(1, Strangers::default())
}

/// Nothing is held of anybody.
fn is_empty(door: &Door) -> bool {
    door.connections.available_permits() == 1 && door.strangers.connections() == 0
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_outside() {
    let (listener, address) = listener().await;
    let door = door();
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(TcpStream::connect(address).await.unwrap());
    }
    let (_tcp, _, first) = door.next(&listener).await.unwrap();
    let mut second = Box::pin(door.next(&listener));
    let waits = poll_fn(|cx| Poll::Ready(second.as_mut().poll(cx).is_pending())).await;
    assert!(waits, "a second client was let in");
    drop(first);
    let second = tokio::time::timeout(DEADLINE, second).await;
    second.expect("there is a place again").unwrap();
}

/// A server that knows nobody, and what is served there.
async fn nobodys(
    made: rcgen::CertifiedKey<rcgen::KeyPair>,
    strangers: &Strangers,
) -> (SocketAddr, Connections, CancellationToken) {
    let nobody = Arc::new(Chain::new(vec![], Arc::new(Unowned)));
    serve(made, nobody, Door::new(64, strangers.clone())).await
}

async fn serve(
    made: rcgen::CertifiedKey<rcgen::KeyPair>,
    authenticator: Arc<dyn Authenticator>,
    door: Door,
) -> (SocketAddr, Connections, CancellationToken) {
    let key = made.signing_key.serialize_der().try_into().unwrap();
    let tls = underpass_tunnel::tls::server(vec![made.cert.der().clone()], key).unwrap();
    serve_with(tls, AuditLog::default(), authenticator, door).await
}

/// A server that lets everybody reach these clusters.
async fn serve_clusters(
    made: rcgen::CertifiedKey<rcgen::KeyPair>,
    clusters: Arc<dyn Clusters>,
    budgets: &Budgets,
) -> SocketAddr {
    let key = made.signing_key.serialize_der().try_into().unwrap();
    let tls = underpass_tunnel::tls::server(vec![made.cert.der().clone()], key).unwrap();
    let front = Front::new(FrontConfig {
        authenticator: Arc::new(Believing),
        authorizer: Arc::new(Believing),
        clusters,
        budgets: budgets.clone(),
        ..nowhere(AuditLog::default(), Arc::new(Believing)).await
    });
    let (listener, address) = listener().await;
    let serving = serve_tcp(
        listener,
        tls,
        TrustedProxies::default(),
        Arc::new(front),
        Door::new(64, Strangers::default()),
        Connections::default(),
        CancellationToken::new(),
    );
    tokio::spawn(serving);
    address
}

async fn nowhere(audit: AuditLog, authenticator: Arc<dyn Authenticator>) -> FrontConfig {
    FrontConfig {
        authenticator,
        authorizer: Directory::open(Arc::new(MemoryStore::default()))
            .await
            .unwrap(),
        impersonation: Arc::new(Nobody),
        clusters: Arc::new(NoClusters),
        domains: ClusterDomains::default(),
        fallback: Arc::new(NotFound),
        policy: ImpersonationPolicy::default(),
        audit,
        budgets: Budgets::default(),
        service_roots: Arc::new(NoServiceRoots),
        idle_timeout: IdleTimeout::default(),
    }
}

async fn serve_with(
    tls: rustls::ServerConfig,
    audit: AuditLog,
    authenticator: Arc<dyn Authenticator>,
    door: Door,
) -> (SocketAddr, Connections, CancellationToken) {
    let (listener, address) = listener().await;
    let front = Front::new(nowhere(audit, authenticator).await);
    let (connections, stop) = (Connections::default(), CancellationToken::new());
    let serving = serve_tcp(
        listener,
        tls,
        TrustedProxies::default(),
        Arc::new(front),
        door,
        connections.clone(),
        stop.clone(),
    );
    tokio::spawn(serving);
    (address, connections, stop)
}

fn client_of(server: &rcgen::Certificate) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

struct NoClusters;

#[async_trait::async_trait]
impl Clusters for NoClusters {
    async fn connect(&self, _: &ClusterName, _: &Open) -> Result<BoxedIo, ConnectError> {
        Err(ConnectError::UnknownCluster)
    }
}

/// From another address of this machine.
async fn connect_from(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn rule_23_one_address_that_says_nothing_keeps_nobody_out() {
    let places = 16;
    let base = underpass_core::limits::STRANGER_BASE;
    let strangers = Strangers::new(StrangerBounds {
        bytes: places * base,
        unshared: places * base / 2,
        per_source: places * base / 4,
        per_connection: 4 * base,
    });
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let client = client_of(&made.cert);
    let (address, connections, stop) = nobodys(made, &strangers).await;
    let mut silent = Vec::new();
    for _ in 0..3 * places {
        silent.push(connect_from([127, 0, 0, 2], address).await);
    }
    // The oldest were closed for the newest.
    for client in &mut silent[..2 * places] {
        let read = tokio::time::timeout(DEADLINE, client.read(&mut [0])).await;
        assert!(matches!(read.expect("closed"), Ok(0) | Err(_)));
    }
    assert!(strangers.connections() <= places / 2);
    // And from elsewhere there is room for a whole handshake, and a request.
    let tcp = connect_from([127, 0, 0, 1], address).await;
    let name = "localhost".try_into().unwrap();
    let mut tls = client.connect(name, tcp).await.unwrap();
    let answer = &mut [0; 12];
    tls.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let answered = tokio::time::timeout(DEADLINE, tls.read_exact(answer)).await;
    answered.expect("an answer").unwrap();
    assert_eq!(&answer[..], b"HTTP/1.1 404");
    stop.cancel();
    drop((silent, tls));
    let ended = tokio::time::timeout(DEADLINE, connections.wait()).await;
    ended.expect("every connection has ended");
    assert_eq!((strangers.bytes(), strangers.connections()), (0, 0));
}

/// Authenticated callers.
struct Believing;

#[async_trait::async_trait]
impl Authenticator for Believing {
    async fn authenticate(
        &self,
        caller: &Caller<'_>,
    ) -> Result<Option<Authenticated>, AuthenticateError> {
        let name = caller.bearer().map(str::to_owned);
        let identity = name.map(|name| Identity::new(name, None, vec![], [].into()).unwrap());
        Ok(identity.map(|identity| Authenticated::new(identity, Revocation::never())))
    }
}

#[async_trait::async_trait]
impl Authorizer for Believing {
    async fn authorize(&self, _: &Access<'_>) -> Result<Revocation, AuthorizeError> {
        Ok(Revocation::never())
    }
}

/// Its targets take nothing, beyond what a pipe holds: this is their end.
struct Stalled(tokio::sync::mpsc::UnboundedSender<tokio::io::DuplexStream>);

#[async_trait::async_trait]
impl Clusters for Stalled {
    async fn connect(&self, _: &ClusterName, _: &Open) -> Result<BoxedIo, ConnectError> {
        let (near, far) = tokio::io::duplex(1024);
        self.0.send(far).unwrap();
        Ok(Box::new(near))
    }
}

/// Nothing reads its socket then, and so nothing learns of the reset there.
#[tokio::test]
async fn rule_23_a_connection_ends_whose_client_is_gone_while_its_upload_stalls() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let client = client_of(&made.cert);
    let (sender, mut targets) = tokio::sync::mpsc::unbounded_channel();
    let budgets = Budgets::default();
    let address = serve_clusters(made, Arc::new(Stalled(sender)), &budgets).await;
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let mut tls = client.connect(name, tcp).await.unwrap();
    let head = "CONNECT db.prod:5432 HTTP/1.1\r\nHost: db.prod:5432\r\nUnderpass-Cluster: edge\r\n\
        Proxy-Authorization: Bearer alice\r\n\r\n";
    tls.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let byte = tokio::time::timeout(DEADLINE, tls.read_u8()).await;
        answer.push(byte.expect("an answer").unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    let mut target = targets.recv().await.unwrap();
    tls.write_all(&[7; 64 * 1024]).await.unwrap();
    tls.flush().await.unwrap();
    assert_eq!(target.read_u8().await.unwrap(), 7);
    tls.get_ref().0.set_zero_linger().unwrap();
    drop(tls);
    assert!(!budgets.occupancy().is_empty());
    // Its seat is free again, though the target neither reads nor writes.
    let gone = async {
        while !budgets.occupancy().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ended = tokio::time::timeout(DEADLINE, gone).await;
    ended.expect("the connection has ended");
    drop(target);
}

#[tokio::test]
async fn rule_23_one_user_takes_no_connection_of_anybody_else() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let client = client_of(&made.cert);
    let places = 8;
    let strangers = Strangers::within(StrangerBounds::default(), places);
    let door = Door::new(places, strangers.clone());
    let (address, connections, stop) = serve(made, Arc::new(Believing), door).await;
    let ask = async |user: &str| {
        let tcp = TcpStream::connect(address).await.unwrap();
        let mut tls = client
            .connect("localhost".try_into().unwrap(), tcp)
            .await
            .unwrap();
        let head = format!(
            "GET /k8s/clusters/x/version HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {user}\r\n\r\n"
        );
        tls.write_all(head.as_bytes()).await.unwrap();
        let answer = &mut [0; 12];
        let answered = tokio::time::timeout(DEADLINE, tls.read_exact(answer)).await;
        answered.expect("an answer").unwrap();
        assert_eq!(&answer[..], b"HTTP/1.1 403");
        tls
    };
    let alice = ask("alice").await;
    let mut mallory = Vec::new();
    for _ in 0..3 * places {
        mallory.push(ask("mallory").await);
    }
    // Everything is taken, and newcomers find room all the same: nobody's but mallory's is closed for them.
    let bob = ask("bob").await;
    let mut open = Vec::new();
    for mut tls in [alice, bob].into_iter().chain(mallory) {
        let head = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let mut answers = Vec::new();
        let _ = tls.write_all(head).await;
        // One that was closed may end with a reset.
        let read = tokio::time::timeout(DEADLINE, tls.read_to_end(&mut answers)).await;
        let _ = read.expect("an end");
        open.push(String::from_utf8_lossy(&answers).contains("HTTP/1.1 404"));
    }
    assert_eq!(open[..2], [true, true]);
    let mallory = open[2..].iter().filter(|open| **open).count();
    assert!((1..=places - 2).contains(&mallory), "{mallory}");
    stop.cancel();
    let ended = tokio::time::timeout(DEADLINE, connections.wait()).await;
    ended.expect("every connection has ended");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_cut_off_and_gives_its_place_back() {
    let (listener, address) = listener().await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let door = door();
    let (tcp, remote, place) = door.next(&listener).await.unwrap();
    let start = tokio::time::Instant::now();
    let handshakes = Handshakes::new(TrustedProxies::default(), acceptor());
    let handshake = handshakes.shake((tcp, remote, vanished::watch().0), &place.standing);
    let error = handshake.await.unwrap_err();
    assert_eq!(error.to_string(), "TLS took too long");
    assert!(start.elapsed() >= limits::TLS_TIME);
    drop(place);
    assert!(is_empty(&door));
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
}

/// A server that has no users, and a client's bytes. Gives all that the client gets, to a proper end.
async fn said_to(bytes: &[u8]) -> String {
    let strangers = Strangers::default();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (address, connections, stop) = nobodys(made, &strangers).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let mut answer = String::new();
    let exchange = async {
        client.write_all(bytes).await.unwrap();
        client.read_to_string(&mut answer).await.unwrap();
    };
    tokio::time::timeout(DEADLINE, exchange)
        .await
        .expect("an end");
    drop(client);
    stop.cancel();
    let ended = tokio::time::timeout(DEADLINE, connections.wait()).await;
    ended.expect("the connection has ended");
    assert_eq!((strangers.bytes(), strangers.connections()), (0, 0));
    answer
}

#[tokio::test]
async fn a_client_that_speaks_http_without_tls_is_told() {
    for request in [
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "DELETE /x HTTP/1.0\r\n\r\n",
    ] {
        let answer = said_to(request.as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head}");
        assert!(head.contains("\r\nconnection: close"), "{head}");
        let status: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(status["kind"], "Status");
        assert_eq!(status["code"], 400);
    }
    let answer = said_to(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    // All of an upload is taken, so that the answer is not lost.
    let mut upload = b"PUT /x HTTP/1.1\r\nContent-Length: 8388608\r\n\r\n".to_vec();
    upload.resize(upload.len() + 8 * 1024 * 1024, b'x');
    let answer = said_to(&upload).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn a_client_that_speaks_something_else_is_closed_at_once() {
    for (bytes, expected) in [
        (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], "SSH"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2 without TLS"),
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "--proxy-protocol-from",
        ),
        (b"\0\0", "no protocol"),
    ] {
        let (listener, address) = listener().await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(bytes).await.unwrap();
        let door = door();
        let (tcp, remote, place) = door.next(&listener).await.unwrap();
        let handshakes = Handshakes::new(TrustedProxies::default(), acceptor());
        let handshake = handshakes.shake((tcp, remote, vanished::watch().0), &place.standing);
        let error = tokio::time::timeout(DEADLINE, handshake).await.unwrap();
        let error = error.unwrap_err().to_string();
        assert!(
            error.starts_with("no TLS: ") && error.contains(expected),
            "{error}"
        );
        drop(place);
        assert!(is_empty(&door));
        let mut said = Vec::new();
        let _ = client.read_to_end(&mut said).await;
        match bytes.starts_with(b"PRI ") {
            // An HTTP/2 client can read the reason: an empty SETTINGS, and a GOAWAY.
            true => {
                assert_eq!(said.get(3), Some(&4), "{said:?}");
                assert_eq!(said.get(9 + 3), Some(&7), "{said:?}");
            }
            false => assert_eq!(said, b""),
        }
    }
}

/// Neither the beginning of a request that does not go on, nor a client that takes the answer and does not close.
#[tokio::test(start_paused = true)]
async fn rule_11_a_client_without_tls_has_no_more_time_than_one_with_it() {
    for bytes in [&b"GE"[..], b"GET / HTTP/1.1\r\n"] {
        let (listener, address) = listener().await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(bytes).await.unwrap();
        let door = door();
        let (tcp, remote, place) = door.next(&listener).await.unwrap();
        let start = tokio::time::Instant::now();
        let handshakes = Handshakes::new(TrustedProxies::default(), acceptor());
        handshakes
            .shake((tcp, remote, vanished::watch().0), &place.standing)
            .await
            .unwrap_err();
        assert!(start.elapsed() <= limits::TLS_TIME + Duration::from_secs(1));
        drop(place);
        assert!(is_empty(&door));
    }
}

#[tokio::test(start_paused = true)]
async fn rule_11_a_load_balancer_that_says_nothing_gives_its_place_back() {
    let serve = ["x", "serve", "--proxy-protocol-from", "127.0.0.0/8"];
    let Command::Serve(options) = Cli::parse_from(serve).command else {
        panic!("it says serve");
    };
    let (listener, address) = listener().await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let door = door();
    let (tcp, remote, place) = door.next(&listener).await.unwrap();
    let (proxy_protocol, http) = options.proxies.networks();
    let proxies = TrustedProxies::new(proxy_protocol, http);
    let handshakes = Handshakes::new(proxies, acceptor());
    let handshake = handshakes.shake((tcp, remote, vanished::watch().0), &place.standing);
    let error = handshake.await.unwrap_err();
    assert!(format!("{error:#}").ends_with("did not come in time"));
    drop(place);
    assert!(is_empty(&door));
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
}
