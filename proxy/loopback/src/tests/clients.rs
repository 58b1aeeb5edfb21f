//! Clients that hyper alone would leave without an answer: they get the same here as from the server.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Frame;
use hyper::client::conn::http2::SendRequest;
use tokio::io::{ReadHalf, WriteHalf};
use tokio_rustls::client::TlsStream;
use underpass_core::limits;

use super::*;

/// Longer than anything here takes, on a slow machine too.
const PATIENCE: Duration = Duration::from_secs(60);

const UPLOAD: usize = 10_000_000;

type Halves = (
    ReadHalf<TlsStream<TcpStream>>,
    WriteHalf<TlsStream<TcpStream>>,
);

impl World {
    /// The lines that each request has.
    fn lines(&self) -> String {
        let (host, token) = (self.address, &self.token);
        format!("Host: {host}\r\nAuthorization: Bearer {token}\r\n")
    }

    async fn http1(&self) -> Halves {
        tokio::io::split(self.connect(b"http/1.1").await)
    }

    /// All that comes back to these bytes of HTTP/1.1.
    async fn all(&self, sent: &str) -> String {
        let (mut from, mut to) = self.http1().await;
        to.write_all(sent.as_bytes()).await.unwrap();
        everything(&mut from).await
    }

    async fn http2<B>(&self) -> SendRequest<B>
    where
        B: hyper::body::Body<Data = Bytes, Error = std::convert::Infallible>
            + Send
            + Unpin
            + 'static,
    {
        let io = TokioIo::new(self.connect(b"h2").await);
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(io).await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

async fn everything(from: &mut ReadHalf<TlsStream<TcpStream>>) -> String {
    let mut came = Vec::new();
    let read = tokio::time::timeout(PATIENCE, from.read_to_end(&mut came)).await;
    // An end without TLS's own is seen by what came.
    let _ = read.expect("the connection goes on");
    String::from_utf8(came).unwrap()
}

/// A Status with this code, as all of an answer.
fn is_status(answer: &str, code: u16) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let status: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(status["kind"], "Status", "{answer}");
    assert_eq!(status["code"], code, "{answer}");
}

/// The frames of one request over HTTP/2, with a `:path` that no client's library would send.
fn frames(world: &World, path: &str) -> Vec<u8> {
    let text = |text: &str| {
        let mut bytes = vec![u8::try_from(text.len()).unwrap()];
        bytes.extend_from_slice(text.as_bytes());
        bytes
    };
    // GET and https, and literal fields (RFC 7541, section 6.2.2).
    let mut block = vec![0x82, 0x87, 0x04];
    block.extend(text(path));
    block.push(0x01);
    block.extend(text(&world.address.to_string()));
    block.push(0x00);
    block.extend(text("authorization"));
    block.extend(text(&format!("Bearer {}", world.token)));
    let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frames.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let length = u8::try_from(block.len()).unwrap();
    // END_STREAM and END_HEADERS.
    frames.extend([0, 0, length, 1, 5, 0, 0, 0, 1]);
    frames.extend(block);
    frames
}

#[tokio::test]
async fn a_target_with_raw_bytes_is_served() {
    let world = World::new().await;
    let raw = "/x?q=up{job=\"a\"}>0";
    let encoded = "/x?q=up{job=%22a%22}%3E0 0";
    let lines = format!("{}Connection: close\r\n", world.lines());
    let answer = world
        .all(&format!("GET {raw} HTTP/1.1\r\n{lines}\r\n"))
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with(encoded), "{answer}");
    let mut connection = world.connect(b"h2").await;
    connection.write_all(&frames(&world, raw)).await.unwrap();
    let mut came = Vec::new();
    let reading = async {
        while !came
            .windows(encoded.len())
            .any(|part| part == encoded.as_bytes())
        {
            let read = connection.read_buf(&mut came).await.unwrap();
            assert_ne!(read, 0, "{}", came.escape_ascii());
        }
    };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .expect("no answer");
}

#[tokio::test]
async fn a_head_that_cannot_be_read_gets_a_status() {
    let world = World::new().await;
    let lines = world.lines();
    for head in [
        format!("GET /a b HTTP/1.1\r\n{lines}\r\n"),
        format!("GET /x HTTP/1.1\r\n{lines}X-A : b\r\n\r\n"),
        format!("GET /x HTTP/1.1\r\n{lines}X-A: b\r\n c\r\n\r\n"),
        "hello\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ] {
        is_status(&world.all(&head).await, 400);
    }
    let long = format!("GET /{} HTTP/1.1\r\n{lines}\r\n", "x".repeat(70_000));
    is_status(&world.all(&long).await, 414);
}

