//! WebSockets of services: bytes flow after a 101 that answers the question, and never otherwise (security rule 1).

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::site::{WEB, head, world};
use crate::{
    connect::client::rest,
    upgrades::{WEBSOCKET, read_head},
    world::{World, code, soon, until},
};

const SWITCHES: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

async fn ask(world: &World) -> TcpStream {
    let mut socket = TcpStream::connect(world.http1).await.unwrap();
    let request = head(world, "GET", &format!("{WEB}/live?x=1"), WEBSOCKET);
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

#[tokio::test]
async fn a_websocket_carries_bytes_and_ends_in_both_directions() {
    let (agent, world) = world().await;
    let mut socket = ask(&world).await;
    let mut end = agent.next_end().await;
    let asked = end.head().await;
    assert!(asked.starts_with("GET /live?x=1 HTTP/1.1\r\n"), "{asked}");
    for line in [
        "connection: Upgrade",
        "upgrade: websocket",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    ] {
        assert!(asked.contains(line), "{line}: {asked}");
    }
    assert!(!asked.contains(&world.alice), "{asked}");
    // Bytes behind the 101 in one piece.
    end.write(format!("{SWITCHES}first")).await;
    let answer = read_head(&mut socket).await;
    assert_eq!(code(&answer), 101, "{answer}");
    let mut first = [0; 5];
    soon(socket.read_exact(&mut first)).await.unwrap();
    assert_eq!(&first, b"first");
    socket.write_all(b"\x81\x80ping").await.unwrap();
    assert_eq!(end.read(6).await, b"\x81\x80ping");
    socket.shutdown().await.unwrap();
    assert_eq!(end.rest().await, (Vec::new(), true));
    end.write("last").await;
    end.finish();
    assert_eq!(rest(&mut socket).await, b"last");
    until(|| world.budgets.occupancy().is_empty()).await;
}

#[tokio::test]
async fn rule_1_a_services_101_is_held_against_the_request() {
    let (agent, world) = world().await;
    for (answer, expected) in [
        (SWITCHES.replace("s3pPLMBi", "AAAAAAAA"), 502),
        (SWITCHES.replace("websocket\r\n", "h2c\r\n"), 502),
        (SWITCHES.replace("connection: Upgrade\r\n", ""), 502),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(),
            200,
        ),
        (
            "HTTP/1.1 302 Found\r\nlocation: https://evil.example/\r\ncontent-length: 0\r\n\r\n"
                .to_owned(),
            502,
        ),
    ] {
        let mut socket = ask(&world).await;
        let mut end = agent.next_end().await;
        end.head().await;
        end.write(format!("{answer}SMUGGLED")).await;
        let answered = read_head(&mut socket).await;
        assert_eq!(code(&answered), expected, "{answer}: {answered}");
        // It is the connection's last answer: further bytes of the client count for nothing.
        let _ = socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let _ = socket.shutdown().await;
        let bytes = rest(&mut socket).await;
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            !text.contains("SMUGGLED") && !text.contains("HTTP/1.1"),
            "{text}"
        );
    }
    // A 101 that nobody asked for.
    let request = head(&world, "GET", &format!("{WEB}/"), "Connection: close\r\n");
    let switching = async {
        let mut end = agent.next_end().await;
        end.head().await;
        end.write(format!("{SWITCHES}SMUGGLED")).await;
    };
    let (answer, ()) = tokio::join!(world.raw(&request), switching);
    assert_eq!(code(&answer), 502, "{answer}");
    assert!(!answer.contains("SMUGGLED"), "{answer}");
}

#[tokio::test]
async fn rule_12_revoking_ends_a_websocket_of_a_service() {
    let (agent, world) = world().await;
    let mut socket = ask(&world).await;
    let mut end = agent.next_end().await;
    end.head().await;
    end.write(SWITCHES).await;
    assert_eq!(code(&read_head(&mut socket).await), 101);
    world.revoke.cancel();
    assert!(!end.rest().await.1, "a clean end for the service");
    let _ = rest(&mut socket).await;
}
