//! Clusters at names of their own, over TLS and both versions of HTTP (security rules 6 and 8).

use std::{net::SocketAddr, sync::Arc};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::task::AbortOnDropHandle;
use underpass_audit::BackendConfig;
use underpass_core::{Body, ConnectionInfo, Protocol, empty};
use underpass_gateway::Front;

use crate::{
    api::{Api, ok},
    audit::Taken,
    world::{BROWSER, World, collect, soon},
};

/// The cluster `c`, in DNS and in TLS alone.
const DNS_C: &str = "c.k8s.example.org";
const TLS_C: &str = "c.clusters.underpass.internal";
const DNS_OTHER: &str = "no-agent.k8s.example.org";
const TLS_OTHER: &str = "no-agent.clusters.underpass.internal";
const SERVER: &str = "front.example.org";
const VERSIONS: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

/// A front behind TLS, with the certificate of the server's name and of all clusters.
struct Tls {
    address: SocketAddr,
    roots: rustls::RootCertStore,
    _listening: AbortOnDropHandle<()>,
}

impl Tls {
    async fn start(front: &Arc<Front>) -> Self {
        let names = [SERVER, "*.k8s.example.org", "*.clusters.underpass.internal"];
        let made = rcgen::generate_simple_self_signed(names.map(str::to_owned)).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
            .unwrap();
        config.alpn_protocols = Protocol::ALPN.map(<[u8]>::to_vec).to_vec();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let front = Arc::clone(front);
        let listening = tokio::spawn(async move {
            while let Ok((tcp, peer)) = listener.accept().await {
                let (front, acceptor) = (Arc::clone(&front), acceptor.clone());
                tokio::spawn(async move {
                    let tls = acceptor.accept(tcp).await.unwrap();
                    let info = ConnectionInfo {
                        peer: peer.ip().into(),
                        protocol: Protocol::from_alpn(tls.get_ref().1.alpn_protocol()),
                        server_name: tls.get_ref().1.server_name().map(Into::into),
                        certificates: vec![],
                        unusable_certificate: None,
                    };
                    front.serve_connection(tls, info).await
                });
            }
        });
        Self {
            address,
            roots,
            _listening: AbortOnDropHandle::new(listening),
        }
    }

    /// A connection whose TLS is for `name`.
    async fn connect(&self, name: &str, protocol: Protocol) -> Connection {
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![match protocol {
            Protocol::Http1 => b"http/1.1".to_vec(),
            Protocol::Http2 => b"h2".to_vec(),
        }];
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let name = name.to_owned().try_into().unwrap();
        let tls = TokioIo::new(connector.connect(name, tcp).await.unwrap());
        match protocol {
            Protocol::Http1 => {
                let (sender, connection) = conn::http1::handshake(tls).await.unwrap();
                tokio::spawn(connection);
                Connection::Http1(sender)
            }
            Protocol::Http2 => {
                let handshake = conn::http2::handshake(TokioExecutor::new(), tls);
                let (sender, connection) = handshake.await.unwrap();
                tokio::spawn(connection);
                Connection::Http2(sender)
            }
        }
    }
}

enum Connection {
    Http1(conn::http1::SendRequest<Body>),
    Http2(conn::http2::SendRequest<Body>),
}

impl Connection {
    async fn send(
        &mut self,
        credential: &str,
        host: &str,
        path: &str,
        lines: &[(&str, &str)],
    ) -> Response<Incoming> {
        let mut request = Request::get(path).header("authorization", credential);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let answer = match self {
            Self::Http1(sender) => {
                let request = request.header("host", host).body(empty()).unwrap();
                soon(sender.send_request(request)).await
            }
            Self::Http2(sender) => {
                let request = request.uri(format!("https://{host}{path}"));
                soon(sender.send_request(request.body(empty()).unwrap())).await
            }
        };
        answer.unwrap()
    }

