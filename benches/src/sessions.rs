//! Our own sessions, over each transport.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use underpass_tunnel::transport::quic::{self, QuicConfig};
use underpass_tunnel::transport::websocket::Subprotocol;
use underpass_tunnel::transport::{Transport, memory};
use underpass_tunnel::{
    Acceptor, AcceptorConfig, Admission, AgentKey, Connector, ConnectorConfig, Denied, OpenRequest,
    Proven, ReadHalf, Session, Stream, Transports, WriteHalf,
};

use crate::{Certificate, at_agent, drain, echo, websockets};

/// What carries a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// A pipe within the process.
    Memory,
    /// QUIC on loopback.
    Quic,
    /// Our own multiplexer in a WebSocket over TLS on loopback.
    WebSocket,
    /// yamux in the same.
    Yamux,
}

impl Carrier {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Memory, Self::Quic, Self::WebSocket, Self::Yamux];

    /// For reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Quic => "quic",
            Self::WebSocket => "websocket",
            Self::Yamux => "yamux",
        }
    }
}

/// Lets everybody in.
struct Anybody;

impl Admission for Anybody {
    fn admit<'a>(&'a self, _: &'a Proven) -> BoxFuture<'a, Result<String, Denied>> {
        Box::pin(async { Ok("bench".to_owned()) })
    }
}

/// Both ends of a session. The agent's end echoes every stream.
#[derive(Debug)]
pub struct Pair {
    server: Session,
    credit: Arc<Semaphore>,
    /// The session ends with its last handle.
    _agent: Session,
}

impl Pair {
    /// Connects both ends.
    pub async fn connect(carrier: Carrier) -> Self {
        let certificate = Certificate::new();
        let acceptor = Acceptor::new(AcceptorConfig::default(), Arc::new(Anybody));
        let (agent, server) = match carrier {
            Carrier::Memory => {
                let (here, there) = memory::pair();
                let connector = connector(&certificate, 0, Transports::Auto);
                tokio::join!(establish(&connector, Arc::new(here)), async {
                    acceptor
                        .accept(Arc::new(there))
                        .await
                        .expect("it is let in")
                        .into_session()
                        .expect("it is new")
                },)
            }
            Carrier::Quic => over_quic(&certificate, &acceptor).await,
            Carrier::WebSocket => {
                over_websocket(&certificate, &acceptor, Subprotocol::Underpass).await
            }
            Carrier::Yamux => over_websocket(&certificate, &acceptor, Subprotocol::Yamux).await,
        };
        let credit = Arc::new(Semaphore::new(0));
        tokio::spawn(at_agent(serve(agent.clone(), Arc::clone(&credit))));
        Self {
            server,
            credit,
            _agent: agent,
        }
    }

    /// Opens a stream from the server to the echoing agent.
    pub async fn open(&self) -> Stream {
        let request = OpenRequest {
            target: "echo".to_owned(),
            ..OpenRequest::default()
        };
        self.server.open(request).await.expect("the session lives")
    }

    /// Opens a stream whose bytes the agent drops; it ends its own half once it has read the end.
    /// For each [`SINK_CREDIT_UNIT`](crate::SINK_CREDIT_UNIT) that it has read it adds a permit.
    pub async fn open_sink(&self) -> (ReadHalf, WriteHalf, Arc<Semaphore>) {
        let request = OpenRequest {
            target: "sink".to_owned(),
            ..OpenRequest::default()
        };
        let stream = self.server.open(request).await;
        let (read, write) = stream.expect("the session lives").into_split();
        (read, write, Arc::clone(&self.credit))
    }
}

fn connector(certificate: &Certificate, port: u16, transports: Transports) -> Connector {
    let key = AgentKey::from_seed([7; 32]).expect("any seed makes a key");
    let ca = certificate.pem().as_bytes().to_vec();
    let mut config = ConnectorConfig::new("localhost", port, ca, key);
    config.transports = transports;
    Connector::new(config).expect("the configuration is usable")
}

async fn establish(connector: &Connector, transport: Arc<dyn Transport>) -> Session {
    connector.establish(transport).await.expect("it is let in")
}

async fn over_quic(certificate: &Certificate, acceptor: &Acceptor) -> (Session, Session) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let endpoint = quic::server(
        address,
        certificate.server(),
        &quic::ResetKey::random(),
        &QuicConfig::default(),
    )
    .expect("loopback has a free port");
    let port = endpoint
        .local_addr()
        .expect("a bound socket has an address")
        .port();
    let connector = connector(certificate, port, Transports::Quic);
    tokio::join!(
        async { connector.connect().await.expect("it is let in") },
        async {
            let incoming = endpoint.accept().await.expect("the endpoint is open");
            acceptor
                .accept_quic(incoming)
                .await
                .expect("the agent behaves")
                .into_session()
                .expect("it is new")
        },
    )
}

/// Both ends of a session over one of the multiplexers inside a WebSocket.
async fn over_websocket(
    certificate: &Certificate,
    acceptor: &Acceptor,
    offer: Subprotocol,
) -> (Session, Session) {
    let (agent, server) = websockets(certificate, &[offer]).await;
    let connector = connector(certificate, 0, Transports::WebSocket);
    let agent = at_agent(async move { establish(&connector, agent).await });
    let server = async {
        let accepted = acceptor.accept(server).await.expect("the agent behaves");
        accepted.into_session().expect("it is new")
    };
    tokio::join!(agent, server)
}

async fn serve(session: Session, credit: Arc<Semaphore>) {
    while let Ok(incoming) = session.accept().await {
        let credit = Arc::clone(&credit);
        tokio::spawn(async move {
            let sink = incoming.target() == "sink";
            if let Ok(stream) = incoming.accept().await {
                // A benchmark drops its streams when it has what it wants.
                let _ = if sink {
                    drain(stream, &credit).await
                } else {
                    echo(stream).await
                };
            }
        });
    }
}
