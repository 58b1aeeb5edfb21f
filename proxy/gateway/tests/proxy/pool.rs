//! The agent's connections to the API server.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
};
use tokio_rustls::server::TlsStream;
use underpass_core::empty;

use crate::{
    api::{Api, channel, echo, ok, serve},
    world::{World, agent, code, collect, soon, status, until},
};

#[tokio::test]
async fn more_than_a_hundred_watches_take_several_connections() {
    let senders = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = Arc::clone(&senders);
    let api = Api::start(move |_: Request<Incoming>| {
        let kept = Arc::clone(&kept);
        async move {
            let (sender, body) = channel();
            kept.lock().unwrap().push(sender);
            Response::new(body)
        }
    })
    .await;
    let world = World::new(&api).await;
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let http2 = world.http2().await;
        let opening: Vec<_> = (0..125)
            .map(|_| {
                let mut http2 = http2.clone();
                let request = world.request("GET", "/api/v1/pods?watch=1", empty());
                tokio::spawn(async move { http2.send_request(request).await.unwrap() })
            })
            .collect();
        for opening in opening {
            bodies.push(soon(opening).await.unwrap());
        }
    }
    assert_eq!(bodies.len(), 250);
    let connections = api.connections.load(Ordering::SeqCst);
    assert!((3..=4).contains(&connections), "{connections}");
    drop(bodies);
    until(|| {
        senders
            .lock()
            .unwrap()
            .iter()
            .all(tokio::sync::mpsc::Sender::is_closed)
    })
    .await;
    // Places that became free are used again.
    let request = world.request("GET", "/api/v1/pods?watch=1", empty());
    assert_eq!(
        soon(world.http2().await.send_request(request))
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(api.connections.load(Ordering::SeqCst), connections);
}

#[tokio::test]
async fn an_api_server_without_http2_is_reused_over_http1() {
    let api = Api::start_with(&["http/1.1"], ok).await;
    let world = World::new(&api).await;
    for _ in 0..5 {
        assert_eq!(code(&world.get("/api", "").await), 200);
    }
    assert_eq!(api.seen().len(), 5);
    let connections = api.connections.load(Ordering::SeqCst);
    assert!(connections < 5, "{connections}");
    assert_eq!(api.seen()[0].all("host"), [api.address.to_string()]);
}

/// Over HTTP/1.1 as a server in front that closes idle connections: each connection takes a request, and ends with these bytes at the
/// next one.
async fn closes_at_the_second_request(last: &'static [u8], seen: Arc<AtomicUsize>) -> Api {
    Api::scripted(&["http/1.1"], move |_, mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            let answers = [&b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[..], last];
            for answer in answers {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                seen.fetch_add(1, Ordering::SeqCst);
                stream.write_all(answer).await.unwrap();
            }
            let _ = stream.shutdown().await;
        }
    })
    .await
}

#[tokio::test]
async fn a_read_is_sent_once_more_where_an_idle_connection_had_ended() {
    let seen = Arc::new(AtomicUsize::new(0));
    let api = closes_at_the_second_request(b"", Arc::clone(&seen)).await;
    let world = World::new(&api).await;
    let mut sent = 0;
    // Until one was repeated: connections return to the idle ones in a task.
    while seen.load(Ordering::SeqCst) == sent {
        assert!(sent < 1000, "no connection is used again");
        assert_eq!(code(&world.get("/api", "").await), 200);
        sent += 1;
    }
    // Half an answer may come from an API server that has acted.
    let seen = Arc::new(AtomicUsize::new(0));
    let api = closes_at_the_second_request(b"HTTP/1.1 2", Arc::clone(&seen)).await;
    let world = World::new(&api).await;
    let answers = async || code(&world.get("/api", "").await);
    fails_without_a_repetition(&seen, answers).await;
    // A request that changes something may have changed it.
    let seen = Arc::new(AtomicUsize::new(0));
    let api = closes_at_the_second_request(b"", Arc::clone(&seen)).await;
    let world = World::new(&api).await;
    let head = world.head(
        "DELETE",
        "/api/v1/pods",
        "Connection: close\r\nContent-Length: 0\r\n",
    );
    let answers = async || code(&world.raw(&head).await);
    fails_without_a_repetition(&seen, answers).await;
}

