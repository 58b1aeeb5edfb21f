//! Paths that die without a word, with a second link and without one.

use std::time::Duration;

use underpass_tunnel::transport::TransportKind;
use underpass_tunnel::{AcceptorConfig, ConnectorConfig, ResumeWindow, Session, Transports};

use crate::harness::{acceptor_config, connector_config, run, until, within};
use crate::life::still_works;
use crate::moves::{Chat, Kept};
use crate::server::{Pki, Server};
use crate::silent_relay::SilentRelay;

/// A session through a relay, and its other end.
struct Path {
    kept: Kept,
    session: Session,
    relay: SilentRelay,
    _server: Server,
}

impl Path {
    async fn start(transports: Transports) -> Self {
        Self::start_with(transports, acceptor_config()).await
    }

    async fn start_with(transports: Transports, acceptor: AcceptorConfig) -> Self {
        let pki = Pki::new();
        let mut server = Server::start(&pki, acceptor).await;
        let relay = SilentRelay::start(server.port).await;
        let config = ConnectorConfig {
            transports,
            resume_window: ResumeWindow::default(),
            ..connector_config(relay.port, &pki)
        };
        let kept = Kept::start_with(config, |status| panic!("{status:?}")).await;
        let session = server.session_of(&kept.agent).await;
        Self {
            kept,
            session,
            relay,
            _server: server,
        }
    }

    /// With a WebSocket that stands by.
    async fn with_standby() -> Self {
        Self::with_standby_and(acceptor_config()).await
    }

    async fn with_standby_and(acceptor: AcceptorConfig) -> Self {
        let path = Self::start_with(Transports::Auto, acceptor).await;
        assert_eq!(path.kept.agent.transport(), Some(TransportKind::Quic));
        path.stands_by(TransportKind::WebSocket).await;
        path
    }

    async fn stands_by(&self, kind: TransportKind) {
        until("a link stands by at both ends", || {
            let ends = [&self.kept.agent, &self.session];
            ends.iter().all(|end| end.stats().standby == Some(kind))
        })
        .await;
    }

    async fn carried_by(&self, kind: TransportKind) {
        until("it carries the session at both ends", || {
            let ends = [&self.kept.agent, &self.session];
            ends.iter().all(|end| end.transport() == Some(kind))
        })
        .await;
    }

    /// It never was without a transport.
    async fn over(self, chat: Chat) {
        chat.over().await;
        let stats = self.kept.agent.stats();
        assert_eq!(stats.resumes, 0, "{stats:?}");
        self.kept.over(&self.session).await;
    }
}

#[test]
fn udp_that_dies_costs_nobody_the_session() {
    run(async {
        let path = Path::with_standby().await;
        let chat = Chat::start(&path.session, &path.kept.agent).await;
        path.relay.drop_udp(true);
        chat.goes_on().await;
        still_works(&path.session, &path.kept.agent).await;
        path.carried_by(TransportKind::WebSocket).await;
        path.relay.drop_udp(false);
        path.carried_by(TransportKind::Quic).await;
        chat.goes_on().await;
        path.stands_by(TransportKind::WebSocket).await;
        path.over(chat).await;
    });
}

#[test]
fn flows_that_are_forgotten_come_back_by_themselves() {
    run(async {
        let path = Path::with_standby().await;
        let chat = Chat::start(&path.session, &path.kept.agent).await;
        for _ in 0..5 {
            path.relay.forget_udp_flows();
            still_works(&path.session, &path.kept.agent).await;
            chat.goes_on().await;
        }
        path.carried_by(TransportKind::Quic).await;
        path.over(chat).await;
    });
}

/// As when a firewall on the way is restarted.
#[test]
fn both_paths_that_die_at_once_cost_nobody_the_session() {
    run(async {
        let path = Path::with_standby().await;
        let chat = Chat::start(&path.session, &path.kept.agent).await;
        for _ in 0..2 {
            path.relay.silence_tcp();
            path.relay.lose_udp_flows();
            let waited = tokio::time::timeout(Duration::from_secs(5), chat.goes_on());
            within("the chat goes on", waited).await.unwrap();
            still_works(&path.session, &path.kept.agent).await;
            path.stands_by(TransportKind::WebSocket).await;
        }
        path.carried_by(TransportKind::Quic).await;
        path.over(chat).await;
    });
}

#[test]
fn a_standby_that_dies_is_replaced() {
    run(async {
        let often = AcceptorConfig {
            keepalive: Duration::from_secs(1).try_into().unwrap(),
            ..acceptor_config()
        };
        let path = Path::with_standby_and(often).await;
        let chat = Chat::start(&path.session, &path.kept.agent).await;
        let connections = path.relay.tcp_connections();
        path.relay.silence_tcp();
        until("another connection is made", || {
            path.relay.tcp_connections() > connections
        })
        .await;
        path.stands_by(TransportKind::WebSocket).await;
        path.relay.drop_udp(true);
        chat.goes_on().await;
        path.carried_by(TransportKind::WebSocket).await;
        path.over(chat).await;
    });
}

/// A session with one protocol only gets another connection before keepalive notices, which takes ten seconds.
async fn revived(transports: Transports, kill: impl Fn(&SilentRelay)) {
    let path = Path::start(transports).await;
    let chat = Chat::start(&path.session, &path.kept.agent).await;
    for _ in 0..3 {
        kill(&path.relay);
        let waited = tokio::time::timeout(Duration::from_secs(5), chat.goes_on());
        within("the chat goes on", waited).await.unwrap();
        still_works(&path.session, &path.kept.agent).await;
    }
    assert_eq!(path.kept.agent.stats().standby, None);
    path.over(chat).await;
}

#[test]
fn tcp_that_dies_is_revived_where_there_is_nothing_else() {
    run(revived(Transports::WebSocket, SilentRelay::silence_tcp));
}

#[test]
fn quic_that_dies_is_revived_where_there_is_nothing_else() {
    run(revived(Transports::Quic, SilentRelay::forget_udp_flows));
}
