//! A server that agents dial, and the streams that it opens to them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use underpass_core::Identity;
use underpass_tunnel::transport::quic::{self, QuicConfig, ResetKey};
use underpass_tunnel::{
    Accepted, Acceptor, AcceptorConfig, Admission, AgentName, Denied, OpenRequest, Proven,
    PublicKey, Registry, ResetCode, Session, Stream, StreamError, tls,
};

use crate::harness::{DEADLINE, key};

const NAME: &str = "edge";

/// The seed of a key that takes the place of the agent's first one.
pub(crate) const NEXT: u8 = 101;

/// Knows one agent, by two keys.
struct Known([PublicKey; 2]);

impl Admission for Known {
    fn admit<'a>(&'a self, proven: &'a Proven) -> BoxFuture<'a, Result<AgentName, Denied>> {
        Box::pin(async {
            match self.0.contains(&proven.key) {
                true => Ok(NAME.try_into()?),
                false => Err(Denied::unknown_key()),
            }
        })
    }

    fn owner(&self, _: &Proven, _: &AgentName) -> String {
        "the agent".to_owned()
    }
}

/// It lets in the agent of the token that tests write.
pub(crate) struct Server {
    agents: Registry,
    pub(crate) url: String,
    pub(crate) ca_pem: String,
}

impl Server {
    pub(crate) fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let secret = made.signing_key.serialize_der();
        let chain = vec![made.cert.der().clone()];
        let config = tls::server(chain, secret.try_into().unwrap()).unwrap();
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let quic = QuicConfig::default();
        let endpoint = quic::server(address, config, &ResetKey::random(), &quic).unwrap();
        let port = endpoint.local_addr().unwrap().port();
        let known = Arc::new(Known([1, NEXT].map(|seed| key(seed).public_key())));
        let acceptor = Acceptor::new(AcceptorConfig::default(), known);
        let agents = Registry::new();
        let registry = agents.clone();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                if let Ok(Accepted::New(session)) = acceptor.accept_quic(incoming).await {
                    registry.insert(session);
                }
            }
        });
        Self {
            agents,
            url: format!("https://localhost:{port}"),
            ca_pem: made.cert.pem(),
        }
    }

    /// The session that a stream would be opened in now.
    pub(crate) fn now(&self) -> Option<Session> {
        self.agents.pick(NAME)
    }

    /// The agent's session, once it is there.
    pub(crate) async fn session(&self) -> Session {
        let connected = async {
            loop {
                if let Some(session) = self.now() {
                    return session;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within(connected).await
    }
}

pub(crate) async fn within<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(DEADLINE, what).await.expect("in time")
}

/// A stream of alice's, once the agent has taken it.
pub(crate) async fn open(session: &Session, target: &str) -> Result<Stream, StreamError> {
    let alice = Identity::new("alice".to_owned(), None, vec![], Default::default()).unwrap();
    let request = OpenRequest {
        target: target.to_owned(),
        header: alice.encode().unwrap(),
        ..OpenRequest::default()
    };
    let mut stream = within(session.open(request)).await.unwrap();
    within(stream.accepted()).await?;
    Ok(stream)
}

/// The code and the sentence with which the agent refuses it.
pub(crate) async fn refused(session: &Session, target: &str) -> (ResetCode, String) {
    match open(session, target).await {
        Err(StreamError::Refused { code, reason }) => (code, reason),
        other => panic!("not refused: {other:?}"),
    }
}
