//! How sessions end.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::io::AsyncWriteExt;
use underpass_proto::handshake::HandshakeError;
use underpass_proto::limits;
use underpass_proto::session::{Ending, OpenRefused};
use underpass_tunnel::{
    AcceptorConfig, CloseCode, ConnectError, Connector, ConnectorConfig, OpenError, ResetCode,
    ResumeWindow, Session, SessionError, StreamError, Transports,
};

use crate::bytes::{drink, incoming, open, pour, read_whole, stream, target, write_until_error};
use crate::harness::{
    Kind, Pair, acceptor_config, connector_config, cuttable, fails, pair, pair_with, released, run,
    transports, until, within,
};
use crate::server::{Pki, Server};

const LONG: Duration = Duration::from_secs(60);

pub(crate) async fn drain_waits_for_live_streams(kind: Kind) {
    let Pair { agent, server, .. } = &pair(kind).await;
    let (mut here, mut there) = stream(server, agent).await;
    let draining = tokio::spawn({
        let server = server.clone();
        async move {
            server
                .drain(LONG, Duration::from_millis(1500), "new version")
                .await
        }
    });
    let go_away = within("the agent hears of it", agent.going_away())
        .await
        .unwrap();
    assert_eq!(
        (go_away.return_after_ms, go_away.reason.as_str()),
        (1500, "new version")
    );
    // The live stream goes on.
    here.write_all(b"still here").await.unwrap();
    here.shutdown().await.unwrap();
    assert_eq!(read_whole(&mut there).await.unwrap(), b"still here");
    assert!(!draining.is_finished());
    there.shutdown().await.unwrap();
    assert_eq!(read_whole(&mut here).await.unwrap(), b"");
    drop((here, there));
    within("the drain ends", draining).await.unwrap();
    let error = within("the agent hears of the end", agent.closed()).await;
    assert_closed_by_peer(&error, CloseCode::Shutdown, "new version");
}

/// Streams finished before the drain are read to their clean end, however late.
pub(crate) async fn drain_delivers_the_last_bytes(kind: Kind) {
    const TOTAL: usize = 200_000;
    let Pair { agent, server, .. } = &pair(kind).await;
    let mut writers = Vec::new();
    let mut readers = Vec::new();
    for _ in 0..40 {
        let (here, there) = stream(server, agent).await;
        writers.push(here.into_split().1);
        readers.push(there);
    }
    // All at once, so that all queues are full when the drain begins.
    let pouring = writers
        .iter_mut()
        .zip(1..)
        .map(|(write, seed)| pour(write, seed, TOTAL, 50_000));
    let sent = join_all(pouring).await;
    drop(writers);
    assert_eq!(server.open_streams(), 40, "nobody has read them");
    let draining = server.drain(LONG, Duration::ZERO, "bye");
    let reading = async {
        for (there, sent) in readers.into_iter().zip(sent) {
            let (mut read, _write) = there.into_split();
            let (total, hash) = within("the bytes arrive", drink(&mut read)).await.unwrap();
            assert_eq!((total, hash.as_ref()), (TOTAL, sent.unwrap().as_ref()));
        }
    };
    within("the drain ends", async { tokio::join!(draining, reading) }).await;
    within("the agent hears of the end", agent.closed()).await;
    assert_eq!(server.unacked_bytes(), 0);
}

pub(crate) async fn a_draining_session_opens_nothing(kind: Kind) {
    let Pair { agent, server, .. } = &pair(kind).await;
    let held = stream(server, agent).await;
    let draining = tokio::spawn({
        let agent = agent.clone();
        async move { agent.drain(LONG, Duration::ZERO, "leaving").await }
    });
    within("the server hears of it", server.going_away())
        .await
        .unwrap();
    for session in [agent, server] {
        let error = fails("opening while draining", session.open(target("late"))).await;
        assert!(
            matches!(error, OpenError::Refused(OpenRefused::Draining)),
            "{error:?}"
        );
        assert!(!session.is_open());
    }
    drop(held);
    within("the drain ends", draining).await.unwrap();
    let error = fails("opening afterwards", agent.open(target("late"))).await;
    assert!(matches!(error, OpenError::Session(_)), "{error:?}");
}

