//! Acting as somebody else while an agent on a node stands in for the cluster's.

use std::sync::Mutex;

use underpass_core::AgentRole;
use underpass_tunnel::IncomingStream;

use super::*;
use crate::first_administrator;

/// Requests that an API server got, each by its first line.
type Asked = Arc<Mutex<Vec<String>>>;

/// An agent with one answer to every request: a review.
struct Answering {
    session: Session,
    asked: Asked,
}

impl Answering {
    async fn new(server: &Server, seed: u8, role: AgentRole, review: &'static str) -> Self {
        let key = AgentKey::from_seed([seed; 32]).unwrap();
        let public = key.public_key().to_string();
        let added = server.directory().change(|draft| {
            let edge = ClusterName::new("edge").expect("a name");
            let mut agent = Agent::new(draft.now(), edge, public.clone());
            agent.role = role;
            draft.put(&format!("agent-{seed}"), agent, Expect::Absent)
        });
        added.await.unwrap();
        let ca = server.ca_pem().as_bytes().to_vec();
        let config = ConnectorConfig::new("localhost", server.address().port(), ca, key);
        let connector = Connector::new(config).unwrap();
        let session = within("a session", connector.connect()).await.unwrap();
        let asked = Asked::default();
        let (serving, seen) = (session.clone(), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok(incoming) = serving.accept().await {
                tokio::spawn(answer(incoming, Arc::clone(&seen), review));
            }
        });
        Self { session, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn answer(incoming: IncomingStream, asked: Asked, review: &str) {
    let mut stream = incoming.accept().await.unwrap();
    let mut read = Vec::new();
    // A review's question ends with two braces, and a call here has no body.
    while !read.ends_with(b"\r\n\r\n") && !read.ends_with(b"}}") {
        let mut more = [0; 4096];
        match stream.read(&mut more).await.unwrap() {
            0 => return,
            count => read.extend_from_slice(&more[..count]),
        }
    }
    let text = String::from_utf8(read).unwrap();
    let line = text.lines().next().unwrap().to_owned();
    asked.lock().unwrap().push(line);
    if text.starts_with("POST ") && text.ends_with("\r\n\r\n") {
        // The body comes in a piece of its own.
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
    }
    let head = "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: ";
    let answer = format!("{head}{}\r\n\r\n{review}", review.len());
    stream.write_all(answer.as_bytes()).await.unwrap();
    let _ = stream.shutdown().await;
}

/// The status of a call by the first administrator.
async fn call(server: &Server, token: &str, acting_as: Option<&str>) -> String {
    let mut tls = connect(server, "localhost").await.unwrap();
    let acting_as = acting_as.map(|name| format!("Impersonate-User: {name}\r\n"));
    let request = format!(
        "GET /k8s/clusters/edge/api/v1/nodes HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{}\r\n",
        acting_as.unwrap_or_default()
    );
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    within("an answer", tls.read_exact(&mut answer))
        .await
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn rule_16_a_node_that_stands_in_lets_nobody_act_as_somebody_else() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path()).await.unwrap();
    let added = server.directory().change(|draft| {
        let mut cluster = Cluster::new(draft.now());
        cluster.nodes_may_stand_in = true;
        draft.put("edge", cluster, Expect::Absent)
    });
    added.await.unwrap();
    let token = std::fs::read_to_string(data.path().join(first_administrator::NAME)).unwrap();
    let token = token.trim();
    let yes = r#"{"status":{"allowed":true}}"#;
    let node = Answering::new(&server, 1, AgentRole::Node, yes).await;
    // It stands in, and says yes to every question. Nobody asks it.
    assert_eq!(call(&server, token, None).await, "HTTP/1.1 201");
    assert_eq!(call(&server, token, Some("bob")).await, "HTTP/1.1 503");
    assert_eq!(node.asked().len(), 1, "{:?}", node.asked());
    // Nothing of it counts once the cluster itself can be asked.
    let no = r#"{"status":{"allowed":false}}"#;
    let agent = Answering::new(&server, 2, AgentRole::Cluster, no).await;
    assert_eq!(call(&server, token, Some("bob")).await, "HTTP/1.1 403");
    let asked = agent.asked();
    assert!(
        asked
            .iter()
            .all(|line| line.contains("subjectaccessreviews")),
        "{asked:?}"
    );
    assert!(!asked.is_empty());
    assert_eq!(node.asked().len(), 1, "{:?}", node.asked());
    drop((node.session, agent.session));
    server.stop().await;
}
