mod repeatable;
mod rotation;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use underpass_audit::AuditLog;
use underpass_core::{Clusters, ConnectError, Decline, Open, StreamClass};
use underpass_directory::{Agent, Draft, Expect, MemoryStore, Store};
use underpass_tunnel::transport::memory;
use underpass_tunnel::{
    Acceptor, AcceptorConfig, Admission, AgentKey, AgentName, Connector, ConnectorConfig, Denied,
    Proven,
};

use crate::api::Connected;
use crate::limits;

use super::*;

pub(crate) const ID: &str = "agent";

pub(crate) async fn directory(key: &AgentKey) -> Arc<Directory> {
    directory_over(Arc::<MemoryStore>::default(), key).await
}

async fn directory_over(store: Arc<dyn Store>, key: &AgentKey) -> Arc<Directory> {
    let directory = Directory::open(store).await.unwrap();
    let put = |draft: &mut Draft| {
        let cluster = Cluster::new(draft.now());
        draft.put("edge", cluster, Expect::Absent)?;
        let (edge, key) = (ClusterName::new("edge").unwrap(), key.public_key());
        let agent = Agent::new(draft.now(), edge, key.to_string());
        draft.put(ID, agent, Expect::Absent)
    };
    directory.change(put).await.unwrap();
    directory
}

/// Lets an agent in, and takes its token back before its session is anywhere.
struct Meanwhile(Arc<Directory>);

impl Admission for Meanwhile {
    fn admit<'a>(&'a self, proven: &'a Proven) -> BoxFuture<'a, Result<AgentName, Denied>> {
        async {
            let admitted = Keys(Arc::clone(&self.0)).admit(proven).await;
            let remove = |draft: &mut Draft| draft.remove::<Agent>(ID, Expect::Present);
            self.0.change(remove).await.unwrap();
            admitted
        }
        .boxed()
    }
}

/// Both ends of a session of the agent with this key.
pub(crate) async fn session(
    key: AgentKey,
    admission: impl Admission,
) -> (Session, Result<Accepted, AcceptError>) {
    let acceptor = Acceptor::new(AcceptorConfig::default(), Arc::new(admission));
    let (agent, accepted) = session_at(&acceptor, key).await;
    (agent.unwrap(), accepted)
}

async fn session_at(
    acceptor: &Acceptor,
    key: AgentKey,
) -> (Option<Session>, Result<Accepted, AcceptError>) {
    let ca = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let config = ConnectorConfig::new("localhost", 1, ca.cert.pem().into_bytes(), key);
    let connector = Connector::new(config).unwrap();
    let (here, there) = memory::pair();
    let (agent, accepted) = tokio::join!(
        connector.establish(Arc::new(here)),
        acceptor.accept(Arc::new(there))
    );
    (agent.ok(), accepted)
}

