use std::{net::IpAddr, time::Duration};

use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::{Instant, sleep},
};

use hyper_util::rt::TokioIo;

use super::*;
use crate::{
    FrontConfig, IdleTimeout,
    sending::tests::{Pages, config},
};

const GET: &[u8] = b"GET /page HTTP/1.1\r\nHost: front\r\n\r\n";

/// A client of a front whose idle timeout is the default, or this.
pub(crate) fn client(protocol: Protocol, idle_timeout: IdleTimeout) -> DuplexStream {
    let (client, server) = duplex(64 * 1024);
    let front = Arc::new(Front::new(FrontConfig {
        idle_timeout,
        ..config(Pages::default())
    }));
    let info = ConnectionInfo {
        peer: IpAddr::from([192, 0, 2, 1]).into(),
        protocol,
        server_name: None,
        certificates: Vec::new(),
        unusable_certificate: None,
    };
    tokio::spawn(async move { front.serve_connection(server, info).await });
    client
}

async fn ask(client: &mut DuplexStream) {
    client.write_all(GET).await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") || !answer.ends_with(&[b'x'; 4096]) {
        assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0, "no answer");
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
}

/// How long it takes until the front closes.
async fn closed_after(client: &mut DuplexStream) -> Duration {
    let begun = Instant::now();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    begun.elapsed()
}

/// Google Cloud's load balancers keep idle connections for 600 s.
#[tokio::test(start_paused = true)]
async fn an_idle_http_1_1_connection_outlives_a_load_balancers_patience() {
    let mut client = client(Protocol::Http1, IdleTimeout::default());
    ask(&mut client).await;
    for _ in 0..2 {
        sleep(Duration::from_secs(600)).await;
        ask(&mut client).await;
    }
    let idle = closed_after(&mut client).await;
    assert_eq!(idle.as_secs(), limits::FRONT_IDLE_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn an_idle_timeout_can_be_chosen() {
    let time = Duration::from_secs(65);
    let mut client = client(Protocol::Http1, time.try_into().unwrap());
    ask(&mut client).await;
    assert_eq!(closed_after(&mut client).await.as_secs(), time.as_secs());
}

#[tokio::test(start_paused = true)]
async fn rule_11_a_head_that_has_begun_ends_soon() {
    // Of a new connection, with nothing of a head; and with a byte in ten seconds.
    let mut silent = client(Protocol::Http1, IdleTimeout::default());
    let limit = limits::HEADER_READ_TIMEOUT.as_secs();
    assert_eq!(closed_after(&mut silent).await.as_secs(), limit);
    let mut client = client(Protocol::Http1, IdleTimeout::default());
    ask(&mut client).await;
    sleep(Duration::from_secs(300)).await;
    let (mut read, mut write) = tokio::io::split(client);
    let begun = Instant::now();
    let dripping = tokio::spawn(async move {
        for byte in GET {
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_secs(10)).await;
        }
    });
    read.read_to_end(&mut Vec::new()).await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), limit);
    dripping.await.unwrap();
}

/// Together with a whole request, whose answer is not waited for.
#[tokio::test(start_paused = true)]
async fn rule_11_a_head_that_is_sent_ahead_ends_soon() {
    let mut client = client(Protocol::Http1, IdleTimeout::default());
    client.write_all(GET).await.unwrap();
    // The first request is taken before the next head begins.
    tokio::task::yield_now().await;
    client.write_all(b"GET /page HT").await.unwrap();
    let limit = limits::HEADER_READ_TIMEOUT.as_secs();
    assert_eq!(closed_after(&mut client).await.as_secs(), limit);
}

/// In one piece with the request before it, which has a body or none.
#[tokio::test(start_paused = true)]
async fn rule_11_a_head_that_came_with_the_request_before_ends_soon() {
    let post = b"POST /page HTTP/1.1\r\nHost: front\r\nContent-Length: 4\r\n\r\nbody";
    for request in [GET, post] {
        let mut client = client(Protocol::Http1, IdleTimeout::default());
        let ahead = [request, b"GET /page HT"].concat();
        client.write_all(&ahead).await.unwrap();
        let limit = limits::HEADER_READ_TIMEOUT.as_secs();
        assert_eq!(closed_after(&mut client).await.as_secs(), limit);
    }
}

