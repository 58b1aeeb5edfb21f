//! Services that speak TLS: the certificates that this server believes, and the version of HTTP above.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use underpass_core::{BoxError, ClusterName};
use underpass_gateway::{BudgetConfig, ServiceRoots};
use underpass_https::Roots;

use super::site::{Site, head};
use crate::{
    upgrades::{WEBSOCKET, read_head},
    world::{World, code, soon, status, until},
};

const NAME: &str = "web.shop.svc";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A certificate for a name, which is its own CA.
struct Certificate {
    pem: String,
    config: ServerConfig,
}

impl Certificate {
    fn new(name: &str, protocols: &[&str]) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        Self::of(&made.cert, &made.signing_key, protocols)
    }

    /// As `openssl req -x509` makes it: a CA's.
    fn own_ca(name: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self::of(&certificate, &key, &[])
    }

    fn of(certificate: &rcgen::Certificate, key: &rcgen::KeyPair, protocols: &[&str]) -> Self {
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        Self {
            pem: certificate.pem(),
            config,
        }
    }

    /// The service's end of TLS on a stream.
    async fn accept(self, stream: DuplexStream) -> std::io::Result<TlsStream<DuplexStream>> {
        soon(TlsAcceptor::from(Arc::new(self.config)).accept(stream)).await
    }
}