pub(crate) async fn code_and_reason_of_a_close_reach_the_peer(kind: Kind) {
    for code in (0..=0x0c).chain([0x4242]).map(CloseCode::from_wire) {
        let Pair { agent, server, .. } = &pair(kind).await;
        let (closing, other) = if code.to_wire() % 2 == 0 {
            (agent, server)
        } else {
            (server, agent)
        };
        closing.close(code, "because");
        let error = within("the peer hears of it", other.closed()).await;
        assert_closed_by_peer(&error, code, "because");
        let error = within("this side knows", closing.closed()).await;
        assert!(
            matches!(&error, SessionError::Ended(Ending::Local { code: seen, .. }) if *seen == code),
            "{error:?}"
        );
    }
}

pub(crate) async fn a_stream_knows_how_its_session_ended_as_soon_as_it_has(kind: Kind) {
    let Pair { agent, server, .. } = &pair(kind).await;
    let (mut here, there) = stream(server, agent).await;
    server.close(CloseCode::Shutdown, "because");
    let read = here.read_bytes().now_or_never().map(Result::unwrap_err);
    let written = here.write_bytes("late".into()).now_or_never();
    let opened = server.open(target("late")).now_or_never();
    let opened = opened.map(|opened| opened.map(drop).unwrap_err());
    assert!(
        matches!(
            (&read, &written, &opened, server.closed().now_or_never()),
            (
                Some(StreamError::Session(SessionError::Ended(
                    Ending::Local { .. }
                ))),
                Some(Err(StreamError::Session(SessionError::Ended(_)))),
                Some(OpenError::Session(SessionError::Ended(_))),
                Some(SessionError::Ended(Ending::Local { .. })),
            )
        ),
        "{read:?} {written:?} {opened:?}"
    );
    drop((here, there));
}

#[test]
fn a_session_ends_with_its_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (pair, mut here, there) = runtime.block_on(async {
        let pair = pair(Kind::Memory).await;
        let (here, there) = stream(&pair.server, &pair.agent).await;
        (pair, here, there)
    });
    drop(runtime);
    run(async move {
        for session in [&pair.agent, &pair.server] {
            let error = within("it is heard elsewhere", session.closed()).await;
            assert_eq!(error.close_code(), Some(CloseCode::Shutdown), "{error:?}");
        }
        let error = fails("nothing comes", here.read_bytes()).await;
        assert!(matches!(error, StreamError::Session(_)), "{error:?}");
        drop((pair, here, there));
    });
}

fn assert_closed_by_peer(error: &SessionError, code: CloseCode, reason: &str) {
    let SessionError::Ended(Ending::Peer {
        code: seen,
        reason: said,
    }) = error
    else {
        panic!("not closed by the peer: {error:?}");
    };
    assert_eq!((*seen, said.as_str()), (code, reason));
}

/// The peer is sending all it can: its unread bytes must not take the reason away from it.
pub(crate) async fn a_close_amid_bulk_data_arrives_with_its_reason(kind: Kind) {
    let Pair { agent, server, .. } = &pair(kind).await;
    let (here, there) = stream(agent, server).await;
    let pouring = tokio::spawn(async move {
        let (_read, mut write) = here.into_split();
        write_until_error(&mut write).await
    });
    let (mut read, _write) = there.into_split();
    let mut received = 0;
    while received < 2 * 1024 * 1024 {
        let bytes = within("bytes come", read.read_bytes())
            .await
            .unwrap()
            .unwrap();
        received += bytes.len();
    }
    server.close(CloseCode::Revoked, "token withdrawn");
    let error = within("the agent hears of it", agent.closed()).await;
    assert_closed_by_peer(&error, CloseCode::Revoked, "token withdrawn");
    pouring.await.unwrap();
    within("the reader hears of it", async {
        while read.read_bytes().await.unwrap_or_default().is_some() {}
    })
    .await;
}

pub(crate) async fn a_dead_transport_is_an_error_and_no_end(kind: Kind) {
    let cuttable = cuttable(kind).await;
    let (here, there) = stream(&cuttable.server, &cuttable.agent).await;
    let (mut here_read, mut here_write) = here.into_split();
    let (mut there_read, mut there_write) = there.into_split();
    crate::bytes::send(&mut here_write, b"x").await;
    crate::bytes::expect(&mut there_read, b"x").await;
    // Below the session, which therefore sends no CLOSE.
    cuttable.transport.close(CloseCode::Internal, "cut");
    for session in [&cuttable.agent, &cuttable.server] {
        within("the session ends", session.closed()).await;
    }
    for read in [&mut here_read, &mut there_read] {
        let error = fails("reading", read.read_bytes()).await;
        assert!(
            matches!(error, StreamError::Session(_) | StreamError::Reset(_)),
            "{error:?}"
        );
    }
    for write in [&mut here_write, &mut there_write] {
        let error = write_until_error(write).await;
        assert!(
            matches!(error, StreamError::Session(_) | StreamError::Stopped(_)),
            "{error:?}"
        );
    }
    assert!(!cuttable.agent.is_open() && !cuttable.server.is_open());
    let error = fails("opening", cuttable.server.open(target("late"))).await;
    assert!(matches!(error, OpenError::Session(_)), "{error:?}");
    drop((here_read, here_write, there_read, there_write));
    released(&cuttable.agent, &cuttable.server).await;
}

