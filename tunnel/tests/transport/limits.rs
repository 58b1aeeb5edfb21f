//! A peer that sends any bytes over `underpass.v1`.

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::io::DuplexStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as Status;
use underpass_proto::VarInt;
use underpass_proto::limits;
use underpass_tunnel::transport::websocket::{self, Subprotocol};
use underpass_tunnel::transport::{HalfError, Transport, TransportError};
use underpass_tunnel::{CloseCode, chain};

use crate::harness::{accept, answer, read_all, read_exact, run, within, write};

const DATA: u8 = 0x40;
const DATA_FIN: u8 = 0x41;
const RESET: u8 = 0x42;
const STOP: u8 = 0x43;

type Client = WebSocketStream<DuplexStream>;

/// A frame, well-formed or not.
fn frame(kind: u8, stream: u64, value: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::from(&[kind][..]);
    VarInt::try_from(stream).unwrap().encode(&mut out);
    VarInt::try_from(value).unwrap().encode(&mut out);
    out.extend_from_slice(payload);
    out.to_vec()
}

fn data(stream: u64, payload: &[u8]) -> Vec<u8> {
    frame(DATA, stream, payload.len() as u64, payload)
}

/// A client that is none of ours, and the acceptor's end.
async fn client() -> (Client, std::sync::Arc<dyn Transport>) {
    let (here, mut there) = tokio::io::duplex(100_000);
    let mut request = format!("wss://localhost{}", websocket::PATH)
        .into_client_request()
        .unwrap();
    let offer = Subprotocol::Underpass.name().parse().unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-protocol", offer);
    let (client, there) = tokio::join!(tokio_tungstenite::client_async(request, here), async {
        let subprotocol = answer(&mut there).await;
        websocket::accept(there, subprotocol, None).await
    });
    (client.unwrap().0, there)
}

async fn send(client: &mut Client, bytes: Vec<u8>) {
    let sent = client.send(Message::Binary(bytes.into()));
    within("it is taken", sent).await.unwrap();
}

/// The Close that ends the connection.
async fn close_frame(client: &mut Client) -> CloseFrame {
    within("it is closed", async {
        loop {
            match client.next().await {
                Some(Ok(Message::Close(Some(close)))) => return close,
                Some(Ok(_)) => {}
                other => panic!("no Close but {other:?}"),
            }
        }
    })
    .await
}

/// `bytes` cost the connection, which is closed with `code`.
async fn ends_with(trusted: bool, messages: Vec<Vec<u8>>, code: CloseCode) {
    let (mut client, there) = client().await;
    if trusted {
        there.authenticated();
    }
    for bytes in messages {
        // The other side may have hung up before all of it was sent.
        let _ = client.feed(Message::Binary(bytes.into())).await;
    }
    let _ = client.flush().await;
    let close = close_frame(&mut client).await;
    let status = 4000 + u16::try_from(code.to_wire()).unwrap();
    assert_eq!(close.code, Status::from(status), "{close:?}");
    let error = within("it has ended", there.closed()).await;
    assert!(matches!(error, TransportError::Lost(_)), "{error:?}");
    assert!(chain(&error).contains(close.reason.as_str()), "{error:?}");
}

#[test]
fn what_breaks_the_rules_ends_the_connection_with_its_code() {
    let long = limits::MUX_DATA as u64 + 1;
    let cases = [
        (vec![0x3f, 0, 0], CloseCode::FrameEncoding),
        (frame(DATA, 0, 0, b""), CloseCode::FrameEncoding),
        (frame(DATA, 0, long, b""), CloseCode::FrameTooLarge),
        (data(1, b"x"), CloseCode::StreamId),
        (
            [frame(DATA_FIN, 0, 0, b""), data(0, b"x")].concat(),
            CloseCode::UnexpectedFrame,
        ),
        (
            [frame(RESET, 0, 3, b""), frame(DATA_FIN, 0, 0, b"")].concat(),
            CloseCode::UnexpectedFrame,
        ),
        (frame(STOP, 0, 3, b"").repeat(2), CloseCode::UnexpectedFrame),
    ];
    for (bytes, code) in cases {
        run(ends_with(true, vec![bytes], code));
    }
}

#[test]
fn whoever_ignores_the_credit_loses_the_connection() {
    let frames = |count| vec![data(0, &[7; limits::MUX_DATA]); count];
    let stream = frames(limits::MUX_STREAM_RECEIVE / limits::MUX_DATA + 1);
    run(ends_with(true, stream, CloseCode::Overloaded));
    run(ends_with(false, frames(2), CloseCode::Overloaded));
}

