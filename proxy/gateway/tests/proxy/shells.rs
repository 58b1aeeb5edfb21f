//! Viewers of shells, by WebSocket.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    connect::client::rest,
    services::site::{answered_at, head, world},
    upgrades::{WEBSOCKET, read_head},
    world::{World, code, soon, status, until},
};

const ID: &str = "0123456789abcdef0123456789abcdef";

const SWITCHES: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n\
    set-cookie: a=b\r\nlocation: https://evil.example/\r\n\r\n";

fn path(more: &str) -> String {
    format!("/v1/clusters/c/shells/{ID}{more}")
}

async fn ask(world: &World, path: &str) -> TcpStream {
    let mut socket = TcpStream::connect(world.http1).await.unwrap();
    let lines = format!("Cookie: a=b\r\nOrigin: https://front:8443\r\nX-Other: c\r\n{WEBSOCKET}");
    let request = head(world, "GET", path, &lines);
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

#[tokio::test]
async fn a_viewer_reaches_its_shell_and_bytes_flow() {
    let (agent, world) = world().await;
    for (asked, opened) in [
        (path("?had=5"), format!("c shell:{ID} alice")),
        (
            format!("/v1/clusters/c/nodes/n1/shells/{ID}?kind=node&had=5"),
            format!("c/n1 node-shell:{ID} alice"),
        ),
    ] {
        let mut socket = ask(&world, &asked).await;
        let mut end = agent.next_end().await;
        let request = end.head().await;
        assert!(request.starts_with("GET /?had=5 HTTP/1.1\r\n"), "{request}");
        let lines: Vec<_> = request.lines().skip(1).collect();
        for line in ["upgrade: websocket", "host: shell"] {
            assert!(lines.contains(&line), "{line}: {request}");
        }
        // Rule 4: neither the credential nor anything else of the client's.
        for name in ["authorization", "cookie", "origin", "x-other"] {
            assert!(!request.contains(&format!("\n{name}:")), "{request}");
        }
        end.write(format!("{SWITCHES}first")).await;
        let answer = read_head(&mut socket).await;
        assert_eq!(code(&answer), 101, "{answer}");
        for name in ["set-cookie", "location"] {
            assert!(!answer.contains(name), "{answer}");
        }
        let mut first = [0; 5];
        soon(socket.read_exact(&mut first)).await.unwrap();
        assert_eq!(&first, b"first");
        socket.write_all(b"keys").await.unwrap();
        assert_eq!(end.read(4).await, b"keys");
        socket.shutdown().await.unwrap();
        assert_eq!(end.rest().await, (Vec::new(), true));
        end.finish();
        assert_eq!(rest(&mut socket).await, b"");
        assert_eq!(agent.opened().last(), Some(&opened));
    }
    until(|| world.budgets.occupancy().is_empty()).await;
}

#[tokio::test]
async fn rule_12_what_is_taken_back_ends_a_view() {
    let (agent, world) = world().await;
    let mut socket = ask(&world, &path("")).await;
    let mut end = agent.next_end().await;
    end.head().await;
    end.write(SWITCHES).await;
    assert_eq!(code(&read_head(&mut socket).await), 101);
    world.revoke.cancel();
    assert_eq!(rest(&mut socket).await, b"");
    assert!(!end.rest().await.1, "a clean end for the agent");
}

#[tokio::test]
async fn rule_8_nobody_views_a_shell_without_a_right() {
    let (agent, world) = world().await;
    let as_mallory =
        |path: &str| head(&world, "GET", path, WEBSOCKET).replace(&world.alice, &world.mallory);
    assert_eq!(code(&world.raw(&as_mallory(&path(""))).await), 403);
    let stranger = head(&world, "GET", &path(""), WEBSOCKET).replace(&world.alice, "nobody");
    assert_eq!(code(&world.raw(&stranger).await), 401);
    assert!(agent.opened().is_empty());
}

#[tokio::test]
async fn without_a_websocket_a_shell_is_the_servers_own_api() {
    let (agent, world) = world().await;
    // The fallback of these tests.
    let plain = head(&world, "GET", &path(""), "Connection: close\r\n");
    assert_eq!(code(&world.raw(&plain).await), 404);
    let spdy = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";
    let answer = world.raw(&head(&world, "GET", &path(""), spdy)).await;
    assert_eq!(code(&answer), 400);
    let message = status(&answer)["message"].to_string();
    assert!(message.contains("WebSocket"), "{message}");
    assert!(agent.opened().is_empty());
}

#[tokio::test]
async fn rule_20_an_agent_says_nothing_to_a_viewer_but_its_refusal() {
    let (agent, world) = world().await;
    let refusal = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/html\r\nset-cookie: a=b\r\ncontent-length: 2\r\n\r\nno";
    let (_, answer) = answered_at(&agent, &world, &path(""), WEBSOCKET, refusal).await;
    assert_eq!(code(&answer), 400, "{answer}");
    assert!(answer.ends_with("\r\n\r\nno"), "{answer}");
    assert!(answer.contains("content-type: text/plain"), "{answer}");
    assert!(!answer.contains("set-cookie"), "{answer}");
    for other in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        "HTTP/1.1 302 Found\r\nlocation: https://evil.example/\r\ncontent-length: 0\r\n\r\n",
        // Not the answer to this key.
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: AAAAAAAA\r\n\r\n",
    ] {
        let (_, answer) = answered_at(&agent, &world, &path(""), WEBSOCKET, other).await;
        assert_eq!(code(&answer), 502, "{other}: {answer}");
        assert!(!answer.contains("evil"), "{answer}");
    }
}
