//! Requests without kubectl, for what kubectl does not show or does by itself.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use underpass_testenv::Underpass;
use underpass_testenv::testing::DEADLINE;

/// What was answered, and when.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    pub(crate) took: Duration,
}

impl Answer {
    /// That it is a `metav1.Status` of this code and reason.
    #[track_caller]
    pub(crate) fn assert_status(&self, code: u16, reason: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/json");
        let body = &self.body;
        assert_eq!(body["kind"], "Status", "{self:?}");
        assert_eq!(body["apiVersion"], "v1", "{self:?}");
        assert_eq!(body["status"], "Failure", "{self:?}");
        assert_eq!(body["code"], code, "{self:?}");
        assert_eq!(body["reason"], reason, "{self:?}");
    }

    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap()
    }
}

/// `GET` of a path of the server, with a token if there is one.
pub(crate) async fn get(underpass: &Underpass, path: &str, token: Option<&str>) -> Answer {
    let mut request = Request::get(path);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    send(underpass, request).await
}

/// A request on a connection of its own.
pub(crate) async fn send(underpass: &Underpass, request: http::request::Builder) -> Answer {
    tokio::time::timeout(DEADLINE, exchange(underpass, request))
        .await
        .expect("an answer in time")
}

async fn exchange(underpass: &Underpass, request: http::request::Builder) -> Answer {
    let tls = connect(underpass, &[b"http/1.1"]).await.unwrap();
    exchange_on(tls, request).await
}

/// A request on a connection that there is for it.
pub(crate) async fn send_on(tls: TlsStream<TcpStream>, request: http::request::Builder) -> Answer {
    tokio::time::timeout(DEADLINE, exchange_on(tls, request))
        .await
        .expect("an answer in time")
}

async fn exchange_on(tls: TlsStream<TcpStream>, request: http::request::Builder) -> Answer {
    let request = request.header(header::HOST, "localhost");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(tls));
    let (mut sender, connection) = handshake.await.unwrap();
    let driver = tokio::spawn(connection);
    let begin = Instant::now();
    let response = sender.send_request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let took = begin.elapsed();
    drop(sender);
    // How the connection ends says nothing about the answer, which is there.
    driver.abort();
    Answer {
        code: parts.status.as_u16(),
        headers: parts.headers,
        body: serde_json::from_slice(&body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned())),
        took,
    }
}

/// A TLS connection that offers these protocols.
pub(crate) async fn connect(
    underpass: &Underpass,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    connect_from(underpass, Ipv4Addr::LOCALHOST, b"", alpn).await
}

/// The same, from this address, and with these bytes before TLS.
pub(crate) async fn connect_from(
    underpass: &Underpass,
    source: Ipv4Addr,
    first: &[u8],
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(Arc::new(tls(&underpass.ca_file(), alpn)));
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    let server = authority(underpass).parse().unwrap();
    let mut tcp = socket.connect(server).await?;
    tcp.write_all(first).await?;
    connector
        .connect(ServerName::try_from("localhost").unwrap(), tcp)
        .await
}

/// Where the server listens.
pub(crate) fn authority(underpass: &Underpass) -> String {
    let port = underpass.url().rsplit(':').next().unwrap();
    format!("127.0.0.1:{port}")
}

/// A client's TLS that trusts the server's CA.
pub(crate) fn tls(ca_file: &Path, alpn: &[&[u8]]) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca_file).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    tls
}
