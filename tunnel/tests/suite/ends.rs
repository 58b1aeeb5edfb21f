//! How streams end: half by half, cleanly or with a code, and never cleanly by accident.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::io::AsyncWriteExt;
use underpass_tunnel::{ResetCode, Session, StreamError};

use crate::bytes::{
    expect, fill, finish, incoming, open, read_all, read_whole, send, stream, target,
    write_until_error,
};
use crate::harness::{Pair, fails, within};

pub(crate) async fn half_close_by_the_opener(pair: &Pair) {
    half_close(&pair.server, &pair.agent, true).await;
    half_close(&pair.agent, &pair.server, true).await;
}

pub(crate) async fn half_close_by_the_other_side(pair: &Pair) {
    half_close(&pair.server, &pair.agent, false).await;
    half_close(&pair.agent, &pair.server, false).await;
}

/// One side ends its half; the other goes on for as long as it likes.
async fn half_close(opener: &Session, other: &Session, opener_first: bool) {
    let (here, there) = stream(opener, other).await;
    let (first, second) = if opener_first {
        (here, there)
    } else {
        (there, here)
    };
    let (mut first_read, mut first_write) = first.into_split();
    let (mut second_read, mut second_write) = second.into_split();
    send(&mut first_write, b"last words").await;
    finish(&mut first_write).await;
    assert_eq!(read_all(&mut second_read).await.unwrap(), b"last words");
    for _ in 0..3 {
        send(&mut second_write, b"and yet it flows").await;
        expect(&mut first_read, b"and yet it flows").await;
    }
    let error = fails("writing after the end", first_write.write_all(b"x")).await;
    let error = error.into_inner().unwrap();
    assert!(
        matches!(error.downcast_ref(), Some(StreamError::Finished)),
        "{error:?}"
    );
    finish(&mut second_write).await;
    assert_eq!(read_all(&mut first_read).await.unwrap(), b"");
    assert_eq!(
        read_all(&mut first_read).await.unwrap(),
        b"",
        "it stays ended"
    );
}

fn codes() -> Vec<ResetCode> {
    (0..=0x0b)
        .chain([0x4242, (1 << 62) - 1])
        .map(ResetCode::from_wire)
        .collect()
}

pub(crate) async fn a_reset_is_seen_as_its_code(pair: &Pair) {
    for code in codes() {
        let (here, there) = stream(&pair.server, &pair.agent).await;
        let (mut read, mut write) = there.into_split();
        here.reset(code);
        let error = read_all(&mut read).await.unwrap_err();
        assert!(
            matches!(error, StreamError::Reset(seen) if seen == code),
            "{error:?}"
        );
        let error = write_until_error(&mut write).await;
        assert!(
            matches!(error, StreamError::Stopped(seen) if seen == code),
            "{error:?}"
        );
    }
}

pub(crate) async fn a_stop_is_seen_as_its_code(pair: &Pair) {
    for code in codes() {
        let (here, there) = stream(&pair.agent, &pair.server).await;
        let (here_read, mut here_write) = here.into_split();
        let (mut there_read, mut there_write) = there.into_split();
        here_read.stop(code);
        let error = write_until_error(&mut there_write).await;
        assert!(
            matches!(error, StreamError::Stopped(seen) if seen == code),
            "{error:?}"
        );
        // The other direction does not care.
        send(&mut here_write, b"still").await;
        expect(&mut there_read, b"still").await;
        finish(&mut here_write).await;
        assert_eq!(read_all(&mut there_read).await.unwrap(), b"");
    }
}

pub(crate) async fn a_dropped_stream_is_cancelled(pair: &Pair) {
    for (from, to) in [(&pair.server, &pair.agent), (&pair.agent, &pair.server)] {
        let (mut here, there) = stream(from, to).await;
        here.write_all(b"unfinished").await.unwrap();
        here.flush().await.unwrap();
        drop(here);
        let (mut read, mut write) = there.into_split();
        let error = read_all(&mut read).await.unwrap_err();
        assert!(
            matches!(error, StreamError::Reset(ResetCode::Cancelled)),
            "{error:?}"
        );
        let error = write_until_error(&mut write).await;
        assert!(
            matches!(error, StreamError::Stopped(ResetCode::Cancelled)),
            "{error:?}"
        );
    }
}

pub(crate) async fn a_dropped_read_half_ends_one_direction(pair: &Pair) {
    let (here, there) = stream(&pair.server, &pair.agent).await;
    let (here_read, mut here_write) = here.into_split();
    let (mut there_read, mut there_write) = there.into_split();
    drop(here_read);
    let error = write_until_error(&mut there_write).await;
    assert!(
        matches!(error, StreamError::Stopped(ResetCode::Cancelled)),
        "{error:?}"
    );
    send(&mut here_write, b"still").await;
    expect(&mut there_read, b"still").await;
    finish(&mut here_write).await;
    assert_eq!(read_all(&mut there_read).await.unwrap(), b"");
}

