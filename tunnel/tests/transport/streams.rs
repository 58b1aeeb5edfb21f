//! Streams: their bytes, their ends, their halves.

use std::future::poll_fn;

use tokio::task::JoinSet;
use underpass_tunnel::transport::HalfError;
use underpass_tunnel::{Class, ResetCode};

use crate::harness::{
    Pair, accept, connect, finish, open, pattern, read_all, read_exact, read_from, within, write,
    write_to, write_until_error,
};

fn codes() -> [ResetCode; 3] {
    [
        ResetCode::Cancelled,
        ResetCode::TargetFailed,
        ResetCode::Other(0x1234_5678),
    ]
}

pub(crate) async fn both_sides_open_and_accept(pair: Pair) {
    for (from, to) in [(&pair.here, &pair.there), (&pair.there, &pair.here)] {
        let (mut opened, mut accepted) = connect(from.as_ref(), to.as_ref()).await;
        write(&mut accepted, b"back").await;
        assert_eq!(read_exact(&mut opened, 4).await, b"back");
        finish(&mut opened).await.unwrap();
        finish(&mut accepted).await.unwrap();
        assert_eq!(read_all(&mut opened).await.unwrap(), b"");
        assert_eq!(read_all(&mut accepted).await.unwrap(), b"");
    }
}

pub(crate) async fn bytes_of_many_streams_do_not_mix(pair: Pair) {
    const LEN: usize = 300_000;
    let mut tasks = JoinSet::new();
    for seed in 0..20 {
        let (mut opened, mut accepted) = pair.stream().await;
        tasks.spawn(async move {
            for piece in pattern(seed, LEN).chunks(1 + 4000 * usize::from(seed)) {
                write(&mut opened, piece).await;
            }
            finish(&mut opened).await.unwrap();
        });
        tasks.spawn(async move {
            assert!(read_all(&mut accepted).await.unwrap() == pattern(seed, LEN));
        });
    }
    within("all arrive", tasks.join_all()).await;
}

pub(crate) async fn a_stream_is_seen_once_something_was_written(pair: Pair) {
    let silent = open(pair.here.as_ref()).await;
    let mut loud = open(pair.here.as_ref()).await;
    write(&mut loud, b"loud").await;
    let mut first = accept(pair.there.as_ref()).await;
    assert_eq!(read_exact(&mut first, 4).await, b"loud");
    drop(silent);
    // A stream that is given up before it was used may be seen or not, but harms nothing.
    let (mut opened, mut accepted) = connect(pair.there.as_ref(), pair.here.as_ref()).await;
    write(&mut opened, b"x").await;
    assert_eq!(read_exact(&mut accepted, 1).await, b"x");
}

pub(crate) async fn a_half_close_leaves_the_other_direction(pair: Pair) {
    let (mut opened, mut accepted) = pair.stream().await;
    write(&mut opened, b"question").await;
    finish(&mut opened).await.unwrap();
    assert_eq!(read_all(&mut accepted).await.unwrap(), b"question");
    let long = pattern(3, 500_000);
    let (sent, received) = tokio::join!(
        write_to(accepted.send.as_mut(), &long),
        read_exact(&mut opened, long.len())
    );
    sent.unwrap();
    assert!(received == long);
    finish(&mut accepted).await.unwrap();
    assert_eq!(read_all(&mut opened).await.unwrap(), b"");
    assert_eq!(
        read_all(&mut opened).await.unwrap(),
        b"",
        "and it stays ended"
    );
}

pub(crate) async fn a_reset_is_seen_with_its_code(pair: Pair) {
    for code in codes() {
        let (mut opened, mut accepted) = pair.stream().await;
        opened.send.reset(code);
        for _ in 0..2 {
            let error = read_all(&mut accepted).await.unwrap_err();
            assert!(
                matches!(error, HalfError::Reset(seen) if seen == code),
                "{error:?}"
            );
        }
        write(&mut accepted, b"still").await;
        assert_eq!(read_exact(&mut opened, 5).await, b"still");
    }
}

