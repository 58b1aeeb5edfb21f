//! Sessions that leave a transport which works, for a better or a younger one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use underpass_proto::handshake::HandshakeError;
use underpass_tunnel::transport::TransportKind;
use underpass_tunnel::{
    CloseCode, ConnectError, Connector, ConnectorConfig, ResumeWindow, Session, Status, Transports,
};

use crate::bytes::stream;
use crate::dial;
use crate::harness::{
    self, acceptor_config, connector_config, fails, offers, released, run, until, within,
};
use crate::life::still_works;
use crate::server::{Listen, Pki, Server};

/// A session that its connector keeps.
pub(crate) struct Kept {
    pub(crate) agent: Session,
    /// From which transports it moved.
    moved: mpsc::UnboundedReceiver<TransportKind>,
    connector: JoinHandle<()>,
}

impl Kept {
    /// Moves are all that may happen to the session.
    pub(crate) async fn start(config: ConnectorConfig) -> Self {
        Self::start_with(config, |status| panic!("{status:?}")).await
    }

    /// `other` hears of every status but the session's beginning and moves.
    pub(crate) async fn start_with(
        config: ConnectorConfig,
        mut other: impl FnMut(Status<'_>) + Send + 'static,
    ) -> Self {
        let connector = Connector::new(config).unwrap();
        let (sessions, mut received) = mpsc::unbounded_channel();
        let (moves, moved) = mpsc::unbounded_channel();
        let connector = tokio::spawn(async move {
            let serve = |session| {
                let _ = sessions.send(session);
            };
            let status = |status: Status<'_>| match status {
                Status::Connected(_) => {}
                Status::Moved(_, from) => {
                    let _ = moves.send(from);
                }
                status => other(status),
            };
            match connector.run(serve, status).await {}
        });
        let agent = within("the agent connects", received.recv()).await.unwrap();
        Self {
            agent,
            moved,
            connector,
        }
    }

    pub(crate) async fn moves(&mut self) -> TransportKind {
        within("the session moves", self.moved.recv())
            .await
            .expect("the connector runs")
    }

    pub(crate) async fn over(self, server: &Session) {
        released(&self.agent, server).await;
        self.connector.abort();
        assert!(self.connector.await.unwrap_err().is_cancelled());
        self.agent.close(CloseCode::Shutdown, "test over");
        within("the server hears of the end", server.closed()).await;
    }
}

/// Words there and back, one after the other, until it is stopped.
pub(crate) struct Chat {
    stop: Arc<AtomicBool>,
    words: Arc<AtomicU32>,
    talk: JoinHandle<()>,
    echo: JoinHandle<()>,
}

impl Chat {
    pub(crate) async fn start(opener: &Session, other: &Session) -> Self {
        let (mut here, mut there) = stream(opener, other).await;
        let (stop, words) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU32::new(0)),
        );
        let (stopped, said) = (Arc::clone(&stop), Arc::clone(&words));
        let talk = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let word = said.load(Ordering::Relaxed);
                here.write_u32(word).await.unwrap();
                here.flush().await.unwrap();
                assert_eq!(here.read_u32().await.unwrap(), word);
                said.store(word + 1, Ordering::Relaxed);
            }
            here.shutdown().await.unwrap();
            assert_eq!(here.read(&mut [0]).await.unwrap(), 0, "a clean end");
        });
        let echo = tokio::spawn(async move {
            let mut buffer = [0; 64];
            loop {
                match there.read(&mut buffer).await.unwrap() {
                    0 => break,
                    len => there.write_all(&buffer[..len]).await.unwrap(),
                }
                there.flush().await.unwrap();
            }
            there.shutdown().await.unwrap();
        });
        Self {
            stop,
            words,
            talk,
            echo,
        }
    }

    pub(crate) async fn goes_on(&self) {
        let before = self.words.load(Ordering::Relaxed);
        until("the chat goes on", || {
            self.words.load(Ordering::Relaxed) > before + 3
        })
        .await;
    }

    pub(crate) async fn over(self) {
        self.stop.store(true, Ordering::Relaxed);
        within("it ends", self.talk).await.unwrap();
        within("the other side ends", self.echo).await.unwrap();
    }
}

#[test]
fn a_session_returns_to_quic_when_that_gets_through() {
    run(async {
        let pki = Pki::new();
        let mut server = Server::start_on(0, &pki, acceptor_config(), Listen::WebSocketOnly).await;
        let mut kept = Kept::start(ConnectorConfig {
            quic_probe: Duration::from_millis(20),
            ..connector_config(server.port, &pki)
        })
        .await;
        let session = server.session_of(&kept.agent).await;
        assert_eq!(kept.agent.transport(), Some(TransportKind::WebSocket));
        let chats = [
            Chat::start(&session, &kept.agent).await,
            Chat::start(&kept.agent, &session).await,
        ];
        server.listen_quic(&pki);
        assert_eq!(kept.moves().await, TransportKind::WebSocket);
        assert_eq!(kept.agent.transport(), Some(TransportKind::Quic));
        until("the server has it", || {
            session.transport() == Some(TransportKind::Quic)
        })
        .await;
        for chat in chats {
            chat.goes_on().await;
            chat.over().await;
        }
        still_works(&session, &kept.agent).await;
        kept.over(&session).await;
    });
}

#[test]
fn an_old_websocket_is_replaced_before_it_is_left() {
    run(async {
        let pki = Pki::new();
        let mut server = Server::start(&pki, acceptor_config()).await;
        let mut kept = Kept::start(ConnectorConfig {
            transports: Transports::WebSocket,
            websocket_max_age: Duration::from_millis(60),
            ..connector_config(server.port, &pki)
        })
        .await;
        let session = server.session_of(&kept.agent).await;
        let chat = Chat::start(&session, &kept.agent).await;
        for _ in 0..5 {
            assert_eq!(kept.moves().await, TransportKind::WebSocket);
            chat.goes_on().await;
        }
        chat.over().await;
        kept.over(&session).await;
    });
}

/// Behind a load balancer a new connection may come to a server that does not have the session.
#[test]
fn a_move_that_ends_at_another_server_changes_nothing() {
    run(async {
        let pki = Pki::new();
        let mut server = Server::start(&pki, acceptor_config()).await;
        let other = Server::start(&pki, acceptor_config()).await;
        let connector = Connector::new(ConnectorConfig {
            resume_window: ResumeWindow::default(),
            ..connector_config(server.port, &pki)
        })
        .unwrap();
        let (agent, session) = server.connected(&connector).await;
        let chat = Chat::start(&agent, &session).await;
        for _ in 0..3 {
            let elsewhere =
                dial::websocket(&pki, other.port, offers(harness::Kind::WebSocket)).await;
            let error = fails("moving", connector.resume(&agent, elsewhere)).await;
            assert!(
                matches!(
                    &error,
                    ConnectError::Handshake(HandshakeError::ClosedByPeer {
                        code: CloseCode::ResumeRefused,
                        ..
                    })
                ),
                "{error:?}"
            );
            chat.goes_on().await;
        }
        chat.over().await;
        released(&agent, &session).await;
    });
}
