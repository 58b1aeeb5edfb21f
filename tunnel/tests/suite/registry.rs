//! Which session the registry picks.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use underpass_tunnel::transport::{Transport, memory};
use underpass_tunnel::{
    Acceptor, Class, CloseCode, Connector, Dialer, DialerError, Registry, ResetCode, Session,
    SessionError, StreamError, limits,
};

use crate::bytes::{open, read_whole};
use crate::harness::{acceptor, acceptor_config, connector_config, fails, key, run, until, within};
use crate::peer::{PING, PONG, RawStream, frame, log_in};
use crate::server::Pki;

pub(crate) fn connector(pki: &Pki) -> Connector {
    Connector::new(connector_config(1, pki)).unwrap()
}

pub(crate) async fn join(connector: &Connector, acceptor: &Acceptor) -> (Session, Session) {
    let (here, there) = memory::pair();
    let (agent, server) = tokio::join!(
        connector.establish(Arc::new(here)),
        acceptor.accept(Arc::new(there))
    );
    (agent.unwrap(), server.unwrap().into_session().unwrap())
}

#[test]
fn the_same_process_takes_its_own_place() {
    run(async {
        let (pki, acceptor) = (Pki::new(), acceptor(acceptor_config()));
        let (registry, connector) = (Registry::new(), connector(&pki));
        let (first_agent, first) = join(&connector, &acceptor).await;
        registry.insert(first.clone());
        let (_second_agent, second) = join(&connector, &acceptor).await;
        registry.insert(second.clone());
        let error: SessionError = within("the old one ends", first_agent.closed()).await;
        assert_eq!(error.close_code(), Some(CloseCode::Superseded));
        assert!(registry.pick("edge-1").unwrap().is_same(&second));
        until("the old one is removed", || registry.sessions().len() == 1).await;
        // Its removal must not take the new one along.
        assert!(registry.pick("edge-1").unwrap().is_same(&second));
        second.close(CloseCode::Shutdown, "over");
        until("the new one is removed", || registry.sessions().is_empty()).await;
        assert!(registry.pick("edge-1").is_none());
    });
}

#[test]
fn a_dialer_finds_its_agent_or_says_that_it_is_not_there() {
    run(async {
        let (pki, acceptor) = (Pki::new(), acceptor(acceptor_config()));
        let registry = Registry::new();
        let dialer = Dialer::to_agent(registry.clone(), "edge-1", "echo")
            .class(Class::Interactive)
            .header(Bytes::from_static(b"for the target"));
        let error = fails("dialling nobody", dialer.dial()).await;
        assert!(
            matches!(&error, DialerError::NotConnected(agent) if agent == "edge-1"),
            "{error:?}"
        );
        let (agent, session) = join(&connector(&pki), &acceptor).await;
        registry.insert(session.clone());
        for dialer in [dialer, Dialer::new(session.clone(), "echo")] {
            let mut stream = dialer.dial().await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
            let incoming = agent.accept().await.unwrap();
            assert_eq!(incoming.target(), "echo");
            let mut taken = incoming.accept().await.unwrap();
            assert_eq!(read_whole(&mut taken).await.unwrap(), b"hello");
        }
        session.close(CloseCode::Shutdown, "over");
        let closed = Dialer::new(session, "echo");
        let error = fails("dialling a closed session", closed.dial()).await;
        assert!(matches!(error, DialerError::Open(_)), "{error:?}");
    });
}

