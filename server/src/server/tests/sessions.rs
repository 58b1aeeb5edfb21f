//! Users' sessions, at a whole server.

use http::StatusCode;
use serde_json::{Value, json};
use underpass_core::AgentRole;
use underpass_directory::AccessToken;
use underpass_tunnel::{
    CloseCode, ConnectError, ConnectorRole, OpenRequest, Stream, StreamError, Transports,
};

use super::*;
use crate::first_administrator;

/// A server, and its first administrator's token.
struct World {
    server: Server,
    token: String,
    _data: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let server = start(data.path()).await.unwrap();
        let token = std::fs::read_to_string(data.path().join(first_administrator::NAME));
        Self {
            server,
            token: token.unwrap().trim().to_owned(),
            _data: data,
        }
    }

    fn connector(&self, role: ConnectorRole, seed: u8, transports: Transports) -> Connector {
        let key = AgentKey::from_seed([seed; 32]).unwrap();
        let ca = self.server.ca_pem().as_bytes().to_vec();
        let mut config = ConnectorConfig::new("localhost", self.server.address().port(), ca, key);
        config.role = role;
        config.transports = transports;
        Connector::new(config).unwrap()
    }

    async fn post(&self, path: &str, token: &str, body: &Value) -> (u16, Value) {
        let mut tls = connect(&self.server, "localhost").await.unwrap();
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        tls.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = within("an answer", tls.read_to_string(&mut answer)).await;
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let body = answer.find('{').zip(answer.rfind('}'));
        let body = body.and_then(|(from, to)| serde_json::from_str(&answer[from..=to]).ok());
        (status, body.unwrap_or_default())
    }

    async fn register(&self, token: &str, seed: u8) -> (u16, Value) {
        let key = AgentKey::from_seed([seed; 32]).unwrap().public_key();
        let body = json!({"publicKey": key.to_string()});
        self.post("/v1/sessions", token, &body).await
    }

    /// A user of this name with a token, which is given with its id.
    async fn user(&self, name: &str) -> (String, String) {
        let wanted = json!({"user": name, "role": "view", "token": {"expiresInSeconds": 3600}});
        let (status, given) = self.post("/v1/access", &self.token, &wanted).await;
        assert_eq!(status, 200, "{given}");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (
            text(&given["token"]["token"]),
            text(&given["token"]["about"]["id"]),
        )
    }

    async fn session(&self, seed: u8, transports: Transports) -> Session {
        let connector = self.connector(ConnectorRole::User, seed, transports);
        within("a session", connector.connect()).await.unwrap()
    }
}

async fn open(session: &Session, target: &str) -> Stream {
    let request = OpenRequest {
        target: target.to_owned(),
        ..OpenRequest::default()
    };
    session.open(request).await.unwrap()
}

