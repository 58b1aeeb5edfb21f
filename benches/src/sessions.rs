//! Our own sessions, over each transport.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use underpass_tunnel::{
    Acceptor, AcceptorConfig, Admission, AgentKey, AgentName, Class, Connector, ConnectorConfig,
    Denied, OpenRequest, Proven, Session, Stream,
};

use crate::{Carrier, Certificate, at_agent, drain, echo, pour, transports};

/// Lets everybody in.
struct Anybody;

impl Admission for Anybody {
    fn admit<'a>(&'a self, _: &'a Proven) -> BoxFuture<'a, Result<AgentName, Denied>> {
        Box::pin(async { Ok("bench".try_into()?) })
    }
}

/// Both ends of a session. The agent's end echoes streams, or swallows them.
#[derive(Debug)]
pub struct Pair {
    server: Session,
    /// The session ends with its last handle.
    _agent: Session,
}

impl Pair {
    /// Connects both ends.
    pub async fn connect(carrier: Carrier) -> Self {
        let certificate = Certificate::new();
        let (agent, server) = transports(carrier, &certificate).await;
        let connector = connector(&certificate);
        let acceptor = Acceptor::new(AcceptorConfig::default(), Arc::new(Anybody));
        let agent = async move { connector.establish(agent).await.expect("it is let in") };
        let server = async move {
            let accepted = acceptor.accept(server).await.expect("the agent behaves");
            accepted.into_session().expect("it is new")
        };
        let (agent, server) = tokio::join!(at_agent(agent), server);
        tokio::spawn(at_agent(serve(agent.clone())));
        Self {
            server,
            _agent: agent,
        }
    }

    /// Opens a stream from the server that the agent echoes.
    pub async fn open(&self) -> Stream {
        self.open_as(ECHO, Class::Default).await
    }

    /// Opens a stream from the server to [`ECHO`] or [`SINK`].
    pub async fn open_as(&self, target: &str, class: Class) -> Stream {
        let request = OpenRequest {
            target: target.to_owned(),
            class,
            ..OpenRequest::default()
        };
        self.server.open(request).await.expect("the session lives")
    }

    /// Opens a stream from the server on which the agent sends `total` bytes, then its end.
    pub async fn open_source(&self, total: usize, class: Class) -> Stream {
        self.open_as(&format!("{SOURCE}{total}"), class).await
    }
}

/// The agent sends back what it reads.
pub const ECHO: &str = "echo";

/// The agent drops what it reads, and ends its own half once it has read the end.
pub const SINK: &str = "sink";

/// The agent sends as many bytes as the number behind it says.
const SOURCE: &str = "source ";

fn connector(certificate: &Certificate) -> Connector {
    let key = AgentKey::from_seed([7; 32]).expect("any seed makes a key");
    let ca = certificate.pem().as_bytes().to_vec();
    // It is handed its transports, and dials nobody.
    let config = ConnectorConfig::new("localhost", 0, ca, key);
    Connector::new(config).expect("the configuration is usable")
}

async fn serve(session: Session) {
    while let Ok(incoming) = session.accept().await {
        tokio::spawn(async move {
            let target = incoming.target().to_owned();
            let Ok(stream) = incoming.accept().await else {
                return;
            };
            let source = target
                .strip_prefix(SOURCE)
                .and_then(|total| total.parse().ok());
            // A benchmark drops its streams when it has what it wants.
            let _ = match source {
                Some(total) => pour(stream, total).await,
                None if target == SINK => drain(stream).await,
                None => echo(stream).await,
            };
        });
    }
}
