//! Keys that give way to others, at the server's end of sessions.

mod asking;
mod proving;
mod registering;
mod stores;

use std::net::Ipv4Addr;

use tokio::io::{AsyncBufReadExt as _, BufStream};
use underpass_api::{AGENT_KEY, NextKeyAnswer, NextKeyChallenge, NextKeyRefusal, NextKeyRequest};
use underpass_tunnel::{ConnectError, Dialer, KeyChange, RotationProof};

use super::*;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn key(seed: u8) -> AgentKey {
    AgentKey::from_seed([seed; 32]).unwrap()
}

/// A server's half, and an agent that has joined with the key 1.
struct World {
    directory: Arc<Directory>,
    tunnel: Tunnel,
    acceptor: Acceptor,
    _enforcing: tokio_util::task::AbortOnDropHandle<()>,
}

impl World {
    async fn new() -> Self {
        Self::over(Arc::<MemoryStore>::default(), AuditLog::default()).await
    }

    async fn over(store: Arc<dyn Store>, audit: AuditLog) -> Self {
        let directory = directory_over(store, &key(1)).await;
        let join = |draft: &mut Draft| {
            let mut agent = Agent::clone(&draft.get(ID).unwrap().object);
            agent.join_token = Some("j".to_owned());
            draft.put(ID, agent, Expect::Present)
        };
        directory.change(join).await.unwrap();
        let tunnel = Tunnel::new(Arc::clone(&directory), audit);
        let enforcing = tokio::spawn(tunnel.clone().enforce_access());
        tokio::task::yield_now().await;
        Self {
            acceptor: Acceptor::new(
                AcceptorConfig::default(),
                Arc::new(Keys(Arc::clone(&directory))),
            ),
            _enforcing: tokio_util::task::AbortOnDropHandle::new(enforcing),
            tunnel,
            directory,
        }
    }

    fn connector(&self, key: AgentKey) -> Connector {
        let ca = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let config = ConnectorConfig::new("localhost", 1, ca.cert.pem().into_bytes(), key);
        Connector::new(config).unwrap()
    }

    async fn connect(&self, connector: &Connector) -> Result<Session, ConnectError> {
        let (here, there) = memory::pair();
        let (agent, accepted) = tokio::join!(
            connector.establish(Arc::new(here)),
            self.acceptor.accept(Arc::new(there))
        );
        self.tunnel.serve(accepted, HERE);
        agent
    }

    /// Carries the session on, with the connector's key.
    async fn resume(&self, connector: &Connector, session: &Session) {
        let (here, there) = memory::pair();
        let (resumed, accepted) = tokio::join!(
            connector.resume(session, Arc::new(here)),
            self.acceptor.accept(Arc::new(there))
        );
        self.tunnel.serve(accepted, HERE);
        resumed.unwrap();
    }

    async fn until_key(&self, wanted: &AgentKey) {
        let mut changes = self.directory.changes();
        let wanted = wanted.public_key().to_string();
        let is_key = || {
            let snapshot = self.directory.snapshot();
            snapshot.get::<Agent>(ID).unwrap().object.key == wanted
        };
        while !is_key() {
            let change = tokio::time::timeout(Duration::from_secs(20), changes.changed());
            change.await.expect("the key is replaced").unwrap();
        }
    }
}

async fn register(session: &Session, key: &AgentKey, next: &AgentKey) -> NextKeyAnswer {
    register_after(session, key, next, Duration::ZERO).await
}

/// The same, with a pause before the agent's line.
async fn register_after(
    session: &Session,
    key: &AgentKey,
    next: &AgentKey,
    pause: Duration,
) -> NextKeyAnswer {
    let dialled = Dialer::new(session.clone(), AGENT_KEY).dial().await;
    let mut stream = BufStream::new(dialled.unwrap());
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let challenge: NextKeyChallenge = serde_json::from_str(&line).unwrap();
    let change = KeyChange {
        session: session.info().id.0,
        challenge: challenge.challenge,
        key: key.public_key(),
        next: next.public_key(),
        agent: &challenge.agent,
    };
    let request = NextKeyRequest {
        key: key.public_key().to_string(),
        next_key: next.public_key().to_string(),
        proof: RotationProof::new(key, &change).to_string(),
        next_proof: RotationProof::new(next, &change).to_string(),
    };
    tokio::time::sleep(pause).await;
    send(&mut stream, &serde_json::to_string(&request).unwrap()).await;
    line.clear();
    stream.read_line(&mut line).await.unwrap();
    serde_json::from_str(&line).unwrap()
}

async fn send(stream: &mut BufStream<underpass_tunnel::Stream>, line: &str) {
    stream.write_all(line.as_bytes()).await.unwrap();
    stream.write_all(b"\n").await.unwrap();
    stream.flush().await.unwrap();
}

#[track_caller]
fn assert_refused(answer: NextKeyAnswer, wanted: NextKeyRefusal) {
    let refused = matches!(&answer, NextKeyAnswer::Refused { reason, .. } if *reason == wanted);
    assert!(refused, "{answer:?}");
}
