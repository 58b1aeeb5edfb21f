//! A holder of a key that is no agent.

use std::fs;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream};
use underpass_api::{AGENT_KEY, NextKeyAnswer, NextKeyChallenge, NextKeyRefusal, NextKeyRequest};
use underpass_testenv::Transport;
use underpass_tunnel::{
    AgentKey, ConnectError, Connector, ConnectorConfig, Dialer, KeyChange, RotationProof, Session,
    Transports,
};

use crate::join::Site;

/// A holder of an agent's key, which speaks the protocol without the agent's program.
pub(super) struct Holder {
    pub(super) connector: Connector,
    pub(super) session: Session,
}

impl Holder {
    pub(super) async fn connect(site: &Site, key: &str) -> Result<Self, ConnectError> {
        let ca = fs::read(site.deployment.ca_file()).unwrap();
        let port = site.deployment.url().rsplit(':').next().unwrap();
        let port = port.parse().unwrap();
        let config = ConnectorConfig {
            transports: match site.deployment.transport {
                Transport::WebSocket => Transports::WebSocket,
                _ => Transports::Quic,
            },
            ..ConnectorConfig::new("localhost", port, ca, key.parse().unwrap())
        };
        let connector = Connector::new(config).unwrap();
        let session = connector.connect().await?;
        Ok(Self { connector, session })
    }

    /// Registers a next key, with these proofs of the two.
    pub(super) async fn register(&self, key: &str, next: &AgentKey) -> NextKeyAnswer {
        let key: AgentKey = key.parse().unwrap();
        self.register_with(&key, next, |change| {
            [
                RotationProof::new(&key, change),
                RotationProof::new(next, change),
            ]
        })
        .await
    }

    pub(super) async fn register_with(
        &self,
        key: &AgentKey,
        next: &AgentKey,
        prove: impl FnOnce(&KeyChange<'_>) -> [RotationProof; 2],
    ) -> NextKeyAnswer {
        let dialled = Dialer::new(self.session.clone(), AGENT_KEY).dial().await;
        let mut stream = BufStream::new(dialled.unwrap());
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let challenge: NextKeyChallenge = serde_json::from_str(&line).unwrap();
        let change = KeyChange {
            session: self.session.info().id.0,
            challenge: challenge.challenge,
            key: key.public_key(),
            next: next.public_key(),
            agent: &challenge.agent,
        };
        let [proof, next_proof] = prove(&change).map(|proof| proof.to_string());
        let request = NextKeyRequest {
            key: key.public_key().to_string(),
            next_key: next.public_key().to_string(),
            proof,
            next_proof,
        };
        let request = serde_json::to_string(&request).unwrap() + "\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        line.clear();
        stream.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

pub(super) fn is_registered(answer: &NextKeyAnswer) -> bool {
    matches!(answer, NextKeyAnswer::Registered { .. })
}

#[track_caller]
pub(super) fn assert_refused(answer: &NextKeyAnswer, wanted: NextKeyRefusal) {
    let refused = matches!(answer, NextKeyAnswer::Refused { reason, .. } if *reason == wanted);
    assert!(refused, "{answer:?}");
}
