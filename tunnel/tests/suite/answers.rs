//! When an ANSWER goes out. Time passes only where everybody waits for it.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use underpass_proto::limits;
use underpass_tunnel::{IncomingStream, Session, Stream};

use crate::bytes::{incoming, open};
use crate::harness::{acceptor, acceptor_config};
use crate::registry::{connector, join};
use crate::server::Pki;

/// A stream that the peer has asked for; the sessions are to be kept.
async fn opened() -> (Stream, IncomingStream, (Session, Session)) {
    let (pki, acceptor) = (Pki::new(), acceptor(acceptor_config()));
    let (agent, server) = join(&connector(&pki), &acceptor).await;
    let here = open(&server).await;
    let there = incoming(&agent).await;
    (here, there, (agent, server))
}

/// A stream at both ends, which its peer has just taken, to answer with its first bytes.
async fn taken() -> (Stream, Stream, (Session, Session)) {
    let (here, there, sessions) = opened().await;
    (here, there.accept_coalesced().await.unwrap(), sessions)
}

async fn answered_after(here: &mut Stream) -> Duration {
    let begun = Instant::now();
    here.accepted().await.unwrap();
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn an_answer_goes_at_once() {
    let (mut here, there, _sessions) = opened().await;
    let _there = there.accept().await.unwrap();
    assert_eq!(answered_after(&mut here).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_answer_does_not_wait_for_bytes_for_long() {
    let (mut here, mut there, _sessions) = taken().await;
    // As hyper does before it has anything to say.
    there.flush().await.unwrap();
    let after = answered_after(&mut here).await;
    let delay = limits::ACK_DELAY;
    assert!(
        after > delay / 2 && after <= delay + Duration::from_millis(1),
        "{after:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_goes_with_the_first_bytes() {
    let (mut here, mut there, _sessions) = taken().await;
    there.write_all(b"first").await.unwrap();
    there.flush().await.unwrap();
    assert_eq!(answered_after(&mut here).await, Duration::ZERO);
    let first = here.read_bytes().await.unwrap().unwrap();
    assert_eq!(first, &b"first"[..]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_goes_with_the_end_of_a_stream_without_bytes() {
    let (mut here, mut there, _sessions) = taken().await;
    there.shutdown().await.unwrap();
    assert_eq!(answered_after(&mut here).await, Duration::ZERO);
    assert_eq!(here.read_bytes().await.unwrap(), None);
}
