//! Nothing is collected, nothing outlives its client, and an error stays an error.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_util::task::AbortOnDropHandle;
use underpass_audit::BackendConfig;
use underpass_core::{
    Body, BoxedIo, ClusterName, Clusters, ConnectError, ImpersonationPolicy, Open, empty,
};
use underpass_upstream::{ApiServer, Draining};

use crate::{
    api::{Api, channel, echo},
    audit::Taken,
    world::{World, agent, code, soon, until},
};

type Chunks = mpsc::Sender<Result<Bytes, std::io::Error>>;

/// An API server whose answers the test writes: each request hands its body's sender over.
async fn watches() -> (Api, mpsc::Receiver<Chunks>) {
    let (opened, watches) = mpsc::channel(1000);
    let api = Api::start(move |_request: Request<Incoming>| {
        let opened = opened.clone();
        async move {
            let (sender, body) = channel();
            opened.send(sender).await.unwrap();
            let json = "application/json;stream=watch";
            Response::builder()
                .header("content-type", json)
                .body(body)
                .unwrap()
        }
    })
    .await;
    (api, watches)
}

/// A clean end stays clean. (HTTP/2 may end with an empty DATA frame.)
async fn assert_ends(body: &mut Incoming) {
    while let Some(frame) = soon(body.frame()).await {
        assert_eq!(frame.unwrap().into_data().unwrap(), "");
    }
}

async fn next_chunk(body: &mut Incoming) -> Bytes {
    soon(body.frame())
        .await
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap()
}

#[tokio::test]
async fn each_watch_event_arrives_before_the_next_is_written() {
    let (api, mut opened) = watches().await;
    let world = World::new(&api).await;
    let mut http1 = world.http1().await;
    let mut http2 = world.http2().await;
    let request = || world.request("GET", "/api/v1/pods?watch=1", empty());
    for response in [
        soon(http1.send_request(request())).await.unwrap(),
        soon(http2.send_request(request())).await.unwrap(),
    ] {
        let sender = opened.recv().await.unwrap();
        let mut body = response.into_body();
        for event in 0..50 {
            let event = Bytes::from(format!("{{\"type\":\"ADDED\",\"n\":{event}}}\n"));
            sender.send(Ok(event.clone())).await.unwrap();
            assert_eq!(next_chunk(&mut body).await, event);
        }
        drop(sender);
        assert_ends(&mut body).await;
    }
}

#[tokio::test]
async fn a_failure_in_the_middle_is_no_clean_end() {
    let (api, mut opened) = watches().await;
    let world = World::new(&api).await;
    let mut http2 = world.http2().await;
    let request = world.request("GET", "/api/v1/pods?watch=1", empty());
    let response = soon(http2.send_request(request)).await.unwrap();
    let sender = opened.recv().await.unwrap();
    let mut body = response.into_body();
    sender.send(Ok("half".into())).await.unwrap();
    assert_eq!(next_chunk(&mut body).await, "half");
    sender
        .send(Err(std::io::Error::other("disk on fire")))
        .await
        .unwrap();
    assert!(soon(body.frame()).await.unwrap().is_err());

    // The same for HTTP/1.1: the last chunk's mark must be missing.
    let head = world.head("GET", "/api/v1/pods?watch=1", "");
    let mut socket = TcpStream::connect(world.http1).await.unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    let sender = opened.recv().await.unwrap();
    sender.send(Ok("half".into())).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"4\r\nhalf\r\n") {
        answer.push(soon(socket.read_u8()).await.unwrap());
    }
    sender
        .send(Err(std::io::Error::other("disk on fire")))
        .await
        .unwrap();
    let _ = soon(socket.read_to_end(&mut answer)).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.ends_with("4\r\nhalf\r\n"), "{answer}");
}

const ADDED: &str = "{\"type\":\"ADDED\",\"object\":{}}\n";

