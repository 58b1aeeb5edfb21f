//! QUIC's paths: they change, carry more than they promise, and are told of.

use std::future::IntoFuture as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use underpass_tunnel::transport::quic::{self, Offload, QuicConfig, QuicTransport};
use underpass_tunnel::transport::{PathStats, Transport};
use underpass_tunnel::{CloseCode, Connector, ConnectorConfig, Session, Transports};

use crate::bytes::{drink, expect, pour, send, stream};
use crate::dial::{self, HOST};
use crate::harness::{
    Kind, acceptor, acceptor_config, connector_config, cuttable, pair, run, until, within,
};
use crate::server::Pki;

const BULK: usize = 8 * 1024 * 1024;

fn endpoint(pki: &Pki, config: &QuicConfig) -> (quinn::Endpoint, u16) {
    let any_port = (Ipv4Addr::LOCALHOST, 0).into();
    let endpoint = quic::server(any_port, pki.tls(), &quic::ResetKey::random(), config).unwrap();
    let port = endpoint.local_addr().unwrap().port();
    (endpoint, port)
}

/// The server's end of the next connection.
async fn accepted(endpoint: &quinn::Endpoint) -> Arc<QuicTransport> {
    let incoming = within("a client comes", endpoint.accept()).await.unwrap();
    let connection = within("it connects", incoming.into_future()).await;
    Arc::new(QuicTransport::new(connection.unwrap()))
}

/// Sends `BULK` bytes from the server to the agent.
async fn bulk(server: &Session, agent: &Session) {
    let (here, there) = stream(server, agent).await;
    let ((_reading, mut writer), (mut reader, _writing)) = (here.into_split(), there.into_split());
    let (sent, received) =
        tokio::try_join!(pour(&mut writer, 7, BULK, 64 * 1024), drink(&mut reader)).unwrap();
    assert_eq!((received.0, received.1.as_ref()), (BULK, sent.as_ref()));
}

/// Both ends of a session whose endpoints are configured alike, after some bulk.
async fn after_bulk(config: QuicConfig) -> (Session, Session, Arc<QuicTransport>) {
    let pki = Pki::new();
    let (endpoint, port) = endpoint(&pki, &config);
    let connector = Connector::new(ConnectorConfig {
        transports: Transports::Quic,
        quic: config,
        ..connector_config(port, &pki)
    })
    .unwrap();
    let (agent, (server, transport)) = tokio::join!(connector.connect(), async {
        let transport = accepted(&endpoint).await;
        let below = Arc::clone(&transport) as Arc<dyn Transport>;
        (acceptor(acceptor_config()).accept(below).await, transport)
    });
    let server = server.unwrap().into_session().unwrap();
    let agent = agent.unwrap();
    bulk(&server, &agent).await;
    (agent, server, transport)
}

#[test]
fn a_session_goes_on_when_its_clients_address_changes() {
    run(async {
        let pki = Pki::new();
        let (endpoint, port) = endpoint(&pki, &QuicConfig::default());
        let ((client, connection), below) =
            tokio::join!(dial::quic_endpoint(&pki, port), accepted(&endpoint));
        let connector = Connector::new(connector_config(1, &pki)).unwrap();
        let acceptor = acceptor(acceptor_config());
        let (agent, session) = tokio::join!(
            connector.establish(Arc::new(QuicTransport::new(connection))),
            acceptor.accept(Arc::clone(&below) as Arc<dyn Transport>)
        );
        let session = session.unwrap().into_session().unwrap();
        let agent = agent.unwrap();
        let (here, there) = stream(&session, &agent).await;
        let (mut from_agent, mut to_agent) = here.into_split();
        let (mut from_server, mut to_server) = there.into_split();
        send(&mut to_agent, b"before").await;
        expect(&mut from_server, b"before").await;

        let before = below.remote().unwrap();
        client
            .rebind(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
            .unwrap();
        let after = client.local_addr().unwrap();
        assert_ne!(before, after);
        send(&mut to_server, b"from elsewhere").await;
        expect(&mut from_agent, b"from elsewhere").await;
        until("the server takes the new address", || {
            below.remote() == Some(after)
        })
        .await;
        bulk(&session, &agent).await;
        assert!(session.is_open() && agent.is_open());
    });
}

#[test]
fn a_path_that_carries_large_datagrams_is_found_out() {
    run(async {
        let (_agent, _server, transport) = after_bulk(QuicConfig::default()).await;
        // Loopback carries all of them.
        until("discovery is done", || {
            transport.stats().max_datagram > Some(6500)
        })
        .await;
        assert_eq!(transport.stats().black_holes, Some(0));
    });
}

#[test]
fn without_discovery_and_offload_bytes_arrive_too() {
    run(async {
        let config = QuicConfig::default()
            .offload(Offload::Off)
            .max_datagram(1200)
            .unwrap();
        let (_agent, _server, transport) = after_bulk(config).await;
        assert_eq!(transport.stats().max_datagram, Some(1200));
    });
}

#[cfg(feature = "qlog")]
#[test]
fn packets_of_both_ends_are_traced() {
    let folder = std::env::temp_dir().join(format!("underpass-traces-{}", std::process::id()));
    let config = QuicConfig::default().qlog(&folder);
    run(async {
        after_bulk(config).await;
    });
    let mut sides = Vec::new();
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        let trace = std::fs::read_to_string(&path).unwrap();
        assert!(trace.contains("packet_sent"), "{}", path.display());
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        sides.extend(name.split_once('-').map(|(side, _)| side.to_owned()));
    }
    std::fs::remove_dir_all(&folder).unwrap();
    sides.sort();
    assert_eq!(sides, ["client", "server"]);
}

