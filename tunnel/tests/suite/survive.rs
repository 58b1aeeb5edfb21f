//! Sessions that outlive their transports.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use underpass_proto::handshake::{
    Ask, AwaitChallenge, Either, EitherSession, Resumption, ThatSession,
};
use underpass_proto::secret::SessionSecret;
use underpass_proto::session::LinkRole;
use underpass_tunnel::transport::{Transport, memory};
use underpass_tunnel::{
    Accepted, Acceptor, AcceptorConfig, CloseCode, ConnectError, Connector, ConnectorConfig,
    LinkLoss, OpenError, Reconnected, ResetCode, Session, SessionError, Stream, StreamError,
};

use crate::bytes::{drink, incoming, open, pour, read_whole, send, stream, target};
use crate::harness::{
    Kind, acceptor, acceptor_config, connector_config, fails, key, offers, released, run, until,
    within,
};
use crate::life::still_works;
use crate::peer::{RawStream, local};
use crate::relay::Relay;
use crate::server::{Pki, Server};
use underpass_http_proxy::testing::HttpProxy;

const WINDOW: Duration = Duration::from_secs(60);

/// How transports come about.
enum Network {
    Memory(Arc<Acceptor>),
    Loopback {
        kind: Kind,
        pki: Pki,
        server: u16,
        relay: Relay,
        lanes: Relay,
        proxy: Option<HttpProxy>,
    },
}

/// A session whose transports the test cuts and brings.
pub(crate) struct Survivor {
    connector: Connector,
    network: Network,
    pub(crate) agent: Session,
    pub(crate) server: Session,
    transport: Mutex<Arc<dyn Transport>>,
    lane: Mutex<Option<Arc<dyn Transport>>>,
    _listener: Option<Server>,
}

impl Survivor {
    pub(crate) async fn start(kind: Kind) -> Self {
        Self::start_with(kind, WINDOW).await
    }

    async fn start_with(kind: Kind, window: Duration) -> Self {
        let pki = Pki::new();
        let config = AcceptorConfig {
            resume_window: window.try_into().unwrap(),
            ..acceptor_config()
        };
        let connector = Connector::new(ConnectorConfig {
            resume_window: window.try_into().unwrap(),
            ..connector_config(1, &pki)
        })
        .unwrap();
        if kind == Kind::Memory {
            let acceptor = acceptor(config);
            let (here, there) = memory::pair();
            let here: Arc<dyn Transport> = Arc::new(here);
            let (agent, server) = tokio::join!(
                connector.establish(Arc::clone(&here)),
                acceptor.accept(Arc::new(there))
            );
            return Self {
                connector,
                network: Network::Memory(acceptor),
                agent: agent.unwrap(),
                server: server.unwrap().into_session().unwrap(),
                transport: Mutex::new(here),
                lane: Mutex::new(None),
                _listener: None,
            };
        }
        let mut listener = Server::start(&pki, config).await;
        let network = Network::Loopback {
            kind,
            server: listener.port,
            relay: Relay::start(listener.port).await,
            lanes: Relay::start(listener.port).await,
            proxy: crate::harness::proxy(kind).await,
            pki,
        };
        let transport = network.dial().await;
        let (agent, server) = tokio::join!(
            connector.establish(Arc::clone(&transport)),
            listener.session()
        );
        Self {
            connector,
            network,
            agent: agent.unwrap(),
            server,
            transport: Mutex::new(transport),
            lane: Mutex::new(None),
            _listener: Some(listener),
        }
    }

    /// Cuts the transport below the session: no CLOSE, and bytes in flight are lost.
    fn cut(&self) {
        if let Network::Loopback {
            kind: Kind::WebSocket | Kind::Proxied | Kind::Yamux,
            relay,
            ..
        } = &self.network
        {
            return relay.cut();
        }
        let transport = Arc::clone(&self.transport.lock().unwrap());
        transport.close(CloseCode::TransportLeft, "cut");
    }