/// The end of a watch's answer that says why.
async fn assert_ends_with_status(body: &mut Incoming, message: &str) {
    let last = next_chunk(body).await;
    assert_ends(body).await;
    let event: serde_json::Value = serde_json::from_slice(&last).unwrap();
    assert_eq!(event["type"], "ERROR");
    assert_eq!(event["object"]["kind"], "Status");
    assert_eq!(event["object"]["message"], message);
}

/// kubectl prints it; of a stream that fails, it prints INTERNAL_ERROR.
#[tokio::test]
async fn an_api_server_that_is_lost_between_events_is_told_to_watches() {
    let (api, mut opened) = watches().await;
    let world = World::new(&api).await;
    let mut http2 = world.http2().await;
    let request = world.request("GET", "/api/v1/pods?watch=1", empty());
    let response = soon(http2.send_request(request)).await.unwrap();
    let sender = opened.recv().await.unwrap();
    let mut body = response.into_body();
    sender.send(Ok(ADDED.into())).await.unwrap();
    assert_eq!(next_chunk(&mut body).await, ADDED);
    sender
        .send(Err(std::io::Error::other("disk on fire")))
        .await
        .unwrap();
    let told = "the API server cannot be reached: the connection was lost";
    assert_ends_with_status(&mut body, told).await;
}

/// An agent's streams, which the test cuts, and whether their session drains.
struct Leaving {
    agent: Arc<ApiServer>,
    draining: Draining,
    serving: Mutex<Option<AbortOnDropHandle<()>>>,
}

#[async_trait]
impl Clusters for Leaving {
    async fn connect(&self, _: &ClusterName, open: &Open) -> Result<BoxedIo, ConnectError> {
        let (server, client) = tokio::io::duplex(64 * 1024);
        let (agent, draining) = (Arc::clone(&self.agent), self.draining.clone());
        let identity = open.identity.clone();
        let serving = tokio::spawn(async move {
            let policy = ImpersonationPolicy::default();
            let _ = agent
                .serve_stream_under(&policy, &draining, client, &identity)
                .await;
        });
        *self.serving.lock().unwrap() = Some(AbortOnDropHandle::new(serving));
        Ok(Box::new(server))
    }
}

#[tokio::test]
async fn an_agent_that_drains_ends_a_watch_between_events() {
    let (api, mut opened) = watches().await;
    let draining = Draining::default();
    let clusters = Arc::new(Leaving {
        agent: agent(&api).await,
        draining: draining.clone(),
        serving: Mutex::default(),
    });
    let world = World::over(clusters).await;
    let mut http2 = world.http2().await;
    let request = world.request("GET", "/api/v1/pods?watch=1", empty());
    let response = soon(http2.send_request(request)).await.unwrap();
    let sender = opened.recv().await.unwrap();
    let mut body = response.into_body();
    let (half, rest) = ADDED.split_at(9);
    sender.send(Ok(half.into())).await.unwrap();
    assert_eq!(next_chunk(&mut body).await, half);
    draining.begin(Duration::ZERO);
    // Not in the middle of an event.
    sender.send(Ok(rest.into())).await.unwrap();
    assert_eq!(next_chunk(&mut body).await, rest);
    assert_ends(&mut body).await;
    soon(sender.closed()).await;
}

#[tokio::test]
async fn an_agent_that_is_lost_between_events_is_told_to_watches() {
    let (api, mut opened) = watches().await;
    let clusters = Arc::new(Leaving {
        agent: agent(&api).await,
        draining: Draining::default(),
        serving: Mutex::default(),
    });
    let world = World::over(clusters.clone()).await;
    let mut http2 = world.http2().await;
    let request = world.request("GET", "/api/v1/pods?watch=1", empty());
    let response = soon(http2.send_request(request)).await.unwrap();
    let sender = opened.recv().await.unwrap();
    let mut body = response.into_body();
    sender.send(Ok(ADDED.into())).await.unwrap();
    assert_eq!(next_chunk(&mut body).await, ADDED);
    clusters.serving.lock().unwrap().take();
    let told = "the connection to cluster \"c\" was lost";
    assert_ends_with_status(&mut body, told).await;
}