#[tokio::test]
async fn an_upload_that_is_refused_is_answered_over_http_1_1() {
    let world = World::new().await;
    let host = world.address;
    for expects in ["", "Expect: 100-continue\r\n"] {
        let (mut from, mut to) = world.http1().await;
        let head =
            format!("PUT /x HTTP/1.1\r\nHost: {host}\r\n{expects}Content-Length: {UPLOAD}\r\n\r\n");
        to.write_all(head.as_bytes()).await.unwrap();
        // A client that reads the answer only when it has sent everything.
        let piece = vec![0; 64 * 1024];
        let mut sent = 0;
        while sent < UPLOAD {
            let count = piece.len().min(UPLOAD - sent);
            to.write_all(&piece[..count]).await.expect("it is reset");
            sent += count;
        }
        to.flush().await.expect("it is reset");
        is_status(&everything(&mut from).await, 401);
    }
}

/// A body that counts how much of it was taken.
struct Upload {
    left: usize,
    taken: Arc<AtomicUsize>,
}

impl hyper::body::Body for Upload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let count = self.left.min(64 * 1024);
        if count == 0 {
            return Poll::Ready(None);
        }
        self.left -= count;
        self.taken.fetch_add(count, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(vec![0; count].into()))))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.left as u64)
    }
}

/// curl takes a stream that is reset behind its answer for a failure.
#[tokio::test]
async fn an_upload_that_is_refused_is_read_over_http_2() {
    let world = World::new().await;
    let mut sender = world.http2().await;
    let taken = Arc::<AtomicUsize>::default();
    let upload = Upload {
        left: UPLOAD,
        taken: Arc::clone(&taken),
    };
    let request = Request::put(format!("https://{}/x", world.address));
    let response = sender.send_request(request.body(upload).unwrap()).await;
    let response = response.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(body.starts_with(b"{"), "{}", body.escape_ascii());
    let reading = async {
        while taken.load(Ordering::Relaxed) < UPLOAD {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let read = tokio::time::timeout(PATIENCE, reading).await;
    read.expect("the rest of the body is not read");
}

#[tokio::test]
async fn an_answer_that_breaks_off_arrives_as_far_as_it_came() {
    let world = World::new().await;
    let request = format!("GET /half HTTP/1.1\r\n{}\r\n", world.lines());
    let answer = world.all(&request).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with("4\r\nhalf\r\n"), "{answer}");
    let mut sender = world.http2().await;
    let request = Request::get(format!("https://{}/half", world.address))
        .header(header::AUTHORIZATION, format!("Bearer {}", world.token));
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.expect("no head");
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().expect("no bytes");
    assert_eq!(first.into_data().unwrap(), "half");
    // Behind it may be an empty piece.
    while let Ok(frame) = body.frame().await.expect("it looks complete") {
        assert!(frame.into_data().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_large_head_has_the_servers_bound_over_http_2() {
    let world = World::new().await;
    let mut sender = world.http2().await;
    for (length, status) in [
        (200 * 1024, StatusCode::OK),
        (
            limits::HEADER_BYTES,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        ),
    ] {
        let request = Request::get(format!("https://{}/x", world.address))
            .header(header::AUTHORIZATION, format!("Bearer {}", world.token))
            .header("x-large", "x".repeat(length));
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), status);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let is_status = body.windows(15).any(|part| part == br#""kind":"Status""#);
        assert_eq!(is_status, status != StatusCode::OK);
    }
}

/// Lets so much of the server's time pass. Time stands still for sockets otherwise.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn an_idle_connection_is_kept_and_a_slow_head_is_not() {
    let world = World::new().await;
    let (mut from, mut to) = world.http1().await;
    let request = format!("GET /x HTTP/1.1\r\n{}\r\n", world.lines());
    for _ in 0..3 {
        to.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"/x 0") {
            let read = from.read_buf(&mut answer);
            let read = tokio::time::timeout(PATIENCE, read).await;
            assert_ne!(read.expect("no answer").unwrap(), 0, "it is closed");
        }
        pass(limits::HEADER_READ_TIMEOUT * 5).await;
    }
    to.write_all(b"GET /x HTTP/1.1\r\n").await.unwrap();
    // Less in all than an idle connection has.
    for _ in 0..8 {
        // The server reads what came.
        let read = tokio::time::timeout(Duration::from_millis(200), from.read(&mut [0])).await;
        if let Ok(read) = read {
            assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
            return;
        }
        pass(limits::HEADER_READ_TIMEOUT + Duration::from_secs(1)).await;
    }
    panic!("it is kept");
}