pub(crate) async fn the_last_handle_ends_the_session(kind: Kind) {
    let Pair { agent, server, .. } = pair(kind).await;
    let (mut here, there) = stream(&server, &agent).await;
    let clone = agent.clone();
    drop(agent);
    assert!(clone.is_open(), "one handle is enough");
    drop(clone);
    let error = within("the server hears of it", server.closed()).await;
    assert_eq!(error.close_code(), Some(CloseCode::Shutdown));
    // A stream does not keep its session alive.
    let error = read_whole(&mut here).await.unwrap_err();
    assert!(
        matches!(error, StreamError::Session(_) | StreamError::Reset(_)),
        "{error:?}"
    );
    drop((here, there));
    until("its place is free", || server.open_streams() == 0).await;
}

/// Waiting tasks on this side must hear of this side's close, too.
pub(crate) async fn local_close_wakes_everyone(kind: Kind) {
    let Pair { agent, server, .. } = &pair(kind).await;
    let (reading, there_1) = stream(server, agent).await;
    let (writing, there_2) = stream(server, agent).await;
    let mut unanswered = open(server).await;
    let (mut read, write) = reading.into_split();
    let reader = tokio::spawn(async move { read.read_bytes().await });
    let (read_2, mut write_2) = writing.into_split();
    let writer = tokio::spawn(async move { write_until_error(&mut write_2).await });
    let answered = tokio::spawn(async move { unanswered.accepted().await });
    let accepting = tokio::spawn({
        let server = server.clone();
        async move { server.accept().await.map(drop) }
    });
    let waiting = tokio::spawn({
        let server = server.clone();
        async move { server.going_away().await }
    });
    server.close(CloseCode::Shutdown, "enough");
    assert!(within("the reader wakes", reader).await.unwrap().is_err());
    within("the writer wakes", writer).await.unwrap();
    assert!(within("the opener wakes", answered).await.unwrap().is_err());
    assert!(
        within("the acceptor wakes", accepting)
            .await
            .unwrap()
            .is_err()
    );
    assert_eq!(within("the watcher wakes", waiting).await.unwrap(), None);
    within("the agent hears of it", agent.closed()).await;
    drop((write, read_2, there_1, there_2));
    released(agent, server).await;
}

pub(crate) async fn the_stream_limit_is_kept_and_given_back(kind: Kind) {
    let config = AcceptorConfig {
        max_streams: 3.try_into().unwrap(),
        ..acceptor_config()
    };
    let Pair { agent, server, .. } = &pair_with(kind, config).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(stream(agent, server).await);
    }
    let error = fails("one too many", agent.open(target("fourth"))).await;
    assert!(
        matches!(error, OpenError::Refused(OpenRefused::Limit(3))),
        "{error:?}"
    );
    // The limit is the agent's alone.
    drop(stream(server, agent).await);
    drop(held.pop());
    until("both sides have freed it", || {
        agent.open_streams() == 2 && server.open_streams() == 2
    })
    .await;
    held.push(stream(agent, server).await);
    drop(held);
    released(agent, server).await;
}

pub(crate) async fn streams_that_nobody_took_do_not_outlive_the_session(kind: Kind) {
    let Pair { agent, server, .. } = &pair(kind).await;
    let mut opened = Vec::new();
    for _ in 0..10 {
        opened.push(open(server).await);
    }
    until("they wait at the agent", || agent.open_streams() == 10).await;
    server.close(CloseCode::Shutdown, "never mind");
    within("the agent hears of it", agent.closed()).await;
    drop(opened);
    released(agent, server).await;
}

