//! Backpressure: a stalled reader delays only its own stream.

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use underpass_tunnel::{ReadHalf, Stream};

use crate::bytes::{drink, fill, finish, pour, send, stream};
use crate::harness::{Pair, within};

/// The session's first credit, which is 256 KiB, with some to spare.
const BOUND: usize = 512 * 1024;

pub(crate) async fn a_reader_that_does_not_read_stalls_its_own_stream_only(pair: &Pair) {
    let (stalled, unread) = stream(&pair.server, &pair.agent).await;
    let (_stalled_read, mut stalled_write) = stalled.into_split();
    let taken = fill(&mut stalled_write).await;
    assert!(
        taken <= BOUND,
        "{taken} bytes were taken for a reader that reads nothing"
    );

    let (lively, other) = stream(&pair.server, &pair.agent).await;
    move_a_mebibyte(lively, other).await;

    // Once it reads, everything arrives.
    let (mut unread, _write) = unread.into_split();
    let (drained, ()) = tokio::join!(drink(&mut unread), finish(&mut stalled_write));
    assert_eq!(drained.unwrap().0, taken);
}

async fn move_a_mebibyte(from: Stream, to: Stream) {
    const TOTAL: usize = 1024 * 1024;
    let (_read, mut write) = from.into_split();
    let (mut read, _write) = to.into_split();
    let moved = async { tokio::join!(pour(&mut write, 3, TOTAL, 10_000), drink(&mut read)) };
    let (sent, received) = within("another stream flows", moved).await;
    let (total, hash) = received.unwrap();
    assert_eq!((total, hash.as_ref()), (TOTAL, sent.unwrap().as_ref()));
}

pub(crate) async fn many_streams_that_nobody_reads_do_not_stall_the_control_stream(pair: &Pair) {
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let (here, there) = stream(&pair.server, &pair.agent).await;
        let (read, mut write) = here.into_split();
        stalled.push(tokio::spawn(async move {
            // Ends when the reader goes.
            while write
                .write_bytes(Bytes::from(vec![7; 64 * 1024]))
                .await
                .is_ok()
            {}
            drop(read);
        }));
        stalled.push(tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(there);
        }));
    }
    let (lively, other) = stream(&pair.agent, &pair.server).await;
    move_a_mebibyte(lively, other).await;
    for task in &stalled {
        task.abort();
    }
}

/// The reading half, polled in a task of its own, must not take the writer's wake-up.
pub(crate) async fn a_blocked_writer_survives_a_reader_in_another_task(pair: &Pair) {
    let (here, there) = stream(&pair.server, &pair.agent).await;
    let (here_read, mut here_write) = here.into_split();
    let (mut there_read, mut there_write) = there.into_split();
    let filled = fill(&mut here_write).await;
    // Blocked, with its waker registered, in a task of its own.
    let writer = tokio::spawn(async move {
        here_write.write_all(&[7; 100_000]).await.unwrap();
        finish(&mut here_write).await;
    });
    // The reader is woken and polls again, while the window is still full.
    let mut reader = tokio::spawn(read_bytes(here_read, 3));
    for _ in 0..3 {
        send(&mut there_write, b".").await;
        tokio::task::yield_now().await;
    }
    let _here_read = within("the reader reads", &mut reader).await.unwrap();
    let total = within("the writer goes on", drink(&mut there_read))
        .await
        .unwrap()
        .0;
    assert_eq!(total, filled + 100_000);
    writer.await.unwrap();
}

async fn read_bytes(mut read: ReadHalf, count: usize) -> ReadHalf {
    let mut got = 0;
    while got < count {
        let bytes = within("bytes come", read.read_bytes()).await.unwrap();
        got += bytes.expect("no end yet").len();
    }
    read
}

/// A reading half that is dropped sends a STOP, and must not take the writer's wake-up either.
pub(crate) async fn a_blocked_writer_survives_its_dropped_reader(pair: &Pair) {
    let (here, there) = stream(&pair.server, &pair.agent).await;
    let (here_read, mut here_write) = here.into_split();
    let (mut there_read, _there_write) = there.into_split();
    let filled = fill(&mut here_write).await;
    let writer = tokio::spawn(async move {
        here_write.write_all(&[7; 100_000]).await.unwrap();
        finish(&mut here_write).await;
    });
    tokio::task::yield_now().await;
    drop(here_read);
    let total = within("the writer goes on", drink(&mut there_read))
        .await
        .unwrap()
        .0;
    assert_eq!(total, filled + 100_000);
    writer.await.unwrap();
}

pub(crate) async fn full_duplex_in_four_tasks_with_small_pieces(pair: &Pair) {
    const TOTAL: usize = 2 * 1024 * 1024;
    let (here, there) = stream(&pair.server, &pair.agent).await;
    let mut writers = Vec::new();
    let mut readers = Vec::new();
    for (end, seed, piece) in [(here, 5, 777), (there, 6, 1301)] {
        let (mut read, mut write) = end.into_split();
        writers.push(tokio::spawn(async move {
            pour(&mut write, seed, TOTAL, piece).await.unwrap()
        }));
        readers.push(tokio::spawn(async move { drink(&mut read).await.unwrap() }));
    }
    for (writer, reader) in writers.into_iter().zip(readers.into_iter().rev()) {
        let sent = within("the writer ends", writer).await.unwrap();
        let (total, hash) = within("the reader ends", reader).await.unwrap();
        assert_eq!((total, hash.as_ref()), (TOTAL, sent.as_ref()));
    }
}
