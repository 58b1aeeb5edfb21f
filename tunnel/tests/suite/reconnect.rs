//! The connector: which way it takes, and that it comes back.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use underpass_proto::session::Ending;
use underpass_tunnel::transport::TransportKind;
use underpass_tunnel::{CloseCode, Connector, ConnectorConfig, Session, SessionError, Status};

use crate::harness::{acceptor, acceptor_config, connector_config, released, run, within};
use crate::life::still_works;
use crate::registry::{connector, join};
use crate::server::{Listen, Pki, Server};

async fn connect(pki: &Pki, server: &mut Server) -> (Session, Session) {
    let connector = Connector::new(connector_config(server.port, pki)).unwrap();
    server.connected(&connector).await
}

#[test]
fn quic_is_preferred() {
    run(async {
        let pki = Pki::new();
        let mut server = Server::start(&pki, acceptor_config()).await;
        let connector = Connector::new(ConnectorConfig {
            // However slow this machine is.
            quic_head_start: Duration::from_secs(10),
            ..connector_config(server.port, &pki)
        })
        .unwrap();
        let (agent, session) = server.connected(&connector).await;
        assert_eq!(agent.info().transport, TransportKind::Quic);
        assert_eq!(session.info().transport, TransportKind::Quic);
    });
}

#[test]
fn a_closed_udp_port_leaves_websocket() {
    run(async {
        let pki = Pki::new();
        let mut server = Server::start_on(0, &pki, acceptor_config(), Listen::WebSocketOnly).await;
        let (agent, session) = connect(&pki, &mut server).await;
        assert_eq!(agent.info().transport, TransportKind::WebSocket);
        still_works(&session, &agent).await;
        released(&agent, &session).await;
    });
}

#[test]
fn a_udp_port_that_swallows_everything_leaves_websocket() {
    run(async {
        let pki = Pki::new();
        let mut server = Server::start_on(0, &pki, acceptor_config(), Listen::WebSocketOnly).await;
        let _black_hole = UdpSocket::bind(("127.0.0.1", server.port)).unwrap();
        let (agent, session) = connect(&pki, &mut server).await;
        assert_eq!(agent.info().transport, TransportKind::WebSocket);
        still_works(&agent, &session).await;
        released(&agent, &session).await;
    });
}

/// Runs a connector and gives its sessions, each with when it came.
fn keep_connected(pki: &Pki, port: u16) -> mpsc::UnboundedReceiver<(Session, Instant)> {
    let connector = Arc::new(Connector::new(connector_config(port, pki)).unwrap());
    let (sessions, received) = mpsc::unbounded_channel();
    let stop = sessions.clone();
    tokio::spawn(async move {
        let serve = |session| {
            let _ = sessions.send((session, Instant::now()));
        };
        let status = |status: Status<'_>| {
            assert!(!matches!(status, Status::Failed(error, _) if error.needs_attention()));
        };
        tokio::select! {
            never = connector.run(serve, status) => match never {},
            () = stop.closed() => {}
        }
    });
    received
}

async fn next(sessions: &mut mpsc::UnboundedReceiver<(Session, Instant)>) -> (Session, Instant) {
    within("the agent connects", sessions.recv()).await.unwrap()
}

#[test]
fn a_server_that_restarts_is_found_again() {
    run(async {
        let pki = Pki::new();
        let mut server = Server::start(&pki, acceptor_config()).await;
        let port = server.port;
        let mut sessions = keep_connected(&pki, port);
        let (first, _) = next(&mut sessions).await;
        let session = server.session_of(&first).await;
        session.close(CloseCode::Shutdown, "restart");
        within("the agent hears of it", first.closed()).await;
        // A QUIC connection holds its endpoint's socket.
        drop(session);
        server.stop().await;

        let mut server = Server::start_on(port, &pki, acceptor_config(), Listen::Both).await;
        let (second, _) = next(&mut sessions).await;
        let session = server.session_of(&second).await;
        still_works(&session, &second).await;
        released(&second, &session).await;
    });
}

/// The two are in one message, and two threads may take them: a waiter must not hear of the end alone.
#[test]
fn a_goodbye_is_heard_before_the_end_that_comes_with_it() {
    const ROUNDS: u32 = 2_000;
    run(async {
        let (pki, acceptor) = (Pki::new(), acceptor(acceptor_config()));
        let mut told = 0;
        for round in 0..ROUNDS {
            let (agent, server) = join(&connector(&pki), &acceptor).await;
            let waits = agent.clone();
            let waits = tokio::spawn(async move { waits.going_away().await });
            let pause = Duration::from_millis(700);
            server.drain(Duration::from_secs(5), pause, "moving").await;
            let heard = within("the end is heard", waits).await.unwrap();
            let heard = heard.map(|go_away| go_away.return_after_ms);
            let end = within("the session ends", agent.closed()).await;
            // Once in some thousands, yamux loses unread bytes when its other end goes: then nothing was said.
            if matches!(end, SessionError::Ended(Ending::Peer { .. })) {
                told += 1;
                assert_eq!(heard, Some(700), "round {round}: {end:?}");
            }
        }
        assert!(told > ROUNDS / 2, "{told}");
    });
}

#[test]
fn the_time_to_come_back_is_the_servers_to_say() {
    run(async {
        let pki = Pki::new();
        let mut server = Server::start(&pki, acceptor_config()).await;
        let mut sessions = keep_connected(&pki, server.port);
        for _ in 0..3 {
            let (agent, _) = next(&mut sessions).await;
            let session = server.session_of(&agent).await;
            let pause = Duration::from_millis(700);
            let left = Instant::now();
            // Idle: GOAWAY and CLOSE leave in the same breath.
            within(
                "drained",
                session.drain(Duration::from_secs(5), pause, "moving"),
            )
            .await;
            let (again, came) = next(&mut sessions).await;
            assert!(came - left >= pause, "it came back after {:?}", came - left);
            let session = server.session_of(&again).await;
            again.close(CloseCode::Shutdown, "next round");
            within("the server hears of it", session.closed()).await;
        }
    });
}
