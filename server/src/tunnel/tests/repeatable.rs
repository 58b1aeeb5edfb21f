//! Calls whose agent has gone away.

use std::io::ErrorKind;
use std::sync::Mutex;

use tokio::time::{Instant, timeout};
use underpass_core::BoxedIo;
use underpass_tunnel::transport::Transport;
use underpass_tunnel::{Reconnected, Stream};

use super::*;

/// An agent, and the network to it.
struct AnAgent {
    connector: Connector,
    session: Session,
    transport: Mutex<Arc<dyn Transport>>,
}

/// Of which there are two.
struct World {
    tunnel: Tunnel,
    acceptor: Acceptor,
    agents: Vec<AnAgent>,
    edge: ClusterName,
}

const IDS: [&str; 2] = [ID, "other"];

impl World {
    /// With agents in these roles.
    async fn new(roles: [AgentRole; 2]) -> Self {
        let keys = [1, 2].map(|seed| AgentKey::from_seed([seed; 32]).unwrap());
        let directory = directory(&keys[0]).await;
        let put = |draft: &mut Draft| {
            let mut cluster = Cluster::clone(&draft.get("edge").unwrap().object);
            cluster.nodes_may_stand_in = true;
            draft.put("edge", cluster, Expect::Present)?;
            for ((id, key), role) in IDS.iter().zip(&keys).zip(roles) {
                let edge = ClusterName::new("edge").unwrap();
                let mut agent = Agent::new(draft.now(), edge, key.public_key().to_string());
                agent.role = role;
                draft.put(id, agent, Expect::Anything)?;
            }
            Ok::<_, underpass_directory::ChangeError>(())
        };
        directory.change(put).await.unwrap();
        let tunnel = Tunnel::new(Arc::clone(&directory), AuditLog::default());
        let acceptor = Acceptor::new(AcceptorConfig::default(), Arc::new(Keys(directory)));
        let mut world = Self {
            tunnel,
            acceptor,
            agents: Vec::new(),
            edge: ClusterName::new("edge").unwrap(),
        };
        for key in keys {
            let agent = world.agent(key).await;
            world.agents.push(agent);
        }
        world
    }

    async fn agent(&self, key: AgentKey) -> AnAgent {
        let ca = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let config = ConnectorConfig::new("localhost", 1, ca.cert.pem().into_bytes(), key);
        let connector = Connector::new(config).unwrap();
        let (here, there) = memory::pair();
        let transport: Arc<dyn Transport> = Arc::new(here);
        let (session, ()) = tokio::join!(
            connector.establish(Arc::clone(&transport)),
            self.serve(there)
        );
        AnAgent {
            connector,
            session: session.unwrap(),
            transport: Mutex::new(transport),
        }
    }

    async fn serve(&self, transport: impl Transport + 'static) {
        let accepted = self.acceptor.accept(Arc::new(transport)).await;
        self.tunnel.serve(accepted, IpAddr::from([127, 0, 0, 1]));
    }

    /// A call that an agent has taken, and the agent.
    async fn call(&self, may_be_repeated: bool) -> Call {
        let mut open = to("kube-api");
        open.may_be_repeated = may_be_repeated;
        let mut here = self.tunnel.connect(&self.edge, &open).await.unwrap();
        here.write_all(b"GET").await.unwrap();
        here.flush().await.unwrap();
        let id = open.via.through().unwrap().agent;
        let agent = IDS.iter().position(|known| *known == id).unwrap();
        let incoming = self.agents[agent].session.accept().await.unwrap();
        let mut there = incoming.accept().await.unwrap();
        there.read_exact(&mut [0; 3]).await.unwrap();
        let mut call = Call { here, there, agent };
        // The agent's word that it has taken the stream is read first.
        call.waits_for(limits::CALL_ELSEWHERE).await;
        call
    }

    /// The agent's connection is lost.
    async fn lose(&self, agent: usize) {
        let AnAgent {
            transport, session, ..
        } = &self.agents[agent];
        let lost = Arc::clone(&transport.lock().unwrap());
        lost.close(CloseCode::TransportLeft, "cut");
        session.detached().await;
    }