#[test]
fn a_path_is_told_of_while_it_lives_and_after() {
    run(async {
        let pair = cuttable(Kind::Quic).await;
        bulk(&pair.server, &pair.agent).await;
        let stats = pair.transport.stats();
        assert!(stats.received_bytes > Some(BULK as u64), "{stats:?}");
        assert!(stats.sent_bytes > Some(0), "{stats:?}");
        assert!(stats.round_trip > Some(Duration::ZERO), "{stats:?}");
        assert!(stats.congestion_window > Some(0), "{stats:?}");
        assert!(stats.sent_packets > stats.lost_packets, "{stats:?}");
        pair.agent.close(CloseCode::Shutdown, "test over");
        within("it ends", pair.transport.closed()).await;
        let last = pair.transport.stats();
        assert!(last.received_bytes >= stats.received_bytes, "{last:?}");
        assert!(pair.transport.remote().is_some());
        within("the server hears of it", pair.server.closed()).await;
    });
}

#[test]
fn a_transport_that_measures_nothing_says_so() {
    run(async {
        let pair = cuttable(Kind::Memory).await;
        assert_eq!(pair.transport.stats(), PathStats::default());
    });
}

#[test]
fn a_session_that_is_kept_after_its_end_holds_no_socket() {
    run(async {
        let pair = pair(Kind::Quic).await;
        let client = pair.server.info().remote.unwrap();
        assert!(is_taken(client));
        pair.server.close(CloseCode::Shutdown, "test over");
        within("the agent hears of it", pair.agent.closed()).await;
        until("the agent's socket is closed", || !is_taken(client)).await;
        assert!(!pair.agent.is_open());
    });
}

/// Whether a socket of this machine has the address.
fn is_taken(address: SocketAddr) -> bool {
    assert_eq!(address.ip().to_string(), HOST);
    UdpSocket::bind(address).is_err()
}

/// A server in a runtime of its own, which ends as a crash does: without a word. Gives its port and its end.
fn doomed(pki: &Pki, key: quic::ResetKey) -> (u16, impl FnOnce() + use<>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let any_port = (Ipv4Addr::LOCALHOST, 0).into();
    let endpoint = {
        let _within = runtime.enter();
        quic::server(any_port, pki.tls(), &key, &QuicConfig::default()).unwrap()
    };
    let port = endpoint.local_addr().unwrap().port();
    let serving = runtime.spawn(async move {
        let mut connections = Vec::new();
        while let Some(incoming) = endpoint.accept().await {
            connections.extend(incoming.await);
        }
    });
    let crash = move || {
        // Within it, handles on connections close these when they go; in a runtime that is gone nothing is sent.
        runtime.shutdown_background();
        drop(serving);
    };
    (port, crash)
}

/// RFC 9000, section 10.3. Without it an agent waits until its keepalive gives up.
#[test]
fn a_server_that_crashed_says_that_it_is_another_one() {
    run(async {
        let pki = Pki::new();
        let key = || quic::ResetKey::derive(b"the CA's key");
        let (port, crash) = doomed(&pki, key());
        let (_endpoint, connection) = dial::quic_endpoint(&pki, port).await;
        let (mut send, _recv) = within("a stream", connection.open_bi()).await.unwrap();
        send.write_all(b"hello").await.unwrap();
        crash();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let again = || quic::server(address, pki.tls(), &key(), &QuicConfig::default());
        let mut server = again();
        while server.is_err() {
            // The socket goes with the runtime's last thread.
            tokio::task::yield_now().await;
            server = again();
        }
        let _ = send.write_all(b"are you there?").await;
        let error = within("it is told", connection.closed()).await;
        assert_eq!(error, quinn::ConnectionError::Reset);
    });
}
