//! Certificates that clients show, and that prove nothing.

use std::sync::Mutex;

use bytes::Bytes;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{SignatureScheme, SupportedProtocolVersion};
use underpass_audit::{Policy, Sink};
use underpass_authenticate::{
    CertificatePrefixes, CertificateRequest, ClientCertificates, Reserved, RevocationLists, Roots,
    Source, Step,
};
use underpass_core::{AuthenticationMethod, BoxError};

use super::*;

/// Made with `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=test ca" -days 36500`, `openssl req
/// -newkey ec … -subj "/CN=alice/O=dev"`, and `openssl x509 -req -CA x509v1-ca.pem -CAkey … -days 36500`, without extensions.
const CA: &[u8] = include_bytes!("x509v1-ca.pem");
const CLIENT: &[u8] = include_bytes!("x509v1-client.pem");
const KEY: &[u8] = include_bytes!("x509v1-client.key");

/// A client that shows any certificate.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn showing(
    server: &rcgen::Certificate,
    chain: Vec<CertificateDer<'static>>,
    version: &'static SupportedProtocolVersion,
) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server.der().clone()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(KEY).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(Shows(Arc::new(CertifiedKey::new(chain, key)))));
    TlsConnector::from(Arc::new(config))
}

/// A server that asks for certificates.
fn asking(made: &rcgen::CertifiedKey<rcgen::KeyPair>) -> rustls::ServerConfig {
    let request = CertificateRequest::new();
    request.want(true);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = made.signing_key.serialize_der().try_into().unwrap();
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(request)
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap()
}

fn certificates() -> Step {
    let source = Source::new(
        "certs",
        AuthenticationMethod::Certificate,
        Reserved::default(),
        CancellationToken::new(),
    );
    let prefixes = CertificatePrefixes {
        username: "cert:".to_owned(),
        groups: String::new(),
    };
    let roots = Roots::from_pem(CA).unwrap();
    let made =
        ClientCertificates::new(source, &roots, RevocationLists::default(), prefixes).unwrap();
    Step::new("certs", Arc::new(made), DEADLINE)
}

/// The audit log, as text.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<String>>);

#[async_trait::async_trait]
impl Sink for Written {
    async fn write(&mut self, events: &[Bytes]) -> Result<(), BoxError> {
        let mut written = self.0.lock().unwrap();
        for event in events {
            written.push_str(&String::from_utf8_lossy(event));
        }
        Ok(())
    }
}

impl Written {
    async fn until(&self, text: &str) {
        let found = async {
            while !self.0.lock().unwrap().contains(text) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let found = tokio::time::timeout(DEADLINE, found).await;
        found.unwrap_or_else(|_| panic!("no {text:?} in {}", self.0.lock().unwrap()));
    }
}

async fn ask(client: &TlsConnector, address: SocketAddr, lines: &str) -> String {
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let mut tls = client.connect(name, tcp).await.unwrap();
    let head = format!(
        "GET /k8s/clusters/c/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n"
    );
    tls.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(DEADLINE, tls.read_to_string(&mut answer)).await;
    read.expect("an end").unwrap();
    answer
}

/// Of X.509 version 1; no certificate; more of them than are looked at; of a CA that is not configured.
#[tokio::test]
async fn rule_21_a_certificate_that_proves_nothing_is_a_401_with_its_reason() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = asking(&made);
    let tokens = Step::new("tokens", Arc::new(Believing), DEADLINE);
    let chain = Chain::new(vec![certificates(), tokens], Arc::new(Unowned));
    let written = Written::default();
    let audit = AuditLog::new(Policy::everything(), vec![])
        .strangers("strangers", Box::new(written.clone()));
    let door = Door::new(64, Strangers::default());
    let (address, connections, stop) = serve_with(tls, audit, Arc::new(chain), door).await;

    let v1 = CertificateDer::from_pem_slice(CLIENT).unwrap();
    let key = rcgen::KeyPair::from_pem(str::from_utf8(KEY).unwrap()).unwrap();
    let own = rcgen::CertificateParams::default();
    let own = own.self_signed(&key).unwrap().der().clone();
    let more = underpass_core::limits::CLIENT_INTERMEDIATES + 1;
    let many = [vec![own.clone()], vec![made.cert.der().clone(); more]].concat();
    let garbage = CertificateDer::from(b"garbage".to_vec());
    for (shown, reason) in [
        (vec![v1], "is of X.509 version 1 or 2"),
        (vec![garbage], "cannot be read"),
        (many, "came with too many intermediate certificates"),
        (vec![own], "leads to no certificate authority"),
    ] {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let client = showing(&made.cert, shown.clone(), version);
            // The second time the session is resumed.
            for _ in 0..2 {
                let answer = ask(&client, address, "").await;
                assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
                assert!(answer.contains(reason), "{answer}");
                assert!(answer.contains("\"kind\":\"Status\""), "{answer}");
                assert!(answer.contains("www-authenticate"), "{answer}");
            }
            written.until(reason).await;
            // As for a known user without the right.
            let answer = ask(&client, address, "Authorization: Bearer bob\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
            assert!(answer.contains("bob"), "{answer}");
        }
    }
    stop.cancel();
    let ended = tokio::time::timeout(DEADLINE, connections.wait()).await;
    ended.expect("every connection has ended");
}

/// A client without the certificate's key: the handshake fails, and so it did before.
#[tokio::test]
async fn rule_21_a_certificate_without_its_key_is_no_connection() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = asking(&made);
    let nobody = Arc::new(Chain::new(vec![certificates()], Arc::new(Unowned)));
    let door = Door::new(64, Strangers::default());
    let (address, _connections, stop) = serve_with(tls, AuditLog::default(), nobody, door).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = showing(&made.cert, vec![made.cert.der().clone()], version);
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let said = async {
            let mut tls = client.connect(name, tcp).await?;
            // TLS 1.3 lets the client send before it knows.
            tls.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?;
            let mut answer = Vec::new();
            tls.read_to_end(&mut answer).await.map(|_| answer)
        };
        let said = tokio::time::timeout(DEADLINE, said).await.expect("an end");
        assert!(said.is_err(), "{said:?}");
    }
    stop.cancel();
}
