//! Requests without kubectl, for what kubectl does not show or does by itself.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper_util::rt::TokioIo;
use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use underpass_testenv::Underpass;
use underpass_testenv::testing::DEADLINE;

/// An answer, and the time it took.
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

/// The same with a body of JSON.
pub(crate) async fn post_on(
    tls: TlsStream<TcpStream>,
    request: http::request::Builder,
    body: &Value,
) -> Answer {
    let request = request
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    tokio::time::timeout(DEADLINE, converse(tls, request))
        .await
        .expect("an answer in time")
}

async fn exchange_on(tls: TlsStream<TcpStream>, request: http::request::Builder) -> Answer {
    let request = request.header(header::HOST, "localhost");
    converse(tls, request.body(Empty::<Bytes>::new()).unwrap()).await
}

async fn converse<B>(tls: TlsStream<TcpStream>, request: Request<B>) -> Answer
where
    B: http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
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

/// A connection for HTTP/1.1 on which the client shows the certificate of this kubeconfig.
pub(crate) async fn connect_with_certificate(
    underpass: &Underpass,
    kubeconfig: &Path,
) -> TlsStream<TcpStream> {
    let text: Value = serde_json::from_slice(&std::fs::read(kubeconfig).unwrap()).unwrap();
    let read = |key: &str| {
        let encoded = text["users"][0]["user"][key].as_str().unwrap();
        BASE64.decode(encoded).unwrap()
    };
    let chain = CertificateDer::pem_slice_iter(&read("client-certificate-data"))
        .collect::<Result<_, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(&read("client-key-data")).unwrap();
    let tls = trusting(&underpass.ca_file())
        .with_client_auth_cert(chain, key)
        .unwrap();
    let tcp = TcpStream::connect(authority(underpass)).await.unwrap();
    TlsConnector::from(Arc::new(tls))
        .connect(ServerName::try_from("localhost").unwrap(), tcp)
        .await
        .unwrap()
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
    let mut tls = trusting(ca_file).with_no_client_auth();
    tls.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    tls
}

fn trusting(ca_file: &Path) -> rustls::ConfigBuilder<rustls::ClientConfig, WantsClientCert> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca_file).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
}