#[test]
fn streams_without_end_lose_the_connection() {
    // In the same message, so that no refusal leaves in between.
    let open = |count: u64| {
        (0..=count)
            .flat_map(|i| data(2 * i, b"x"))
            .collect::<Vec<_>>()
    };
    let early = open(limits::MUX_STREAMS_UNAUTHENTICATED as u64);
    run(ends_with(false, vec![early], CloseCode::Overloaded));
    let many = open(limits::MUX_STREAMS as u64);
    run(ends_with(true, vec![many], CloseCode::Overloaded));
}

#[test]
fn frames_of_streams_that_are_gone_are_ignored() {
    run(async {
        let (mut client, there) = client().await;
        there.authenticated();
        send(&mut client, data(4, b"fourth")).await;
        let stream = accept(there.as_ref()).await;
        drop(stream);
        // Both ends of it have been told before more of it comes.
        let mut answers = Vec::new();
        while answers.len() < 6 {
            let message = within("it is answered", client.next())
                .await
                .unwrap()
                .unwrap();
            answers.extend_from_slice(&message.into_data());
        }
        // The halves are dropped one after the other, and the connection may be faster.
        let told = [[STOP, 4, 0, RESET, 4, 0], [RESET, 4, 0, STOP, 4, 0]];
        assert!(told.iter().any(|told| answers == told), "{answers:?}");
        let late = [
            data(4, b"late"),
            frame(STOP, 4, 0, b""),
            frame(DATA_FIN, 4, 0, b""),
            frame(RESET, 2, 0, b""),
            data(0, b"never opened: a higher number was seen"),
            data(6, b"new"),
        ];
        send(&mut client, late.concat()).await;
        let mut next = accept(there.as_ref()).await;
        assert_eq!(read_exact(&mut next, 3).await, b"new");
        drop(client);
        let _ = there.closed().await;
    });
}

#[test]
fn pings_are_answered_and_message_boundaries_mean_nothing() {
    run(async {
        let (mut client, there) = client().await;
        let bytes = [
            data(0, b"one "),
            data(0, b"two"),
            frame(DATA_FIN, 0, 0, b""),
        ]
        .concat();
        for byte in bytes {
            send(&mut client, vec![byte]).await;
            let ping = Message::Ping(Bytes::copy_from_slice(&[byte]));
            client.send(ping).await.unwrap();
            let pong = within("it is answered", client.next()).await;
            let expected = Bytes::copy_from_slice(&[byte]);
            assert_eq!(pong.unwrap().unwrap(), Message::Pong(expected));
        }
        let mut stream = accept(there.as_ref()).await;
        assert_eq!(read_all(&mut stream).await.unwrap(), b"one two");
        write(&mut stream, b"three").await;
        let message = within("it comes", client.next()).await.unwrap().unwrap();
        assert_eq!(message.into_data(), data(0, b"three"));
        drop(client);
        let _ = there.closed().await;
    });
}

#[test]
fn a_close_of_somebody_else_is_a_loss_that_says_why() {
    run(async {
        let (mut client, there) = client().await;
        send(&mut client, data(0, b"last")).await;
        let close = CloseFrame {
            code: Status::Away,
            reason: "the proxy restarts".into(),
        };
        client.close(Some(close)).await.unwrap();
        let error = within("it has ended", there.closed()).await;
        assert!(matches!(error, TransportError::Lost(_)), "{error:?}");
        let text = chain(&error);
        assert!(text.contains("1001: the proxy restarts"), "{text}");
        // Bytes from before it can still be read.
        let mut stream = accept(there.as_ref()).await;
        assert_eq!(read_exact(&mut stream, 4).await, b"last");
        let error = read_all(&mut stream).await.unwrap_err();
        assert!(matches!(error, HalfError::Transport(_)), "{error:?}");
        assert_eq!(
            close_frame(&mut client).await.code,
            Status::Away,
            "it is answered"
        );
    });
}

#[test]
fn what_is_no_websocket_is_told_so() {
    run(async {
        let (mut client, there) = client().await;
        client.send(Message::Text("hello".into())).await.unwrap();
        assert_eq!(close_frame(&mut client).await.code, Status::Unsupported);
        let error = within("it has ended", there.closed()).await;
        assert!(matches!(error, TransportError::Lost(_)), "{error:?}");
    });
}

#[test]
fn a_peer_that_reads_nothing_does_not_keep_a_close() {
    run(async {
        let (mut client, there) = client().await;
        send(&mut client, data(0, b"x")).await;
        let mut stream = accept(there.as_ref()).await;
        // More than the pipe takes.
        let queued = [7; 100_000];
        write(&mut stream, &queued).await;
        write(&mut stream, &queued[..50_000]).await;
        there.close(CloseCode::Shutdown, "");
        let error = within("it has ended", there.closed()).await;
        assert!(matches!(error, TransportError::ClosedHere), "{error:?}");
        drop(client);
    });
}
