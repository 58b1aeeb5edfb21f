//! A head that hyper cannot read gets a Status.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::tests::client;
use crate::IdleTimeout;
use underpass_core::{Protocol, Rejection, limits};

const PAGE: &str = "GET /page HTTP/1.1\r\nHost: front\r\n\r\n";
/// To it the front answers as hyper answers to a head that it cannot read.
const REFUSED: &str = "POST /refused HTTP/1.1\r\nHost: front\r\nContent-Length: 4\r\n\r\nbody";
const PAGE_1_0: &str = "GET /page HTTP/1.0\r\nHost: front\r\nConnection: keep-alive\r\n\r\n";
const FOLDED: &str = "GET / HTTP/1.1\r\nHost: front\r\nX-A: b\r\n c\r\n\r\n";

/// Heads that hyper cannot read.
const UNREADABLE: [&str; 7] = [
    FOLDED,
    "GET /a b HTTP/1.1\r\nHost: front\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: front\r\nX-A : b\r\n\r\n",
    "GET / HTTP/1.2\r\nHost: front\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: front\r\nX-A: b\0\r\n\r\n",
    "G@T / HTTP/1.1\r\nHost: front\r\n\r\n",
    "hello\r\n\r\n",
];

async fn everything(mut client: DuplexStream) -> String {
    let mut came = String::new();
    client.read_to_string(&mut came).await.unwrap();
    came
}

/// Everything that comes back to these bytes, on a connection of their own.
async fn answers(sent: &str) -> String {
    let mut client = client(Protocol::Http1, IdleTimeout::default());
    client.write_all(sent.as_bytes()).await.unwrap();
    everything(client).await
}

/// A Status, as all of an answer; its code and message.
fn status(answer: &str) -> (u64, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let fields = head.to_ascii_lowercase();
    assert!(fields.contains("\r\ncontent-type: application/json\r\n"));
    assert!(fields.contains("\r\nconnection: close"), "{head}");
    assert!(fields.contains(&format!("\r\ncontent-length: {}\r\n", body.len())));
    let status: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(status["kind"], "Status");
    let code = status["code"].as_u64().unwrap();
    assert!(head.starts_with(&format!("HTTP/1.1 {code} ")), "{head}");
    (code, status["message"].as_str().unwrap().to_owned())
}

/// The same.
fn explains(answer: &str) {
    let (code, message) = status(answer);
    assert_eq!(code, 400);
    assert!(message.contains("RFC 9112"), "{message}");
}

#[tokio::test]
async fn a_head_that_cannot_be_read_gets_a_status() {
    for head in UNREADABLE {
        explains(&answers(head).await);
    }
}

/// hyper says nothing to it.
#[tokio::test]
async fn the_preface_of_http2_gets_a_status() {
    const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &str = "\0\0\0\u{4}\0\0\0\0\0";
    for before in ["", PAGE, REFUSED] {
        for behind in ["", SETTINGS] {
            let came = answers(&[before, PREFACE, behind].concat()).await;
            let last = came.rfind("HTTP/1.1 400 ").unwrap();
            let (code, message) = status(&came[last..]);
            assert_eq!(code, 400);
            assert!(message.contains("ALPN"), "{message}");
            let answers = came.matches("HTTP/1.1 ").count();
            assert_eq!(answers, 1 + usize::from(!before.is_empty()), "{came}");
        }
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_gets_a_status() {
    let line = "x".repeat(60 * 1024);
    let many: String = (0..20).map(|n| format!("x-{n}: {line}\r\n")).collect();
    let large = format!("GET / HTTP/1.1\r\nHost: front\r\n{many}\r\n");
    assert!(large.len() > limits::HTTP1_BUFFER_BYTES);
    assert_eq!(status(&answers(&large).await).0, 431);
    let long = format!("GET /{} HTTP/1.1\r\nHost: front\r\n\r\n", "x".repeat(65534));
    assert_eq!(
        status(&answers(&long).await),
        (414, Rejection::TargetTooLong.to_string())
    );
}

/// One after the other, and sent ahead.
#[tokio::test]
async fn behind_other_requests_as_well() {
    for before in [PAGE, PAGE_1_0, REFUSED] {
        let ahead = answers(&[before, before, FOLDED].concat()).await;
        let mut client = client(Protocol::Http1, IdleTimeout::default());
        let mut one_by_one = String::new();
        for _ in 0..2 {
            client.write_all(before.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let whole = |answer: &[u8]| match before {
                REFUSED => answer.ends_with(b"\r\n\r\n"),
                _ => answer.ends_with(&[b'x'; 4096]),
            };
            while !whole(&answer) {
                assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0);
            }
            one_by_one.push_str(std::str::from_utf8(&answer).unwrap());
        }
        client.write_all(FOLDED.as_bytes()).await.unwrap();
        one_by_one.push_str(&everything(client).await);
        for came in [ahead, one_by_one] {
            let last = came.rfind("HTTP/1.1 400 ").unwrap();
            let (before_it, last) = came.split_at(last);
            explains(last);
            // The answers before it are as they were.
            assert_eq!(before_it.matches("HTTP/1.").count(), 2);
            assert!(!before_it.contains("Status"), "{before_it}");
        }
    }
}