pub(crate) async fn a_stop_is_seen_with_its_code(pair: Pair) {
    for code in codes() {
        let (mut opened, mut accepted) = pair.stream().await;
        accepted.recv.stop(code);
        let error = write_until_error(opened.send.as_mut()).await;
        assert!(
            matches!(error, HalfError::Stopped(seen) if seen == code),
            "{error:?}"
        );
        write(&mut accepted, b"still").await;
        assert_eq!(read_exact(&mut opened, 5).await, b"still");
    }
}

pub(crate) async fn a_dropped_writer_is_a_reset(pair: Pair) {
    let (opened, mut accepted) = pair.stream().await;
    drop(opened.send);
    let error = read_all(&mut accepted).await.unwrap_err();
    assert!(
        matches!(error, HalfError::Reset(ResetCode::Cancelled)),
        "{error:?}"
    );
    drop(opened.recv);
}

pub(crate) async fn a_dropped_reader_is_a_stop(pair: Pair) {
    let (mut opened, accepted) = pair.stream().await;
    drop(accepted.recv);
    let error = write_until_error(opened.send.as_mut()).await;
    assert!(
        matches!(error, HalfError::Stopped(ResetCode::Cancelled)),
        "{error:?}"
    );
    drop(accepted.send);
}

pub(crate) async fn finishing_again_changes_nothing(pair: Pair) {
    let (mut opened, mut accepted) = pair.stream().await;
    write(&mut opened, b"all").await;
    for _ in 0..3 {
        finish(&mut opened).await.unwrap();
    }
    assert_eq!(read_all(&mut accepted).await.unwrap(), b"all");
    finish(&mut opened).await.unwrap();
}

pub(crate) async fn a_finished_half_takes_no_more(pair: Pair) {
    let (mut opened, mut accepted) = pair.stream().await;
    finish(&mut opened).await.unwrap();
    let error = write_to(opened.send.as_mut(), b"more").await.unwrap_err();
    assert!(matches!(error, HalfError::Finished), "{error:?}");
    assert_eq!(read_all(&mut accepted).await.unwrap(), b"");
}

pub(crate) async fn a_finished_stream_may_be_dropped(pair: Pair) {
    let (mut opened, mut accepted) = pair.stream().await;
    finish(&mut accepted).await.unwrap();
    assert_eq!(read_all(&mut opened).await.unwrap(), b"");
    let bytes = pattern(9, 100_000);
    write(&mut opened, &bytes).await;
    finish(&mut opened).await.unwrap();
    drop(opened);
    assert!(read_all(&mut accepted).await.unwrap() == bytes);
}

pub(crate) async fn a_stopped_writer_may_finish(pair: Pair) {
    let (mut opened, mut accepted) = pair.stream().await;
    accepted.recv.stop(ResetCode::Forbidden);
    let error = write_until_error(opened.send.as_mut()).await;
    assert!(
        matches!(error, HalfError::Stopped(ResetCode::Forbidden)),
        "{error:?}"
    );
    finish(&mut opened).await.unwrap();
}

pub(crate) async fn halves_live_in_different_tasks(pair: Pair) {
    const LEN: usize = 2_000_000;
    let (opened, accepted) = pair.stream().await;
    let mut tasks = JoinSet::new();
    for (mut stream_send, mut stream_recv, seed) in [
        (opened.send, accepted.recv, 1),
        (accepted.send, opened.recv, 2),
    ] {
        tasks.spawn(async move {
            for piece in pattern(seed, LEN).chunks(777) {
                write_to(stream_send.as_mut(), piece).await.unwrap();
            }
            poll_fn(|cx| stream_send.poll_finish(cx)).await.unwrap();
        });
        tasks.spawn(async move {
            let mut got = Vec::new();
            while let Some(bytes) = read_from(stream_recv.as_mut()).await.unwrap() {
                got.extend_from_slice(&bytes);
            }
            assert!(got == pattern(seed, LEN));
        });
    }
    within("all arrives", tasks.join_all()).await;
}