#[test]
fn only_what_takes_streams_is_picked() {
    run(async {
        let (pki, acceptor) = (Pki::new(), acceptor(acceptor_config()));
        let registry = Registry::new();
        let (_agent_1, first) = join(&connector(&pki), &acceptor).await;
        let (agent_2, second) = join(&connector(&pki), &acceptor).await;
        registry.insert(first.clone());
        registry.insert(second.clone());
        assert!(registry.pick("edge-2").is_none());
        let only_first = |session: &Session| session.is_same(&first);
        for _ in 0..64 {
            let picked = registry.pick_where("edge-1", only_first).unwrap();
            assert!(picked.is_same(&first));
        }
        assert!(registry.pick_where("edge-1", |_| false).is_none());
        // One that drains is passed over at once. The agent has to know of the stream: without any, its drain is over.
        let held = open(&second).await;
        let taken = within("it comes", agent_2.accept()).await.unwrap();
        let draining = tokio::spawn(async move {
            let (long, soon) = (
                std::time::Duration::from_secs(60),
                std::time::Duration::ZERO,
            );
            agent_2.drain(long, soon, "rollout").await;
        });
        within("it is told", second.going_away()).await.unwrap();
        for _ in 0..64 {
            assert!(registry.pick("edge-1").unwrap().is_same(&first));
        }
        drop((held, taken));
        second.close(CloseCode::Shutdown, "over");
        within("the drain ends", draining).await.unwrap();
        until("it is removed", || registry.sessions().len() == 1).await;
        first.close(CloseCode::Shutdown, "over");
        until("none is left", || registry.sessions().is_empty()).await;
    });
}

#[test]
fn two_processes_of_one_agent_share_the_load_and_either_may_go() {
    run(async {
        let (pki, acceptor) = (Pki::new(), acceptor(acceptor_config()));
        let registry = Registry::new();
        let (agent_1, first) = join(&connector(&pki), &acceptor).await;
        let (agent_2, second) = join(&connector(&pki), &acceptor).await;
        registry.insert(first.clone());
        registry.insert(second.clone());
        let accepting = [agent_1.clone(), agent_2.clone()].map(|agent| {
            tokio::spawn(async move {
                let mut taken = Vec::new();
                while let Ok(incoming) = agent.accept().await {
                    // The dialer may give a stream up before it is accepted.
                    taken.extend(incoming.accept().await.ok());
                }
            })
        });
        let dialer = Dialer::to_agent(registry.clone(), "edge-1", "echo");
        let mut held = Vec::new();
        for _ in 0..40 {
            held.push(dialer.dial().await.unwrap());
        }
        // Streams that stay: the session with fewer of them has the next one.
        assert_eq!((first.open_streams(), second.open_streams()), (20, 20));
        // And streams that end at once: neither has all of them (once in 2^63 runs).
        drop(held);
        until("they have ended", || {
            first.open_streams() + second.open_streams() == 0
        })
        .await;
        let picks = (0..64).filter(|_| registry.pick("edge-1").unwrap().is_same(&first));
        assert!((1..64).contains(&picks.count()));
        second.close(CloseCode::Shutdown, "over");
        until("it is removed", || registry.sessions().len() == 1).await;
        let (session, _stream) = dialer.dial_session().await.unwrap();
        assert!(session.is_same(&first));
        first.close(CloseCode::Shutdown, "over");
        for accepting in accepting {
            within("it ends", accepting).await.unwrap();
        }
    });
}

