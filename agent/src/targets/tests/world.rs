//! An agent, its server, and the sockets that they reach.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream};
use underpass_agent_operations::Operations;
use underpass_agent_policy::Policy;
use underpass_core::{AgentRole, Identity, ImpersonationPolicy};
use underpass_dial::Resolve;
use underpass_tunnel::transport::{Transport, memory};
use underpass_tunnel::{
    Acceptor, AcceptorConfig, Admission, AgentKey, AgentName, CloseCode, Connector,
    ConnectorConfig, Denied, OpenRequest, Proven, PublicKey, ResetCode, Session, Stream,
    StreamError,
};
use underpass_upstream::{ApiServer, ApiServerOptions};

use crate::kube_api::KubeApi;
use crate::policy::Policies;
use crate::serve::Sessions;
use crate::targets::{OwnFiles, Targets};

const SOON: Duration = Duration::from_secs(30);

pub(super) async fn within<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(SOON, what).await.expect("in time")
}

/// An agent, by two keys.
struct Known([PublicKey; 2]);

impl Admission for Known {
    fn admit<'a>(&'a self, proven: &'a Proven) -> BoxFuture<'a, Result<AgentName, Denied>> {
        Box::pin(async {
            match self.0.contains(&proven.key) {
                true => Ok("edge".try_into()?),
                false => Err(Denied::unknown_key()),
            }
        })
    }

    fn owner(&self, _: &Proven, _: &AgentName) -> String {
        "the agent".to_owned()
    }
}

/// An agent and its server.
pub(super) struct World {
    pub(super) policies: Arc<Policies>,
    server: Session,
    _sessions: Sessions,
}

/// How the agent differs from the usual one.
pub(super) struct Differs {
    pub(super) resolver: Option<Arc<dyn Resolve>>,
    pub(super) open_files: Option<u64>,
    pub(super) own: Vec<PathBuf>,
    pub(super) api_server: String,
    /// The policy's file, without which it never changes.
    pub(super) file: Option<PathBuf>,
    /// Records of operations.
    pub(super) operations: Option<Operations>,
}

impl Default for Differs {
    fn default() -> Self {
        Self {
            resolver: None,
            open_files: None,
            own: Vec::new(),
            file: None,
            operations: None,
            api_server: "http://127.0.0.1:1".to_owned(),
        }
    }
}

impl World {
    pub(super) async fn new(policy: &str) -> Self {
        Self::differing(policy, Differs::default()).await
    }

    pub(super) async fn differing(policy: &str, differs: Differs) -> Self {
        let flags = ImpersonationPolicy::default().deny_user("mallory");
        let policies = Arc::new(Policies::read(differs.file, flags).unwrap());
        policies.enforce(Policy::from_yaml(policy).unwrap());
        let own = OwnFiles::new(differs.own);
        let targets = Targets::new(Arc::clone(&policies), own, differs.open_files);
        let mut targets = targets.with_operations(differs.operations);
        if let Some(resolver) = differs.resolver {
            targets.resolver = Some(resolver);
        }
        let config = kube::Config::new(differs.api_server.parse().unwrap());
        let options = ApiServerOptions {
            insecure: true,
            ..ApiServerOptions::default()
        };
        let api_server = ApiServer::new(config, options).await.unwrap();
        let api_server = Some(Arc::new(api_server));
        let kube = KubeApi::new(api_server, AgentRole::Cluster, Arc::clone(&policies));
        let questions = crate::rotation::Questions::new().0;
        let sessions = Sessions::new(kube, Arc::new(targets), questions);
        let (agent, server) = pair().await;
        sessions.serve(agent);
        Self {
            policies,
            server,
            _sessions: sessions,
        }
    }

    pub(super) async fn open(&self, target: &str) -> Result<Stream, StreamError> {
        self.open_as("alice", target).await
    }

    pub(super) async fn open_as(&self, user: &str, target: &str) -> Result<Stream, StreamError> {
        let identity = Identity::new(user.to_owned(), None, vec![], Default::default());
        self.open_with(identity.unwrap().encode().unwrap(), target)
            .await
    }

    pub(super) async fn open_with(
        &self,
        header: Bytes,
        target: &str,
    ) -> Result<Stream, StreamError> {
        let request = OpenRequest {
            target: target.to_owned(),
            header,
            ..OpenRequest::default()
        };
        let mut stream = self.server.open(request).await.unwrap();
        within(stream.accepted()).await?;
        Ok(stream)
    }

    pub(super) async fn refused(&self, target: &str) -> (ResetCode, String) {
        sentence(self.open(target).await)
    }
}

pub(super) fn sentence(opened: Result<Stream, StreamError>) -> (ResetCode, String) {
    match opened {
        Err(StreamError::Refused { code, reason }) => (code, reason),
        other => panic!("not refused: {other:?}"),
    }
}

fn key(seed: u8) -> AgentKey {
    AgentKey::from_seed([seed; 32]).unwrap()
}

/// Both ends of a session: the agent's, and the server's.
pub(crate) async fn pair() -> (Session, Session) {
    let Ends { agent, server, .. } = Ends::new().await;
    (agent, server)
}

/// Both ends of a session. The agent has another key as well.
pub(crate) struct Ends {
    pub(crate) agent: Session,
    pub(crate) server: Session,
    connector: Connector,
    acceptor: Acceptor,
    transport: Arc<dyn Transport>,
}

impl Ends {
    pub(crate) async fn new() -> Self {
        let known = Arc::new(Known([1, 2].map(|seed| key(seed).public_key())));
        let acceptor = Acceptor::new(AcceptorConfig::default(), known);
        let ca = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
        let ca = ca.cert.pem().into_bytes();
        let connector = Connector::new(ConnectorConfig::new("x", 1, ca, key(1))).unwrap();
        let (here, there) = memory::pair();
        let transport: Arc<dyn Transport> = Arc::new(here);
        let (agent, server) = tokio::join!(
            connector.establish(Arc::clone(&transport)),
            acceptor.accept(Arc::new(there))
        );
        Self {
            agent: agent.unwrap(),
            server: server.unwrap().into_session().unwrap(),
            connector,
            acceptor,
            transport,
        }
    }

    /// The session loses its first transport.
    pub(crate) fn lose_transport(&self) {
        self.transport.close(CloseCode::TransportLeft, "cut");
    }

    /// The session proves the other key.
    pub(crate) async fn prove_another_key(&self) {
        self.connector.renew_key(key(2));
        let (here, there) = memory::pair();
        let (resumed, accepted) = tokio::join!(
            self.connector.resume(&self.agent, Arc::new(here)),
            self.acceptor.accept(Arc::new(there))
        );
        resumed.unwrap();
        accepted.unwrap();
        assert_eq!(self.agent.key(), key(2).public_key());
    }
}

pub(super) const OWN: &str = "tcp: [{name: own, addresses: [127.0.0.0/8]}]";

pub(super) async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("tcp:{}", listener.local_addr().unwrap());
    (listener, target)
}

/// A port on which nothing listens.
pub(super) async fn closed() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// The connection that the agent makes for a stream, and the stream.
pub(super) async fn joined(
    world: &World,
    listener: &TcpListener,
    target: &str,
) -> (TcpStream, Stream) {
    let (accepted, stream) =
        within(async { tokio::join!(listener.accept(), world.open(target)) }).await;
    (accepted.unwrap().0, stream.unwrap())
}
