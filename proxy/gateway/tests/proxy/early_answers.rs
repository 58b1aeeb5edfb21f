//! API servers that answer before they have read all of a request.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use underpass_audit::AuditLog;
use underpass_core::{Body, limits};
use underpass_gateway::BudgetConfig;

use crate::{
    api::Api,
    world::{World, code, soon, status},
};

const PATH: &str = "/api/v1/namespaces/n/configmaps/c";
const LENGTH: usize = 10 * 1024 * 1024;
const TOO_LARGE: &str = r#"{"kind":"Status","code":413,"reason":"RequestEntityTooLarge"}"#;

/// The answer to an upload whose client sends all of it before it looks for an answer.
async fn upload(world: &World) -> String {
    let lines = format!("Content-Length: {LENGTH}\r\nConnection: close\r\n");
    let mut socket = tokio::net::TcpStream::connect(world.http1).await.unwrap();
    let head = world.head("PUT", PATH, &lines);
    soon(socket.write_all(head.as_bytes())).await.unwrap();
    for piece in vec![b'x'; LENGTH].chunks(64 * 1024) {
        soon(socket.write_all(piece)).await.unwrap();
    }
    let mut answer = Vec::new();
    soon(socket.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn assert_arrives(api: &Api) {
    let world = World::new(api).await;
    for _ in 0..8 {
        let answer = upload(&world).await;
        assert_eq!(code(&answer), 413, "{answer}");
        assert_eq!(status(&answer)["reason"], "RequestEntityTooLarge");
    }
}

/// It closes its connection with unread bytes in it, which is a reset.
#[tokio::test]
async fn an_early_answer_over_http_1_1_arrives() {
    let api = Api::scripted(&["http/1.1"], |_, mut tls| async move {
        // As Go's servers do: the answer must not wait for an acknowledgement.
        tls.get_ref().0.set_nodelay(true).unwrap();
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            if tls.read_buf(&mut head).await.unwrap_or_default() == 0 {
                return;
            }
        }
        let answer = format!(
            "HTTP/1.1 413 Payload Too Large\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{TOO_LARGE}",
            TOO_LARGE.len()
        );
        tls.write_all(answer.as_bytes()).await.unwrap();
        let _ = tls.flush().await;
    })
    .await;
    assert_arrives(&api).await;
}

/// RFC 9112, section 9.6: a server that is about to close a connection says so in its last answer.
#[tokio::test]
async fn an_answer_before_the_end_of_its_request_says_that_it_is_the_last() {
    let api = Api::start(crate::api::ok).await;
    let world = World::new(&api).await;
    let unknown = |lines: &str| {
        let head = world.head("PUT", PATH, lines);
        head.replace(&world.alice, "underpass_unknown")
    };
    for (lines, body) in [
        ("Content-Length: 5\r\n", "x"),
        ("Content-Length: 5\r\nExpect: 100-continue\r\n", ""),
        ("Transfer-Encoding: chunked\r\n", "1\r\nx\r\n"),
        ("Transfer-Encoding: chunked\r\n", "zz\r\n"),
    ] {
        let answer = world.raw(&(unknown(lines) + body)).await;
        assert_eq!(code(&answer), 401, "{lines:?}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
    // One that has come is read, and the connection has another request.
    let small = unknown("Content-Length: 5\r\n") + "hello";
    let chunked = unknown("Transfer-Encoding: chunked\r\n") + "5\r\nhello\r\n0\r\n\r\n";
    let last = world.head("GET", PATH, "Connection: close\r\n");
    let answers = world.raw(&[small, chunked, last].concat()).await;
    let codes = answers.matches("HTTP/1.1 401 ").count();
    assert_eq!(codes, 2, "{answers}");
    assert!(answers.ends_with("ok"), "{answers}");
    assert_eq!(answers.matches("connection: close").count(), 1, "{answers}");
}

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

async fn echo(request: Request<Incoming>) -> Response<Body> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Response::new(underpass_core::full(body))
}

/// A client that waits for a 100 keeps its body where it is refused: the body is not asked for before.
#[tokio::test]
async fn a_refusal_comes_without_a_100() {
    let api = Api::start(echo).await;
    let budgets = BudgetConfig::default().requests_per_user(1);
    let budgets = budgets.and_then(|budgets| budgets.queue_wait(Duration::from_millis(50)));
    let world = World::with_budgets(&api, AuditLog::default(), budgets.unwrap()).await;
    let lines = "Content-Length: 5\r\nExpect: 100-continue\r\n";
    let head = world.head("PUT", PATH, lines);
    let by = |token: &str| head.replace(&world.alice, token);
    let of = |cluster: &str| head.replace("/clusters/c/", &format!("/clusters/{cluster}/"));
    // An upload that has the only seat, and goes on.
    let mut holder = tokio::net::TcpStream::connect(world.http1).await.unwrap();
    let held = by(&world.bob);
    holder.write_all(held.as_bytes()).await.unwrap();
    let mut interim = vec![0; CONTINUE.len()];
    soon(holder.read_exact(&mut interim)).await.unwrap();
    assert_eq!(interim, CONTINUE.as_bytes());
    for (request, expected) in [
        (by("underpass_unknown"), 401),
        (by(&world.mallory), 403),
        (of("unknown"), 404),
        (of("no-agent"), 503),
        (by(&world.bob), 429),
        (head.replace("PUT", "BREW"), 405),
    ] {
        let answer = world.raw(&request).await;
        assert_eq!(code(&answer), expected, "{answer}");
        assert!(!answer.contains("100 Continue"), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
    // The body that was asked for is not lost.
    soon(holder.write_all(b"hello")).await.unwrap();
    let mut answer = [0; 12];
    soon(holder.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn an_upload_that_waits_for_a_100_has_one_and_arrives() {
    let api = Api::start(echo).await;
    let world = World::new(&api).await;
    let lines = "Content-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n";
    let mut socket = tokio::net::TcpStream::connect(world.http1).await.unwrap();
    let head = world.head("PUT", PATH, lines);
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut interim = vec![0; CONTINUE.len()];
    soon(socket.read_exact(&mut interim)).await.unwrap();
    assert_eq!(interim, CONTINUE.as_bytes());
    socket.write_all(b"hello").await.unwrap();
    let mut answer = String::new();
    soon(socket.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(code(&answer), 200, "{answer}");
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
    assert!(!answer.contains("100 Continue"), "{answer}");
    assert_eq!(api.only().all("expect"), [""; 0]);
}

#[tokio::test]
async fn an_early_answer_over_http_2_arrives() {
    let api = Api::start(|_| async {
        let answer = Response::builder().status(StatusCode::PAYLOAD_TOO_LARGE);
        let answer = answer.header("content-type", "application/json");
        answer.body(underpass_core::full(TOO_LARGE)).unwrap()
    })
    .await;
    assert_arrives(&api).await;
}

/// HTTP/2 connections of clients that send all of a body before they look for an answer.
mod over_http_2 {
    use bytes::Bytes;
    use h2::{Reason, SendStream, client::SendRequest};
    use tokio::net::TcpStream;

    use super::*;

    async fn connect(world: &World) -> SendRequest<Bytes> {
        let socket = TcpStream::connect(world.http2).await.unwrap();
        let (sender, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    type Answer = h2::client::ResponseFuture;

    async fn put(
        sender: &SendRequest<Bytes>,
        path: &str,
        token: &str,
    ) -> (Answer, SendStream<Bytes>) {
        let request = Request::put(format!("https://front{path}"))
            .header("authorization", format!("Bearer {token}"))
            .body(())
            .unwrap();
        let mut sender = sender.clone().ready().await.unwrap();
        sender.send_request(request, false).unwrap()
    }

    /// Sends so much; an error is a reset's.
    async fn send(stream: &mut SendStream<Bytes>, length: usize) -> Result<(), h2::Error> {
        let piece = Bytes::from(vec![b'x'; 16 * 1024]);
        for _ in 0..length / piece.len() {
            stream.reserve_capacity(piece.len());
            while stream.capacity() < piece.len() {
                let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                match capacity {
                    Some(capacity) => capacity?,
                    // The stream was reset.
                    None => return Err(reset(stream).await.into()),
                };
            }
            stream.send_data(piece.clone(), false)?;
        }
        Ok(())
    }

    async fn reset(stream: &mut SendStream<Bytes>) -> Reason {
        let reset = std::future::poll_fn(|cx| stream.poll_reset(cx));
        soon(reset).await.unwrap()
    }

    /// The whole answer, read after the upload.
    async fn read(answer: Answer) -> (u16, serde_json::Value) {
        let answer = soon(answer).await.unwrap();
        let code = answer.status().as_u16();
        let (mut body, mut read) = (answer.into_body(), Vec::new());
        while let Some(piece) = soon(body.data()).await {
            read.extend_from_slice(&piece.unwrap());
        }
        (code, serde_json::from_slice(&read).unwrap())
    }

    #[tokio::test]
    async fn a_refused_upload_ends_and_its_answer_arrives() {
        let api = Api::start(|_| async {
            let answer = Response::builder().status(StatusCode::PAYLOAD_TOO_LARGE);
            let answer = answer.header("content-type", "application/json");
            answer.body(underpass_core::full(TOO_LARGE)).unwrap()
        })
        .await;
        let world = World::new(&api).await;
        let sender = connect(&world).await;
        let cluster = |name: &str| format!("/k8s/clusters/{name}{PATH}");
        for (path, token, expected) in [
            (cluster("c"), "nobody's", 401),
            (cluster("c"), &*world.mallory, 403),
            (cluster("unknown"), &*world.alice, 404),
            (cluster("no-agent"), &*world.alice, 503),
            (cluster("vanishing"), &*world.alice, 502),
            // The API server's own.
            (cluster("c"), &*world.alice, 413),
            ("/nowhere".to_owned(), &*world.alice, 404),
        ] {
            for _ in 0..8 {
                let (answer, mut stream) = put(&sender, &path, token).await;
                soon(send(&mut stream, LENGTH)).await.unwrap();
                stream.send_data(Bytes::new(), true).unwrap();
                let (code, status) = read(answer).await;
                assert_eq!(
                    (code, status["code"].as_u64()),
                    (expected, Some(expected.into()))
                );
            }
        }
    }

    #[tokio::test]
    async fn a_refused_upload_that_stops_is_reset_without_an_error() {
        let api = Api::start(|_| async { Response::new(underpass_core::empty()) }).await;
        let world = World::new(&api).await;
        let sender = connect(&world).await;
        let path = format!("/k8s/clusters/c{PATH}");
        let (answer, mut stream) = put(&sender, &path, "nobody's").await;
        soon(send(&mut stream, 64 * 1024)).await.unwrap();
        assert_eq!(read(answer).await.0, 401);
        assert_eq!(reset(&mut stream).await, Reason::NO_ERROR);
    }

    /// Neither the bytes of one body nor those of a connection whose caller nobody knows are without a bound.
    #[tokio::test]
    async fn rule_23_bodies_that_are_discarded_have_an_end() {
        let api = Api::start(|_| async { Response::new(underpass_core::empty()) }).await;
        let world = World::new(&api).await;
        let path = format!("/k8s/clusters/c{PATH}");
        let sender = connect(&world).await;
        let (answer, mut stream) = put(&sender, &path, &world.mallory).await;
        let most = limits::LINGER_BYTES + limits::FRONT_CONNECTION_WINDOW as usize;
        let error = soon(send(&mut stream, most)).await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::NO_ERROR));
        assert_eq!(read(answer).await.0, 403);
        // The connection is as it was: its window was given back.
        let (answer, mut stream) = put(&sender, &path, &world.mallory).await;
        soon(send(&mut stream, LENGTH)).await.unwrap();
        assert_eq!(read(answer).await.0, 403);
    }
}