async fn fails_without_a_repetition(seen: &AtomicUsize, mut send: impl AsyncFnMut() -> u16) {
    let mut sent = 0;
    loop {
        assert!(sent < 1000, "no connection is used again");
        let code = send().await;
        sent += 1;
        assert_eq!(seen.load(Ordering::SeqCst), sent, "sent twice");
        if code == 502 {
            return;
        }
        assert_eq!(code, 200);
    }
}

/// An HTTP/2 frame (RFC 9113, section 4.1).
fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, 0]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Reads frames until the headers of a request came; returns its stream.
async fn read_request(stream: &mut TlsStream<TcpStream>) -> u32 {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    stream.write_all(&frame(4, 0, &[])).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.unwrap();
        if head[3] == 1 {
            return u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        }
    }
}

/// Frames that were on the way when a watch ended arrive, and belong to no stream any more.
#[tokio::test]
async fn cancelled_watches_do_not_end_the_connection_that_others_share() {
    let ended = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ended);
    let api = Api::scripted(&["h2"], move |_, mut stream| {
        let counted = Arc::clone(&counted);
        async move {
            stream.read_exact(&mut [0; 24]).await.unwrap();
            stream.write_all(&frame(4, 0, &[])).await.unwrap();
            let mut gone = Vec::new();
            let mut head = [0; 9];
            while stream.read_exact(&mut head).await.is_ok() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                let mut payload = vec![0; length as usize];
                stream.read_exact(&mut payload).await.unwrap();
                let mut bytes = Vec::new();
                match (head[3], head[4]) {
                    // Headers: `:status: 200`, of which more is to come.
                    (1, _) => {
                        bytes = frame(1, id, &[0x88]);
                        bytes[4] = 4;
                    }
                    // One that is sent for a frame of a stream that is not known any more is no watch's.
                    (3, _) if !gone.contains(&id) => {
                        gone.push(id);
                        bytes.extend(gone.iter().flat_map(|id| frame(0, *id, b"x")));
                        counted.fetch_add(1, Ordering::SeqCst);
                    }
                    // Settings and pings.
                    (kind @ (4 | 6), 0) => {
                        bytes = frame(kind, 0, if kind == 4 { &[] } else { &payload });
                        bytes[4] = 1;
                    }
                    _ => {}
                }
                stream.write_all(&bytes).await.unwrap();
            }
        }
    })
    .await;
    let world = World::new(&api).await;
    let http2 = world.http2().await;
    let watch = || {
        let mut http2 = http2.clone();
        let request = world.request("GET", "/api/v1/pods?watch=1", empty());
        async move { soon(http2.send_request(request)).await.unwrap() }
    };
    let stays = watch().await;
    for number in 1..=120 {
        assert_eq!(watch().await.status(), 200);
        until(|| ended.load(Ordering::SeqCst) >= number).await;
    }
    assert_eq!(watch().await.status(), 200);
    assert_eq!(api.connections.load(Ordering::SeqCst), 1);
    drop(stays);
}

