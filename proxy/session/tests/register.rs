//! The errors for the owner of a session, where the server gives none.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests state expectations as tests do; the lints know only functions marked as tests"
)]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use underpass_core::BoxError;
use underpass_https::Roots;
use underpass_session::{ConnectError, Credentials, SessionConfig, UserSession};
use zeroize::Zeroizing;

struct Token;

#[async_trait]
impl Credentials for Token {
    async fn bearer(&self) -> Result<Zeroizing<String>, BoxError> {
        Ok("upt_secret".to_owned().into())
    }
}

/// A server with one answer to everything, which counts what it was asked.
struct Stub {
    port: u16,
    ca_pem: String,
    asked: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

impl Stub {
    async fn new(status: &'static str, body: &'static str) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = made.signing_key.serialize_der().try_into().unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&asked);
        let serving = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(mut tls) = acceptor.accept(tcp).await else {
                    continue;
                };
                let mut request = vec![0; 4096];
                let length = tls.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                assert!(
                    request.starts_with("POST /v1/sessions HTTP/1.1\r\n"),
                    "{request}"
                );
                assert!(
                    request.contains("authorization: Bearer upt_secret\r\n"),
                    "{request}"
                );
                counted.fetch_add(1, Ordering::SeqCst);
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                tls.write_all(answer.as_bytes()).await.unwrap();
                let _ = tls.shutdown().await;
            }
        });
        Self {
            port,
            ca_pem: made.cert.pem(),
            asked,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    async fn refusal(&self) -> ConnectError {
        let roots = Roots::from_pem(self.ca_pem.as_bytes()).unwrap();
        let url = format!("https://localhost:{}", self.port);
        let config = SessionConfig::new(url, roots, Arc::new(Token));
        let connected = UserSession::connect(config, |event| panic!("{event}")).await;
        let refused = connected.expect_err("no session");
        assert!(!format!("{refused:?}{refused}").contains("upt_secret"));
        refused
    }
}

#[tokio::test]
async fn a_server_without_user_sessions_is_named_as_such() {
    for (status, body) in [
        (
            "404 Not Found",
            r#"{"status":404,"title":"Not Found","detail":"there is nothing at this path"}"#,
        ),
        ("404 Not Found", "<html>"),
        ("405 Method Not Allowed", ""),
    ] {
        let refused = Stub::new(status, body).await.refusal().await;
        assert!(
            matches!(refused, ConnectError::NoUserSessions),
            "{refused:?}"
        );
        assert!(
            refused
                .to_string()
                .starts_with("this server has no user sessions")
        );
    }
}

#[tokio::test]
async fn a_refusal_is_typed_and_asked_for_once() {
    let problem = |status: u16| format!(r#"{{"status":{status},"title":"","detail":"because"}}"#);
    let stub = Stub::new("401 Unauthorized", problem(401).leak()).await;
    let refused = stub.refusal().await;
    assert!(
        matches!(refused, ConnectError::Unauthorized(_)),
        "{refused:?}"
    );
    assert_eq!(stub.asked.load(Ordering::SeqCst), 1);
    let refused = Stub::new("429 Too Many Requests", problem(429).leak())
        .await
        .refusal()
        .await;
    assert!(matches!(refused, ConnectError::Refused(_)), "{refused:?}");
    assert!(refused.to_string().ends_with("because"), "{refused}");
}

#[tokio::test]
async fn a_url_that_is_none_is_named() {
    let stub = Stub::new("500 x", "").await;
    let roots = Roots::from_pem(stub.ca_pem.as_bytes()).unwrap();
    for url in ["http://x", "https://", "x", "https://a@b"] {
        let config = SessionConfig::new(url, roots.clone(), Arc::new(Token));
        let refused = UserSession::connect(config, |_| {})
            .await
            .expect_err("no session");
        assert!(matches!(refused, ConnectError::Url(_)), "{refused:?}");
    }
}
