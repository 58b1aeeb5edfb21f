//! Many QUIC clients at once.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use underpass_proto::agent_name::AgentName;
use underpass_proto::handshake::Proven;
use underpass_proto::key::AgentKey;

use super::*;
use crate::connector::{
    AttemptError, ConnectError, Connector, ConnectorConfig, DialError, RouteError, Transports,
};
use crate::tls;
use crate::transport::quic::{self, QuicConfig, ResetKey};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const DEADLINE: Duration = Duration::from_secs(20);

struct Everyone;

impl Admission for Everyone {
    fn admit<'a>(&'a self, _: &'a Proven) -> BoxFuture<'a, Result<AgentName, Denied>> {
        Box::pin(async { Ok("edge-1".try_into()?) })
    }
}

/// A server on loopback whose bounds are small enough to be reached.
struct Server {
    handshake_limiter: HandshakeLimiter,
    ca_pem: Vec<u8>,
    port: u16,
    results: mpsc::UnboundedReceiver<Result<Accepted, AcceptError>>,
    _tasks: JoinSet<()>,
}

impl Server {
    fn start(bounds: Bounds) -> Self {
        let made = rcgen::generate_simple_self_signed([HOST.to_string()]).unwrap();
        let key = made.signing_key.serialize_der().try_into().unwrap();
        let tls = tls::server(vec![made.cert.der().clone()], key).unwrap();
        let endpoint = quic::server(
            (HOST, 0).into(),
            tls,
            &ResetKey::random(),
            &QuicConfig::default(),
        )
        .unwrap();
        let port = endpoint.local_addr().unwrap().port();
        let handshake_limiter = HandshakeLimiter::new(bounds);
        let mut acceptor = Acceptor::new(AcceptorConfig::default(), Arc::new(Everyone));
        acceptor.handshake_limiter = Arc::new(handshake_limiter.clone());
        let (sender, results) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let _ = sender.send(acceptor.accept_quic(incoming).await);
            }
        });
        Self {
            handshake_limiter,
            ca_pem: made.cert.pem().into_bytes(),
            port,
            results,
            _tasks: tasks,
        }
    }

    fn connector(&self, ca_pem: &[u8]) -> Connector {
        let key = AgentKey::from_seed([7; 32]).unwrap();
        let mut config = ConnectorConfig::new(HOST.to_string(), self.port, ca_pem.to_vec(), key);
        config.transports = Transports::Quic;
        Connector::new(config).unwrap()
    }

    async fn connect(&self) -> Result<Session, ConnectError> {
        tokio::time::timeout(DEADLINE, self.connector(&self.ca_pem).connect())
            .await
            .expect("an answer comes")
    }

    async fn result(&mut self) -> Result<Accepted, AcceptError> {
        tokio::time::timeout(DEADLINE, self.results.recv())
            .await
            .expect("somebody comes")
            .unwrap()
    }
}

fn is_refused(error: &ConnectError) -> bool {
    let ConnectError::Dial(DialError { attempts, .. }) = error else {
        return false;
    };
    attempts.iter().any(|attempt| {
        matches!(
            attempt,
            AttemptError::Failed {
                error: RouteError::Quic(quinn::ConnectionError::ConnectionClosed(close)),
                ..
            } if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED
        )
    })
}

#[tokio::test]
async fn a_client_gets_in_through_a_retry() {
    let mut server = Server::start(Bounds {
        unproven: 0,
        ..Bounds::default()
    });
    let session = server.connect().await.unwrap();
    let asked = server.result().await.unwrap_err();
    assert!(matches!(asked, AcceptError::AddressUnproven), "{asked:?}");
    let accepted = server.result().await.unwrap().into_session().unwrap();
    assert_eq!(session.info().id, accepted.info().id);
}

#[tokio::test]
async fn beyond_the_places_a_client_is_refused_at_once() {
    let mut server = Server::start(Bounds {
        places: 1,
        ..Bounds::default()
    });
    let place = server.handshake_limiter.enter(None, true).unwrap();
    let error = server.connect().await.unwrap_err();
    assert!(is_refused(&error), "{error:?}");
    let error = server.result().await.unwrap_err();
    assert!(matches!(error, AcceptError::Overloaded), "{error:?}");
    drop(place);
    let _session = server.connect().await.unwrap();
    server.result().await.unwrap();
}

#[tokio::test]
async fn in_a_rush_one_source_does_not_get_every_place() {
    let server = Server::start(Bounds {
        unproven: 0,
        per_source: 1,
        ..Bounds::default()
    });
    let _place = server.handshake_limiter.enter(Some(HOST), true).unwrap();
    let error = server.connect().await.unwrap_err();
    assert!(is_refused(&error), "{error:?}");
}

#[tokio::test]
async fn a_session_gives_its_place_back() {
    let mut server = Server::start(Bounds {
        places: 1,
        failed: 1,
        ..Bounds::default()
    });
    for _ in 0..3 {
        let _session = server.connect().await.unwrap();
        let _accepted = server.result().await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_its_first_packet_closes_is_remembered_while_it_lives() {
    let mut server = Server::start(Bounds::default());
    let tls = tls::pinned_client(&server.ca_pem).unwrap();
    let config = QuicConfig::default();
    let client = quic::client_config(tls, &config).unwrap();
    let address = (HOST, server.port).into();
    let endpoint = quic::client(address, &config).unwrap();
    // Nothing was sent yet: a connection dropped now closes with its first packet.
    drop(endpoint.connect_with(client, address, &HOST.to_string()));
    let error = server.result().await.unwrap_err();
    assert!(matches!(error, AcceptError::Quic(_)), "{error:?}");
    let left = server.handshake_limiter.remembered();
    assert!(left > Some(limits::FAILED_HANDSHAKE_TIME), "{left:?}");
}

#[tokio::test]
async fn a_handshake_that_fails_is_remembered_shortly() {
    let mut server = Server::start(Bounds::default());
    let other = rcgen::generate_simple_self_signed([HOST.to_string()]).unwrap();
    let connector = server.connector(other.cert.pem().as_bytes());
    let error = connector.connect().await.unwrap_err();
    assert!(error.needs_attention(), "{error:?}");
    let error = server.result().await.unwrap_err();
    assert!(matches!(error, AcceptError::Quic(_)), "{error:?}");
    let left = server.handshake_limiter.remembered();
    assert!(left.is_some(), "it is forgotten");
    assert!(left <= Some(limits::FAILED_HANDSHAKE_TIME), "{left:?}");
}
