//! Handshakes that fail, and both sides' errors.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};
use underpass_proto::handshake::{AwaitChallenge, HandshakeError, NewSession};
use underpass_proto::limits;
use underpass_tunnel::transport::quic::{self, ALPN, QuicConfig};
use underpass_tunnel::transport::websocket::{PATH, Subprotocol};
use underpass_tunnel::transport::{Transport, TransportError, memory};
use underpass_tunnel::{
    AcceptError, CloseCode, ConnectError, Connector, ConnectorConfig, RouteError, Transports,
};

use crate::dial::{self, HOST};
use crate::harness::{Kind, acceptor, acceptor_config, connector_config, key, raw, run, way_error};
use crate::peer::{RawStream, frame, let_in, local};
use crate::server::{Pki, Server};

fn connector(seed: u8) -> Connector {
    let config = ConnectorConfig {
        key: key(seed),
        ..connector_config(1, &Pki::new())
    };
    Connector::new(config).unwrap()
}

pub(crate) async fn a_wrong_key_is_refused_on_both_sides(kind: Kind) {
    let (transport, mut server) = raw(kind, acceptor_config()).await;
    let connector = connector(2);
    let (connected, accepted) = tokio::join!(connector.establish(transport), server.result());
    let error = connected.unwrap_err();
    let (ConnectError::Handshake(HandshakeError::ClosedByPeer { code, reason })
    | ConnectError::Transport(TransportError::ClosedByPeer { code, reason })) = &error
    else {
        panic!("not told why: {error:?}");
    };
    assert_eq!(*code, CloseCode::Unauthenticated);
    assert!(reason.contains("not known"), "{reason}");
    assert!(error.needs_attention());
    let error = accepted.unwrap_err();
    assert!(
        matches!(&error, AcceptError::Denied(denied) if denied.code == CloseCode::Unauthenticated),
        "{error:?}"
    );
}

/// Sends `first` instead of a HELLO and gives the code that comes back, and the server's error.
async fn told(kind: Kind, first: Bytes) -> (u64, AcceptError) {
    let (transport, mut server) = raw(kind, acceptor_config()).await;
    let mut control = RawStream::new(transport.open().await.unwrap());
    control.send(first).await.unwrap();
    let hear = async {
        let code = control.close_code().await;
        transport.close(CloseCode::Shutdown, "");
        code
    };
    let (code, accepted) = tokio::join!(hear, server.result());
    (code, accepted.unwrap_err())
}

pub(crate) async fn garbage_instead_of_hello(kind: Kind) {
    let (code, error) = told(kind, frame(0x01, &[1, 1, 1])).await;
    assert_eq!(code, CloseCode::FrameEncoding.to_wire());
    assert!(
        matches!(error, AcceptError::Handshake(HandshakeError::Decode(_))),
        "{error:?}"
    );
    let (code, _) = told(kind, frame(0x05, &[0; 8])).await;
    assert_eq!(code, CloseCode::UnexpectedFrame.to_wire());
}

pub(crate) async fn an_oversized_hello(kind: Kind) {
    let hello = frame(0x01, &vec![0; limits::CONTROL_FRAME + 1]);
    let (code, _) = told(kind, hello.slice(..8)).await;
    assert_eq!(code, CloseCode::FrameTooLarge.to_wire());
}

pub(crate) async fn no_common_version(kind: Kind) {
    let mut hello = vec![1, 0x3f];
    hello.extend([0xaa; 48]);
    hello.extend([5, 0, 1, b'x', 0]);
    let (code, error) = told(kind, frame(0x01, &hello)).await;
    assert_eq!(code, CloseCode::Version.to_wire());
    assert!(
        matches!(&error, AcceptError::Handshake(HandshakeError::NoCommonVersion { offered }) if *offered == [0x3f]),
        "{error:?}"
    );
}

