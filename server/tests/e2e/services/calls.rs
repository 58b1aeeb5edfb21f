//! A WebSocket, a call as gRPC makes it, and a service that speaks TLS, by the reverse proxy.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;
use underpass_testenv::testing::DEADLINE;
use underpass_testenv::{CLUSTER_NAME, Transport};

use super::programs::{WEBSOCKET_KEY, serve_pages};
use super::site::Site;
use crate::over_both_transports;
use crate::raw;

over_both_transports!(
    a_websocket_passes_the_reverse_proxy,
    a_call_with_trailers_passes_the_reverse_proxy,
    a_service_that_speaks_tls_is_verified_by_its_clusters_ca,
);

pub(super) async fn soon<F: Future>(what: F) -> F::Output {
    let soon = tokio::time::timeout(DEADLINE, what);
    soon.await.expect("did not happen in time")
}

/// A connection that has become a WebSocket to pages of a service.
pub(super) async fn websocket(site: &Site, service: &str) -> TlsStream<TcpStream> {
    let socket = raw::connect(&site.deployment, &[b"http/1.1"]).await;
    let mut socket = socket.unwrap();
    let (path, token) = (site.path("http", service, 80, "/live"), site.bearer());
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {WEBSOCKET_KEY}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let head = head(&mut socket).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    socket
}

/// The head of an answer, and nothing behind it.
pub(super) async fn head(socket: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(socket.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn a_websocket_passes_the_reverse_proxy(transport: Transport) {
    let site = Site::start(transport).await;
    let _serving = serve_pages(site.listen("web", 80).await);
    let mut socket = websocket(&site, "web").await;
    for size in [1, 1000, 100_000] {
        let sent = vec![b'x'; size];
        let (mut read, mut write) = tokio::io::split(&mut socket);
        let mut heard = vec![0; size];
        let writing = async {
            write.write_all(&sent).await.unwrap();
            write.flush().await.unwrap();
        };
        let (heard_all, ()) =
            soon(async { tokio::join!(read.read_exact(&mut heard), writing) }).await;
        heard_all.unwrap();
        assert_eq!(heard, sent);
    }
    socket.shutdown().await.unwrap();
    let mut rest = Vec::new();
    let _ = soon(socket.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
}

/// A server of HTTP/2 without TLS that says each message of a call in capitals, and then how the call went.
fn serve_calls(listener: TcpListener) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(tcp).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(shout(request, respond));
                }
            });
        }
    }))
}

async fn shout(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    assert_eq!(request.headers()["te"], "trailers");
    let mut said = request.into_body();
    let response = Response::builder().header("content-type", "application/grpc");
    let mut send = respond
        .send_response(response.body(()).unwrap(), false)
        .unwrap();
    let mut count = 0;
    while let Some(Ok(message)) = said.data().await {
        let _ = said.flow_control().release_capacity(message.len());
        if message.is_empty() {
            // The end has a frame of its own.
            continue;
        }
        count += 1;
        send.send_data(message.to_ascii_uppercase().into(), false)
            .unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("grpc-message", count.to_string().parse().unwrap());
    send.send_trailers(trailers).unwrap();
}

async fn a_call_with_trailers_passes_the_reverse_proxy(transport: Transport) {
    let site = Site::start(transport).await;
    let _serving = serve_calls(site.listen("calls", 50051).await);
    let socket = raw::connect(&site.deployment, &[b"h2"]).await.unwrap();
    let (sender, connection) = soon(h2::client::handshake(socket)).await.unwrap();
    let driving = tokio::spawn(connection);
    let path = site.path("h2c", "calls", 50051, "/shop.Cart/Watch");
    let request = Request::post(format!("https://localhost{path}"))
        .header("authorization", format!("Bearer {}", site.bearer()))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let mut sender = soon(sender.ready()).await.unwrap();
    let (response, mut send) = sender
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    let response = soon(response).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let mut answers = response.into_body();
    for word in ["one", "two", "three"] {
        send.send_data(word.into(), false).unwrap();
        let answer = soon(answers.data()).await.unwrap().unwrap();
        assert_eq!(answer, word.to_ascii_uppercase());
    }
    send.send_data(Bytes::new(), true).unwrap();
    assert!(soon(answers.data()).await.is_none());
    let trailers = soon(answers.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["grpc-message"], "3");
    drop((sender, send, answers));
    driving.abort();
}

async fn a_service_that_speaks_tls_is_verified_by_its_clusters_ca(transport: Transport) {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--service-ca-dir", folder.path().to_str().unwrap()];
    let site = Site::start_with(transport, &flags).await;
    let name = format!("{}.svc", site.host("web"));
    let made = rcgen::generate_simple_self_signed([name]).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let (listener, tls) = (
        site.listen("web", 443).await,
        TlsAcceptor::from(Arc::new(tls)),
    );
    let _serving = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                let Ok(mut tls) = tls.accept(tcp).await else {
                    return;
                };
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                let _ = tls.read(&mut [0; 1024]).await;
                let _ = tls.write_all(answer).await;
                let _ = tls.flush().await;
                let _ = tls.read(&mut [0; 1024]).await;
            });
        }
    }));
    let (path, token) = (site.path("https", "web", 443, "/"), site.bearer());
    let ask = async || raw::get(&site.deployment, &path, Some(&token)).await;
    let answer = ask().await;
    answer.assert_status(502, "BadGateway");
    assert!(answer.message().contains("needs a file"), "{answer:?}");
    // A file counts at once.
    let file = folder.path().join(format!("{CLUSTER_NAME}.pem"));
    std::fs::write(&file, made.cert.pem()).unwrap();
    let answer = ask().await;
    assert_eq!((answer.code, answer.body.as_str()), (200, Some("ok")));
    let other = rcgen::generate_simple_self_signed(["other".to_owned()]).unwrap();
    std::fs::write(&file, other.cert.pem()).unwrap();
    let answer = ask().await;
    answer.assert_status(502, "BadGateway");
    assert!(answer.message().contains("none of the CAs"), "{answer:?}");
}