    /// Dials a lane.
    pub(crate) async fn add_lane(&self) -> Result<(), ConnectError> {
        let transport = self.network.dial_lane().await;
        *self.lane.lock().unwrap() = Some(Arc::clone(&transport));
        self.connector.add_lane(&self.agent, transport).await
    }

    /// Cuts the last lane, as [`cut`](Self::cut) cuts the other one.
    pub(crate) fn cut_lane(&self) {
        if let Network::Loopback {
            kind: Kind::WebSocket | Kind::Proxied | Kind::Yamux,
            lanes,
            ..
        } = &self.network
        {
            return lanes.cut();
        }
        if let Some(lane) = self.lane.lock().unwrap().take() {
            lane.close(CloseCode::TransportLeft, "cut");
        }
    }

    /// Bytes that lanes have carried; `None` where nothing counts them.
    pub(crate) fn lane_bytes(&self) -> Option<u64> {
        match &self.network {
            Network::Loopback {
                kind: Kind::WebSocket | Kind::Proxied | Kind::Yamux,
                lanes,
                ..
            } => Some(lanes.carried()),
            _ => None,
        }
    }

    /// Cuts, and waits until both sides know.
    pub(crate) async fn detach(&self) {
        self.cut();
        within("the agent notices", self.agent.detached()).await;
        within("the server notices", self.server.detached()).await;
    }

    pub(crate) async fn resume(&self) {
        let transport = self.network.dial().await;
        *self.transport.lock().unwrap() = Arc::clone(&transport);
        let resumed = self.connector.resume(&self.agent, transport).await;
        assert!(matches!(resumed, Ok(Reconnected::Resumed)), "{resumed:?}");
        within("the server has it", self.server.attached()).await;
    }

    /// Cuts and resumes every `pause`, for ever.
    pub(crate) async fn keep_cutting(&self, pause: Duration) -> ! {
        loop {
            tokio::time::sleep(pause).await;
            self.cut();
            let transport = self.network.dial().await;
            *self.transport.lock().unwrap() = Arc::clone(&transport);
            // It may be cut in the middle of its handshake.
            let _ = self.connector.resume(&self.agent, transport).await;
        }
    }

    pub(crate) async fn over(self) {
        released(&self.agent, &self.server).await;
        for session in [&self.agent, &self.server] {
            until("nothing is kept", || session.unacked_bytes() == 0).await;
        }
        self.agent.close(CloseCode::Shutdown, "test over");
        within("the other side hears of the end", self.server.closed()).await;
    }
}

impl Network {
    async fn dial(&self) -> Arc<dyn Transport> {
        self.dial_by(|network| match network {
            Self::Memory(_) => 0,
            Self::Loopback { relay, .. } => relay.port,
        })
        .await
    }

    async fn dial_lane(&self) -> Arc<dyn Transport> {
        self.dial_by(|network| match network {
            Self::Memory(_) => 0,
            Self::Loopback { lanes, .. } => lanes.port,
        })
        .await
    }

    /// Dials; WebSockets go by the port of a relay.
    async fn dial_by(&self, relay: impl Fn(&Self) -> u16) -> Arc<dyn Transport> {
        let port = relay(self);
        match self {
            Self::Memory(acceptor) => {
                let (here, there) = memory::pair();
                let acceptor = Arc::clone(acceptor);
                tokio::spawn(async move { acceptor.accept(Arc::new(there)).await });
                Arc::new(here)
            }
            Self::Loopback {
                kind: Kind::Quic,
                pki,
                server,
                ..
            } => Arc::new(crate::dial::quic(pki, *server).await),
            Self::Loopback {
                kind,
                pki,
                proxy: Some(proxy),
                ..
            } => {
                let socket = proxy.connect(port).await.unwrap();
                crate::dial::websocket_on(pki, port, socket, offers(*kind)).await
            }
            Self::Loopback { kind, pki, .. } => {
                crate::dial::websocket(pki, port, offers(*kind)).await
            }
        }
    }
}

pub(crate) async fn transfer(stream: Stream, seed: u64, total: usize) -> (Vec<u8>, Vec<u8>) {
    let (mut read, mut write) = stream.into_split();
    let (sent, received) = tokio::join!(pour(&mut write, seed, total, 48 * 1024), drink(&mut read));
    let (len, received) = received.unwrap();
    assert_eq!(len, total);
    (sent.unwrap().as_ref().to_vec(), received.as_ref().to_vec())
}

