//! An agent's key gives way to another one, and its sessions go on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use underpass_tunnel::transport::TransportKind;
use underpass_tunnel::{
    Accepted, CloseCode, ConnectError, Connector, ConnectorConfig, LinkCount, ResumeWindow,
    Session, Status, Transports,
};

use crate::dial;
use crate::harness::{
    Kind, acceptor_config, connector_config, key, offers, released, run, second_key, transports,
    until, within,
};
use crate::moves::Chat;
use crate::server::{Pki, Server};

/// A connector that keeps a session, whose key can be renewed.
struct Renewing {
    connector: Arc<Connector>,
    agent: Session,
    running: tokio::task::JoinHandle<()>,
}

impl Renewing {
    async fn start(config: ConnectorConfig) -> Self {
        let connector = Arc::new(Connector::new(config).unwrap());
        let (sessions, mut received) = mpsc::unbounded_channel();
        let this = Arc::clone(&connector);
        let running = tokio::spawn(async move {
            let serve = |session| {
                let _ = sessions.send(session);
            };
            let status = |status: Status<'_>| match status {
                Status::Connected(_) | Status::Moved(..) => {}
                status => panic!("{status:?}"),
            };
            match this.run(serve, status).await {}
        });
        let agent = within("the agent connects", received.recv()).await.unwrap();
        Self {
            connector,
            agent,
            running,
        }
    }

    async fn over(self, server: &Session) {
        released(&self.agent, server).await;
        self.running.abort();
        assert!(self.running.await.unwrap_err().is_cancelled());
        self.agent.close(CloseCode::Shutdown, "test over");
        within("the server hears of the end", server.closed()).await;
    }
}

fn config(server: &Server, pki: &Pki, transports: Transports) -> ConnectorConfig {
    ConnectorConfig {
        transports,
        resume_window: ResumeWindow::default(),
        ..connector_config(server.port, pki)
    }
}

#[test]
fn a_session_goes_on_with_another_key_of_its_agent() {
    for kind in [Kind::Quic, Kind::WebSocket] {
        run(async move {
            let pki = Pki::new();
            let mut server = Server::start(&pki, acceptor_config()).await;
            let renewing = Renewing::start(config(&server, &pki, transports(kind))).await;
            let session = server.session_of(&renewing.agent).await;
            let (first, second) = (key(1).public_key(), second_key().public_key());
            assert_eq!((session.key(), session.info().key), (first, first));
            assert!(!session.has_proved(&second));
            let chats = [
                Chat::start(&session, &renewing.agent).await,
                Chat::start(&renewing.agent, &session).await,
            ];
            let (connector, agent) = (&renewing.connector, &renewing.agent);
            connector
                .renew(&pki.ca_pem.clone().into(), second_key())
                .unwrap();
            connector.prove(agent).await.unwrap();
            until("both ends know", || {
                [agent, &session].iter().all(|end| end.key() == second)
            })
            .await;
            // A handshake that began with the old key may end now.
            assert!(session.has_proved(&first));
            let proven = server.result().await.unwrap();
            assert!(matches!(&proven, Accepted::Resumed(info) if info.key == second));
            for chat in chats {
                chat.goes_on().await;
                chat.over().await;
            }
            assert_eq!(agent.stats().resumes, 0, "it never was without a transport");
            renewing.over(&session).await;
        });
    }
}

/// By another connector than the one that has made it: that of the agent's next connection.
#[test]
fn a_session_that_drains_proves_another_key_and_its_streams_go_on() {
    for kind in [Kind::Quic, Kind::WebSocket] {
        run(async move {
            let pki = Pki::new();
            let mut server = Server::start(&pki, acceptor_config()).await;
            let connector = || Connector::new(config(&server, &pki, transports(kind))).unwrap();
            let (first, next) = (connector(), connector());
            let (agent, session) = server.connected(&first).await;
            let chat = Chat::start(&session, &agent).await;
            let draining = agent.clone();
            let hour = Duration::from_secs(3600);
            let drained = tokio::spawn(async move { draining.drain(hour, hour, "test").await });
            until("both ends know", || !agent.is_open() && !session.is_open()).await;
            next.renew_key(second_key());
            next.prove(&agent).await.unwrap();
            let second = second_key().public_key();
            until("the server knows", || session.has_proved(&second)).await;
            chat.goes_on().await;
            chat.over().await;
            within("its last stream ends it", drained).await.unwrap();
            within("the server hears of the end", session.closed()).await;
        });
    }
}