pub(crate) async fn a_dropped_write_half_ends_one_direction(pair: &Pair) {
    let (here, there) = stream(&pair.server, &pair.agent).await;
    let (mut here_read, here_write) = here.into_split();
    let (mut there_read, mut there_write) = there.into_split();
    drop(here_write);
    let error = read_all(&mut there_read).await.unwrap_err();
    assert!(
        matches!(error, StreamError::Reset(ResetCode::Cancelled)),
        "{error:?}"
    );
    send(&mut there_write, b"still").await;
    expect(&mut here_read, b"still").await;
    finish(&mut there_write).await;
    assert_eq!(read_all(&mut here_read).await.unwrap(), b"");
}

pub(crate) async fn a_writer_whose_reader_is_gone_sees_a_stop(pair: &Pair) {
    let (here, there) = stream(&pair.server, &pair.agent).await;
    let (here_read, mut here_write) = here.into_split();
    let (there_read, mut there_write) = there.into_split();
    // Nothing is read here, so only the writer can find the peer's STOP.
    send(&mut there_write, b"unwanted").await;
    drop(here_read);
    there_read.stop(ResetCode::TargetFailed);
    let error = write_until_error(&mut here_write).await;
    assert!(
        matches!(error, StreamError::Stopped(ResetCode::TargetFailed)),
        "{error:?}"
    );
}

pub(crate) async fn a_finished_stream_may_be_dropped(pair: &Pair) {
    let (mut here, mut there) = stream(&pair.server, &pair.agent).await;
    there.shutdown().await.unwrap();
    assert_eq!(read_whole(&mut here).await.unwrap(), b"");
    here.write_all(&[1; 100_000]).await.unwrap();
    here.shutdown().await.unwrap();
    drop(here);
    assert_eq!(read_whole(&mut there).await.unwrap(), vec![1; 100_000]);
}

pub(crate) async fn a_refusal_carries_code_and_reason(pair: &Pair) {
    for code in codes() {
        let mut here = open(&pair.server).await;
        incoming(&pair.agent).await.refuse(code, "ask elsewhere");
        let refused = |error: &StreamError| matches!(error, StreamError::Refused { code: seen, reason } if *seen == code && reason == "ask elsewhere");
        let error = fails("a refused stream", here.accepted()).await;
        assert!(refused(&error), "{error:?}");
        let (mut read, mut write) = here.into_split();
        let error = read_all(&mut read).await.unwrap_err();
        assert!(refused(&error), "and it stays refused: {error:?}");
        let error = write_until_error(&mut write).await;
        assert!(
            matches!(error, StreamError::Stopped(seen) if seen == code),
            "{error:?}"
        );
    }
}

pub(crate) async fn an_incoming_stream_dropped_is_cancelled(pair: &Pair) {
    let mut here = open(&pair.server).await;
    drop(incoming(&pair.agent).await);
    let error = fails("a cancelled stream", here.accepted()).await;
    assert!(
        matches!(
            error,
            StreamError::Refused {
                code: ResetCode::Cancelled,
                ..
            }
        ),
        "{error:?}"
    );
}

pub(crate) async fn a_reset_behind_unread_bytes_arrives_with_its_code(pair: &Pair) {
    let (here, mut there) = stream(&pair.server, &pair.agent).await;
    let (here_read, mut here_write) = here.into_split();
    // Fills every window: there is no room for the reset itself.
    fill(&mut here_write).await;
    drop(here_read);
    here_write.reset(ResetCode::TargetFailed);
    let error = read_whole(&mut there).await.unwrap_err();
    assert!(
        matches!(error, StreamError::Reset(ResetCode::TargetFailed)),
        "{error:?}"
    );
}

pub(crate) async fn a_dropped_open_leaves_nothing(pair: &Pair) {
    for _ in 0..50 {
        let mut opening = pin!(pair.server.open(target("nobody")));
        // Dropped wherever the first poll got to, be it nowhere or to the end.
        let polled = opening
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(opened) = polled {
            drop(opened.unwrap());
        }
    }
    // Those that came through are cancelled; the session goes on.
    let mut here = open(&pair.server).await;
    let there = loop {
        let incoming = incoming(&pair.agent).await;
        if incoming.id() == here.id() {
            break incoming;
        }
    };
    let mut there = there.accept().await.unwrap();
    within("the new one works", here.accepted()).await.unwrap();
    here.shutdown().await.unwrap();
    there.shutdown().await.unwrap();
    assert_eq!(read_whole(&mut there).await.unwrap(), b"");
}
