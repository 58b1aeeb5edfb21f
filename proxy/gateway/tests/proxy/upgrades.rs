//! Raw bytes flow after a validated 101 and never otherwise (security rule 1).

use std::sync::{Arc, Mutex};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;
use underpass_core::Body;

use crate::{
    api::Api,
    world::{World, code, soon, status, until},
};

pub(crate) const SPDY: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\
                    X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\
                    X-Stream-Protocol-Version: v3.channel.k8s.io\r\n";
pub(crate) const WEBSOCKET: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                         Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub(crate) async fn read_head<S: AsyncReadExt + Unpin>(stream: &mut S) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = soon(stream.read_u8()).await;
        head.push(byte.unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&head))));
    }
    String::from_utf8(head).unwrap()
}

pub(crate) async fn upgrade(world: &World, method: &str, lines: &str) -> (TcpStream, String) {
    let mut socket = TcpStream::connect(world.http1).await.unwrap();
    let head = world.head(method, "/api/v1/namespaces/a/pods/p/exec?command=sh", lines);
    socket.write_all(head.as_bytes()).await.unwrap();
    let head = read_head(&mut socket).await;
    (socket, head)
}

/// An API server that agrees to SPDY, reads to the end, and only then answers.
pub(crate) async fn answer_at_the_end(mut request: Request<Incoming>) -> Response<Body> {
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgraded.await.unwrap());
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        heard.reverse();
        stream.write_all(&heard).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    switching("SPDY/3.1")
}

fn switching(protocol: &str) -> Response<Body> {
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "Upgrade")
        .header("upgrade", protocol)
        .header("x-stream-protocol-version", "v4.channel.k8s.io")
        .body(underpass_core::empty())
        .unwrap()
}

#[tokio::test]
async fn half_close_from_the_client_is_carried() {
    let api = Api::start(answer_at_the_end).await;
    let world = World::new(&api).await;
    let (mut socket, head) = upgrade(&world, "POST", SPDY).await;
    assert_eq!(code(&head), 101);
    assert!(
        head.contains("x-stream-protocol-version: v4.channel.k8s.io"),
        "{head}"
    );
    let sent: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    socket.write_all(&sent).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut heard = Vec::new();
    soon(socket.read_to_end(&mut heard)).await.unwrap();
    heard.reverse();
    assert!(heard == sent, "{} of {}", heard.len(), sent.len());
    let seen = api.only();
    assert_eq!(
        seen.all("x-stream-protocol-version"),
        ["v4.channel.k8s.io", "v3.channel.k8s.io"]
    );
    assert_eq!(seen.all("upgrade"), ["SPDY/3.1"]);
    assert_eq!(seen.all("impersonate-user"), ["alice"]);
    assert_eq!(seen.target, "/api/v1/namespaces/a/pods/p/exec?command=sh");
}

#[tokio::test]
async fn half_close_from_the_cluster_is_carried() {
    let heard = Arc::new(Mutex::new(None));
    let log = Arc::clone(&heard);
    let api = Api::start(move |mut request: Request<Incoming>| {
        let log = Arc::clone(&log);
        async move {
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgraded.await.unwrap());
                stream.write_all(b"bye").await.unwrap();
                stream.shutdown().await.unwrap();
                let mut rest = String::new();
                stream.read_to_string(&mut rest).await.unwrap();
                *log.lock().unwrap() = Some(rest);
            });
            switching("SPDY/3.1")
        }
    })
    .await;
    let world = World::new(&api).await;
    let (mut socket, _) = upgrade(&world, "POST", SPDY).await;
    let mut said = String::new();
    soon(socket.read_to_string(&mut said)).await.unwrap();
    assert_eq!(said, "bye");
    socket.write_all(b"still here").await.unwrap();
    socket.shutdown().await.unwrap();
    until(|| heard.lock().unwrap().as_deref() == Some("still here")).await;
}

#[tokio::test]
async fn websocket_subprotocols_pass_verbatim_and_tokens_among_them_do_not() {
    let api = Api::start(|mut request: Request<Incoming>| async move {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgraded.await.unwrap());
            let (mut read, mut write) = tokio::io::split(&mut stream);
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let mut response = switching("WebSocket");
        let headers = response.headers_mut();
        headers.insert("sec-websocket-accept", ACCEPT.parse().unwrap());
        headers.insert(
            "sec-websocket-protocol",
            "v5.channel.k8s.io".parse().unwrap(),
        );
        response
    })
    .await;
    let world = World::new(&api).await;
    let (mut socket, head) = upgrade(&world, "GET", WEBSOCKET).await;
    assert_eq!(code(&head), 101);
    assert!(
        head.contains(&format!("sec-websocket-accept: {ACCEPT}\r\n")),
        "{head}"
    );
    assert!(
        head.contains("sec-websocket-protocol: v5.channel.k8s.io\r\n"),
        "{head}"
    );
    socket.write_all(b"ping").await.unwrap();
    let mut pong = [0; 4];
    soon(socket.read_exact(&mut pong)).await.unwrap();
    assert_eq!(&pong, b"ping");

    // A browser without an Authorization header.
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let token = URL_SAFE_NO_PAD.encode(&world.alice);
    let request = format!(
        "GET /k8s/clusters/c/api/v1/pods?watch=1 HTTP/1.1\r\nHost: x\r\n{WEBSOCKET}\
         Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.{token}\r\n\r\n"
    );
    let mut socket = TcpStream::connect(world.http1).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(code(&read_head(&mut socket).await), 101);
    for seen in api.seen() {
        assert_eq!(seen.all("sec-websocket-protocol"), ["v5.channel.k8s.io"]);
    }
}