#[tokio::test]
async fn rule_12_revoking_ends_a_watch_with_an_error() {
    let (api, mut opened) = watches().await;
    let world = World::new(&api).await;
    let mut http2 = world.http2().await;
    let request = world.request("GET", "/api/v1/pods?watch=1", empty());
    let response = soon(http2.send_request(request)).await.unwrap();
    let sender = opened.recv().await.unwrap();
    let mut body = response.into_body();
    // In the middle of an event nothing can be said.
    sender.send(Ok("{\"type\":".into())).await.unwrap();
    assert_eq!(next_chunk(&mut body).await, "{\"type\":");
    world.revoke.cancel();
    assert!(soon(body.frame()).await.unwrap().is_err());
    soon(sender.closed()).await;
}

/// kubectl prints it, and informers log its reason; of a stream that fails, both say INTERNAL_ERROR.
#[tokio::test]
async fn rule_12_revoking_ends_a_watch_between_events_with_a_status() {
    const EVENT: &str = "{\"type\":\"ADDED\",\"object\":{}}\n";
    let (api, mut opened) = watches().await;
    let world = World::new(&api).await;
    let mut http2 = world.http2().await;
    let request = world.request("GET", "/api/v1/pods?watch=1", empty());
    let response = soon(http2.send_request(request)).await.unwrap();
    let first = opened.recv().await.unwrap();
    let mut body = response.into_body();
    let head = world.head("GET", "/api/v1/pods?watch=1", "Connection: close\r\n");
    let mut http1 = TcpStream::connect(world.http1).await.unwrap();
    http1.write_all(head.as_bytes()).await.unwrap();
    let second = opened.recv().await.unwrap();
    for sender in [&first, &second] {
        sender.send(Ok(EVENT.into())).await.unwrap();
    }
    assert_eq!(next_chunk(&mut body).await, EVENT);
    let mut raw = Vec::new();
    while !String::from_utf8_lossy(&raw).contains("ADDED") {
        assert_ne!(soon(http1.read_buf(&mut raw)).await.unwrap(), 0);
    }
    world.revoke.cancel();
    let last = next_chunk(&mut body).await;
    assert_ends(&mut body).await;
    let event: serde_json::Value = serde_json::from_slice(&last).unwrap();
    assert_eq!(event["type"], "ERROR");
    assert_eq!(event["object"]["kind"], "Status");
    assert_eq!(event["object"]["reason"], "Forbidden");
    soon(http1.read_to_end(&mut raw)).await.unwrap();
    let raw = String::from_utf8_lossy(&raw).into_owned();
    assert!(raw.contains(str::from_utf8(&last).unwrap()), "{raw}");
    assert!(raw.ends_with("\r\n0\r\n\r\n"), "{raw}");
    // Both are cancelled upstream.
    for sender in [first, second] {
        soon(sender.closed()).await;
    }
}

/// A proper end would hand over what has waited for a client that did not read.
#[tokio::test]
async fn rule_12_revoking_takes_back_events_that_were_not_sent() {
    const WINDOW: u32 = 100;
    let (api, mut opened) = watches().await;
    let world = World::new(&api).await;
    let mut http2 = world.http2_with_window(WINDOW).await;
    let request = world.request("GET", "/api/v1/pods?watch=1", empty());
    let response = soon(http2.send_request(request)).await.unwrap();
    let sender = opened.recv().await.unwrap();
    let event = format!("{{\"type\":\"ADDED\",\"name\":\"{:x<1000}\"}}\n", "");
    sender.send(Ok(event.clone().into())).await.unwrap();
    let mut body = response.into_body();
    let mut read = next_chunk(&mut body).await.len();
    world.revoke.cancel();
    soon(sender.closed()).await;
    let ended = loop {
        match soon(body.frame()).await {
            Some(Ok(frame)) => read += frame.into_data().unwrap().len(),
            ended => break ended,
        }
    };
    assert!(ended.is_some(), "it ended as if it were whole");
    assert!(read < event.len(), "{read}");
}