    /// The status of the answer, all of which is read.
    async fn code(&mut self, credential: &str, host: &str, path: &str) -> u16 {
        let answer = self.send(credential, host, path, &[]).await;
        let code = answer.status().as_u16();
        collect(answer.into_body()).await;
        code
    }
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// One connection, many hosts: each request is answered by the cluster that all of its names mean, or by nobody.
#[tokio::test]
async fn rule_6_a_connection_for_one_cluster_asks_no_other() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let tls = Tls::start(&world.front).await;
    let alice = bearer(&world.alice);
    let port = format!("{DNS_C}:{}", tls.address.port());
    let address = tls.address.to_string();
    for protocol in VERSIONS {
        for (name, answers) in [
            (
                TLS_C,
                [
                    (DNS_C, 200),
                    (TLS_C, 200),
                    (&port, 200),
                    // kubectl's `Host` is the server's name or address, beside any `tls-server-name`.
                    (SERVER, 200),
                    (&address, 200),
                    (DNS_OTHER, 421),
                    (TLS_OTHER, 421),
                    ("a.c.k8s.example.org", 421),
                ],
            ),
            (
                DNS_C,
                [
                    (DNS_C, 200),
                    (TLS_C, 200),
                    (&port, 200),
                    // A browser that has a connection to the cluster, and wants the server: it opens another one.
                    (SERVER, 421),
                    (&address, 421),
                    (DNS_OTHER, 421),
                    (TLS_OTHER, 421),
                    ("a.c.k8s.example.org", 421),
                ],
            ),
            (
                SERVER,
                [
                    (DNS_C, 200),
                    (TLS_C, 200),
                    (&port, 200),
                    (SERVER, 404),
                    (&address, 404),
                    // Its own cluster, which has no agent.
                    (DNS_OTHER, 503),
                    (TLS_OTHER, 503),
                    ("a.c.k8s.example.org", 421),
                ],
            ),
        ] {
            let mut connection = tls.connect(name, protocol).await;
            for (host, code) in answers {
                let seen = api.seen().len();
                let answered = connection.code(&alice, host, "/version").await;
                assert_eq!(answered, code, "{protocol:?} {name} {host}");
                let asked = api.seen().len() - seen;
                assert_eq!(asked, usize::from(code == 200), "{name} {host}");
            }
            // It serves the name that it was made for, as before.
            let again = connection.code(&alice, DNS_C, "/version").await;
            assert_eq!(again, 200, "{protocol:?} {name}");
        }
    }
}

#[tokio::test]
async fn a_misdirected_request_gets_a_status() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let tls = Tls::start(&world.front).await;
    for protocol in VERSIONS {
        let mut connection = tls.connect(DNS_C, protocol).await;
        // Of a stranger, too: no credential would change it.
        for credential in [bearer(&world.alice), "Bearer nobodys".to_owned()] {
            let answer = connection.send(&credential, DNS_OTHER, "/api", &[]).await;
            assert_eq!(answer.status(), 421);
            let body = collect(answer.into_body()).await;
            let status: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(status["kind"], "Status");
            assert_eq!(status["reason"], "MisdirectedRequest");
            let message = status["message"].as_str().unwrap();
            assert!(message.contains("ask again on a connection"), "{message}");
        }
    }
    assert_eq!(api.seen().len(), 0);
}

#[tokio::test]
async fn rule_8_on_a_clusters_name_there_is_nothing_but_the_cluster() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let tls = Tls::start(&world.front).await;
    let alice = bearer(&world.alice);
    let paths = [
        "/",
        "/version",
        "/metrics",
        "/readyz",
        "/healthz",
        "/v1/self",
        "/v1/users",
        "/k8s/clusters/no-agent/api",
        "/k8s/clusters/other/api/v1/namespaces/a/pods/p/exec",
        "/api/v1/namespaces/a/pods/p%2Flog?follow=1",
    ];
    let mut expected = Vec::new();
    for protocol in VERSIONS {
        for (name, host) in [(TLS_C, SERVER), (DNS_C, DNS_C)] {
            let mut connection = tls.connect(name, protocol).await;
            for path in paths {
                let answered = connection.code(&alice, host, path).await;
                assert_eq!(answered, 200, "{protocol:?} {name} {path}");
                expected.push(path);
            }
        }
    }
    let seen: Vec<_> = api.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn rule_8_a_clusters_name_lets_nobody_in() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let tls = Tls::start(&world.front).await;
    for protocol in VERSIONS {
        for (name, host) in [(TLS_C, SERVER), (DNS_C, DNS_C)] {
            let mut connection = tls.connect(name, protocol).await;
            let nobody = connection.code("Bearer nobodys", host, "/version").await;
            assert_eq!(nobody, 401);
            let mallory = bearer(&world.mallory);
            let mallory = connection.code(&mallory, host, "/version").await;
            assert_eq!(mallory, 403);
        }
    }
    assert_eq!(api.seen().len(), 0);
}

/// Without the fields that differ from call to call.
fn settled(mut event: Value) -> Value {
    for field in [
        "auditID",
        "requestReceivedTimestamp",
        "stageTimestamp",
        "userAgent",
    ] {
        event.as_object_mut().unwrap().remove(field);
    }
    let annotations = event["annotations"].as_object_mut().unwrap();
    annotations.remove("underpass.dev/milliseconds");
    event
}