/// An API server that gives one answer of raw bytes and keeps all other bytes that it is sent.
pub(crate) async fn raw_api(answer: &'static str) -> (Api, Arc<Mutex<Vec<u8>>>) {
    let extra = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&extra);
    let api = Api::scripted(&["http/1.1"], move |_, mut stream: TlsStream<TcpStream>| {
        let log = Arc::clone(&log);
        async move {
            read_head(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                log.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        }
    })
    .await;
    (api, extra)
}

#[tokio::test]
async fn rule_1_nothing_is_relayed_after_any_other_answer() {
    for (answer, expected) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\nextra",
            200,
        ),
        (
            "HTTP/1.1 302 Found\r\nLocation: https://10.0.0.1/\r\nContent-Length: 0\r\n\r\n",
            502,
        ),
        (
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope",
            403,
        ),
        (
            "HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nextra",
            400,
        ),
        (
            "HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n",
            200,
        ),
    ] {
        let (api, extra) = raw_api(answer).await;
        let world = World::new(&api).await;
        let head = world.head("POST", "/api/v1/namespaces/a/pods/p/exec", SPDY);
        let smuggled = "GET /api/v1/secrets HTTP/1.1\r\nHost: x\r\n\r\n";
        let heard = world.raw(&(head + smuggled)).await;
        assert_eq!(code(&heard), expected, "{heard}");
        assert!(!heard.contains("extra"), "{heard}");
        assert!(heard.contains("connection: close"), "{heard}");
        assert_eq!(heard.matches("HTTP/1.1").count(), 1, "{heard}");
        assert_eq!(extra.lock().unwrap().len(), 0);
        assert_eq!(
            api.connections.load(std::sync::atomic::Ordering::SeqCst),
            1,
            "not followed"
        );
    }
}

#[tokio::test]
async fn rule_1_a_101_must_be_asked_for_and_match() {
    let upgrade = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n";
    for (lines, answer) in [
        ("", format!("{upgrade}Upgrade: websocket\r\n\r\nraw bytes")),
        (
            "",
            "HTTP/1.1 101 Switching Protocols\r\n\r\nraw bytes".to_owned(),
        ),
        (SPDY, format!("{upgrade}Upgrade: h2c\r\n\r\nraw bytes")),
        (
            SPDY,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\n\r\nraw bytes".to_owned(),
        ),
        (
            WEBSOCKET,
            format!("{upgrade}Upgrade: websocket\r\n\r\nraw bytes"),
        ),
        (
            WEBSOCKET,
            format!("{upgrade}Upgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nraw bytes"),
        ),
        (
            WEBSOCKET,
            format!(
                "{upgrade}Upgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\
                 Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\nraw bytes"
            ),
        ),
    ] {
        let (api, extra) = raw_api(answer.clone().leak()).await;
        let world = World::new(&api).await;
        let method = if lines == SPDY { "POST" } else { "GET" };
        let close = if lines.is_empty() {
            "Connection: close\r\n"
        } else {
            lines
        };
        let head = world.head(method, "/api/v1/namespaces/a/pods/p/exec", close);
        let heard = world.raw(&(head + "more raw bytes")).await;
        assert_eq!(code(&heard), 502, "{answer}: {heard}");
        assert!(!heard.contains("raw bytes"), "{heard}");
        assert_eq!(extra.lock().unwrap().len(), 0);
    }
}

#[tokio::test]
async fn rule_1_ambiguous_upgrades_are_refused() {
    let api = Api::start(answer_at_the_end).await;
    let world = World::new(&api).await;
    for (method, lines) in [
        (
            "POST",
            "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 3\r\n",
        ),
        (
            "POST",
            "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            "POST",
            "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nUpgrade: websocket\r\n",
        ),
        ("PUT", "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"),
        ("GET", "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
    ] {
        let lines = format!("{lines}Connection: close\r\n");
        let heard = world.raw(&(world.head(method, "/x", &lines) + "abc")).await;
        assert_eq!(code(&heard), 400, "{lines}");
        assert_eq!(status(&heard)["reason"], "BadRequest");
    }
    assert_eq!(api.seen().len(), 0);
    // Protocols that Kubernetes does not use are not offered on.
    let lines = "Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    let api = Api::start(crate::api::ok).await;
    let world = World::new(&api).await;
    assert_eq!(
        code(&world.raw(&world.head("GET", "/api", lines)).await),
        200
    );
    assert_eq!(api.only().all("upgrade"), [""; 0]);
    assert_eq!(api.only().all("http2-settings"), [""; 0]);
}

#[tokio::test]
async fn rule_1_nothing_is_read_after_a_refused_upgrade() {
    let api = Api::start(crate::api::ok).await;
    let world = World::new(&api).await;
    let refused = format!(
        "POST /k8s/clusters/c/api/v1/namespaces/a/pods/p/exec HTTP/1.1\r\nHost: x\r\n\
         Authorization: Bearer {}\r\n{SPDY}\r\n",
        world.mallory
    );
    let heard = world
        .raw(&(refused + &world.head("GET", "/smuggled", "")))
        .await;
    assert_eq!(code(&heard), 403);
    assert_eq!(heard.matches("HTTP/1.1").count(), 1, "{heard}");
    assert_eq!(api.seen().len(), 0);
}

#[tokio::test]
async fn rule_12_revoking_ends_an_upgraded_stream() {
    let api = Api::start(answer_at_the_end).await;
    let world = World::new(&api).await;
    let (mut socket, head) = upgrade(&world, "POST", SPDY).await;
    assert_eq!(code(&head), 101);
    world.revoke.cancel();
    let mut rest = Vec::new();
    let _ = soon(socket.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
}