/// The first connection takes one request and answers with these frames; later ones are ordinary.
async fn first_answers(frames: fn(u32) -> Vec<u8>) -> Api {
    Api::scripted(&["h2", "http/1.1"], move |number, mut stream| async move {
        if number > 0 {
            return serve(stream, echo, Arc::default()).await;
        }
        let request = read_request(&mut stream).await;
        let _ = stream.write_all(&frames(request)).await;
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await
}

#[tokio::test]
async fn goaway_below_the_request_sends_it_again() {
    // Last stream 0, NO_ERROR: the request was not acted upon.
    let api = first_answers(|_| frame(7, 0, &[0, 0, 0, 0, 0, 0, 0, 0])).await;
    let world = World::new(&api).await;
    assert_eq!(code(&world.get("/api", "").await), 200);
    assert_eq!(api.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_refused_stream_is_sent_again() {
    let api = Api::scripted(&["h2"], move |_, stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut first = true;
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            if std::mem::take(&mut first) {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
            } else {
                respond.send_response(Response::new(()), true).unwrap();
            }
        }
    })
    .await;
    let world = World::new(&api).await;
    assert_eq!(code(&world.get("/api", "").await), 200);
    assert_eq!(api.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_request_that_may_have_been_acted_upon_is_not_sent_again() {
    // Last stream is the request's own: it may have been processed.
    for frames in [
        |stream: u32| frame(7, 0, &[&stream.to_be_bytes()[..], &[0, 0, 0, 0]].concat()),
        |_| Vec::new(),
        |stream: u32| frame(3, stream, &8u32.to_be_bytes()),
    ] {
        let api = first_answers(frames).await;
        let world = World::new(&api).await;
        let answer = world
            .raw(&world.head("POST", "/api", "Connection: close\r\nContent-Length: 0\r\n"))
            .await;
        assert_eq!(code(&answer), 502, "{answer}");
        assert_eq!(api.connections.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn goaway_lets_requests_in_flight_finish() {
    let (go, gone) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (signal, answer) = (Arc::clone(&go), Arc::clone(&gone));
    let api = Api::scripted(&["h2"], move |number, stream| {
        let (signal, answer) = (Arc::clone(&signal), Arc::clone(&answer));
        async move {
            if number > 0 {
                return serve(stream, ok, Arc::default()).await;
            }
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            signal.add_permits(1);
            connection.graceful_shutdown();
            let finish = async {
                answer.acquire().await.unwrap().forget();
                respond.send_response(Response::new(()), true).unwrap();
            };
            let others = async {
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    respond.send_response(Response::new(()), true).unwrap();
                }
            };
            tokio::join!(finish, others);
        }
    })
    .await;
    let world = World::new(&api).await;
    let first = tokio::spawn({
        let request = world.head("GET", "/slow", "Connection: close\r\n");
        let address = world.http1;
        async move {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.unwrap();
            answer
        }
    });
    soon(go.acquire()).await.unwrap().forget();
    // Other requests find the connection draining, sooner or later, and none of them fails.
    while api.connections.load(Ordering::SeqCst) < 2 {
        assert_eq!(code(&world.get("/api", "").await), 200);
    }
    gone.add_permits(1);
    assert_eq!(code(&soon(first).await.unwrap()), 200);
}

#[tokio::test]
async fn readiness_asks_for_the_version() {
    let api = Api::start(|_| async {
        Response::new(underpass_core::full(
            r#"{"major":"1","gitVersion":"v1.34.1"}"#,
        ))
    })
    .await;
    assert_eq!(agent(&api).await.check().await.unwrap(), "v1.34.1");
    let seen = api.only();
    assert_eq!(seen.target, "/version");
    assert_eq!(seen.all("authorization"), ["Bearer agent-token"]);
    assert_eq!(seen.all("impersonate-user"), [""; 0]);
}

#[tokio::test]
async fn headers_of_nearly_a_mebibyte_pass() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let lines: String = (0..900)
        .map(|n| format!("X-Large-{n}: {}\r\n", "x".repeat(1000)))
        .collect();
    assert_eq!(code(&world.get("/api", &lines).await), 200);
    let mut request = world.request("GET", "/api", empty());
    for n in 0..900 {
        let name: http::HeaderName = format!("x-large-{n}").parse().unwrap();
        request
            .headers_mut()
            .insert(name, "x".repeat(1000).parse().unwrap());
    }
    let response = soon(world.http2().await.send_request(request))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    collect(response.into_body()).await;
    assert!(api.seen().iter().all(|seen| seen.headers.len() > 900));

    let lines: String = (0..1020).map(|n| format!("X-{n}: x\r\n")).collect();
    let answer = world.get("/api", &lines).await;
    assert_eq!(code(&answer), 431);
    assert_eq!(status(&answer)["code"], 431);
    let lines = format!("X: {}\r\n", "x".repeat(1_060_000));
    assert_eq!(code(&world.get("/api", &lines).await), 431);
}