#[tokio::test(start_paused = true)]
async fn empty_lines_are_no_head() {
    let mut client = client(Protocol::Http1, IdleTimeout::default());
    ask(&mut client).await;
    client.write_all(b"\r\n").await.unwrap();
    sleep(Duration::from_secs(600)).await;
    ask(&mut client).await;
}

/// A balancer's HTTP/2 connection as well.
#[tokio::test(start_paused = true)]
async fn an_idle_http_2_connection_outlives_a_load_balancers_patience() {
    let client = client(Protocol::Http2, IdleTimeout::default());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        TokioIo::new(client),
    )
    .await
    .unwrap();
    let connection = tokio::spawn(connection);
    let get = || {
        let get = Request::get("https://front/page");
        get.body(underpass_core::empty()).unwrap()
    };
    sender.send_request(get()).await.unwrap();
    sleep(Duration::from_secs(600)).await;
    let answer = sender.send_request(get()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    drop(answer);
    let begun = Instant::now();
    connection.await.unwrap().unwrap();
    assert_eq!(
        begun.elapsed().as_secs(),
        limits::FRONT_IDLE_TIMEOUT.as_secs()
    );
}

/// A frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let head = [0, 0, length, kind, flags, 0, 0, 0, stream];
    [&head, payload].concat()
}

/// The payload of the next frame of this type and these flags.
async fn next_frame(client: &mut DuplexStream, kind: u8, flags: u8) -> std::io::Result<Vec<u8>> {
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        client.read_exact(&mut payload).await?;
        if (head[3], head[4]) == (kind, flags) {
            return Ok(payload);
        }
    }
}

const PING: u8 = 6;
const ACK: u8 = 1;

/// A client over HTTP/2 with an answer under way that it gives no window to, and so the front a reason to ask whether it is there.
async fn reading_nothing() -> DuplexStream {
    let mut client = client(Protocol::Http2, IdleTimeout::default());
    let no_window = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    // GET https://front/page, in literals and entries of HPACK's static table.
    let get = [&[0x82, 0x87, 0x04, 5][..], b"/page", &[0x01, 5], b"front"].concat();
    let get = frame(1, 0x05, 1, &get);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let begun = [&preface[..], &no_window, &frame(4, ACK, 0, &[]), &get].concat();
    client.write_all(&begun).await.unwrap();
    client
}

/// A laptop whose link is down: its connection is there, and answers nothing.
#[tokio::test(start_paused = true)]
async fn a_client_over_http_2_that_has_vanished_is_gone_within_two_minutes() {
    let mut client = reading_nothing().await;
    let closed = closed_after(&mut client).await;
    let most = limits::FRONT_KEEPALIVE_INTERVAL + limits::FRONT_KEEPALIVE_TIMEOUT;
    assert!(closed >= limits::FRONT_KEEPALIVE_TIMEOUT, "{closed:?}");
    assert!(closed <= most + limits::LINGER_SILENCE, "{closed:?}");
    assert!(closed < Duration::from_secs(120), "{closed:?}");
}

/// The PING stands behind megabytes of an answer, which the client reads slowly.
#[tokio::test(start_paused = true)]
async fn a_slow_reader_over_http_2_has_time_to_get_to_the_ping() {
    let mut client = reading_nothing().await;
    let ping = next_frame(&mut client, PING, 0).await.unwrap();
    sleep(Duration::from_secs(80)).await;
    client.write_all(&frame(PING, ACK, 0, &ping)).await.unwrap();
    sleep(Duration::from_secs(10)).await;
    client.write_all(&frame(PING, 0, 0, &[7; 8])).await.unwrap();
    assert_eq!(next_frame(&mut client, PING, ACK).await.unwrap(), [7; 8]);
}