pub(crate) async fn reads_give_no_more_than_was_asked_for(pair: Pair) {
    let (mut opened, mut accepted) = pair.stream().await;
    let bytes = pattern(5, 70_000);
    write(&mut opened, &bytes).await;
    let mut got = Vec::new();
    for max in (1..).map(|i| 1 + i % 999) {
        let piece = within("more", poll_fn(|cx| accepted.recv.poll_read_bytes(cx, max))).await;
        let piece = piece.unwrap().unwrap();
        assert!(!piece.is_empty() && piece.len() <= max);
        got.extend_from_slice(&piece);
        if got.len() == bytes.len() {
            break;
        }
    }
    assert!(got == bytes);
}

pub(crate) async fn a_reset_half_stays_reset(pair: Pair) {
    let (mut opened, mut accepted) = pair.stream().await;
    opened.send.reset(ResetCode::Forbidden);
    opened.send.reset(ResetCode::Overloaded);
    let error = write_to(opened.send.as_mut(), b"x").await.unwrap_err();
    assert!(
        matches!(error, HalfError::Reset(ResetCode::Forbidden)),
        "{error:?}"
    );
    let error = finish(&mut opened).await.unwrap_err();
    assert!(
        matches!(error, HalfError::Reset(ResetCode::Forbidden)),
        "{error:?}"
    );
    drop(opened);
    let error = read_all(&mut accepted).await.unwrap_err();
    assert!(
        matches!(error, HalfError::Reset(ResetCode::Forbidden)),
        "{error:?}"
    );
}

pub(crate) async fn who_stopped_reads_no_more(pair: Pair) {
    let (mut opened, mut accepted) = pair.stream().await;
    write(&mut opened, b"unread").await;
    accepted.recv.stop(ResetCode::Forbidden);
    let error = read_all(&mut accepted).await.unwrap_err();
    assert!(
        matches!(error, HalfError::Reset(ResetCode::Forbidden)),
        "{error:?}"
    );
}

pub(crate) async fn thousands_of_streams_leave_nothing(pair: Pair) {
    for round in 0..2000 {
        let (mut opened, mut accepted) = match round % 2 {
            0 => connect(pair.here.as_ref(), pair.there.as_ref()).await,
            _ => connect(pair.there.as_ref(), pair.here.as_ref()).await,
        };
        match round % 5 {
            0 => finish(&mut opened).await.unwrap(),
            1 => opened.send.reset(ResetCode::Cancelled),
            2 => accepted.recv.stop(ResetCode::Cancelled),
            3 => drop(opened),
            _ => drop(accepted),
        }
    }
    let (mut opened, mut accepted) = pair.stream().await;
    write(&mut opened, b"x").await;
    assert_eq!(read_exact(&mut accepted, 1).await, b"x");
}

pub(crate) async fn priorities_lose_nothing(pair: Pair) {
    const LEN: usize = 400_000;
    let mut tasks = JoinSet::new();
    for (seed, class) in [Class::Bulk, Class::Interactive, Class::Default, Class::Bulk]
        .into_iter()
        .enumerate()
    {
        let seed = u8::try_from(seed).unwrap();
        let (mut opened, mut accepted) = pair.stream().await;
        tasks.spawn(async move {
            for (i, piece) in pattern(seed, LEN).chunks(10_000).enumerate() {
                // In the middle of everything.
                if i % 7 == 0 {
                    opened.send.prioritize(class);
                }
                write(&mut opened, piece).await;
                if i % 11 == 0 {
                    opened.send.prioritize(Class::Default);
                }
            }
            finish(&mut opened).await.unwrap();
        });
        tasks.spawn(async move {
            assert!(read_all(&mut accepted).await.unwrap() == pattern(seed, LEN));
        });
    }
    within("all arrive", tasks.join_all()).await;
}