/// The status line's code of a request on a stream of its own.
async fn asked(session: &Session, head: &str) -> u16 {
    let mut stream = open(session, underpass_api::HTTP_TARGET).await;
    let request = format!("GET /v1/self HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn rule_3_each_request_of_a_users_session_is_authenticated_by_itself() {
    for transports in [Transports::Quic, Transports::WebSocket] {
        let world = World::new().await;
        assert_eq!(world.register("upt_nobodys", 1).await.0, 401);
        let (status, made) = world.register(&world.token, 1).await;
        assert_eq!((status, &made["isNew"]), (201, &json!(true)), "{made}");
        let session = world.session(1, transports).await;
        let token = format!("Authorization: Bearer {}\r\n", world.token);
        assert_eq!(asked(&session, &token).await, 200);
        assert_eq!(asked(&session, "").await, 401, "the session grants nothing");
        let forwarded = format!("X-Forwarded-For: 10.0.0.1\r\n{token}");
        assert_eq!(asked(&session, &forwarded).await, 200);
        // The same key again rests on the credential that comes with it.
        assert_eq!(world.register(&world.token, 1).await.0, 200);
        let (alice, _) = world.user("alice").await;
        assert_eq!(world.register(&alice, 1).await.0, 409);
        world.server.stop().await;
        within("the session ends", session.closed()).await;
    }
}

/// Neither by its user's name, nor by its key, nor by a way in.
#[tokio::test]
async fn a_users_session_serves_no_cluster() {
    let world = World::new().await;
    let made = world.server.directory().change(|draft| {
        let cluster = Cluster::new(draft.now());
        draft.put("edge", cluster, Expect::Absent)?;
        let key = AgentKey::from_seed([9; 32]).expect("a seed").public_key();
        let edge = ClusterName::new("edge").expect("a name");
        let agent = Agent::new(draft.now(), edge, key.to_string());
        draft.put("agent", agent, Expect::Absent)
    });
    made.await.unwrap();
    let (edge, _) = world.user("edge").await;
    let edge_name = ClusterName::new("edge").unwrap();
    for (seed, transports) in [(1, Transports::Quic), (2, Transports::WebSocket)] {
        assert_eq!(world.register(&edge, seed).await.0, 201);
        let session = world.session(seed, transports).await;
        assert_eq!(session.info().agent.as_str(), "edge");
        assert_eq!(world.server.agents(&edge_name), 0);
        for role in AgentRole::ALL {
            assert!(world.server.running.tunnel.sessions_in(role).is_empty());
        }
        assert_eq!(world.server.running.sessions.count(), usize::from(seed));
        let unknown = |refused: Result<Session, ConnectError>| {
            let refused = refused.expect_err("no session");
            assert!(refused.is_unknown_key(), "{refused:?}");
        };
        // A user's key is no agent's, and an agent's is no user's: not even the agent's own user's.
        let agent = world.connector(ConnectorRole::Agent, seed, transports);
        unknown(within("an answer", agent.connect()).await);
        let user = world.connector(ConnectorRole::User, 9, transports);
        unknown(within("an answer", user.connect()).await);
        // An agent of the same name, which is let in as one, has sessions of its own.
        let agent = world.connector(ConnectorRole::Agent, 9, transports);
        let agent = within("a session", agent.connect()).await.unwrap();
        assert_eq!(world.server.running.sessions.count(), usize::from(seed));
        for target in ["kube-api", "agent-key", "credentials", ""] {
            let mut stream = open(&session, target).await;
            let refused = within("an answer", stream.accepted()).await;
            let refused = refused.expect_err("no such target");
            assert!(
                matches!(refused, StreamError::Refused { .. }),
                "{refused:?}"
            );
        }
        agent.close(CloseCode::Shutdown, "");
        std::mem::forget(session);
    }
}

#[tokio::test]
async fn rule_12_a_session_ends_with_its_credential() {
    let world = World::new().await;
    for transports in [Transports::Quic, Transports::WebSocket] {
        let (token, id) = world.user("alice").await;
        assert_eq!(world.register(&token, 1).await.0, 201);
        let session = world.session(1, transports).await;
        let bearer = format!("Authorization: Bearer {token}\r\n");
        assert_eq!(asked(&session, &bearer).await, 200);
        let mut idle = open(&session, underpass_api::HTTP_TARGET).await;
        idle.write_all(b"GET /").await.unwrap();
        let removed = world.server.directory();
        let removed = removed.change(|draft| draft.remove::<AccessToken>(&id, Expect::Present));
        removed.await.unwrap();
        let revoked = tokio::time::Instant::now();
        let ended = within("the session ends", session.closed()).await;
        assert!(revoked.elapsed() < Duration::from_secs(1));
        assert_eq!(ended.close_code(), Some(CloseCode::Revoked));
        idle.read(&mut [0])
            .await
            .expect_err("its streams end with it");
        assert_eq!(world.register(&token, 1).await.0, 401);
        let again = world.connector(ConnectorRole::User, 1, transports);
        let again = within("an answer", again.connect()).await;
        assert!(again.expect_err("no session").is_unknown_key());
    }
}

#[tokio::test]
async fn rule_23_a_user_has_so_many_sessions_and_is_told() {
    let world = World::new().await;
    let bound = u8::try_from(limits::SESSIONS_OF_USER).unwrap();
    let (mallory, _) = world.user("mallory").await;
    for seed in 0..bound {
        assert_eq!(world.register(&mallory, seed + 1).await.0, 201);
    }
    let (status, problem) = world.register(&mallory, 200).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS.as_u16());
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("16 sessions"), "{detail}");
    let (alice, _) = world.user("alice").await;
    assert_eq!(world.register(&alice, 201).await.0, 201);
    // One that has ended makes room at once.
    let session = world.session(1, Transports::WebSocket).await;
    session.close(CloseCode::Shutdown, "done");
    let room = async {
        while world.register(&mallory, 200).await.0 != 201 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("there is room", room).await;
}