#[tokio::test]
async fn rule_15_the_audit_log_has_the_same_cluster_and_path_by_name_and_by_path() {
    let api = Api::start(ok).await;
    let (taken, strangers) = (Taken::new(), Taken::new());
    let (audit_log, _) = taken.audit_log(BackendConfig::default());
    let audit_log = audit_log.strangers("strangers", Box::new(strangers.clone()));
    let world = World::audited(&api, audit_log).await;
    let tls = Tls::start(&world.front).await;
    let path = "/api/v1/namespaces/shop/pods/web%2F?x=1";
    let prefixed = format!("/k8s/clusters/c{path}");
    let ways = [
        (SERVER, SERVER, &*prefixed),
        (TLS_C, SERVER, path),
        (DNS_C, DNS_C, path),
    ];
    let credentials = [bearer(&world.alice), bearer(&world.mallory)];
    for credential in &credentials {
        for (name, host, path) in ways {
            let mut connection = tls.connect(name, Protocol::Http2).await;
            connection.code(credential, host, path).await;
        }
    }
    let events: Vec<_> = taken.all(6).await.into_iter().map(settled).collect();
    for of_one in events.chunks(3) {
        assert_eq!(of_one[0]["annotations"]["underpass.dev/cluster"], "c");
        assert_eq!(of_one[0]["requestURI"], path);
        assert_eq!(of_one[0], of_one[1]);
        assert_eq!(of_one[0], of_one[2]);
    }
    // Of a stranger nothing but the request is known; it tells the cluster as the path does.
    for (name, host, path) in ways {
        let mut connection = tls.connect(name, Protocol::Http2).await;
        let refused = connection.code("Bearer nobodys", host, path).await;
        assert_eq!(refused, 401);
    }
    for event in strangers.all(3).await {
        assert_eq!(event["requestURI"], json!(prefixed));
    }
}

#[tokio::test]
async fn rule_20_a_redirect_stays_below_the_same_proxy_on_a_clusters_name() {
    const PROXY: &str = "/api/v1/namespaces/a/services/s/proxy";
    let location = format!("{PROXY}/login?x=1");
    let elsewhere = "/api/v1/namespaces/a/services/t/proxy/".to_owned();
    for (location, expected) in [
        (location.clone(), Some(location)),
        ("next".to_owned(), Some(format!("{PROXY}/app/next"))),
        (elsewhere, None),
        (format!("/k8s/clusters/c{PROXY}/x"), None),
        ("/".to_owned(), None),
        ("//evil.example/x".to_owned(), None),
        (format!("https://{DNS_OTHER}{PROXY}/x"), None),
    ] {
        let answered = location.clone();
        let api = Api::start(move |_| {
            let location = answered.clone();
            async move {
                let answer = Response::builder().status(302);
                let answer = answer.header("location", location);
                let answer = answer.header("set-cookie", "sid=1; Path=/; Domain=k8s.example.org");
                answer.body(empty()).unwrap()
            }
        })
        .await;
        let world = World::new(&api).await;
        let tls = Tls::start(&world.front).await;
        let alice = bearer(&world.alice);
        for (name, host) in [(TLS_C, SERVER), (DNS_C, DNS_C)] {
            let mut connection = tls.connect(name, Protocol::Http1).await;
            let path = format!("{PROXY}/app/page");
            let answer = connection.send(&alice, host, &path, &[]).await;
            let header = |name| {
                answer
                    .headers()
                    .get(name)
                    .map(|line| line.to_str().unwrap())
            };
            let Some(expected) = &expected else {
                assert_eq!(answer.status(), 502, "{location}");
                assert_eq!(header("location"), None);
                continue;
            };
            assert_eq!(answer.status(), 302, "{location}");
            assert_eq!(header("location"), Some(&**expected));
            // For this host only: other clusters of the domain do not get it.
            let cookie = format!("sid=1; Path={PROXY}/");
            assert_eq!(header("set-cookie"), Some(&*cookie));
        }
    }
}

/// A browser that remembers a password sends it for a page of the same name, and for no other's: neither the server's, nor
/// another cluster's.
#[tokio::test]
async fn rule_27_each_clusters_name_is_an_origin() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let tls = Tls::start(&world.front).await;
    for protocol in VERSIONS {
        let mut connection = tls.connect(DNS_C, protocol).await;
        for (origin, code) in [
            ("https://c.k8s.example.org", 200),
            ("https://no-agent.k8s.example.org", 403),
            ("https://k8s.example.org", 403),
            ("https://front.example.org", 403),
            ("null", 403),
        ] {
            let lines = [("origin", origin)];
            let answer = connection.send(BROWSER, DNS_C, "/version", &lines).await;
            assert_eq!(answer.status(), code, "{origin}");
            collect(answer.into_body()).await;
        }
        let lines = [("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")];
        let answer = connection.send(BROWSER, DNS_C, "/version", &lines).await;
        assert_eq!(answer.status(), 403);
    }
}