#[test]
fn a_session_is_not_carried_on_with_the_key_of_another_agent() {
    for kind in [Kind::Quic, Kind::WebSocket] {
        run(async move {
            let pki = Pki::new();
            let mut server = Server::start(&pki, acceptor_config()).await;
            let renewing = Renewing::start(config(&server, &pki, transports(kind))).await;
            let session = server.session_of(&renewing.agent).await;
            let (connector, agent) = (&renewing.connector, &renewing.agent);
            connector
                .renew(&pki.ca_pem.clone().into(), key(42))
                .unwrap();
            let refused = connector.prove(agent).await.unwrap_err();
            assert!(refused.is_unknown_key(), "{refused:?}");
            assert!(!session.has_proved(&key(42).public_key()));
            assert!(agent.is_open() && session.is_open());
            renewing.over(&session).await;
        });
    }
}

#[test]
fn a_link_that_stands_by_comes_again_with_another_key() {
    run(async {
        let pki = Pki::new();
        let mut server = Server::start(&pki, acceptor_config()).await;
        let often = ConnectorConfig {
            websocket_max_age: Duration::from_secs(1),
            ..config(&server, &pki, Transports::Auto)
        };
        let renewing = Renewing::start(often).await;
        let session = server.session_of(&renewing.agent).await;
        let stands_by = async || {
            until("a link stands by at both ends", || {
                let ends = [&renewing.agent, &session];
                let kind = Some(TransportKind::WebSocket);
                ends.iter().all(|end| end.stats().standby == kind)
            })
            .await;
        };
        stands_by().await;
        let chat = Chat::start(&session, &renewing.agent).await;
        let second = second_key().public_key();
        let trust = pki.ca_pem.clone().into();
        renewing.connector.renew(&trust, second_key()).unwrap();
        // Each next one is made with the key as it is then.
        let mut standbys = 0;
        while standbys < 3 {
            match server.result().await.unwrap() {
                Accepted::Standby(info) if info.key == second => standbys += 1,
                Accepted::Standby(_) => assert_eq!(standbys, 0, "the old key comes back"),
                // An attempt over the other transport that was given up when this one had come.
                Accepted::New(_) => {}
                accepted => panic!("{accepted:?}"),
            }
        }
        stands_by().await;
        assert_eq!(session.key(), second);
        // The main link as well, beside the one that stands by.
        let agent = &renewing.agent;
        renewing.connector.prove(agent).await.unwrap();
        until("the main link is another one", || agent.stats().moves == 1).await;
        chat.goes_on().await;
        stands_by().await;
        chat.goes_on().await;
        chat.over().await;
        assert_eq!(renewing.agent.stats().resumes, 0);
        renewing.over(&session).await;
    });
}

/// QUIC has not answered within its head start, and gets through all the same.
#[test]
fn a_session_of_one_link_that_proves_a_key_over_websocket_returns_to_quic() {
    run(async {
        let pki = Pki::new();
        let mut server = Server::start(&pki, acceptor_config()).await;
        let one = ConnectorConfig {
            links: LinkCount::One,
            quic_probe: Duration::from_millis(20),
            ..config(&server, &pki, Transports::Auto)
        };
        let renewing = Renewing::start(one).await;
        let session = server.session_of(&renewing.agent).await;
        let agent = &renewing.agent;
        assert_eq!(agent.transport(), Some(TransportKind::Quic));
        let chat = Chat::start(&session, agent).await;
        for round in 1..=2 {
            let trust = pki.ca_pem.clone().into();
            renewing.connector.renew(&trust, second_key()).unwrap();
            let slower = dial::websocket(&pki, server.port, offers(Kind::WebSocket)).await;
            renewing.connector.resume(agent, slower).await.unwrap();
            let moves = || agent.stats().moves;
            until("it has moved, and returned", || moves() == 2 * round).await;
            assert_eq!(agent.transport(), Some(TransportKind::Quic));
            chat.goes_on().await;
        }
        chat.over().await;
        renewing.over(&session).await;
    });
}

#[test]
fn a_session_without_a_transport_is_left_to_its_connector() {
    run(async {
        let pki = Pki::new();
        let mut server = Server::start(&pki, acceptor_config()).await;
        let connector = Connector::new(config(&server, &pki, Transports::WebSocket)).unwrap();
        let (agent, session) = server.connected(&connector).await;
        session.close(CloseCode::KeyReplaced, "test");
        within("the agent hears of the end", agent.closed()).await;
        until("its transport is gone", || agent.transport().is_none()).await;
        let error = connector.prove(&agent).await.unwrap_err();
        assert!(matches!(error, ConnectError::Resume(_)), "{error:?}");
    });
}
