//! How connections end, and which tasks hear of it.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use underpass_tunnel::transport::{BiStream, HalfError, TransportError};
use underpass_tunnel::{CloseCode, ResetCode};

use crate::harness::{
    Kind, Pair, accept, finish, open, pattern, read_all, read_exact, read_from, until, within,
    write, write_until_error,
};

fn closed_here(error: &HalfError) -> bool {
    matches!(error, HalfError::Transport(TransportError::ClosedHere))
}

/// yamux has no place for a code and a reason.
fn closed_there(kind: Kind, error: &TransportError) -> bool {
    match error {
        TransportError::ClosedByPeer { code, reason } => {
            *code == CloseCode::Revoked && reason == "because"
        }
        TransportError::Lost(_) => kind == Kind::YamuxTls,
        _ => false,
    }
}

/// Of a stream whose connection the other end has ended, or lost. A reader or writer of a yamux stream may see
/// it end before the connection's driver has said why; that is no clean end either.
fn ended_with(kind: Kind, error: HalfError, why: impl Fn(&TransportError) -> bool) -> bool {
    match error {
        HalfError::Transport(error) => why(&error),
        HalfError::Reset(ResetCode::Cancelled) | HalfError::Stopped(ResetCode::Cancelled) => {
            kind == Kind::YamuxTls
        }
        _ => false,
    }
}

fn is_lost(error: &TransportError) -> bool {
    matches!(error, TransportError::Lost(_))
}

pub(crate) async fn what_was_finished_before_a_close_arrives(pair: Pair) {
    let bytes = pattern(1, 200_000);
    let mut readers = Vec::new();
    for _ in 0..4 {
        let (mut opened, mut accepted) = pair.stream().await;
        let expected = bytes.clone();
        readers.push(tokio::spawn(async move {
            assert!(read_all(&mut accepted).await.unwrap() == expected);
        }));
        write(&mut opened, &bytes).await;
        finish(&mut opened).await.unwrap();
        drop(opened);
    }
    pair.here.close(CloseCode::Revoked, "because");
    for reader in readers {
        within("it arrives", reader).await.unwrap();
    }
    let error = within("the other end hears", pair.there.closed()).await;
    assert!(closed_there(pair.kind, &error), "{error:?}");
}

/// A reader and a writer that sleep.
fn sleepers(mut stream: BiStream) -> [tokio::task::JoinHandle<HalfError>; 2] {
    let mut recv = stream.recv;
    [
        tokio::spawn(async move {
            loop {
                match read_from(recv.as_mut()).await {
                    Ok(bytes) => assert!(bytes.is_some(), "no clean end"),
                    Err(error) => return error,
                }
            }
        }),
        tokio::spawn(async move { write_until_error(stream.send.as_mut()).await }),
    ]
}

pub(crate) async fn a_close_wakes_everybody_here(pair: Pair) {
    let (opened, accepted) = pair.stream().await;
    let sleepers = sleepers(opened);
    let here = Arc::clone(&pair.here);
    let accepting = tokio::spawn(async move { here.accept().await });
    let mut keep = pair.stream().await;
    pair.here.close(CloseCode::Shutdown, "bye");
    for sleeper in sleepers {
        let error = within("it is woken", sleeper).await.unwrap();
        assert!(closed_here(&error), "{error:?}");
    }
    let error = within("it is woken", accepting).await.unwrap().unwrap_err();
    assert!(matches!(error, TransportError::ClosedHere), "{error:?}");
    let error = write_until_error(keep.0.send.as_mut()).await;
    assert!(closed_here(&error), "{error:?}");
    let error = finish(&mut keep.0).await.unwrap_err();
    assert!(closed_here(&error), "{error:?}");
    let error = within("it has ended", pair.here.closed()).await;
    assert!(matches!(error, TransportError::ClosedHere), "{error:?}");
    let error = pair.here.open().await.unwrap_err();
    assert!(matches!(error, TransportError::ClosedHere), "{error:?}");
    drop(accepted);
}