#[tokio::test]
async fn rule_23_agents_on_nodes_leave_the_clusters_agents_sessions() {
    let [node, cluster] = [1, 2].map(|seed| move || AgentKey::from_seed([seed; 32]).unwrap());
    let directory = directory(&node()).await;
    let public = cluster().public_key().to_string();
    let put = |draft: &mut Draft| {
        let mut node = Agent::clone(&draft.get(ID).unwrap().object);
        node.role = AgentRole::Node;
        let edge = node.cluster.clone();
        draft.put(ID, node, Expect::Present)?;
        draft.put(
            "other",
            Agent::new(draft.now(), edge, public.clone()),
            Expect::Absent,
        )
    };
    directory.change(put).await.unwrap();
    let config = AcceptorConfig {
        max_sessions_of_name: 1,
        ..AcceptorConfig::default()
    };
    let acceptor = Acceptor::new(config, Arc::new(Keys(directory)));
    let mut held = Vec::new();
    for key in [node(), cluster()] {
        held.push(session_at(&acceptor, key).await);
    }
    // A captured node leaves the others theirs as well.
    for _ in 1..limits::SESSIONS_OF_NODE {
        held.push(session_at(&acceptor, node()).await);
    }
    assert!(held.iter().all(|(_, accepted)| accepted.is_ok()));
    let refused = session_at(&acceptor, node()).await.1.unwrap_err();
    assert!(
        matches!(refused, AcceptError::NoRoom(underpass_tunnel::NoRoom::Agent(most)) if most == limits::SESSIONS_OF_NODE),
        "{refused:?}"
    );
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn rule_23_a_node_that_never_answers_delays_no_call_beyond_the_agents_return() {
    let [node, cluster] = [1, 2].map(|seed| move || AgentKey::from_seed([seed; 32]).unwrap());
    let directory = directory(&node()).await;
    let public = cluster().public_key().to_string();
    let put = |draft: &mut Draft| {
        let mut served = Cluster::clone(&draft.get("edge").unwrap().object);
        served.nodes_may_stand_in = true;
        draft.put("edge", served, Expect::Present)?;
        let mut node = Agent::clone(&draft.get(ID).unwrap().object);
        node.role = AgentRole::Node;
        let edge = node.cluster.clone();
        draft.put(ID, node, Expect::Present)?;
        let agent = Agent::new(draft.now(), edge, public.clone());
        draft.put("other", agent, Expect::Absent)
    };
    directory.change(put).await.unwrap();
    let tunnel = Tunnel::new(Arc::clone(&directory), AuditLog::default());
    let here = IpAddr::from([127, 0, 0, 1]);
    // They accept nothing, and are there.
    let mut silent = Vec::new();
    for _ in 0..limits::SESSIONS_OF_NODE {
        let (session, accepted) = session(node(), Keys(Arc::clone(&directory))).await;
        tunnel.serve(accepted, here);
        silent.push(session);
    }
    let edge = ClusterName::new("edge").unwrap();
    let open = to("kube-api");
    let begun = tokio::time::Instant::now();
    // Alone, they cost one search, and the next call none.
    let refused = tunnel.connect(&edge, &open).await;
    assert!(matches!(refused, Err(ConnectError::NoAgent)));
    assert!(begun.elapsed() <= limits::STAND_IN_SEARCH + Duration::from_millis(100));
    let refused = tokio::time::timeout(Duration::from_secs(1), tunnel.connect(&edge, &open));
    assert!(matches!(refused.await.unwrap(), Err(ConnectError::NoAgent)));
    tokio::time::advance(limits::STAND_IN_DECLINES).await;
    let mut connecting = std::pin::pin!(tunnel.connect(&edge, &open));
    let half = Duration::from_millis(500);
    let early = tokio::time::timeout(half, &mut connecting).await;
    assert!(early.is_err(), "a node is asked");
    let (_agent, accepted) = session(cluster(), Keys(directory)).await;
    tunnel.serve(accepted, here);
    let connected = tokio::time::timeout(Duration::from_secs(1), connecting).await;
    assert!(connected.expect("it goes through the agent").is_ok());
    assert_eq!(open.via.through().unwrap().agent, "other");
}

#[tokio::test]
async fn rule_8_an_agent_on_a_node_gets_no_users_request() {
    let key = || AgentKey::from_seed([1; 32]).unwrap();
    let directory = directory(&key()).await;
    let set_role = |role: AgentRole| {
        let directory = Arc::clone(&directory);
        async move {
            let set = |draft: &mut Draft| {
                let mut agent = Agent::clone(&draft.get(ID).unwrap().object);
                agent.role = role;
                draft.put(ID, agent, Expect::Present)
            };
            directory.change(set).await.unwrap();
        }
    };
    let tunnel = Tunnel::new(Arc::clone(&directory), AuditLog::default());
    let enforcing = tokio::spawn(tunnel.clone().enforce_access());
    let edge = ClusterName::new("edge").unwrap();
    let here = IpAddr::from([127, 0, 0, 1]);
    let open = Open::new(
        underpass_core::Target::KubeApi,
        bytes::Bytes::new(),
        StreamClass::Default,
        "id",
    );
    set_role(AgentRole::Node).await;
    let (node, accepted) = session(key(), Keys(Arc::clone(&directory))).await;
    tunnel.serve(accepted, here);
    let refused = tunnel.connect(&edge, &open).await;
    assert!(matches!(refused, Err(ConnectError::NoAgent)));
    assert_eq!(tunnel.connected(&edge), 0);
    assert_eq!(tunnel.by_agent().get(ID), Some(&1));
    // An agent is what it was when its session began, or it has none.
    set_role(AgentRole::Cluster).await;
    tokio::time::timeout(Duration::from_secs(20), node.closed())
        .await
        .expect("the session ends");
    let (agent, accepted) = session(key(), Keys(Arc::clone(&directory))).await;
    tunnel.serve(accepted, here);
    assert_eq!(tunnel.connected(&edge), 1);
    let answering = tokio::spawn(async move { agent.accept().await.unwrap().accept().await });
    tunnel.connect(&edge, &open).await.unwrap();
    answering.await.unwrap().unwrap();
    enforcing.abort();
}

#[tokio::test]
async fn rule_25_an_agent_that_is_revoked_in_its_handshake_does_not_stay() {
    let key = AgentKey::from_seed([1; 32]).unwrap();
    let directory = directory(&key).await;
    let tunnel = Tunnel::new(Arc::clone(&directory), AuditLog::default());
    let enforcing = tokio::spawn(tunnel.clone().enforce_access());
    let (agent, accepted) = session(key, Meanwhile(Arc::clone(&directory))).await;
    // The change was enforced before the registry has the session, and no other change follows.
    tokio::task::yield_now().await;
    tunnel.serve(accepted, IpAddr::from([127, 0, 0, 1]));
    tokio::time::timeout(Duration::from_secs(20), agent.closed())
        .await
        .expect("the session ends");
    assert_eq!(tunnel.connected(&ClusterName::new("edge").unwrap()), 0);
    enforcing.abort();
}

/// The server's half, with an agent connected, and the agent's session.
async fn connected() -> (Tunnel, Session) {
    let key = AgentKey::from_seed([1; 32]).unwrap();
    let directory = directory(&key).await;
    let tunnel = Tunnel::new(Arc::clone(&directory), AuditLog::default());
    let acceptor = Acceptor::new(AcceptorConfig::default(), Arc::new(Keys(directory)));
    let ca = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let config = ConnectorConfig::new("localhost", 1, ca.cert.pem().into_bytes(), key);
    let connector = Connector::new(config).unwrap();
    let (here, there) = memory::pair();
    let (agent, accepted) = tokio::join!(
        connector.establish(Arc::new(here)),
        acceptor.accept(Arc::new(there))
    );
    tunnel.serve(accepted, IpAddr::from([127, 0, 0, 1]));
    (tunnel, agent.unwrap())
}

fn to(target: &str) -> Open {
    let target = target.parse().unwrap();
    Open::new(target, "who".into(), StreamClass::Default, "id")
}

#[tokio::test]
async fn a_stream_to_a_target_is_one_that_the_agent_has_accepted() {
    let (tunnel, agent) = connected().await;
    let edge = ClusterName::new("edge").unwrap();
    for (code, decline) in [
        (ResetCode::Forbidden, Decline::Forbidden),
        (ResetCode::UnknownTarget, Decline::Unreachable),
        (ResetCode::TargetUnreachable, Decline::Unreachable),
        (ResetCode::Overloaded, Decline::Overloaded),
    ] {
        let open = to("tcp:db.prod:5432");
        let refusing = async {
            let incoming = agent.accept().await.unwrap();
            assert_eq!(incoming.target(), "tcp:db.prod:5432");
            assert_eq!(&incoming.header()[..], b"who");
            incoming.refuse(code, "no rule allows db.prod:5432");
        };
        let (connected, ()) = tokio::join!(tunnel.connect(&edge, &open), refusing);
        match connected.err() {
            Some(ConnectError::Declined {
                decline: told,
                reason,
            }) => {
                assert_eq!(told, decline);
                assert_eq!(reason, "no rule allows db.prod:5432");
            }
            other => panic!("{code}: {other:?}"),
        }
    }
    // An agent that goes away has declined nothing.
    let open = to("unix:/run/x.sock");
    let leaving = async {
        let incoming = agent.accept().await.unwrap();
        incoming.refuse(ResetCode::GoingAway, "bye");
    };
    let (connected, ()) = tokio::join!(tunnel.connect(&edge, &open), leaving);
    assert!(matches!(connected.err(), Some(ConnectError::NoAgent)));
    let accepting = async {
        let mut stream = agent.accept().await.unwrap().accept().await.unwrap();
        let mut question = [0; 3];
        stream.read_exact(&mut question).await.unwrap();
        stream.write_all(b"yes").await.unwrap();
        stream.flush().await.unwrap();
        (question, stream)
    };
    let asking = async {
        let mut stream = tunnel.connect(&edge, &open).await.unwrap();
        stream.write_all(b"on?").await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = [0; 3];
        stream.read_exact(&mut answer).await.unwrap();
        (answer, stream)
    };
    let ((answer, _here), (question, _there)) = tokio::join!(asking, accepting);
    assert_eq!((&answer, &question), (b"yes", b"on?"));
}

#[tokio::test]
async fn a_stream_to_the_api_server_waits_for_no_answer() {
    let (tunnel, _agent) = connected().await;
    let edge = ClusterName::new("edge").unwrap();
    let open = to("kube-api");
    let connecting = tunnel.connect(&edge, &open);
    let connected = tokio::time::timeout(Duration::from_secs(2), connecting).await;
    assert!(connected.unwrap().is_ok());
}
