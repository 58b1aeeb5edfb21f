//! Peers that vanish without a word.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use underpass_proto::session::LinkEnd;
use underpass_tunnel::transport::{Transport, memory};
use underpass_tunnel::{
    AcceptorConfig, CloseCode, Connector, ConnectorConfig, LinkLoss, OpenError, OpenRequest,
    Session, SessionError, StreamError, Transports,
};

use crate::bytes::{open, stream, target};
use crate::harness::{acceptor_config, connector_config, fails, run, until, within};
use crate::peer::{PING, RawStream, let_in};
use crate::server::{Pki, Server};

const TWO_SECONDS: Duration = Duration::from_secs(2);

/// Stands between agent and server, and can stop forwarding.
struct Relay {
    port: u16,
    silent: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// Forwards one client's packets.
    async fn start(server: u16) -> Self {
        let front = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let back = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        back.connect((Ipv4Addr::LOCALHOST, server)).await.unwrap();
        let port = front.local_addr().unwrap().port();
        let silent = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        tasks.spawn(forward(front, back, Arc::clone(&silent)));
        Self {
            port,
            silent,
            _tasks: tasks,
        }
    }
}

/// An agent that has a session over QUIC, by a relay.
struct Connected {
    agent: Session,
    session: Session,
    relay: Relay,
    _kept: (Server, Connector),
}

impl Connected {
    async fn start(config: AcceptorConfig) -> Self {
        let pki = Pki::new();
        let mut server = Server::start(&pki, config).await;
        let relay = Relay::start(server.port).await;
        let connector = Connector::new(ConnectorConfig {
            transports: Transports::Quic,
            ..connector_config(relay.port, &pki)
        })
        .unwrap();
        let (agent, session) = server.connected(&connector).await;
        Self {
            agent,
            session,
            relay,
            _kept: (server, connector),
        }
    }
}

async fn forward(front: Arc<UdpSocket>, back: Arc<UdpSocket>, silent: Arc<AtomicBool>) {
    let mut client = None;
    let (mut up, mut down) = (vec![0; 65536], vec![0; 65536]);
    loop {
        tokio::select! {
            packet = front.recv_from(&mut up) => {
                let (len, from) = packet.unwrap();
                client = Some(from);
                if !silent.load(Ordering::Relaxed) {
                    let _ = back.send(&up[..len]).await;
                }
            }
            packet = back.recv(&mut down) => {
                if let (Ok(len), Some(client), false) = (packet, client, silent.load(Ordering::Relaxed)) {
                    let _ = front.send_to(&down[..len], client).await;
                }
            }
        }
    }
}

/// Nothing waits for it but a caller, and the keepalive asks after fifteen seconds.
#[test]
fn an_agent_that_vanishes_is_away_soon_for_a_caller_that_waits() {
    run(async {
        let connected = Connected::start(acceptor_config()).await;
        let Connected {
            agent,
            session,
            relay,
            ..
        } = &connected;
        let there = || tokio::time::timeout(TWO_SECONDS, session.away_for(Duration::ZERO));
        assert!(there().await.is_err(), "it answers");

        relay.silent.store(true, Ordering::Relaxed);
        let away = tokio::time::timeout(2 * TWO_SECONDS, session.away_for(TWO_SECONDS / 2));
        away.await.expect("it is away");
        relay.silent.store(false, Ordering::Relaxed);
        until("it answers again", || !session.is_suspect()).await;
        let back = there().await;
        assert!(back.is_err(), "it is back");

        agent.close(CloseCode::Shutdown, "test over");
        within("its end counts", session.away_for(Duration::MAX)).await;
    });
}

#[test]
fn an_agent_that_vanishes_is_suspect_at_once_and_lost_soon() {
    run(async {
        let config = AcceptorConfig {
            keepalive: Duration::from_secs(1).try_into().unwrap(),
            ..acceptor_config()
        };
        let connected = Connected::start(config).await;
        let Connected {
            agent,
            session,
            relay,
            ..
        } = &connected;
        let (mut here, there) = stream(session, agent).await;

        relay.silent.store(true, Ordering::Relaxed);
        let mut unanswered = open(session).await;
        let error = fails("nobody answers", unanswered.accepted()).await;
        assert!(matches!(error, StreamError::NoAnswer(_)), "{error:?}");
        assert!(session.is_suspect());
        let error = within("keepalive ends it", session.closed()).await;
        assert!(
            matches!(
                error,
                SessionError::Transport(LinkLoss::Link(LinkEnd::KeepaliveTimeout(_)))
            ),
            "{error:?}"
        );
        let error = fails("its streams end", here.read_bytes()).await;
        assert!(matches!(error, StreamError::Session(_)), "{error:?}");
        within("the agent notices, too", agent.closed()).await;
        drop((here, there, unanswered));
        until("nothing is left", || {
            agent.open_streams() + session.open_streams() == 0
        })
        .await;
    });
}

fn connector() -> Connector {
    Connector::new(connector_config(1, &Pki::new())).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_streams_and_never_answers() {
    let (here, there) = memory::pair();
    let connector = connector();
    let (agent, mut control) = tokio::join!(connector.establish(Arc::new(here)), let_in(&there));
    let agent = agent.unwrap();
    let start = tokio::time::Instant::now();
    let mut stream = open(&agent).await;
    let _held = there.accept().await.unwrap();
    let error = stream.accepted().await.unwrap_err();
    assert!(matches!(error, StreamError::NoAnswer(_)), "{error:?}");
    assert_eq!(start.elapsed().as_secs(), 3);
    assert!(agent.is_suspect());
    assert!(agent.is_open(), "it may recover");
    // It is asked at once whether it is there.
    assert_eq!(control.must().await.kind, PING);
    let error = agent.closed().await;
    assert!(
        matches!(
            error,
            SessionError::Transport(LinkLoss::Link(LinkEnd::KeepaliveTimeout(_)))
        ),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_not_even_the_header() {
    let (here, there) = memory::pair();
    let connector = connector();
    let (agent, _control) = tokio::join!(connector.establish(Arc::new(here)), let_in(&there));
    let agent = agent.unwrap();
    // Longer than the window, which is not opened any further.
    let request = OpenRequest {
        header: Bytes::from(vec![0; 256 * 1024]),
        ..target("test")
    };
    let start = tokio::time::Instant::now();
    let error = agent.open(request).await.unwrap_err();
    assert!(matches!(error, OpenError::NoAnswer(_)), "{error:?}");
    assert_eq!(start.elapsed().as_secs(), 3);
    assert!(agent.is_suspect());
    assert_eq!(agent.open_streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_busy_with_other_bytes_is_not_lost() {
    let (here, there) = memory::pair();
    let connector = connector();
    let (agent, control) = tokio::join!(connector.establish(Arc::new(here)), let_in(&there));
    let agent = agent.unwrap();
    let mut stream = open(&agent).await;
    let mut other = RawStream::new(there.accept().await.unwrap());
    other
        .send(crate::peer::frame(crate::peer::ANSWER, &[]))
        .await
        .unwrap();
    stream.accepted().await.unwrap();
    // Its PONG would stand behind these.
    for _ in 0..20 {
        tokio::time::advance(Duration::from_secs(3)).await;
        other.send(Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(stream.read_bytes().await.unwrap().unwrap(), "x");
    }
    assert!(agent.is_open());
    // Then nothing more: it is lost after all.
    let error = agent.closed().await;
    assert!(
        matches!(
            error,
            SessionError::Transport(LinkLoss::Link(LinkEnd::KeepaliveTimeout(_)))
        ),
        "{error:?}"
    );
    drop(control);
}