pub(crate) async fn a_close_wakes_everybody_there(pair: Pair) {
    let (opened, accepted) = pair.stream().await;
    let sleepers = sleepers(accepted);
    // The writer's bytes are read for a while, so that the close is amid them.
    let mut opened = opened;
    read_exact(&mut opened, 500_000).await;
    let there = Arc::clone(&pair.there);
    let accepting = tokio::spawn(async move { there.accept().await });
    tokio::task::yield_now().await;
    pair.here.close(CloseCode::Revoked, "because");
    for sleeper in sleepers {
        let error = within("it is woken", sleeper).await.unwrap();
        let said = format!("{error:?}");
        let why = |error: &_| closed_there(pair.kind, error);
        assert!(ended_with(pair.kind, error, why), "{said}");
    }
    let error = within("it is woken", accepting).await.unwrap().unwrap_err();
    assert!(closed_there(pair.kind, &error), "{error:?}");
    let error = within("it has ended", pair.there.closed()).await;
    assert!(closed_there(pair.kind, &error), "{error:?}");
}

pub(crate) async fn a_peer_that_vanishes_is_a_loss(pair: Pair) {
    let (mut opened, accepted) = pair.stream().await;
    let sleepers = sleepers(accepted);
    read_exact(&mut opened, 100).await;
    pair.cut.now();
    // The end that notices is the one whose reads and writes fail; the other sees its socket close.
    for transport in [&pair.here, &pair.there] {
        let error = within("it is noticed", transport.closed()).await;
        assert!(matches!(error, TransportError::Lost(_)), "{error:?}");
    }
    for sleeper in sleepers {
        let error = within("it is woken", sleeper).await.unwrap();
        let said = format!("{error:?}");
        assert!(ended_with(pair.kind, error, is_lost), "{said}");
    }
    // Received bytes are read before the error, and no clean end behind them.
    let error = read_all(&mut opened).await.unwrap_err();
    let said = format!("{error:?}");
    assert!(ended_with(pair.kind, error, is_lost), "{said}");
}

pub(crate) async fn a_dropped_transport_is_closed(pair: Pair) {
    let (opened, mut accepted) = pair.stream().await;
    drop(pair.here);
    let error = read_all(&mut accepted).await.unwrap_err();
    let said = format!("{error:?}");
    assert!(ended_with(pair.kind, error, |_| true), "{said}");
    let _ = within("it has ended", pair.there.closed()).await;
    drop(opened);
}

pub(crate) async fn bytes_are_heard(pair: Pair) {
    let (mut opened, mut accepted) = pair.stream().await;
    let before = pair.there.last_heard().unwrap();
    until("time passes and bytes come", || {
        before.elapsed() > Duration::from_millis(20)
    })
    .await;
    write(&mut opened, b"x").await;
    assert_eq!(read_exact(&mut accepted, 1).await, b"x");
    let heard = pair.there.last_heard().unwrap();
    assert!(heard > before && heard <= Instant::now());
}

pub(crate) async fn the_unauthenticated_get_one_stream(pair: Pair) {
    let pair = Pair::unauthenticated(pair.kind).await;
    let (mut first, mut accepted) = pair.stream().await;
    let mut early = open(pair.here.as_ref()).await;
    write(&mut early, b"early").await;
    let error = read_all(&mut early).await.unwrap_err();
    assert!(
        matches!(error, HalfError::Reset(ResetCode::Cancelled)),
        "{error:?}"
    );
    drop(early);
    write(&mut first, b"proof").await;
    assert_eq!(read_exact(&mut accepted, 5).await, b"proof");
    pair.there.authenticated();
    let mut good = open(pair.here.as_ref()).await;
    write(&mut good, b"good").await;
    let mut next = accept(pair.there.as_ref()).await;
    assert_eq!(read_exact(&mut next, 4).await, b"good");
    let _ = poll_fn(|cx| good.send.poll_finish(cx)).await;
}
