use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use underpass_core::full;

use super::*;

mod clients;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Says which credentials it has seen.
struct Echo;

#[async_trait]
impl Handler for Echo {
    async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
        if request.uri().path() == "/half" {
            return Response::new(underpass_core::boxed(http_body_util::StreamBody::new(
                futures_util::stream::iter([
                    Ok(Frame::data(Bytes::from("half"))),
                    Err(underpass_core::BoxError::from("broken off")),
                ]),
            )));
        }
        if let Some(ServerName(name)) = request.extensions().get() {
            return Response::new(full(format!("by {name}")));
        }
        let seen = request
            .headers()
            .get_all(header::AUTHORIZATION)
            .iter()
            .count();
        let target = request.uri().path_and_query().unwrap();
        Response::new(full(format!("{target} {seen}")))
    }
}

struct World {
    address: SocketAddr,
    token: String,
    ca_pem: String,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl World {
    async fn new() -> Self {
        Self::serve(Loopback::bind(ANY).await.unwrap())
    }

    fn serve(loopback: Loopback) -> Self {
        let stop = CancellationToken::new();
        Self {
            address: loopback.address(),
            token: loopback.token().to_owned(),
            ca_pem: loopback.ca_pem().to_owned(),
            stop: stop.clone(),
            serving: tokio::spawn(loopback.serve(Echo, stop)),
        }
    }

    async fn connect(&self, alpn: &[u8]) -> tokio_rustls::client::TlsStream<TcpStream> {
        let address = self.address.ip().to_string();
        self.connect_by(&address, alpn).await
    }

    /// The same by a name in TLS.
    async fn connect_by(
        &self,
        name: &str,
        alpn: &[u8],
    ) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).unwrap();
        roots.add(ca).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = name.to_owned().try_into().unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, tcp).await.unwrap()
    }

    /// The answer to a request with these headers.
    async fn ask(&self, headers: &[(header::HeaderName, &str)]) -> (StatusCode, String) {
        let io = TokioIo::new(self.connect(b"http/1.1").await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::get("/x");
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn rule_27_a_request_without_the_token_or_for_another_host_goes_nowhere() {
    let world = World::new().await;
    let host = world.address.to_string();
    let good = format!("Bearer {}", world.token);
    let local = format!("LocalHost:{}", world.address.port());
    for host in [&host, &local] {
        let answer = world
            .ask(&[(header::HOST, host), (header::AUTHORIZATION, &good)])
            .await;
        assert_eq!(
            answer,
            (StatusCode::OK, "/x 0".to_owned()),
            "the token is taken away"
        );
    }
    let wrong = format!("Bearer {}", Token::random().expose());
    for shown in [
        "",
        "Bearer",
        "Bearer ",
        &wrong,
        &world.token,
        &format!("{good}x"),
    ] {
        let (status, body) = world
            .ask(&[(header::HOST, &host), (header::AUTHORIZATION, shown)])
            .await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{shown}");
        assert!(body.contains(r#""kind":"Status""#), "{body}");
    }
    let twice = [
        (header::HOST, host.as_str()),
        (header::AUTHORIZATION, &good),
        (header::AUTHORIZATION, &wrong),
    ];
    assert_eq!(world.ask(&twice).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(
        world.ask(&[(header::HOST, &host)]).await.0,
        StatusCode::UNAUTHORIZED
    );
    for host in [
        "rebound.example.org",
        "127.0.0.1",
        "127.0.0.1:1",
        "[::1]:1",
        "localhost",
    ] {
        let (status, _) = world
            .ask(&[(header::HOST, host), (header::AUTHORIZATION, &good)])
            .await;
        assert_eq!(status, StatusCode::MISDIRECTED_REQUEST, "{host}");
    }
}

/// Bytes behind a request that the client takes for upgraded are no request.
#[tokio::test]
async fn rule_1_a_connection_whose_upgrade_is_refused_ends_with_the_answer() {
    let world = World::new().await;
    let (host, token) = (world.address, &world.token);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let unnamed = "Upgrade: SPDY/3.1\r\n";
    let good = format!("Authorization: Bearer {token}\r\n");
    let ahead = format!("GET /ahead HTTP/1.1\r\nHost: {host}\r\n{good}\r\n");
    for (status, asks) in [
        (200, format!("Host: {host}\r\n{good}{upgrade}")),
        (200, format!("Host: {host}\r\n{good}{unnamed}")),
        (401, format!("Host: {host}\r\n{upgrade}")),
        (421, format!("Host: elsewhere\r\n{good}{upgrade}")),
    ] {
        let mut connection = world.connect(b"http/1.1").await;
        let request = format!("GET /x HTTP/1.1\r\n{asks}\r\n{ahead}");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // It ends: a client that goes on waiting would wait for ever.
        let read = connection.read_to_end(&mut answer);
        let read = tokio::time::timeout(Duration::from_secs(20), read).await;
        let _ = read.expect("the connection goes on");
        let answer = String::from_utf8(answer).unwrap().to_ascii_lowercase();
        assert!(
            answer.starts_with(&format!("http/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert!(!answer.contains("/ahead"), "{answer}");
        assert_eq!(answer.matches("http/1.1 ").count(), 1, "{answer}");
    }
}

#[tokio::test]
async fn http_2_is_served_as_well() {
    let world = World::new().await;
    let io = TokioIo::new(world.connect(b"h2").await);
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) = builder.handshake(io).await.unwrap();
    tokio::spawn(connection);
    for (token, status) in [(world.token.as_str(), 200), ("x", 401)] {
        let request = Request::get(format!("https://{}/x", world.address))
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), status);
    }
}

#[tokio::test]
async fn nothing_listens_where_others_reach_it() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let refused = Loopback::bind(address.parse().unwrap())
            .await
            .err()
            .unwrap();
        assert!(matches!(refused, BindError::NotLoopback(_)), "{refused}");
    }
    let first = Loopback::bind(ANY).await.unwrap();
    let taken = Loopback::bind(first.address()).await.err().unwrap();
    assert!(matches!(taken, BindError::Bind(..)), "{taken}");
    assert!(taken.to_string().contains(&first.address().to_string()));
}

#[tokio::test]
async fn a_listener_that_is_stopped_ends_its_connections() {
    let world = World::new().await;
    let mut idle = world.connect(b"http/1.1").await;
    world.stop.cancel();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), world.serving);
    ended.await.expect("it ends").unwrap();
    let mut byte = [0];
    let read = tokio::io::AsyncReadExt::read(&mut idle, &mut byte).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    TcpStream::connect(world.address).await.unwrap_err();
}

#[tokio::test]
async fn the_kubeconfig_leads_here() {
    let loopback = Loopback::bind(ANY).await.unwrap();
    let entries = ["edge", "prod"].map(|name| Entry {
        name: name.to_owned(),
        path: String::new(),
        server_name: Some(format!("{name}.clusters.example")),
    });
    let loopback = loopback.named("*.clusters.example").unwrap();
    let text = loopback.kubeconfig(&entries);
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(config["current-context"], "edge");
    let server = format!("https://{}", loopback.address());
    let cluster = &config["clusters"][1]["cluster"];
    assert_eq!(cluster["server"], server);
    assert_eq!(cluster["tls-server-name"], "prod.clusters.example");
    assert_eq!(config["users"][0]["user"]["token"], loopback.token());
    assert_eq!(
        config["contexts"][1]["context"]["user"],
        config["users"][0]["name"]
    );
}

#[tokio::test]
async fn a_request_has_the_name_that_its_client_gave_in_tls() {
    let loopback = Loopback::bind(ANY).await.unwrap();
    let world = World::serve(loopback.named("*.clusters.example").unwrap());
    let connection = world.connect_by("prod.clusters.example", b"http/1.1").await;
    let (mut sender, serving) = hyper::client::conn::http1::handshake(TokioIo::new(connection))
        .await
        .unwrap();
    tokio::spawn(serving);
    let request = Request::get("/x")
        .header(header::HOST, world.address.to_string())
        .header(header::AUTHORIZATION, format!("Bearer {}", world.token));
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "by prod.clusters.example");
}

#[tokio::test]
async fn rule_23_connections_without_the_token_keep_no_place_from_its_user() {
    let loopback = Loopback::bind(ANY).await.unwrap().at_most(2);
    let world = World::serve(loopback);
    let mut strangers = Vec::new();
    for _ in 0..5 {
        strangers.push(world.connect(b"http/1.1").await);
    }
    let (host, token) = (world.address.to_string(), format!("Bearer {}", world.token));
    let lines = [
        (header::HOST, host.as_str()),
        (header::AUTHORIZATION, token.as_str()),
    ];
    assert_eq!(world.ask(&lines).await.0, StatusCode::OK);
}
