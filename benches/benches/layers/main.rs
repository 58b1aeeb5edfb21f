//! The cost of each layer over the one below it: throughput and CPU of one bulk stream, and how long a
//! keystroke takes beside one. Both ends run in this process: only ratios within one run mean
//! anything.
//!
//! `cargo bench -p underpass-benches --bench layers [-- keystroke | NAME]`
#![allow(
    clippy::expect_used,
    reason = "a benchmark whose stream fails has nothing to measure"
)]
#![allow(clippy::print_stdout, reason = "it reports to whoever runs it")]

mod bulk;
mod keystroke;

use std::future::poll_fn;

use bytes::Bytes;
use underpass_tunnel::transport::{BiStream, RecvStream, SendStream, Transport};

/// Bytes that are written and read at once.
const CHUNK: usize = 64 * 1024;

/// Bytes under way on one stream of a transport that no session holds back: as many as a session's
/// credit allows at first. A semaphore stands in for the session.
const CREDIT: usize = 256 * 1024;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let only = arguments.iter().find(|argument| !argument.starts_with('-'));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    if only.is_none_or(|only| only != "keystroke") {
        bulk::report(&runtime, only.map(String::as_str));
    }
    if only.is_none_or(|only| only == "keystroke") {
        keystroke::report(&runtime);
    }
}

async fn try_read(stream: &mut dyn RecvStream) -> Option<usize> {
    let bytes = poll_fn(|cx| stream.poll_read_bytes(cx, CHUNK)).await;
    Some(bytes.ok()??.len())
}

async fn read(stream: &mut dyn RecvStream) -> usize {
    try_read(stream).await.expect("no error and no end")
}

async fn write(stream: &mut dyn SendStream, mut bytes: Bytes) {
    while !bytes.is_empty() {
        poll_fn(|cx| stream.poll_write_bytes(cx, &mut bytes))
            .await
            .expect("it is taken");
    }
    poll_fn(|cx| stream.poll_flush(cx))
        .await
        .expect("it is taken");
}

/// Both ends of a stream, at the side that opens it first.
async fn open(opener: &dyn Transport, other: &dyn Transport) -> (BiStream, BiStream) {
    let mut here = opener.open().await.expect("it opens");
    write(here.send.as_mut(), Bytes::from_static(b"x")).await;
    let mut there = other.accept().await.expect("it comes");
    assert_eq!(read(there.recv.as_mut()).await, 1);
    (here, there)
}
