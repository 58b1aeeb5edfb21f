//! Clients that name their targets: SOCKS5 and HTTP CONNECT, on one port.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::world::{World, echo, soon};

/// A greeting without authentication.
const GREETING: &[u8] = &[5, 1, 0];

/// The address in a reply that tells none: of IPv4, and port 0.
const NOWHERE: [u8; 7] = [1, 0, 0, 0, 0, 0, 0];

/// A request for this name.
fn socks(command: u8, name: &str, port: u16) -> Vec<u8> {
    let length = u8::try_from(name.len()).unwrap();
    let mut request = vec![5, command, 0, 3, length];
    request.extend(name.bytes());
    request.extend(port.to_be_bytes());
    request
}

/// The reply to a request, of ten bytes or less.
async fn reply(address: SocketAddr, greeting: &[u8], request: &[u8]) -> (TcpStream, Vec<u8>) {
    let mut here = TcpStream::connect(address).await.unwrap();
    here.write_all(greeting).await.unwrap();
    let mut chosen = [0; 2];
    soon(here.read_exact(&mut chosen)).await.unwrap();
    if chosen != [5, 0] {
        return (here, chosen.to_vec());
    }
    here.write_all(request).await.unwrap();
    let mut reply = vec![0; 10];
    soon(here.read_exact(&mut reply)).await.unwrap();
    assert_eq!(reply[0], 5);
    assert_eq!(reply[3..], NOWHERE);
    (here, reply)
}

fn port_of(name: &str) -> u16 {
    name.rsplit_once(':').unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn a_socks_client_names_its_target() {
    let world = World::new().await;
    let (_echo, name) = echo().await;
    let (address, _running) = world.proxy().await;
    let request = socks(1, "Here.Test", port_of(&name));
    let (mut here, replied) = reply(address, GREETING, &request).await;
    assert_eq!(replied[1], 0);
    here.write_all(b"hello").await.unwrap();
    here.shutdown().await.unwrap();
    let mut heard = String::new();
    soon(here.read_to_string(&mut heard)).await.unwrap();
    assert_eq!(heard, "hello");
    // Addresses, which this agent does not allow.
    let v4 = [5, 1, 0, 1, 10, 0, 0, 1, 0, 80];
    let v6 = [
        &[5, 1, 0, 4, 0x20, 1, 0xd, 0xb8][..],
        &[0; 11],
        &[1, 1, 187],
    ]
    .concat();
    for request in [&v4[..], &v6] {
        let (mut here, replied) = reply(address, GREETING, request).await;
        assert_eq!(replied[1], 2, "not allowed");
        assert_eq!(soon(here.read(&mut [0])).await.unwrap(), 0);
    }
    assert_eq!(
        world.asked(),
        [
            format!("edge tcp:{name}"),
            "edge tcp:10.0.0.1:80".to_owned(),
            "edge tcp:[2001:db8::1]:443".to_owned()
        ]
    );
}

#[tokio::test]
async fn what_socks_is_not_served_is_said() {
    let world = World::new().await;
    let (address, _running) = world.proxy().await;
    for (greeting, request, expected) in [
        // A password, which there is none for.
        (&[5, 1, 2][..], vec![], vec![5, 0xff]),
        (GREETING, socks(2, "here.test", 80), vec![5, 7]),
        (GREETING, socks(3, "here.test", 80), vec![5, 7]),
        (GREETING, vec![5, 1, 0, 9], vec![5, 8]),
        (GREETING, socks(1, "here.test", 0), vec![5, 8]),
        (GREETING, socks(1, "a/b", 80), vec![5, 8]),
        (GREETING, socks(1, "\u{fc}", 80), vec![5, 8]),
        (GREETING, socks(1, "", 80), vec![5, 8]),
        // Two names in one.
        (GREETING, socks(1, "x:1@here.test", 80), vec![5, 8]),
    ] {
        let (mut here, replied) = reply(address, greeting, &request).await;
        assert!(replied.starts_with(&expected), "{request:?}: {replied:?}");
        assert_eq!(soon(here.read(&mut [0])).await.unwrap_or(0), 0);
    }
    assert_eq!(world.asked(), [""; 0]);
}

/// Sends a head, and reads until the end.
async fn http(address: SocketAddr, head: &str) -> String {
    let mut here = TcpStream::connect(address).await.unwrap();
    here.write_all(head.as_bytes()).await.unwrap();
    here.shutdown().await.unwrap();
    let mut heard = Vec::new();
    let _ = soon(here.read_to_end(&mut heard)).await;
    String::from_utf8(heard).unwrap()
}

#[tokio::test]
async fn an_http_client_names_its_target() {
    let world = World::new().await;
    let (_echo, name) = echo().await;
    let (address, _running) = world.proxy().await;
    // Bytes that come with the head are the target's.
    let heard = http(
        address,
        &format!("CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n\r\nhello"),
    )
    .await;
    assert_eq!(heard, "HTTP/1.1 200 Connection established\r\n\r\nhello");
    let refused = http(address, "CONNECT db.prod:5432 HTTP/1.1\r\n\r\n").await;
    assert!(
        refused.starts_with("HTTP/1.1 403 Forbidden\r\n"),
        "{refused}"
    );
    assert!(refused.contains("no rule allows"), "{refused}");
    for (head, code) in [
        ("CONNECT db.prod HTTP/1.1\r\n\r\n", "400"),
        ("CONNECT http://db.prod:80/ HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "405"),
        (
            "GET http://web.shop/ HTTP/1.1\r\nHost: web.shop\r\n\r\n",
            "405",
        ),
        ("nonsense\r\n\r\n", "405"),
    ] {
        let heard = http(address, head).await;
        assert!(
            heard.starts_with(&format!("HTTP/1.1 {code} ")),
            "{head}: {heard}"
        );
    }
    let long = format!("CONNECT {name} HTTP/1.1\r\nX: {}", "x".repeat(20_000));
    let heard = http(address, &long).await;
    assert!(
        heard.is_empty() || heard.starts_with("HTTP/1.1 431 "),
        "{heard}"
    );
    assert_eq!(world.asked().len(), 2);
}