pub(crate) async fn a_queue_that_nobody_empties_refuses(kind: Kind) {
    let Pair { agent, server, .. } = &pair(kind).await;
    let mut opened = Vec::new();
    for _ in 0..limits::STREAMS_UNACCEPTED {
        opened.push(open(server).await);
    }
    until("they wait at the agent", || {
        agent.open_streams() == limits::STREAMS_UNACCEPTED
    })
    .await;
    // A stream counts before it stands in the queue, so that the first one more may have overtaken the
    // last one there: then nobody answers it, and the next is refused.
    let error = loop {
        let mut one_more = open(server).await;
        match fails("one too many", one_more.accepted()).await {
            StreamError::NoAnswer(_) => opened.push(one_more),
            error => break error,
        }
    };
    assert!(
        matches!(
            error,
            StreamError::Refused {
                code: ResetCode::Overloaded,
                ..
            }
        ),
        "{error:?}"
    );
    agent.close(CloseCode::Shutdown, "enough");
    within("the server hears of it", server.closed()).await;
    drop(opened);
    released(agent, server).await;
}

pub(crate) async fn accept_is_cancel_safe(kind: Kind) {
    const STREAMS: usize = 100;
    let Pair { agent, server, .. } = &pair(kind).await;
    let mut ids = Vec::new();
    let mut opened = Vec::new();
    let mut dropped = 0;
    while ids.len() < STREAMS {
        if opened.len() < STREAMS {
            opened.push(open(server).await);
        }
        // Polled once and dropped, at every stage of a stream's arrival.
        match agent.accept().now_or_never() {
            Some(incoming) => ids.push(incoming.unwrap().id()),
            None if opened.len() < STREAMS => dropped += 1,
            None => ids.push(incoming(agent).await.id()),
        }
    }
    assert!(dropped > 0, "no accept was ever dropped");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), STREAMS);
    drop(opened);
    released(agent, server).await;
}

/// Shared with tests that need a session to be of use still.
pub(crate) async fn still_works(opener: &Session, other: &Session) {
    let (mut here, mut there) = stream(opener, other).await;
    here.write_all(b"still works").await.unwrap();
    here.shutdown().await.unwrap();
    assert_eq!(read_whole(&mut there).await.unwrap(), b"still works");
}

/// The peer must not wait out the resume window for a process that has ended as planned.
#[test]
fn the_process_may_end_once_its_session_is_drained() {
    for kind in [Kind::Quic, Kind::WebSocket] {
        run(async move {
            let pki = Pki::new();
            let mut server = Server::start(&pki, acceptor_config()).await;
            for _ in 0..20 {
                let config = ConnectorConfig {
                    transports: transports(kind),
                    resume_window: ResumeWindow::default(),
                    ..connector_config(server.port, &pki)
                };
                let process = tokio::task::spawn_blocking(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap();
                    runtime.block_on(async {
                        let agent = Connector::new(config).unwrap().connect().await.unwrap();
                        let moment = Duration::from_secs(5);
                        agent.drain(moment, Duration::ZERO, "over").await;
                    });
                });
                let session = server.session().await;
                within("the process ends", process).await.unwrap();
                let error = within("the server was told", session.closed()).await;
                assert_eq!(error.close_code(), Some(CloseCode::Shutdown), "{error:?}");
            }
        });
    }
}

/// A key that was copied to where it does not belong must not take all the sessions that there may be.
#[test]
fn an_agent_has_no_more_sessions_than_its_share() {
    run(async {
        let pki = Pki::new();
        let config = AcceptorConfig {
            max_sessions_of_agent: 2,
            ..acceptor_config()
        };
        let mut server = Server::start(&pki, config).await;
        let port = server.port;
        let connect = async || {
            let config = ConnectorConfig {
                // Of two transports, the one that comes second may have its session for a moment.
                transports: Transports::WebSocket,
                ..connector_config(port, &pki)
            };
            Connector::new(config).unwrap().connect().await
        };
        let first = connect().await.unwrap();
        let second = connect().await.unwrap();
        let error = fails("a third", connect()).await;
        assert!(
            matches!(
                &error,
                ConnectError::Handshake(HandshakeError::ClosedByPeer { code: CloseCode::Overloaded, reason })
                    if reason.contains("2 sessions")
            ),
            "{error:?}"
        );
        assert!(!error.needs_attention(), "it may be over soon");
        let sessions = [server.session().await, server.session().await];
        first.close(CloseCode::Shutdown, "makes room");
        within("the server hears of it", sessions[0].closed()).await;
        let third = within("there is room again", async {
            loop {
                if let Ok(session) = connect().await {
                    break session;
                }
            }
        })
        .await;
        drop((second, third));
    });
}
