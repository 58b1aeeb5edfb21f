//! Waiting tasks are woken, and a cancelled wait loses nothing.

use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::task::{JoinHandle, JoinSet};
use underpass_tunnel::ResetCode;
use underpass_tunnel::transport::{BiStream, HalfError, RecvStream};

use crate::harness::{
    Pair, accept, finish, open, poll_once, read_exact, within, write, write_to, write_until_error,
};

type Read = Result<Option<bytes::Bytes>, HalfError>;

/// Reads in a task of its own, which is asleep by the time this returns.
async fn asleep(mut recv: Box<dyn RecvStream>) -> JoinHandle<(Read, Box<dyn RecvStream>)> {
    let (started, starting) = tokio::sync::oneshot::channel();
    let mut started = Some(started);
    let reader = tokio::spawn(async move {
        let read = poll_fn(|cx| {
            let read = recv.poll_read_bytes(cx, 100);
            if read.is_pending()
                && let Some(started) = started.take()
            {
                started.send(()).unwrap();
            }
            read
        })
        .await;
        (read, recv)
    });
    within("the reader has looked", starting).await.unwrap();
    reader
}

pub(crate) async fn a_reader_is_woken_by_each_end(pair: Pair) {
    let ends: [fn(&mut BiStream); 3] = [
        |stream| assert!(poll_once(pin!(finish(stream))).is_ready()),
        |stream| stream.send.reset(ResetCode::Forbidden),
        |stream| {
            let mut data = bytes::Bytes::from_static(b"bytes");
            let write = poll_fn(|cx| stream.send.poll_write_bytes(cx, &mut data));
            assert!(poll_once(pin!(write)).is_ready());
            let flush = poll_fn(|cx| stream.send.poll_flush(cx));
            let _ = poll_once(pin!(flush));
        },
    ];
    for (i, end) in ends.into_iter().enumerate() {
        let (mut opened, accepted) = pair.stream().await;
        let reader = asleep(accepted.recv).await;
        end(&mut opened);
        let (read, _recv) = within("it is woken", reader).await.unwrap();
        match (i, read) {
            (0, Ok(None)) | (1, Err(HalfError::Reset(ResetCode::Forbidden))) => {}
            (2, Ok(Some(bytes))) => assert_eq!(bytes, "bytes"),
            (_, other) => panic!("{other:?}"),
        }
    }
}

/// Bytes that a writer here writes: more than any queue holds, and less than a session's credit.
const TOTAL: usize = 6 * 1024 * 1024;

/// Writes `TOTAL` bytes in a task of its own, which has been asleep by the time this returns. Then
/// waits for the error.
async fn blocked(mut stream: BiStream) -> JoinHandle<HalfError> {
    let (full, filling) = tokio::sync::oneshot::channel();
    let mut full = Some(full);
    let writer = tokio::spawn(async move {
        let mut data = bytes::Bytes::from(vec![7; TOTAL]);
        while !data.is_empty() {
            let write = poll_fn(|cx| {
                let write = stream.send.poll_write_bytes(cx, &mut data);
                if write.is_pending()
                    && let Some(full) = full.take()
                {
                    full.send(()).unwrap();
                }
                write
            });
            if let Err(error) = write.await {
                return error;
            }
        }
        write_until_error(stream.send.as_mut()).await
    });
    within("there is no room", filling).await.unwrap();
    writer
}

pub(crate) async fn a_writer_is_woken_by_a_stop(pair: Pair) {
    let (opened, mut accepted) = pair.stream().await;
    let writer = blocked(opened).await;
    accepted.recv.stop(ResetCode::Forbidden);
    let error = within("it is woken", writer).await.unwrap();
    assert!(
        matches!(error, HalfError::Stopped(ResetCode::Forbidden)),
        "{error:?}"
    );
}

pub(crate) async fn a_writer_is_woken_by_room(pair: Pair) {
    let (opened, mut accepted) = pair.stream().await;
    let writer = blocked(opened).await;
    assert_eq!(read_exact(&mut accepted, TOTAL).await.len(), TOTAL);
    accepted.recv.stop(ResetCode::Forbidden);
    let error = within("it is woken", writer).await.unwrap();
    assert!(
        matches!(error, HalfError::Stopped(ResetCode::Forbidden)),
        "{error:?}"
    );
}

pub(crate) async fn an_accept_is_cancel_safe(pair: Pair) {
    for round in 0..100 {
        let mut opened = open(pair.here.as_ref()).await;
        // Dropped before, while, or after the stream comes.
        let dropped = poll_once(pin!(pair.there.accept()));
        let there = Arc::clone(&pair.there);
        let waiting = tokio::spawn(async move { there.accept().await });
        if round % 3 == 0 {
            tokio::task::yield_now().await;
        }
        write(&mut opened, b"x").await;
        if round % 2 == 0 {
            waiting.abort();
        }
        let mut accepted = match (dropped, waiting.await) {
            (Poll::Ready(stream), _) => stream.unwrap(),
            (_, Ok(stream)) => stream.unwrap(),
            (_, Err(_)) => accept(pair.there.as_ref()).await,
        };
        assert_eq!(read_exact(&mut accepted, 1).await, b"x");
    }
}

pub(crate) async fn several_accepts_share_the_streams(pair: Pair) {
    const STREAMS: u8 = 50;
    let mut waiting = JoinSet::new();
    for _ in 0..STREAMS {
        let there = Arc::clone(&pair.there);
        waiting.spawn(async move { there.accept().await.unwrap() });
    }
    let mut opened = Vec::new();
    for i in 0..STREAMS {
        let mut stream = open(pair.here.as_ref()).await;
        write(&mut stream, &[i]).await;
        opened.push(stream);
    }
    let mut seen = HashSet::new();
    for mut stream in within("each gets one", waiting.join_all()).await {
        seen.insert(read_exact(&mut stream, 1).await[0]);
    }
    assert_eq!(seen.len(), usize::from(STREAMS));
}

pub(crate) async fn a_read_is_cancel_safe(pair: Pair) {
    let (mut opened, mut accepted) = pair.stream().await;
    let writer = tokio::spawn(async move {
        for i in 0..200u8 {
            write_to(opened.send.as_mut(), &[i]).await.unwrap();
            tokio::task::yield_now().await;
        }
        finish(&mut opened).await.unwrap();
    });
    let mut got = Vec::new();
    loop {
        // Each poll is of a future that is dropped.
        let read = poll_fn(|cx| accepted.recv.poll_read_bytes(cx, 10));
        match poll_once(pin!(read)) {
            Poll::Ready(Ok(Some(bytes))) => got.extend_from_slice(&bytes),
            Poll::Ready(Ok(None)) => break,
            Poll::Ready(Err(error)) => panic!("{error:?}"),
            Poll::Pending => tokio::task::yield_now().await,
        }
    }
    writer.await.unwrap();
    assert_eq!(got, (0..200).collect::<Vec<u8>>());
}
