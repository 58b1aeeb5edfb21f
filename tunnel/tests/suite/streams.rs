//! Bytes go there and come back.

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::io::AsyncWriteExt;
use underpass_proto::limits;
use underpass_tunnel::{Class, OpenError, OpenRequest, Session};

use crate::bytes::{
    drink, expect, finish, incoming, open, pour, read_all, read_whole, send, stream, target,
};
use crate::harness::{Pair, fails, within};

/// Echoes `count` streams, all at once.
async fn serve_echo(session: Session, count: usize) {
    for _ in 0..count {
        let incoming = incoming(&session).await;
        tokio::spawn(async move {
            let (mut reader, mut writer) = incoming.accept().await.unwrap().into_split();
            while let Some(bytes) = reader.read_bytes().await.unwrap() {
                writer.write_bytes(bytes).await.unwrap();
            }
            writer.shutdown().await.unwrap();
        });
    }
}

async fn ask_echo(session: &Session, question: &'static [u8]) {
    let mut stream = open(session).await;
    stream.write_all(question).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_whole(&mut stream).await.unwrap(), question);
}

pub(crate) async fn echo(pair: &Pair) {
    let echo = tokio::spawn(serve_echo(pair.agent.clone(), 1));
    ask_echo(&pair.server, b"hello").await;
    echo.await.unwrap();
}

pub(crate) async fn payload_travels_with_the_open_header(pair: &Pair) {
    let mut here = open(&pair.server).await;
    // Written before the other side has even looked: no round trip is needed.
    here.write_all(b"question").await.unwrap();
    here.shutdown().await.unwrap();
    let (mut reader, mut writer) = incoming(&pair.agent)
        .await
        .accept()
        .await
        .unwrap()
        .into_split();
    assert_eq!(read_all(&mut reader).await.unwrap(), b"question");
    send(&mut writer, b"answer").await;
    finish(&mut writer).await;
    assert_eq!(read_whole(&mut here).await.unwrap(), b"answer");
}

pub(crate) async fn what_was_asked_for_arrives(pair: &Pair) {
    let request = OpenRequest {
        target: "t".repeat(limits::TARGET),
        header: Bytes::from_static(&[0, 1, 0xff]),
        class: Class::Interactive,
    };
    let here = pair.server.open(request.clone()).await.unwrap();
    let there = incoming(&pair.agent).await;
    assert_eq!(there.target(), request.target);
    assert_eq!(there.header(), &request.header);
    assert_eq!(there.class(), Class::Interactive);
    assert_eq!(there.id(), here.id());
}

pub(crate) async fn bulk_in_both_directions_at_once(pair: &Pair) {
    const TOTAL: usize = 32 * 1024 * 1024;
    let (here, there) = stream(&pair.server, &pair.agent).await;
    let (mut here_read, mut here_write) = here.into_split();
    let (mut there_read, mut there_write) = there.into_split();
    let (down, up, got_down, got_up) = tokio::try_join!(
        pour(&mut here_write, 1, TOTAL, 60_000),
        pour(&mut there_write, 2, TOTAL, 64 * 1024),
        drink(&mut there_read),
        drink(&mut here_read),
    )
    .unwrap();
    assert_eq!((got_down.0, got_down.1.as_ref()), (TOTAL, down.as_ref()));
    assert_eq!((got_up.0, got_up.1.as_ref()), (TOTAL, up.as_ref()));
}

pub(crate) async fn a_thousand_streams_one_after_the_other(pair: &Pair) {
    let echo = tokio::spawn(serve_echo(pair.agent.clone(), 1000));
    for _ in 0..1000 {
        ask_echo(&pair.server, b"one of many").await;
    }
    echo.await.unwrap();
}

pub(crate) async fn three_hundred_streams_at_once(pair: &Pair) {
    // In three waves: more than a queue's worth at once may be refused as overload.
    let echo = tokio::spawn(serve_echo(pair.agent.clone(), 300));
    let asked = (0..300).map(|_| ask_echo(&pair.server, b"one of many"));
    join_all(asked).await;
    echo.await.unwrap();
}

pub(crate) async fn both_sides_open(pair: &Pair) {
    let echo_here = tokio::spawn(serve_echo(pair.server.clone(), 20));
    let echo_there = tokio::spawn(serve_echo(pair.agent.clone(), 20));
    let asked = (0..20).map(|_| async {
        tokio::join!(
            ask_echo(&pair.server, b"from the server"),
            ask_echo(&pair.agent, b"from the agent"),
        )
    });
    join_all(asked).await;
    echo_here.await.unwrap();
    echo_there.await.unwrap();
}

pub(crate) async fn an_open_header_of_exactly_the_limit(pair: &Pair) {
    let header = Bytes::from(vec![0xab; limits::OPEN_HEADER]);
    let request = OpenRequest {
        header: header.clone(),
        ..target(&"t".repeat(limits::TARGET))
    };
    let (here, there) = tokio::join!(pair.server.open(request), incoming(&pair.agent));
    assert_eq!(there.header(), &header);
    let (mut there_read, _there_write) = there.accept().await.unwrap().into_split();
    let (_here_read, mut here_write) = here.unwrap().into_split();
    send(&mut here_write, b"behind it").await;
    expect(&mut there_read, b"behind it").await;
}

pub(crate) async fn an_open_header_above_the_limit_is_the_callers_error(pair: &Pair) {
    let header = OpenRequest {
        header: Bytes::from(vec![0; limits::OPEN_HEADER + 1]),
        ..OpenRequest::default()
    };
    let error = fails("too large a header", pair.server.open(header)).await;
    assert!(
        matches!(error, OpenError::TooLarge { len, max, .. } if len == max + 1),
        "{error:?}"
    );
    let error = fails(
        "too long a target",
        pair.agent.open(target(&"t".repeat(limits::TARGET + 1))),
    )
    .await;
    assert!(matches!(error, OpenError::TooLarge { .. }), "{error:?}");
    assert!(pair.server.is_open());
    within("another stream works", stream(&pair.server, &pair.agent)).await;
}
