//! Requests over HTTP/2 whose `:authority` names no server: their client is answered in words, and the connection goes on.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    api::{Api, ok},
    world::{World, soon},
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_BOTH: u8 = 5;
const END_STREAM: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [high, middle, low, kind, flags, 0, 0, 0, stream];
    [&head[..], payload].concat()
}

/// A literal without an index (RFC 7541, section 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut line = vec![0];
    for text in [name, value] {
        // Seven bits, and the rest.
        match u8::try_from(text.len()).unwrap() {
            length @ 0..127 => line.push(length),
            length => line.extend([127, length - 127]),
        }
        line.extend_from_slice(text.as_bytes());
    }
    line
}

fn get(world: &World, authority: &str) -> Vec<u8> {
    let token = format!("Bearer {}", world.alice);
    let fields = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/k8s/clusters/c/version"),
        (":authority", authority),
        ("authorization", &token),
    ];
    let fields = fields.map(|(name, value)| field(name, value));
    fields.concat()
}

/// The status, as the table has it, and the body of the answer on a stream.
async fn answer(socket: &mut TcpStream, stream: u8) -> (u8, String) {
    let (mut status, mut body) = (0, Vec::new());
    loop {
        let mut head = [0; 9];
        soon(socket.read_exact(&mut head)).await.unwrap();
        let [high, middle, low, kind, flags, .., number] = head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        soon(socket.read_exact(&mut payload)).await.unwrap();
        if number != stream {
            continue;
        }
        match kind {
            HEADERS => status = payload[0],
            DATA => body.extend_from_slice(&payload),
            RST_STREAM => panic!("the stream is reset: {payload:?}"),
            _ => continue,
        }
        if flags & END_STREAM != 0 {
            return (status, String::from_utf8(body).unwrap());
        }
    }
}

/// `:status` 200 and 400 of the table (RFC 7541, appendix A).
const OK: u8 = 0x88;
const BAD_REQUEST: u8 = 0x8c;

#[tokio::test]
async fn an_authority_that_names_no_server_is_answered_with_a_status() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let mut socket = TcpStream::connect(world.http2).await.unwrap();
    let begin = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &*frame(4, 0, 0, &[]),
        &*frame(4, 1, 0, &[]),
    ];
    socket.write_all(&begin.concat()).await.unwrap();
    let bad = [
        "a b",
        "user@front",
        "user:secret@front:443",
        "front:80:80",
        "",
        "<x>",
    ];
    let mut stream = 1;
    for authority in bad {
        let head = frame(HEADERS, END_BOTH, stream, &get(&world, authority));
        socket.write_all(&head).await.unwrap();
        let (status, body) = answer(&mut socket, stream).await;
        assert_eq!(status, BAD_REQUEST, "{authority:?}: {body}");
        let status: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status["reason"], "BadRequest");
        let message = status["message"].as_str().unwrap();
        assert!(message.contains("its :authority is no HOST"), "{message}");
        assert!(!body.contains("secret"), "{body}");
        stream += 2;
    }
    assert_eq!(api.seen().len(), 0);
    // The connection has other requests.
    let head = frame(HEADERS, END_BOTH, stream, &get(&world, "front:443"));
    socket.write_all(&head).await.unwrap();
    assert_eq!(answer(&mut socket, stream).await.0, OK);
    assert_eq!(api.only().all("underpass-bad-authority"), [""; 0]);
}
