use std::convert::Infallible;

use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

const PIECE: usize = 32 * 1024;

/// So many pieces, all at hand, and then a failure.
fn broken(pieces: usize) -> Response<Body> {
    let pieces = stream::iter((0..pieces).map(|_| Ok(Frame::data(Bytes::from(vec![b'x'; PIECE])))));
    let failure = stream::iter([Err(BoxError::from("the sender is gone"))]);
    Response::new(body::boxed(StreamBody::new(pieces.chain(failure))))
}

/// Serves one connection as the proxy does, and closes it behind an answer that has broken off.
async fn serve_http1(io: DuplexStream, pieces: usize, at_once: AtOnce) {
    let (sender, io) = Sender::new(io);
    let service = service_fn(async |_: Request<Incoming>| {
        Ok::<_, Infallible>(sender.answer(broken(pieces), true, at_once))
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .writev(true)
        .serve_connection(TokioIo::new(io), service);
    serving.await.unwrap_err();
    if let Some(mut io) = sender.broken_off() {
        io.shutdown().await.unwrap();
    }
}

async fn came_over_http1(pieces: usize, room: usize, at_once: AtOnce) -> String {
    let (mut client, server) = duplex(room);
    let serving = tokio::spawn(serve_http1(server, pieces, at_once));
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut came = String::new();
    client.read_to_string(&mut came).await.unwrap();
    serving.await.unwrap();
    came
}

#[tokio::test]
async fn an_answer_that_breaks_off_arrives_as_far_as_it_came_over_http1() {
    for (pieces, room) in [(0, 64), (1, 64), (1, 1024 * 1024), (40, 4096)] {
        let came = came_over_http1(pieces, room, |_| false).await;
        assert!(came.starts_with("HTTP/1.1 200 OK\r\n"), "{came}");
        assert_eq!(came.matches('x').count(), pieces * PIECE);
        assert!(!came.ends_with("0\r\n\r\n"), "it has no end");
    }
}

#[tokio::test]
async fn a_failure_that_takes_back_what_is_on_its_way_waits_for_nothing() {
    assert_eq!(came_over_http1(1, 64, |_| true).await, "");
}

/// The same of a client that takes nothing.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_not_waited_for_for_ever() {
    let (mut client, server) = duplex(64);
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let (sender, io) = Sender::new(server);
    let service = service_fn(async |_: Request<Incoming>| {
        Ok::<_, Infallible>(sender.answer(broken(1), true, |_| false))
    });
    let begun = tokio::time::Instant::now();
    let serving =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service);
    serving.await.unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), limits::ANSWER_STALL.as_secs());
    assert!(
        sender.broken_off().is_none(),
        "no close waits for the client again"
    );
}

#[tokio::test]
async fn an_answer_that_breaks_off_arrives_as_far_as_it_came_over_http2() {
    for pieces in [0, 1, 40] {
        let (client, server) = duplex(4096);
        let service = service_fn(move |_: Request<Incoming>| async move {
            Ok::<_, Infallible>(answer_http2(broken(pieces), |_| false))
        });
        let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(server), service);
        tokio::spawn(serving);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client))
                .await
                .unwrap();
        tokio::spawn(connection);
        let request = Request::get("https://x/").body(body::empty()).unwrap();
        let mut answer = sender.send_request(request).await.unwrap().into_body();
        let mut came = 0;
        let error = loop {
            match answer.frame().await.expect("it has no end") {
                Ok(frame) => came += frame.into_data().unwrap().len(),
                Err(error) => break error,
            }
        };
        assert_eq!(came, pieces * PIECE);
        let reset = std::error::Error::source(&error).unwrap();
        let reset = reset.downcast_ref::<h2::Error>().unwrap();
        assert!(reset.is_remote() && reset.is_reset(), "{error:?}");
    }
}