#[tokio::test]
async fn a_client_that_goes_away_ends_a_silent_watch_upstream() {
    let (api, mut opened) = watches().await;
    let world = World::new(&api).await;
    for http2 in [false, true] {
        let request = world.request("GET", "/api/v1/pods?watch=1", empty());
        let response = if http2 {
            let mut sender = world.http2().await;
            soon(sender.send_request(request)).await.unwrap()
        } else {
            let mut sender = world.http1().await;
            soon(sender.send_request(request)).await.unwrap()
        };
        let chunks = opened.recv().await.unwrap();
        drop(response);
        soon(chunks.closed()).await;
    }
    // The same with a socket that is simply closed.
    let mut socket = TcpStream::connect(world.http1).await.unwrap();
    socket
        .write_all(world.head("GET", "/api/v1/pods?watch=1", "").as_bytes())
        .await
        .unwrap();
    let chunks = opened.recv().await.unwrap();
    let mut byte = [0];
    soon(socket.read_exact(&mut byte)).await.unwrap();
    drop(socket);
    soon(chunks.closed()).await;
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_head_cancels_upstream() {
    struct Waiting(Arc<AtomicUsize>);
    impl Drop for Waiting {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let waiting = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&waiting);
    let api = Api::start(move |_request: Request<Incoming>| {
        count.fetch_add(1, Ordering::SeqCst);
        let waiting = Waiting(Arc::clone(&count));
        async move {
            let _waiting = waiting;
            std::future::pending::<Response<Body>>().await
        }
    })
    .await;
    let world = World::new(&api).await;
    let request = || world.request("GET", "/api/v1/slow", empty());
    let (mut http1, mut http2) = (world.http1().await, world.http2().await);
    let first = tokio::spawn(http1.send_request(request()));
    let second = tokio::spawn(http2.send_request(request()));
    until(|| waiting.load(Ordering::SeqCst) == 2).await;
    first.abort();
    second.abort();
    until(|| waiting.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn large_bodies_pass_both_ways_under_flow_control() {
    const SIZE: usize = 32 << 20;
    let api = Api::start(echo).await;
    let world = World::new(&api).await;
    for http2 in [false, true] {
        let (chunks, body) = channel();
        let writing = tokio::spawn(async move {
            for n in 0..SIZE / 65536 {
                chunks
                    .send(Ok(Bytes::from(vec![u8::try_from(n % 251).unwrap(); 65536])))
                    .await
                    .unwrap();
            }
        });
        let request = world.request("POST", "/api/v1/bulk", body);
        let response = if http2 {
            soon(world.http2().await.send_request(request))
                .await
                .unwrap()
        } else {
            soon(world.http1().await.send_request(request))
                .await
                .unwrap()
        };
        let mut body = response.into_body();
        let mut read = 0;
        while let Some(frame) = soon(body.frame()).await {
            for byte in frame.unwrap().into_data().unwrap() {
                assert_eq!(usize::from(byte), (read / 65536) % 251);
                read += 1;
            }
        }
        assert_eq!(read, SIZE);
        writing.await.unwrap();
    }
}

#[tokio::test]
async fn a_reader_that_stops_costs_bounded_memory_and_stalls_nobody() {
    let (api, mut opened) = watches().await;
    let world = World::new(&api).await;
    let mut http2 = world.http2().await;
    let request = || world.request("GET", "/api/v1/pods?watch=1", empty());
    let _stalled = soon(http2.send_request(request())).await.unwrap();
    let flood = opened.recv().await.unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let flooding = tokio::spawn(async move {
        while flood.send(Ok(Bytes::from(vec![0; 65536]))).await.is_ok() {
            count.fetch_add(65536, Ordering::SeqCst);
        }
    });
    // Another watch over the same connections goes on, however long the first one stalls.
    let mut other = soon(http2.send_request(request()))
        .await
        .unwrap()
        .into_body();
    let sender = opened.recv().await.unwrap();
    for n in 0..2000 {
        sender.send(Ok(Bytes::from(n.to_string()))).await.unwrap();
        assert_eq!(next_chunk(&mut other).await, n.to_string());
    }
    assert!(
        sent.load(Ordering::SeqCst) < 16 << 20,
        "{}",
        sent.load(Ordering::SeqCst)
    );
    flooding.abort();
}

#[tokio::test]
async fn expect_continue_is_answered_by_the_front() {
    let api = Api::start(echo).await;
    let world = World::new(&api).await;
    let lines = "Expect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n";
    let mut socket = TcpStream::connect(world.http1).await.unwrap();
    socket
        .write_all(world.head("POST", "/api", lines).as_bytes())
        .await
        .unwrap();
    let mut interim = [0; 25];
    soon(socket.read_exact(&mut interim)).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(b"hello").await.unwrap();
    let mut answer = String::new();
    soon(socket.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(code(&answer), 200);
    assert!(answer.ends_with("hello"), "{answer}");
    // Without a credential, the body is never asked for.
    let refused = "POST /k8s/clusters/c/api HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\
                   Content-Length: 5\r\nConnection: close\r\n\r\n";
    assert_eq!(code(&world.raw(refused).await), 401);
}

#[tokio::test]
async fn draining_ends_watches_between_events_and_nothing_else() {
    let (api, mut opened) = watches().await;
    let world = World::new(&api).await;
    let mut http2 = world.http2().await;
    let request = |path| world.request("GET", path, empty());
    let watch = request("/api/v1/pods?watch=1");
    let mut watch = soon(http2.send_request(watch)).await.unwrap().into_body();
    let events = opened.recv().await.unwrap();
    let log = request("/api/v1/namespaces/a/pods/p/log?follow=1");
    let mut log = soon(http2.send_request(log)).await.unwrap().into_body();
    let lines = opened.recv().await.unwrap();

    events.send(Ok("{\"type\":".into())).await.unwrap();
    assert_eq!(next_chunk(&mut watch).await, "{\"type\":");
    world.front.drain(Duration::from_secs(60));
    while soon(http2.send_request(request("/api"))).await.is_ok() {}
    // The event that has begun is finished, however late it is.
    tokio::time::sleep(underpass_core::limits::DRAIN_SPREAD).await;
    events.send(Ok("\"ADDED\"}\n".into())).await.unwrap();
    assert_eq!(next_chunk(&mut watch).await, "\"ADDED\"}\n");
    assert_ends(&mut watch).await;
    soon(events.closed()).await;

    lines.send(Ok("last".into())).await.unwrap();
    assert_eq!(next_chunk(&mut log).await, "last");
    drop(lines);
    assert_ends(&mut log).await;
}

/// The end of a drain is no error of the answers that last: the server says that it goes, and closes the connection.
#[tokio::test]
async fn a_cut_closes_the_connection_and_resets_no_stream() {
    const GOAWAY: u8 = 7;
    const RST_STREAM: u8 = 3;
    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    }
    fn literal(first: &[u8], value: &str) -> Vec<u8> {
        let length = u8::try_from(value.len()).unwrap();
        [first, &[length], value.as_bytes()].concat()
    }
    let (api, mut opened) = watches().await;
    let taken = Taken::new();
    let (audit, _) = taken.audit_log(BackendConfig::default());
    let world = World::audited(&api, audit).await;
    let path = "/k8s/clusters/c/api/v1/namespaces/a/pods/p/log?follow=1";
    // By their places in the static table: GET, http, :path, :authority, authorization.
    let fields = [
        vec![0x82, 0x86],
        literal(&[0x04], path),
        literal(&[0x01], "front"),
        literal(&[0x0f, 8], &format!("Bearer {}", world.alice)),
    ]
    .concat();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(1, 5, 1, &fields));
    let mut socket = TcpStream::connect(world.http2).await.unwrap();
    socket.write_all(&bytes).await.unwrap();
    let lines = soon(opened.recv()).await.unwrap();
    lines.send(Ok("a line\n".into())).await.unwrap();
    let mut came = Vec::new();
    while !came.ends_with(b"a line\n") {
        assert_ne!(soon(socket.read_buf(&mut came)).await.unwrap(), 0);
    }
    world.front.drain(Duration::ZERO);
    world.front.cut();
    soon(socket.read_to_end(&mut came)).await.unwrap();
    soon(lines.closed()).await;
    let (mut kinds, mut rest) = (Vec::new(), &*came);
    while let Some((&[_, high, low, kind, ..], payload)) = rest.split_first_chunk::<9>() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (payload, behind) = payload.split_at(length);
        if kind == GOAWAY {
            assert_eq!(payload[4..8], [0; 4], "no error");
        }
        kinds.push(kind);
        rest = behind;
    }
    assert!(rest.is_empty(), "{rest:?}");
    assert!(kinds.contains(&GOAWAY), "{kinds:?}");
    assert!(!kinds.contains(&RST_STREAM), "{kinds:?}");
    let events = taken.all(2).await;
    assert_eq!(events[1]["annotations"]["underpass.dev/outcome"], "drained");

    // Over HTTP/1.1 the answer lacks its end.
    let world = World::new(&api).await;
    let head = world.head("GET", "/api/v1/namespaces/a/pods/p/log?follow=1", "");
    let mut socket = TcpStream::connect(world.http1).await.unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    let lines = soon(opened.recv()).await.unwrap();
    lines.send(Ok("a line\n".into())).await.unwrap();
    let mut came = Vec::new();
    while !came.ends_with(b"a line\n\r\n") {
        assert_ne!(soon(socket.read_buf(&mut came)).await.unwrap(), 0);
    }
    world.front.drain(Duration::ZERO);
    world.front.cut();
    soon(socket.read_to_end(&mut came)).await.unwrap();
    assert!(came.ends_with(b"a line\n\r\n"), "no last chunk");
    soon(lines.closed()).await;
}

#[tokio::test]
async fn answers_without_a_body_keep_their_headers() {
    let api = Api::start(|request: Request<Incoming>| async move {
        let response = Response::builder().header("content-encoding", "gzip");
        match request.uri().path() {
            "/head" => response
                .header("content-length", "1234")
                .body(empty())
                .unwrap(),
            "/none" => response.status(204).body(empty()).unwrap(),
            _ => response
                .status(304)
                .header("etag", "\"x\"")
                .body(empty())
                .unwrap(),
        }
    })
    .await;
    let world = World::new(&api).await;
    let head = world
        .raw(&world.head("HEAD", "/head", "Connection: close\r\n"))
        .await;
    assert!(
        head.contains("content-length: 1234\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    for (path, expected) in [("/none", 204), ("/same", 304)] {
        let answer = world.get(path, "Accept-Encoding: gzip\r\n").await;
        assert_eq!(code(&answer), expected);
        assert!(answer.contains("content-encoding: gzip\r\n") && answer.ends_with("\r\n\r\n"));
    }
    assert_eq!(api.seen()[1].all("accept-encoding"), ["gzip"]);
}

#[tokio::test]
async fn trailers_do_no_harm() {
    let api = Api::start(|_: Request<Incoming>| async {
        let (chunks, body) = channel();
        tokio::spawn(async move { chunks.send(Ok("body".into())).await });
        let etag = (http::header::ETAG, http::HeaderValue::from_static("x"));
        let trailers = async { Some(Ok(http::HeaderMap::from_iter([etag]))) };
        Response::new(body.with_trailers(trailers).boxed_unsync())
    })
    .await;
    let world = World::new(&api).await;
    let answer = world.get("/api", "TE: trailers\r\n").await;
    assert!(answer.ends_with("4\r\nbody\r\n0\r\n\r\n"), "{answer}");
}
