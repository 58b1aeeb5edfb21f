//! API servers that answer before they have read all of a request.

use http::{Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