/// 256 MiB: two streams, one opened by each side, 64 MiB in each direction of each.
pub(crate) async fn a_transfer_survives_a_cut_every_50_ms(kind: Kind) {
    const TOTAL: usize = 64 * 1024 * 1024;
    let survivor = Survivor::start(kind).await;
    let (Survivor { agent, server, .. }, mut transfers) = (&survivor, Vec::new());
    for (opener, other) in [(agent, server), (server, agent)] {
        let (here, there) = stream(opener, other).await;
        transfers.push((transfer(here, 1, TOTAL), transfer(there, 2, TOTAL)));
    }
    let all = async {
        for ((here_sent, here_got), (there_sent, there_got)) in futures_util::future::join_all(
            transfers
                .into_iter()
                .map(|(here, there)| async { tokio::join!(here, there) }),
        )
        .await
        {
            assert!(
                here_sent == there_got && there_sent == here_got,
                "bytes differ"
            );
        }
    };
    tokio::select! {
        () = all => {}
        _ = survivor.keep_cutting(Duration::from_millis(50)) => {}
    }
    survivor.resume().await;
    survivor.over().await;
}

pub(crate) async fn many_short_streams_survive_cuts(kind: Kind) {
    let survivor = Survivor::start(kind).await;
    let (agent, server) = (survivor.agent.clone(), survivor.server.clone());
    let echo = tokio::spawn(async move {
        while let Ok(incoming) = agent.accept().await {
            tokio::spawn(async move {
                let mut stream = incoming.accept().await.unwrap();
                let whole = read_whole(&mut stream).await.unwrap();
                stream.write_all(&whole).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
    });
    let ask = async {
        for round in 0..400_u32 {
            let mut stream = open(&server).await;
            stream.write_all(&round.to_be_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            assert_eq!(read_whole(&mut stream).await.unwrap(), round.to_be_bytes());
        }
    };
    tokio::select! {
        () = ask => {}
        _ = survivor.keep_cutting(Duration::from_millis(20)) => {}
    }
    survivor.resume().await;
    survivor.over().await;
    within("the echo ends", echo).await.unwrap();
}

pub(crate) async fn half_closed_streams_survive(kind: Kind) {
    let survivor = Survivor::start(kind).await;
    let Survivor { agent, server, .. } = &survivor;
    for (opener, other) in [(agent, server), (server, agent)] {
        let (mut here, mut there) = stream(opener, other).await;
        here.write_all(b"question").await.unwrap();
        here.shutdown().await.unwrap();
        survivor.detach().await;
        // Written while there is no transport.
        there.write_all(b"ans").await.unwrap();
        there.flush().await.unwrap();
        survivor.resume().await;
        assert_eq!(read_whole(&mut there).await.unwrap(), b"question");
        there.write_all(b"wer").await.unwrap();
        there.shutdown().await.unwrap();
        survivor.detach().await;
        survivor.resume().await;
        assert_eq!(read_whole(&mut here).await.unwrap(), b"answer");
    }
    survivor.over().await;
}

pub(crate) async fn ends_that_were_said_without_a_transport_arrive(kind: Kind) {
    let survivor = Survivor::start(kind).await;
    let Survivor { agent, server, .. } = &survivor;
    for (opener, other) in [(agent, server), (server, agent)] {
        let (reset, reset_there) = stream(opener, other).await;
        let (stopped, stopped_there) = stream(opener, other).await;
        let (dropped, mut dropped_there) = stream(opener, other).await;
        survivor.detach().await;
        reset.into_split().1.reset(ResetCode::TargetFailed);
        let (stopped_read, mut stopped_write) = stopped.into_split();
        stopped_read.stop(ResetCode::Forbidden);
        drop(dropped);
        survivor.resume().await;
        let (mut read, _write) = reset_there.into_split();
        let error = fails("a reset stream", read.read_bytes()).await;
        assert!(
            matches!(error, StreamError::Reset(ResetCode::TargetFailed)),
            "{error:?}"
        );
        let (_read, mut write) = stopped_there.into_split();
        let error = crate::bytes::write_until_error(&mut write).await;
        assert!(
            matches!(error, StreamError::Stopped(ResetCode::Forbidden)),
            "{error:?}"
        );
        let error = fails("a dropped stream", dropped_there.read_bytes()).await;
        assert!(
            matches!(error, StreamError::Reset(ResetCode::Cancelled)),
            "{error:?}"
        );
        // The direction that was not ended goes on.
        send(&mut stopped_write, b"on").await;
        drop(write);
    }
    survivor.over().await;
}

pub(crate) async fn streams_opened_without_a_transport_wait_for_one(kind: Kind) {
    let survivor = Survivor::start(kind).await;
    let Survivor { agent, server, .. } = &survivor;
    survivor.detach().await;
    let mut here = open(server).await;
    here.write_all(b"early").await.unwrap();
    here.flush().await.unwrap();
    assert_eq!(server.transport(), None);
    survivor.resume().await;
    let mut there = incoming(agent).await.accept().await.unwrap();
    within("it is answered", here.accepted()).await.unwrap();
    here.shutdown().await.unwrap();
    assert_eq!(read_whole(&mut there).await.unwrap(), b"early");
    there.shutdown().await.unwrap();
    assert_eq!(read_whole(&mut here).await.unwrap(), b"");
    drop((here, there));
    survivor.over().await;
}

/// A second transport is there before the first is gone: streams do not wait, and the first is left.
pub(crate) async fn a_later_transport_takes_over(kind: Kind) {
    let survivor = Survivor::start(kind).await;
    let Survivor { agent, server, .. } = &survivor;
    let (mut here, mut there) = stream(server, agent).await;
    let first = Arc::clone(&survivor.transport.lock().unwrap());
    for _ in 0..3 {
        here.write_all(b"ping").await.unwrap();
        survivor.resume().await;
        assert_eq!(
            within("it comes", there.read_bytes())
                .await
                .unwrap()
                .unwrap(),
            "ping"
        );
        there.write_all(b"pong").await.unwrap();
        there.flush().await.unwrap();
        assert_eq!(
            within("it comes", here.read_bytes())
                .await
                .unwrap()
                .unwrap(),
            "pong"
        );
    }
    within("the first transport ends", first.closed()).await;
    still_works(agent, server).await;
    drop((here, there));
    survivor.over().await;
}

pub(crate) async fn the_resume_window_ends_in_typed_errors(kind: Kind) {
    let survivor = Survivor::start_with(kind, Duration::from_millis(300)).await;
    let Survivor { agent, server, .. } = &survivor;
    let (mut here, mut there) = stream(server, agent).await;
    survivor.detach().await;
    for (session, stream) in [(agent, &mut there), (server, &mut here)] {
        let error = within("the session ends", session.closed()).await;
        assert!(
            matches!(error, SessionError::Transport(LinkLoss::Transport(_))),
            "{error:?}"
        );
        let error = fails("its stream ends", stream.read_bytes()).await;
        assert!(matches!(error, StreamError::Session(_)), "{error:?}");
        let error = fails("it opens nothing", session.open(target("late"))).await;
        assert!(matches!(error, OpenError::Session(_)), "{error:?}");
        assert!(!session.is_reachable() || !session.is_open());
        assert_eq!(session.unacked_bytes(), 0);
    }
    // Too late: the server has no such session, and gives another one.
    let transport = survivor.network.dial().await;
    let resumed = survivor.connector.resume(agent, transport).await;
    assert!(matches!(resumed, Ok(Reconnected::New(_))), "{resumed:?}");
    drop((here, there));
}

pub(crate) async fn a_close_without_a_transport_is_found_out(kind: Kind) {
    let survivor = Survivor::start(kind).await;
    let Survivor { agent, server, .. } = &survivor;
    survivor.detach().await;
    server.close(CloseCode::Revoked, "token withdrawn");
    within("it is closed", server.closed()).await;
    let transport = survivor.network.dial().await;
    let resumed = survivor.connector.resume(agent, transport).await;
    assert!(matches!(resumed, Ok(Reconnected::New(_))), "{resumed:?}");
    let error = within("the old session ends", agent.closed()).await;
    assert_eq!(error.close_code(), Some(CloseCode::ResumeRefused));
}

/// Tries to take a session over with its id alone.
async fn steal<A: Ask>(survivor: &Survivor, ask: &A) -> Result<A::Outcome, u64> {
    let transport = survivor.network.dial().await;
    let mut control = RawStream::new(transport.open().await.unwrap());
    let key = key(1);
    let (handshake, hello) = AwaitChallenge::start(&local(), &key, [7; 16], ask);
    control.send(hello).await.unwrap();
    let challenge = control.must().await;
    let (handshake, proof) = handshake.handle_challenge(challenge, &key).unwrap();
    control.send(proof).await.unwrap();
    let frame = control.frame().await;
    let outcome = match frame {
        Ok(Some(frame)) if frame.kind != crate::peer::CLOSE => {
            Ok(handshake.handle_answer(frame).unwrap())
        }
        Ok(Some(frame)) => Err(u64::from(frame.body[0])),
        other => panic!("no answer but {other:?}"),
    };
    transport.close(CloseCode::Shutdown, "");
    outcome
}

pub(crate) async fn a_stolen_session_id_is_worth_nothing(kind: Kind) {
    let survivor = Survivor::start(kind).await;
    let Survivor { agent, server, .. } = &survivor;
    let (here, there) = stream(server, agent).await;
    let forged = Resumption {
        session: agent.info().id.0,
        secret: SessionSecret::new([1; 32]),
        attempt: 9,
        received: 0,
    };
    for detached in [false, true] {
        if detached {
            survivor.detach().await;
        }
        let refused = steal(&survivor, &EitherSession(forged.clone())).await;
        assert_eq!(refused, Err(CloseCode::ResumeRefused.to_wire()));
        let unknown = Resumption {
            session: [9; 16],
            ..forged.clone()
        };
        let granted = steal(&survivor, &EitherSession(unknown.clone())).await;
        assert!(
            matches!(granted, Ok(Either::New(_))),
            "a new session: {granted:?}"
        );
        for role in [LinkRole::Main, LinkRole::Lane] {
            for resumption in [&unknown, &forged] {
                let only_that = ThatSession {
                    resumption: resumption.clone(),
                    role,
                };
                let refused = steal(&survivor, &only_that).await;
                assert_eq!(refused, Err(CloseCode::ResumeRefused.to_wire()));
            }
        }
    }
    survivor.resume().await;
    still_works(server, agent).await;
    drop((here, there));
    survivor.over().await;
}

/// Two transports race to resume: the later attempt has it, even if it arrives first.
#[test]
fn the_later_of_two_attempts_has_the_session() {
    run(async {
        let survivor = Survivor::start(Kind::Memory).await;
        let Survivor { agent, server, .. } = &survivor;
        let Network::Memory(acceptor) = &survivor.network else {
            unreachable!("it is memory");
        };
        let (mut here, mut there) = stream(server, agent).await;
        survivor.detach().await;
        let (slow_here, slow_there) = memory::pair();
        // Its HELLO is on its way while the next one is taken.
        let slow = survivor.connector.resume(agent, Arc::new(slow_here));
        let mut slow = Box::pin(slow);
        assert!(futures_util::poll!(&mut slow).is_pending());
        survivor.resume().await;
        let (slow, accepted) = tokio::join!(slow, acceptor.accept(Arc::new(slow_there)));
        assert!(slow.is_err(), "{slow:?}");
        assert!(!matches!(accepted, Ok(Accepted::New(_))), "{accepted:?}");
        assert!(agent.is_open() && server.is_open());
        here.write_all(b"still here").await.unwrap();
        here.shutdown().await.unwrap();
        assert_eq!(read_whole(&mut there).await.unwrap(), b"still here");
        drop((here, there));
        survivor.over().await;
    });
}