/// CAs by clusters' names.
struct ByCluster(HashMap<&'static str, String>);

#[async_trait]
impl ServiceRoots for ByCluster {
    async fn roots(&self, cluster: &ClusterName) -> Result<Option<Roots>, BoxError> {
        let pem = self.0.get(cluster.as_str());
        Ok(pem.map(|pem| Roots::from_pem(pem.as_bytes())).transpose()?)
    }
}

/// A front that has this CA for cluster `c`.
async fn world(ca: &str) -> (Arc<Site>, World) {
    let site = Site::new();
    let roots = ByCluster(
        [
            ("c", ca.to_owned()),
            ("broken", "no certificate".to_owned()),
        ]
        .into(),
    );
    let world = World::with_service_roots(site.clone(), Arc::new(roots)).await;
    (site, world)
}

fn get(world: &World, cluster: &str, lines: &str) -> String {
    let path = format!("/v1/clusters/{cluster}/services/https:shop:web:443/x");
    head(world, "GET", &path, lines)
}

#[tokio::test]
async fn a_service_is_asked_above_tls() {
    // HTTP/2, where the service prefers it.
    let certificate = Certificate::new(NAME, &["h2", "http/1.1"]);
    let (site, world) = world(&certificate.pem).await;
    let serving = async {
        let tls = certificate.accept(site.next().await).await.unwrap();
        let mut connection = h2::server::handshake(tls).await.unwrap();
        let (request, mut respond) = soon(connection.accept()).await.unwrap().unwrap();
        assert_eq!(request.uri(), "https://web.shop.svc/x");
        let mut body = respond
            .send_response(http::Response::new(()), false)
            .unwrap();
        body.send_data(bytes::Bytes::from_static(b"ok"), true)
            .unwrap();
        while let Some(Ok(_)) = connection.accept().await {}
    };
    let request = get(&world, "c", "Connection: close\r\n");
    let (answer, ()) = tokio::join!(world.raw(&request), serving);
    assert!(answer.ends_with("ok\r\n0\r\n\r\n"), "{answer}");

    let certificate = Certificate::new(NAME, &[]);
    let (site, world) = self::world(&certificate.pem).await;
    let serving = async {
        let mut tls = certificate.accept(site.next().await).await.unwrap();
        let asked = read_head(&mut tls).await;
        assert!(asked.contains("host: web.shop.svc\r\n"), "{asked}");
        tls.write_all(OK).await.unwrap();
        let _ = tls.read_u8().await;
    };
    let request = get(&world, "c", "Connection: close\r\n");
    let (answer, ()) = tokio::join!(world.raw(&request), serving);
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    assert_eq!(site.opened(), ["tcp:web.shop.svc:443"]);
}

#[tokio::test]
async fn a_websocket_above_tls_is_one_of_http_1() {
    let certificate = Certificate::new(NAME, &["h2", "http/1.1"]);
    let (site, world) = world(&certificate.pem).await;
    let mut socket = tokio::net::TcpStream::connect(world.http1).await.unwrap();
    let request = get(&world, "c", WEBSOCKET);
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut tls = certificate.accept(site.next().await).await.unwrap();
    read_head(&mut tls).await;
    tls.write_all(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
          sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    )
    .await
    .unwrap();
    assert_eq!(code(&read_head(&mut socket).await), 101);
    socket.write_all(b"ping").await.unwrap();
    let mut ping = [0; 4];
    soon(tls.read_exact(&mut ping)).await.unwrap();
    assert_eq!(&ping, b"ping");
}

#[tokio::test]
async fn rule_10_a_service_whose_certificate_nobody_vouches_for_gets_no_request() {
    let right = Certificate::new(NAME, &[]);
    for (served, words) in [
        (Certificate::new(NAME, &[]), "none of the CAs"),
        (Certificate::new("web.other.svc", &[]), "none of the CAs"),
    ] {
        let (site, world) = world(&right.pem).await;
        let serving = async {
            let refused = served.accept(site.next().await).await;
            assert!(refused.is_err(), "the service has TLS");
        };
        let request = get(&world, "c", "Connection: close\r\n");
        let (answer, ()) = tokio::join!(world.raw(&request), serving);
        assert_eq!(code(&answer), 502, "{answer}");
        assert!(answer.contains(words), "{answer}");
    }
    // A CA of this cluster's, and another service's name.
    let other = Certificate::new("web.other.svc", &[]);
    let (site, world) = world(&other.pem).await;
    let request = get(&world, "c", "Connection: close\r\n");
    let serving = async { drop(other.accept(site.next().await).await) };
    let (answer, ()) = tokio::join!(world.raw(&request), serving);
    assert_eq!(code(&answer), 502, "{answer}");
    assert!(answer.contains("not for web.shop.svc"), "{answer}");
    assert!(!answer.contains("other"), "a peer's words: {answer}");
    // One cluster's CA vouches for no other's services, and no CA is not every CA.
    for (cluster, words) in [("d", "needs a file d.pem"), ("broken", "cannot be read")] {
        let request = get(&world, cluster, "Connection: close\r\n");
        let answer = world.raw(&request).await;
        assert_eq!(code(&answer), 502, "{answer}");
        let message = status(&answer)["message"].to_string();
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(site.opened().len(), 1, "nothing was opened for these");
    // A service without TLS.
    let request = get(&world, "c", "Connection: close\r\n");
    let (answer, _stream) = tokio::join!(world.raw(&request), async {
        let mut stream = site.next().await;
        stream.read_u8().await.unwrap();
        stream.write_all(OK).await.unwrap();
        stream
    });
    assert_eq!(code(&answer), 502, "{answer}");
    assert!(
        answer.contains("http is for services without TLS"),
        "{answer}"
    );
}

#[tokio::test]
async fn rule_10_a_services_own_certificate_in_the_clusters_file_is_trusted_itself() {
    let certificate = Certificate::own_ca(NAME);
    let (site, world) = world(&certificate.pem).await;
    let serving = async {
        let mut tls = certificate.accept(site.next().await).await.unwrap();
        read_head(&mut tls).await;
        tls.write_all(OK).await.unwrap();
        let _ = tls.read_u8().await;
    };
    let request = get(&world, "c", "Connection: close\r\n");
    let (answer, ()) = tokio::join!(world.raw(&request), serving);
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    // One that is not in the file says why it is refused.
    let other = Certificate::own_ca(NAME);
    let (site, world) = self::world(&Certificate::new("ca", &[]).pem).await;
    let serving = async { drop(other.accept(site.next().await).await) };
    let request = get(&world, "c", "Connection: close\r\n");
    let (answer, ()) = tokio::join!(world.raw(&request), serving);
    assert_eq!(code(&answer), 502, "{answer}");
    assert!(answer.contains("its certificate is a CA's"), "{answer}");
}

/// A file that hangs.
#[derive(Default)]
struct Hanging(AtomicUsize);

#[async_trait]
impl ServiceRoots for Hanging {
    async fn roots(&self, _: &ClusterName) -> Result<Option<Roots>, BoxError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        std::future::pending().await
    }
}

#[tokio::test]
async fn rule_23_the_cas_of_services_are_read_for_callers_with_a_seat() {
    let (site, roots) = (Site::new(), Arc::<Hanging>::default());
    let budgets = BudgetConfig::default().streams_per_user(1).unwrap();
    let reading = Arc::clone(&roots) as _;
    let world = World::bounded_with_service_roots(site.clone(), reading, budgets).await;
    let request = get(&world, "c", "Connection: close\r\n");
    let mut socket = tokio::net::TcpStream::connect(world.http1).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    until(|| roots.0.load(Ordering::SeqCst) == 1).await;
    for _ in 0..3 {
        assert_eq!(code(&world.raw(&request).await), 429);
    }
    assert_eq!(roots.0.load(Ordering::SeqCst), 1);
    // A client that goes away gives its seat back.
    drop(socket);
    until(|| world.budgets.occupancy().is_empty()).await;
    assert_eq!(site.opened(), [""; 0]);
}