    async fn returns(&self, agent: usize) {
        let AnAgent {
            connector,
            session,
            transport,
        } = &self.agents[agent];
        let (here, there) = memory::pair();
        let here: Arc<dyn Transport> = Arc::new(here);
        let (resumed, ()) = tokio::join!(
            connector.resume(session, Arc::clone(&here)),
            self.serve(there)
        );
        *transport.lock().unwrap() = here;
        assert!(matches!(resumed, Ok(Reconnected::Resumed)), "{resumed:?}");
    }
}

struct Call {
    here: BoxedIo,
    there: Stream,
    agent: usize,
}

impl Call {
    async fn read(&mut self) -> std::io::Result<u8> {
        self.here.read_u8().await
    }

    async fn waits_for(&mut self, time: Duration) {
        let read = timeout(time, self.read()).await;
        assert!(read.is_err(), "{read:?}");
    }

    /// Asserts that it fails, and gives the time until then.
    async fn fails(&mut self) -> Duration {
        let begun = Instant::now();
        let read = timeout(Duration::from_secs(20), self.read()).await;
        let error = read.expect("it fails").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        begun.elapsed()
    }
}

/// Longer than a better way takes, and shorter than a session is kept.
const LONG: Duration = Duration::from_secs(20);

const SLACK: Duration = Duration::from_millis(300);

