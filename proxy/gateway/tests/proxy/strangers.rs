//! The cost of connections before anybody is authenticated on them.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;
use underpass_core::{Body, ConnectionInfo, Protocol, full, limits};
use underpass_gateway::{Metered, StrangerBounds, Strangers};

use crate::{
    api::Api,
    world::{World, code, soon, status, until},
};

const MIB: usize = 1024 * 1024;

const BOUNDS: StrangerBounds = StrangerBounds {
    bytes: 16 * MIB,
    unshared: 8 * MIB,
    per_source: 4 * MIB,
    per_connection: 4 * MIB,
};

const HONEST: [u8; 4] = [127, 0, 0, 1];
const ATTACKER: [u8; 4] = [127, 0, 0, 2];

/// A front that counts strangers, and an API server that says yes.
struct Counting {
    world: World,
    strangers: Strangers,
    http1: SocketAddr,
    http2: SocketAddr,
    _api: Api,
    _listening: [AbortOnDropHandle<()>; 2],
}

impl Counting {
    async fn start() -> Self {
        let api = Api::start(|_| async { http::Response::new(full("yes")) }).await;
        let world = World::new(&api).await;
        let strangers = Strangers::new(BOUNDS);
        let (http1, first) = listen(&world, &strangers, Protocol::Http1).await;
        let (http2, second) = listen(&world, &strangers, Protocol::Http2).await;
        Self {
            world,
            strangers,
            http1,
            http2,
            _api: api,
            _listening: [first, second],
        }
    }

    /// A whole request of alice's, with so many bytes of padding in its head.
    async fn ask(&self, from: [u8; 4], padding: usize) -> String {
        let mut socket = connect(from, self.http1).await;
        let padding = format!("X-Padding: {}\r\n", "x".repeat(padding));
        let lines = format!("{padding}Connection: close\r\n");
        let head = self.world.head("GET", "/version", &lines);
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = soon(socket.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

async fn listen(
    world: &World,
    strangers: &Strangers,
    protocol: Protocol,
) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (front, strangers) = (Arc::clone(&world.front), strangers.clone());
    let listening = tokio::spawn(async move {
        while let Ok((socket, peer)) = listener.accept().await {
            let (front, standing) = (Arc::clone(&front), strangers.enter(peer.ip()));
            let info = ConnectionInfo {
                peer: peer.ip().into(),
                protocol,
                server_name: None,
                certificates: vec![],
                unusable_certificate: None,
            };
            tokio::spawn(async move {
                let socket = Metered::new(socket, standing.clone());
                tokio::select! {
                    _ = front.serve_stranger(socket, info, standing.clone()) => {}
                    () = standing.closed() => {}
                }
            });
        }
    });
    (address, AbortOnDropHandle::new(listening))
}

async fn connect(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn rule_23_heads_of_strangers_have_one_budget() {
    let counting = Counting::start().await;
    let mut flood = Vec::new();
    for _ in 0..20 {
        let mut socket = connect(ATTACKER, counting.http1).await;
        let mut head = b"GET / HTTP/1.1\r\nHost: front\r\nX-Padding: ".to_vec();
        head.resize(MIB * 9 / 10, b'x');
        // It may be closed in the middle.
        let _ = soon(socket.write_all(&head)).await;
        flood.push(socket);
        assert!(counting.strangers.bytes() <= BOUNDS.unshared);
    }
    until(|| counting.strangers.connections() <= 4).await;
    // Others come in despite the flood, also from its own source.
    for from in [HONEST, ATTACKER] {
        let answer = counting.ask(from, 1024).await;
        assert_eq!(code(&answer), 200, "{answer}");
    }
    drop(flood);
    until(|| counting.strangers.bytes() == 0).await;
}

#[tokio::test]
async fn rule_23_who_is_known_has_the_whole_head() {
    let counting = Counting::start().await;
    let answer = counting.ask(HONEST, MIB * 9 / 10).await;
    assert_eq!(code(&answer), 200, "{answer}");
    // And again on the same connection, more than a stranger may send in all.
    let mut socket = connect(HONEST, counting.http1).await;
    let padding = format!("X-Padding: {}\r\n", "x".repeat(MIB * 9 / 10));
    let head = counting.world.head("GET", "/version", &padding);
    for _ in 0..4 {
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 12];
        soon(socket.read_exact(&mut answer)).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 200");
        // The rest of the answer is read with the next one's beginning.
        while !answer.ends_with(b"yes") {
            answer.push(soon(socket.read_u8()).await.unwrap());
        }
        assert_eq!(counting.strangers.bytes(), 0);
    }
}

async fn http2_from(from: [u8; 4], to: SocketAddr) -> SendRequest<Body> {
    let socket = TokioIo::new(connect(from, to).await);
    let handshake = http2::handshake(TokioExecutor::new(), socket).await;
    let (sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn rule_23_bodies_ahead_of_a_credential_have_an_end() {
    let counting = Counting::start().await;
    let mut attacker = http2_from(ATTACKER, counting.http2).await;
    let piece = Bytes::from(vec![0; 64 * 1024]);
    let mut answered = 0;
    loop {
        let mut request = counting
            .world
            .request("POST", "/api/v1/pods", full(piece.clone()));
        request.headers_mut().remove("authorization");
        match soon(attacker.send_request(request)).await {
            // The answer does not wait for the body.
            Ok(answer) => assert_eq!(answer.status(), 401),
            Err(_) => break,
        }
        assert!(counting.strangers.bytes() <= BOUNDS.per_connection);
        answered += 1;
        let most = (limits::LINGER_BYTES + BOUNDS.per_connection) / piece.len();
        assert!(answered <= most, "no end");
    }
    until(|| counting.strangers.connections() == 0).await;
    // An authenticated client may send any amount.
    let mut alice = http2_from(HONEST, counting.http2).await;
    for _ in 0..2 * BOUNDS.per_connection / piece.len() {
        let request = counting
            .world
            .request("POST", "/api/v1/pods", full(piece.clone()));
        let answer = soon(alice.send_request(request)).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(counting.strangers.bytes(), 0);
}

/// Clients that send all of a body before they look for an answer, and more than strangers may send.
#[tokio::test]
async fn the_answer_to_a_refused_upload_arrives() {
    let counting = Counting::start().await;
    let world = &counting.world;
    let path = "/api/v1/namespaces/n/configmaps/c";
    let length = 10 * MIB;
    let lines = format!("Content-Length: {length}\r\n");
    let stranger = format!("PUT /k8s/clusters/c{path} HTTP/1.1\r\nHost: front\r\n{lines}\r\n");
    let known = world.head("PUT", path, &lines);
    let forbidden = known.replace(&world.alice, &world.mallory);
    let missing = known.replace("/k8s/clusters/c/", "/k8s/clusters/unknown/");
    for (head, expected) in [(stranger, 401), (forbidden, 403), (missing, 404)] {
        let mut socket = connect(HONEST, counting.http1).await;
        soon(socket.write_all(head.as_bytes())).await.unwrap();
        for piece in vec![b'x'; length].chunks(64 * 1024) {
            let sent = soon(socket.write_all(piece)).await;
            sent.unwrap_or_else(|error| panic!("{expected}: {error}"));
        }
        let mut answer = Vec::new();
        soon(socket.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(code(&answer), expected);
        assert_eq!(status(&answer)["code"], expected);
    }
}
