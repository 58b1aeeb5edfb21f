//! Agents on nodes that accept or decline streams, over connections in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;
use underpass_tunnel::transport::memory;
use underpass_tunnel::{
    Acceptor, AcceptorConfig, Admission, AgentKey, AgentName, Connector, ConnectorConfig, Denied,
    Proven,
};

use super::*;

struct Edge;

impl Admission for Edge {
    fn admit<'a>(&'a self, _: &'a Proven) -> BoxFuture<'a, Result<AgentName, Denied>> {
        async { Ok("edge".try_into().unwrap()) }.boxed()
    }
}

/// The way of an agent on a node with streams.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    /// It accepts them, and holds them.
    Serve,
    Decline,
    /// It is there, and answers none.
    Nothing,
}

/// An agent on a node.
struct Node {
    /// The server's end.
    session: Session,
    /// How many streams it was asked for.
    serving: JoinHandle<()>,
    asked: Arc<AtomicUsize>,
}

impl Node {
    async fn new(seed: u8, nodes: &Registry, does: Does) -> Self {
        let acceptor = Acceptor::new(AcceptorConfig::default(), Arc::new(Edge));
        let ca = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = AgentKey::from_seed([seed; 32]).unwrap();
        let config = ConnectorConfig::new("localhost", 1, ca.cert.pem().into_bytes(), key);
        let connector = Connector::new(config).unwrap();
        let (here, there) = memory::pair();
        let (agent, accepted) = tokio::join!(
            connector.establish(Arc::new(here)),
            acceptor.accept(Arc::new(there))
        );
        let session = accepted.unwrap().into_session().unwrap();
        nodes.insert(session.clone());
        let agent = agent.unwrap();
        let asked = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&asked);
        let serving = tokio::spawn(async move {
            if does == Does::Nothing {
                agent.closed().await;
            }
            let mut held = Vec::new();
            while let Ok(incoming) = agent.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                match does {
                    Does::Serve => held.push(incoming.accept().await),
                    _ => incoming.refuse(ResetCode::Forbidden, "no"),
                }
            }
        });
        Self {
            session,
            serving,
            asked,
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn request() -> OpenRequest {
    OpenRequest {
        target: "kube-api".to_owned(),
        ..OpenRequest::default()
    }
}

fn edge() -> ClusterName {
    ClusterName::new("edge").unwrap()
}

#[tokio::test(start_paused = true)]
async fn rule_17_a_node_that_declines_gets_no_call_and_is_not_asked_again_soon() {
    let (nodes, stand_ins) = (Registry::new(), StandIns::default());
    let connect = || async { stand_ins.connect(&nodes, &edge(), &request()).await };
    assert!(matches!(connect().await, Err(NoStandIn::NoAgent)));
    let mut declining = Vec::new();
    for seed in 0..12 {
        declining.push(Node::new(seed + 1, &nodes, Does::Decline).await);
    }
    assert!(matches!(connect().await, Err(NoStandIn::NoAgent)));
    assert!(declining.iter().all(|node| node.asked() == 1));
    assert!(!declining.iter().any(|node| stand_ins.serves(&node.session)));
    // One more comes, and is found though there are many.
    let serving = Node::new(100, &nodes, Does::Serve).await;
    for _ in 0..5 {
        let found = connect().await.ok().unwrap();
        assert!(found.session.is_same(&serving.session));
    }
    assert!(stand_ins.serves(&serving.session));
    assert_eq!(serving.asked(), 5);
    assert!(declining.iter().all(|node| node.asked() == 1));
    // Policies change.
    serving
        .session
        .close(underpass_tunnel::CloseCode::Shutdown, "over");
    tokio::time::advance(limits::STAND_IN_DECLINES + Duration::from_secs(1)).await;
    assert!(matches!(connect().await, Err(NoStandIn::NoAgent)));
    assert!(declining.iter().all(|node| node.asked() == 2));
}

#[tokio::test(start_paused = true)]
async fn rule_23_one_call_asks_so_many_nodes() {
    let (nodes, stand_ins) = (Registry::new(), StandIns::default());
    let count = limits::STAND_INS_ASKED + 16;
    let mut declining = Vec::new();
    for seed in 0..count {
        let seed = u8::try_from(seed + 1).unwrap();
        declining.push(Node::new(seed, &nodes, Does::Decline).await);
    }
    let asked = || declining.iter().map(Node::asked).sum::<usize>();
    let connect = || async { stand_ins.connect(&nodes, &edge(), &request()).await };
    assert!(connect().await.is_err());
    assert_eq!(asked(), limits::STAND_INS_ASKED);
    // The next call asks others.
    assert!(connect().await.is_err());
    assert_eq!(asked(), count);
    for _ in 0..limits::STAND_IN_ANSWERS {
        stand_ins.note(&declining[0].session, false);
    }
    assert!(lock(&stand_ins.answers).len() <= limits::STAND_IN_ANSWERS);
}

/// As many as one call asks, each with a key of its own, and none with an answer.
#[tokio::test(start_paused = true)]
async fn rule_23_nodes_that_never_answer_cost_a_call_one_search() {
    let (nodes, stand_ins) = (Registry::new(), StandIns::default());
    let mut silent = Vec::new();
    for seed in 0..limits::STAND_INS_ASKED {
        let seed = u8::try_from(seed + 1).unwrap();
        silent.push(Node::new(seed, &nodes, Does::Nothing).await);
    }
    let begun = Instant::now();
    assert!(
        stand_ins
            .connect(&nodes, &edge(), &request())
            .await
            .is_err()
    );
    let took = begun.elapsed();
    assert!(
        took <= limits::STAND_IN_SEARCH + Duration::from_millis(100),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn rule_12_streams_of_a_cluster_end_once_its_nodes_may_not_stand_in() {
    let (nodes, stand_ins) = (Registry::new(), StandIns::default());
    let _node = Node::new(1, &nodes, Does::Serve).await;
    let connecting = stand_ins.connect(&nodes, &edge(), &request()).await;
    let mut stream = connecting.ok().unwrap().stream;
    stand_ins.enforce(|_| true);
    let going_on = tokio::time::timeout(Duration::from_secs(1), stream.read_u8()).await;
    assert!(going_on.is_err());
    stand_ins.enforce(|cluster| cluster.as_str() != "edge");
    stream.read_u8().await.unwrap_err();
    // Allowed again, it is another matter.
    let connecting = stand_ins.connect(&nodes, &edge(), &request()).await;
    let mut stream = connecting.ok().unwrap().stream;
    let going_on = tokio::time::timeout(Duration::from_secs(1), stream.read_u8()).await;
    assert!(going_on.is_err());
}