#[tokio::test(start_paused = true)]
async fn a_call_that_may_be_repeated_fails_where_its_agent_is_away_and_another_is_there() {
    let world = World::new([AgentRole::Cluster; 2]).await;
    assert!(world.tunnel.has_another_way(&world.edge));
    let mut call = world.call(true).await;
    // An agent that is there may take as long as it likes.
    call.waits_for(LONG).await;
    world.lose(call.agent).await;
    let took = call.fails().await;
    let expected = limits::CALL_ELSEWHERE;
    assert!(
        took >= expected - SLACK && took < expected + SLACK,
        "{took:?}"
    );
    // The next stream goes elsewhere, and the agent hears of this one's end.
    let next = world.call(false).await;
    assert_ne!(next.agent, call.agent);
    world.returns(call.agent).await;
    let ended = timeout(LONG, call.there.read_u8()).await;
    let error = ended.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_its_agent_where_it_may_not_be_repeated_or_its_answer_has_begun() {
    let world = World::new([AgentRole::Cluster; 2]).await;
    let mut calls = [world.call(false).await, world.call(true).await];
    let [_, begun] = &mut calls;
    begun.there.write_all(b"H").await.unwrap();
    begun.there.flush().await.unwrap();
    assert_eq!(begun.read().await.unwrap(), b'H');
    for mut call in calls {
        world.lose(call.agent).await;
        call.waits_for(LONG).await;
        world.returns(call.agent).await;
        call.there.write_all(b"!").await.unwrap();
        call.there.flush().await.unwrap();
        assert_eq!(call.read().await.unwrap(), b'!');
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_its_agent_while_there_is_no_other() {
    let world = World::new([AgentRole::Cluster; 2]).await;
    let mut call = world.call(true).await;
    let other = 1 - call.agent;
    world.lose(other).await;
    world.lose(call.agent).await;
    call.waits_for(LONG).await;
    world.returns(call.agent).await;
    call.waits_for(LONG).await;
    world.lose(call.agent).await;
    world.returns(other).await;
    assert!(call.fails().await < limits::CALL_ELSEWHERE + SLACK);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stands_in_is_another_way() {
    let world = World::new([AgentRole::Cluster, AgentRole::Node]).await;
    assert!(world.tunnel.has_another_way(&world.edge));
    let mut call = world.call(true).await;
    assert_eq!(call.agent, 0, "the cluster's own agent comes first");
    world.lose(0).await;
    // Its policy may decline.
    call.waits_for(LONG).await;
    let node = &world.agents[1].session;
    let accepting = async { node.accept().await.unwrap().accept().await.unwrap() };
    let open = to("kube-api");
    let (connected, _there) = tokio::join!(world.tunnel.connect(&world.edge, &open), accepting);
    connected.unwrap();
    assert_eq!(open.via.through().unwrap().role, AgentRole::Node);
    assert!(call.fails().await < SLACK);
    let alone = world.tunnel.without_nodes();
    assert!(!alone.has_another_way(&world.edge));
}

/// As [`World::call`], of a service, whose stream its agent accepts first.
async fn call_of_a_service(world: &World) -> Call {
    let mut open = to("tcp:web.shop.svc:80");
    open.may_be_repeated = true;
    let connecting = world.tunnel.connect(&world.edge, &open);
    let [first, second] = [&world.agents[0], &world.agents[1]].map(|agent| agent.session.accept());
    let accepting = async {
        let incoming = tokio::select! {
            incoming = first => incoming,
            incoming = second => incoming,
        };
        incoming.unwrap().accept().await.unwrap()
    };
    let (here, there) = tokio::join!(connecting, accepting);
    let id = open.via.through().unwrap().agent;
    let agent = IDS.iter().position(|known| *known == id).unwrap();
    let here = here.unwrap();
    Call { here, there, agent }
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_service_fails_where_its_agent_is_away_and_another_is_there() {
    let world = World::new([AgentRole::Cluster; 2]).await;
    let mut call = call_of_a_service(&world).await;
    call.waits_for(LONG).await;
    world.lose(call.agent).await;
    assert!(call.fails().await < limits::CALL_ELSEWHERE + SLACK);
    assert_ne!(call_of_a_service(&world).await.agent, call.agent);
}

#[tokio::test(start_paused = true)]
async fn no_node_stands_in_for_a_call_of_a_service() {
    let world = World::new([AgentRole::Cluster, AgentRole::Node]).await;
    let mut call = call_of_a_service(&world).await;
    assert_eq!(call.agent, 0);
    world.lose(call.agent).await;
    call.waits_for(LONG).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_to_a_target_goes_to_another_agent_where_the_first_one_is_gone() {
    let world = World::new([AgentRole::Cluster; 2]).await;
    let open = to("tcp:web.shop.svc:80");
    let connecting = world.tunnel.connect(&world.edge, &open);
    let [first, second] = [0, 1].map(|agent| &world.agents[agent].session);
    let accepting = async {
        // Each of them may be asked first. It is killed before it answers.
        let (gone, other) = tokio::select! {
            incoming = first.accept() => (incoming.unwrap(), second),
            incoming = second.accept() => (incoming.unwrap(), first),
        };
        let killed = if other.is_same(first) { second } else { first };
        killed.close(CloseCode::Shutdown, "killed");
        let taken = other.accept().await.unwrap().accept().await.unwrap();
        drop(gone);
        (taken, other)
    };
    let (connected, (_there, other)) = tokio::join!(connecting, accepting);
    connected.unwrap();
    let through = IDS.map(|id| id == open.via.through().unwrap().agent);
    assert_eq!(through, [other.is_same(first), other.is_same(second)]);
}

/// Its words are its own.
#[tokio::test(start_paused = true)]
async fn a_target_that_an_agent_declines_is_asked_of_no_other() {
    let world = World::new([AgentRole::Cluster; 2]).await;
    let open = to("tcp:web.shop.svc:80");
    let connecting = world.tunnel.connect(&world.edge, &open);
    let refusing = async {
        let [first, second] = [0, 1].map(|agent| world.agents[agent].session.accept());
        let incoming = tokio::select! {
            incoming = first => incoming,
            incoming = second => incoming,
        };
        let incoming = incoming.unwrap();
        incoming.refuse(ResetCode::TargetUnreachable, "no route");
    };
    let (connected, ()) = tokio::join!(connecting, refusing);
    let declined = connected.err().unwrap();
    assert!(
        matches!(&declined, ConnectError::Declined { reason, .. } if reason == "no route"),
        "{declined:?}"
    );
}