#[tokio::test(start_paused = true)]
async fn one_of_two_that_refuses_does_not_get_every_stream() {
    let (pki, acceptor) = (Pki::new(), acceptor(acceptor_config()));
    let registry = Registry::new();
    let (agent_1, serving) = join(&connector(&pki), &acceptor).await;
    let (agent_2, refusing) = join(&connector(&pki), &acceptor).await;
    registry.insert(serving.clone());
    registry.insert(refusing.clone());
    tokio::spawn(async move {
        let mut taken = Vec::new();
        while let Ok(incoming) = agent_1.accept().await {
            taken.push(incoming.accept().await.unwrap());
        }
    });
    tokio::spawn(async move {
        while let Ok(incoming) = agent_2.accept().await {
            incoming.refuse(ResetCode::UnknownTarget, "not here");
        }
    });
    // It has fewer streams from the beginning.
    let _held = open(&serving).await;
    let dialer = Dialer::to_agent(registry.clone(), "edge-1", "echo");
    let refused = async |count: usize| {
        let mut refused = 0;
        for _ in 0..count {
            let mut stream = dialer.dial().await.unwrap();
            if stream.accepted().await.is_err() {
                refused += 1;
            }
        }
        refused
    };
    let count = refused(100).await;
    assert!((1..50).contains(&count), "{count}");
    // It has refused this target, and counts as refusing for a moment.
    assert!(refusing.has_refused("echo") && !refusing.has_refused("other"));
    let other = registry.pick_for("edge-1", "other").unwrap();
    assert!(other.is_same(&refusing));
    tokio::time::advance(limits::REFUSED_PASSED_OVER).await;
    assert!(!refusing.has_refused("echo"));
    // Alone it is asked all the same.
    assert_eq!(refused(1).await, 1);
    serving.close(CloseCode::Shutdown, "over");
    until("it is removed", || registry.sessions().len() == 1).await;
    assert_eq!(refused(3).await, 3);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_has_just_fallen_silent_is_waited_for() {
    let (pki, acceptor) = (Pki::new(), acceptor(acceptor_config()));
    let registry = Registry::new();
    let (_agent, healthy) = join(&connector(&pki), &acceptor).await;
    let (here, there) = memory::pair();
    let control = RawStream::new(here.open().await.unwrap());
    let (control, silent) = tokio::join!(log_in(control, key(1)), acceptor.accept(Arc::new(there)));
    let (mut control, silent) = (control, silent.unwrap().into_session().unwrap());
    registry.insert(healthy.clone());
    registry.insert(silent.clone());
    let begun = tokio::time::Instant::now();
    let waiting = open(&silent).await;
    until("its silence is noticed", || silent.is_suspect()).await;
    assert!(begun.elapsed().as_secs() < 1);
    for _ in 0..64 {
        assert!(registry.pick("edge-1").unwrap().is_same(&healthy));
    }
    healthy.close(CloseCode::Shutdown, "over");
    until("it is removed", || registry.sessions().len() == 1).await;
    // It may be back at once: a call that begins now waits for it, as those do that have begun.
    assert!(registry.pick("edge-1").unwrap().is_same(&silent));
    tokio::time::advance(limits::AWAY_GRACE).await;
    assert!(begun.elapsed() < limits::ANSWER_TIME);
    assert!(registry.pick("edge-1").is_none(), "it does not come back");
    loop {
        let ping = within("it is asked", control.must()).await;
        if ping.kind == PING {
            let pong = frame(PONG, &ping.body);
            control.send(pong).await.unwrap();
            break;
        }
    }
    until("it answers", || !silent.is_suspect()).await;
    assert!(registry.pick("edge-1").unwrap().is_same(&silent));
    drop(waiting);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_does_not_answer_is_passed_over() {
    let (pki, acceptor) = (Pki::new(), acceptor(acceptor_config()));
    let registry = Registry::new();
    let (_agent, healthy) = join(&connector(&pki), &acceptor).await;
    let (here, there) = memory::pair();
    let control = RawStream::new(here.open().await.unwrap());
    let (control, mute) = tokio::join!(log_in(control, key(1)), acceptor.accept(Arc::new(there)));
    let (mut control, mute) = (control, mute.unwrap().into_session().unwrap());
    registry.insert(healthy.clone());
    registry.insert(mute.clone());
    let mut stream = open(&mute).await;
    let error = fails("a stream without answer", stream.accepted()).await;
    assert!(matches!(error, StreamError::NoAnswer(_)), "{error:?}");
    assert!(mute.is_suspect());
    for _ in 0..64 {
        assert!(registry.pick("edge-1").unwrap().is_same(&healthy));
    }

    healthy.close(CloseCode::Shutdown, "over");
    assert!(
        registry.pick("edge-1").is_none(),
        "asking once more would only wait once more"
    );

    control.send(frame(PING, &[0; 8])).await.unwrap();
    until("it is heard again", || !mute.is_suspect()).await;
    assert!(registry.pick("edge-1").unwrap().is_same(&mute));
}