#[test]
fn a_proof_by_another_key_is_told_apart_from_an_unknown_key() {
    run(async {
        let (transport, mut server) = raw(Kind::Memory, acceptor_config()).await;
        let mut control = RawStream::new(transport.open().await.unwrap());
        let (handshake, hello) = AwaitChallenge::start(&local(), &key(1), [7; 16], &NewSession);
        let lie = async {
            control.send(hello).await.unwrap();
            let challenge = control.must().await;
            let (_, proof) = handshake.handle_challenge(challenge, &key(2)).unwrap();
            control.send(proof).await.unwrap();
            let code = control.close_code().await;
            transport.close(CloseCode::Shutdown, "");
            code
        };
        let (code, accepted) = tokio::join!(lie, server.result());
        assert_eq!(code, CloseCode::Unauthenticated.to_wire());
        let error = accepted.unwrap_err();
        assert!(
            matches!(error, AcceptError::Handshake(HandshakeError::BadProof(_))),
            "{error:?}"
        );
    });
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_says_nothing_is_cut_off() {
    let (here, there) = memory::pair();
    let start = tokio::time::Instant::now();
    let error = acceptor(acceptor_config())
        .accept(Arc::new(there))
        .await
        .unwrap_err();
    assert!(matches!(error, AcceptError::Timeout), "{error:?}");
    assert!(start.elapsed() >= limits::HANDSHAKE_TIME);
    here.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_stops_half_way_is_told_so() {
    let (here, there) = memory::pair();
    let mut control = RawStream::new(here.open().await.unwrap());
    control
        .send(frame(0x01, &[0; 60]).slice(..20))
        .await
        .unwrap();
    let acceptor = acceptor(acceptor_config());
    let (accepted, code) = tokio::join!(acceptor.accept(Arc::new(there)), control.close_code());
    assert!(matches!(accepted.unwrap_err(), AcceptError::Timeout));
    assert_eq!(code, CloseCode::HandshakeTimeout.to_wire());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_given_up_and_told() {
    let (here, there) = memory::pair();
    let connector = connector(1);
    let hear = async {
        let mut control = RawStream::new(there.accept().await.unwrap());
        assert_eq!(control.must().await.kind, 0x01);
        control.close_code().await
    };
    let (connected, code) = tokio::join!(connector.establish(Arc::new(here)), hear);
    let error = connected.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout), "{error:?}");
    assert!(!error.needs_attention());
    assert_eq!(code, CloseCode::HandshakeTimeout.to_wire());
}

#[test]
fn another_alpn_is_named() {
    run(async {
        let pki = Pki::new();
        let mut tls = pki.tls();
        tls.alpn_protocols = vec![b"underpass/999".to_vec()];
        let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint =
            quinn::Endpoint::server(config, (std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let port = endpoint.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let _ = incoming.await;
            }
        });
        let config = ConnectorConfig {
            transports: Transports::Quic,
            ..connector_config(port, &pki)
        };
        let error = way_error(config).await;
        assert!(matches!(error, RouteError::Alpn), "{error:?}");
        serving.abort();
        // And the other way round: the server takes no other protocol's client.
        let server = Server::start(&pki, acceptor_config()).await;
        let error = dial::quic_connection(&pki, server.port, b"h3")
            .await
            .unwrap_err();
        assert!(
            matches!(error, quinn::ConnectionError::ConnectionClosed(_)),
            "{error:?}"
        );
    });
}

#[test]
fn a_web_server_that_does_not_upgrade_is_quoted() {
    run(async {
        let pki = Pki::new();
        let server = Server::start(&pki, acceptor_config()).await;
        server.refuse_upgrades();
        let config = ConnectorConfig {
            transports: Transports::WebSocket,
            ..connector_config(server.port, &pki)
        };
        let RouteError::WebSocket(error) = way_error(config).await else {
            panic!("not the server's answer");
        };
        let told = error.to_string();
        assert!(
            told.contains("404") && told.contains("no such page"),
            "{told}"
        );
    });
}

#[test]
fn another_subprotocol_is_refused() {
    run(async {
        let pki = Pki::new();
        let server = Server::start(&pki, acceptor_config()).await;
        for offered in [Some("underpass.yamux.v999"), None] {
            let mut request = format!("wss://{HOST}:{}{PATH}", server.port)
                .into_client_request()
                .unwrap();
            if let Some(offered) = offered {
                let headers = request.headers_mut();
                headers.insert("sec-websocket-protocol", offered.parse().unwrap());
            }
            let tls = dial::tls(&pki, server.port).await;
            let error = tokio_tungstenite::client_async(request, tls)
                .await
                .unwrap_err();
            let WebSocketError::Http(response) = error else {
                panic!("{error:?}")
            };
            assert_eq!(response.status(), 400);
            let body = String::from_utf8(response.body().clone().unwrap()).unwrap();
            assert!(body.contains(Subprotocol::Underpass.name()), "{body}");
        }
    });
}

#[test]
fn bytes_that_are_no_multiplexers_end_the_connection() {
    for message in [
        Message::Binary(vec![0xff; 64].into()),
        Message::Text("hello".into()),
        Message::Binary(vec![0; 300 * 1024].into()),
    ] {
        for subprotocol in Subprotocol::ALL {
            run(ended_by(message.clone(), subprotocol));
        }
    }
}

async fn ended_by(message: Message, subprotocol: Subprotocol) {
    let pki = Pki::new();
    let mut server = Server::start(&pki, acceptor_config()).await;
    let mut request = format!("wss://{HOST}:{}{PATH}", server.port)
        .into_client_request()
        .unwrap();
    let offer = subprotocol.name().parse().unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-protocol", offer);
    let tls = dial::tls(&pki, server.port).await;
    let (mut socket, _) = tokio_tungstenite::client_async(request, tls).await.unwrap();
    // The server may have hung up before all of it was sent.
    let _ = socket.send(message).await;
    let error = server.result().await.unwrap_err();
    assert!(matches!(error, AcceptError::Transport(_)), "{error:?}");
}

#[test]
fn quic_has_no_streams_but_bidirectional_ones() {
    run(async {
        let pki = Pki::new();
        let _server = Server::start(&pki, acceptor_config()).await;
        let connection = dial::quic_connection(&pki, _server.port, ALPN)
            .await
            .unwrap();
        let uni = tokio::time::timeout(Duration::from_millis(200), connection.open_uni()).await;
        assert!(uni.is_err(), "a unidirectional stream was opened");
        assert_eq!(connection.max_datagram_size(), None);
    });
}

#[test]
fn a_peer_that_proves_nothing_gets_no_memory_over_quic() {
    run(async {
        let pki = Pki::new();
        let any_port = (std::net::Ipv4Addr::LOCALHOST, 0).into();
        let endpoint = quic::server(
            any_port,
            pki.tls(),
            &quic::ResetKey::random(),
            &QuicConfig::default(),
        )
        .unwrap();
        let port = endpoint.local_addr().unwrap().port();
        let (accepted, connection) = tokio::join!(
            async { endpoint.accept().await.unwrap().await },
            dial::quic_connection(&pki, port, ALPN)
        );
        let (connection, _unread) = (connection.unwrap(), accepted.unwrap());
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        let mut sent = 0;
        let quiet = Duration::from_millis(300);
        while let Ok(written) = tokio::time::timeout(quiet, send.write(&[0; 4096])).await {
            sent += written.unwrap();
            assert!(sent <= 64 * 1024, "{sent} bytes before any proof");
        }
        let second = tokio::time::timeout(quiet, connection.open_bi()).await;
        assert!(second.is_err(), "a second stream was opened");
    });
}

#[tokio::test(start_paused = true)]
async fn raw_peers_of_this_suite_can_agree() {
    let (here, there) = memory::pair();
    let connector = connector(1);
    let (session, control) = tokio::join!(connector.establish(Arc::new(here)), let_in(&there));
    assert_eq!(session.unwrap().info().agent, "edge-1");
    drop(control);
}
