//! The tunnel's sessions, as the proxy and the operator see them.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all, ready};
use rand::RngExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use underpass_core::StreamClass;
use underpass_core::{AgentRole, BoxedIo, ClusterLogShare, ClusterName, NetworkLogShare};
use underpass_core::{Clusters, ConnectError, Decline, NodeName, Open, Target, Through};
use underpass_directory::{Cluster, Directory, Snapshot};
use underpass_tunnel::{
    AcceptError, Accepted, Admission, AgentName, Class, CloseCode, Denied, Dialer, DialerError,
    OpenError, OpenRequest, Proven, Registry, ResetCode, Session, Share, Stream, StreamError,
    chain,
};

use crate::api::Connected;
use crate::limits;
use crate::node_targets;
use crate::occasional::Occasional;
use crate::stand_in::{NoStandIn, StandIn, StandIns};

/// The clusters that agents serve.
#[derive(Clone)]
pub(crate) struct Tunnel {
    /// Of agents that serve their cluster's API server.
    registry: Registry,
    /// Of agents on nodes, which the API server's users reach where the directory and the agent's policy let them, while there is no
    /// other: a node's administrator is not the cluster's.
    nodes: Registry,
    stand_ins: Arc<StandIns>,
    /// Tells calls that look for a node that an agent of the role `cluster` has a connection again, of any cluster.
    attached: watch::Sender<()>,
    directory: Arc<Directory>,
    overload: Arc<Occasional>,
    refusals: Arc<NetworkLogShare>,
    cluster_lines: Arc<ClusterLogShare>,
    ended: CancellationToken,
    /// Streams of this handle never go through a node.
    without_nodes: bool,
}

impl Tunnel {
    pub(crate) fn new(directory: Arc<Directory>) -> Self {
        Self {
            registry: Registry::new(),
            nodes: Registry::new(),
            stand_ins: Arc::default(),
            attached: watch::Sender::default(),
            directory,
            overload: Arc::default(),
            refusals: Arc::default(),
            cluster_lines: Arc::default(),
            ended: CancellationToken::new(),
            without_nodes: false,
        }
    }

    /// The same clusters, through their own agents alone: for questions whose answer a node's administrator must not give.
    pub(crate) fn without_nodes(&self) -> Self {
        Self {
            without_nodes: true,
            ..self.clone()
        }
    }

    /// Takes a session into service, or logs why the peer at `remote` has none.
    pub(crate) fn serve(&self, accepted: Result<Accepted, AcceptError>, remote: IpAddr) {
        let session = match accepted {
            Ok(Accepted::New(session)) => session,
            Ok(Accepted::Resumed(info)) => {
                self.attached.send_replace(());
                if let Some(suppressed) = line_about(&self.cluster_lines, &info.agent) {
                    tracing::info!(
                        suppressed, cluster = info.agent.as_str(), session = %info.id, transport = %info.transport,
                        remote = info.remote.map(tracing::field::display), "agent is back"
                    );
                }
                return;
            }
            Ok(Accepted::Standby(info)) => {
                tracing::debug!(
                    cluster = info.agent.as_str(), session = %info.id, transport = %info.transport,
                    remote = info.remote.map(tracing::field::display), "a link stands by"
                );
                return;
            }
            Ok(Accepted::Lane(info)) => {
                tracing::debug!(
                    cluster = info.agent.as_str(), session = %info.id,
                    remote = info.remote.map(tracing::field::display), "agent has a lane for copies"
                );
                return;
            }
            Err(error) => return self.refused(&error, remote),
        };
        let info = session.info();
        if let Some(suppressed) = line_about(&self.cluster_lines, &info.agent) {
            tracing::info!(
                suppressed, cluster = info.agent.as_str(), session = %info.id, transport = %info.transport,
                remote = info.remote.map(tracing::field::display), software = info.software,
                "agent connected"
            );
        }
        match self.role(&session, &self.directory.snapshot()) {
            Some(role) => {
                self.registry_of(role).insert(session.clone());
                self.attached.send_replace(());
                // Its key was looked up before the rest of the handshake. A change since then was enforced on those sessions that
                // the registry had (rule 25).
                self.enforce(&session, role, &self.directory.snapshot());
            }
            // It was revoked since its key was looked up.
            None => session.close(CloseCode::Revoked, REVOKED),
        }
        if self.ended.is_cancelled() {
            end(&session);
        }
        tokio::spawn(watch(session, Arc::clone(&self.cluster_lines)));
    }

    fn registry_of(&self, role: AgentRole) -> &Registry {
        match role {
            AgentRole::Cluster => &self.registry,
            AgentRole::Node => &self.nodes,
        }
    }

    /// The role in which the session's agent may serve the session's cluster; `None` where it may not.
    fn role(&self, session: &Session, snapshot: &Snapshot) -> Option<AgentRole> {
        let info = session.info();
        let (_, agent) = snapshot.agent_with_key(&info.key.to_string())?;
        (info.agent == agent.cluster.as_str()).then_some(agent.role)
    }

    /// Ends a session whose agent may no longer serve its cluster in this role.
    fn enforce(&self, session: &Session, role: AgentRole, snapshot: &Snapshot) {
        if self.role(session, snapshot) != Some(role) {
            session.close(CloseCode::Revoked, REVOKED);
        }
    }

    /// The stream, once its agent has accepted it.
    async fn accepted(
        &self,
        cluster: &ClusterName,
        mut stream: Stream,
    ) -> Result<BoxedIo, ConnectError> {
        match stream.accepted().await {
            Ok(()) => Ok(Box::new(stream)),
            Err(error) => {
                tracing::debug!(%cluster, "{}", chain(&error));
                Err(declined(error))
            }
        }
    }

    fn refused(&self, error: &AcceptError, remote: IpAddr) {
        if let AcceptError::AddressUnproven = error {
            // The peer comes again; a flood must not fill the log.
            metrics::counter!("underpass_agents_asked_for_address_total").increment(1);
            return;
        }
        metrics::counter!("underpass_agents_refused_total").increment(1);
        let suppressed = match error {
            AcceptError::Overloaded if !self.overload.is_news() => None,
            _ => self.refusals.take(remote),
        };
        if let Some(suppressed) = suppressed {
            tracing::warn!(suppressed = (suppressed > 0).then_some(suppressed), %remote, "no session: {}", chain(error));
        }
    }

    /// Ends the sessions of agents that may no longer serve their cluster, whenever that changes.
    pub(crate) async fn enforce_access(self) {
        let mut changes = self.directory.changes();
        while changes.changed().await.is_ok() {
            let snapshot = self.directory.snapshot();
            self.stand_ins
                .enforce(|cluster| may_stand_in(cluster, &snapshot));
            for role in AgentRole::ALL {
                for session in self.registry_of(role).sessions() {
                    self.enforce(&session, role, &snapshot);
                }
            }
        }
    }

    /// Asks every agent to leave and to come back, spread over a second, and waits for their
    /// streams' end or the deadline.
    pub(crate) async fn drain(&self, deadline: Duration) {
        let drains = self.sessions().into_iter().map(|session| async move {
            let return_after = Duration::from_millis(rand::rng().random_range(0..1000));
            session
                .drain(deadline, return_after, "the server is shutting down")
                .await;
        });
        join_all(drains).await;
    }

    /// Ends every session at once, and those whose handshakes are under way as well.
    pub(crate) fn end(&self) {
        self.ended.cancel();
        self.sessions().iter().for_each(end);
    }

    /// A stream through an agent of the role `cluster`; `None` where none is connected.
    async fn through_agent(
        &self,
        cluster: &ClusterName,
        request: &OpenRequest,
    ) -> Result<Option<(Session, Stream)>, ConnectError> {
        let target = request.target.as_str();
        let dialer = Dialer::to_agent(self.registry.clone(), cluster.as_str(), target)
            .header(request.header.clone())
            .class(request.class);
        match dialer.dial_session().await {
            Ok(found) => Ok(Some(found)),
            Err(DialerError::NotConnected(_)) => Ok(None),
            Err(DialerError::Open(OpenError::TooLarge { .. })) => Err(ConnectError::HeaderTooLarge),
            Err(error) => {
                if let Some(suppressed) = line_about(&self.cluster_lines, cluster.as_str()) {
                    tracing::warn!(suppressed, %cluster, "{}", chain(&error));
                }
                Err(ConnectError::TooManyStreams)
            }
        }
    }

    /// Is an agent of the role `cluster` connected, at this moment?
    fn has_attached(&self, cluster: &ClusterName) -> bool {
        let attached = |session: &Session| session.transport().is_some();
        self.registry
            .pick_where(cluster.as_str(), attached)
            .is_some()
    }

    /// Waits until there is one.
    async fn until_attached(&self, cluster: &ClusterName) {
        let mut attached = self.attached.subscribe();
        // `self` has the sender, so that it does not end.
        while !self.has_attached(cluster) && attached.changed().await.is_ok() {}
    }

    /// A stream to the API server through an agent on a node, where one may.
    async fn through_node(
        &self,
        cluster: &ClusterName,
        open: &Open,
        request: &OpenRequest,
    ) -> Result<BoxedIo, ConnectError> {
        let snapshot = self.directory.snapshot();
        if !snapshot.has_cluster(cluster) {
            return Err(ConnectError::UnknownCluster);
        }
        let is_for_nodes = open.target == Target::KubeApi && !self.without_nodes;
        if !is_for_nodes || !may_stand_in(cluster, &snapshot) {
            return Err(ConnectError::NoAgent);
        }
        let connecting = self.stand_ins.connect(&self.nodes, cluster, request).await;
        let StandIn { session, stream } = connecting.map_err(|none| match none {
            NoStandIn::NoAgent => ConnectError::NoAgent,
            NoStandIn::HeaderTooLarge => ConnectError::HeaderTooLarge,
        })?;
        let snapshot = self.directory.snapshot();
        // It may have been forbidden while the agent was asked (rule 25).
        self.stand_ins
            .enforce(|cluster| may_stand_in(cluster, &snapshot));
        if let Some(through) = through(&session, &snapshot) {
            open.via.set(through);
        }
        metrics::counter!("underpass_stand_in_streams_total").increment(1);
        Ok(Box::new(stream))
    }

    /// How many agents are connected that serve the cluster's API server.
    pub(crate) fn connected(&self, cluster: &ClusterName) -> usize {
        let sessions = self.registry.sessions();
        let of_cluster = sessions
            .iter()
            .filter(|session| session.info().agent == cluster.as_str());
        of_cluster.count()
    }

    /// All sessions.
    pub(crate) fn sessions(&self) -> Vec<Session> {
        let mut sessions = self.registry.sessions();
        sessions.extend(self.nodes.sessions());
        sessions
    }
}

impl Connected for Tunnel {
    fn serving(&self, cluster: &ClusterName) -> usize {
        self.connected(cluster)
    }

    fn served_by(&self, cluster: &ClusterName) -> BTreeSet<Through> {
        let snapshot = self.directory.snapshot();
        let of = |registry: &Registry| {
            let sessions = registry.sessions().into_iter();
            sessions.filter(|session| session.info().agent == cluster.as_str())
        };
        let agents: BTreeSet<_> = of(&self.registry)
            .filter_map(|session| through(&session, &snapshot))
            .collect();
        if !agents.is_empty() || !may_stand_in(cluster, &snapshot) {
            return agents;
        }
        of(&self.nodes)
            .filter(|session| self.stand_ins.serves(session))
            .filter_map(|session| through(&session, &snapshot))
            .collect()
    }

    fn by_key(&self) -> HashMap<String, usize> {
        let mut by_key = HashMap::<_, usize>::new();
        for session in self.sessions() {
            *by_key.entry(session.info().key.to_string()).or_default() += 1;
        }
        by_key
    }

    fn of_nodes(&self) -> Vec<Session> {
        self.nodes.sessions()
    }
}

/// May agents on nodes serve the cluster's API server?
fn may_stand_in(cluster: &ClusterName, snapshot: &Snapshot) -> bool {
    let found = snapshot.get::<Cluster>(cluster.as_str());
    found.is_some_and(|entry| entry.object.nodes_may_stand_in)
}

/// The agent at the other end of a session.
fn through(session: &Session, snapshot: &Snapshot) -> Option<Through> {
    let (id, agent) = snapshot.agent_with_key(&session.info().key.to_string())?;
    Some(Through {
        role: agent.role,
        agent: id.to_owned(),
    })
}

fn end(session: &Session) {
    session.close(CloseCode::Shutdown, "the server has stopped");
}

/// May there be a line about an agent of this cluster, which came, went or had no room? An agent that does so in a loop fills no disk, with any
/// number of keys. Gives how many lines there were not since the last one, where there were any.
fn line_about(cluster_lines: &ClusterLogShare, cluster: &str) -> Option<Option<u64>> {
    let suppressed = cluster_lines.take(cluster);
    if suppressed.is_none() {
        metrics::counter!("underpass_agent_log_lines_suppressed_total").increment(1);
    }
    suppressed
}

/// Refuses what the agent opens, since nothing here is for agents to reach, and logs the end.
async fn watch(session: Session, cluster_lines: Arc<ClusterLogShare>) {
    let error = loop {
        match session.accept().await {
            Ok(incoming) => {
                let target = incoming.target().to_owned();
                let reason = format!("this server serves no target `{target}`");
                incoming.refuse(ResetCode::UnknownTarget, &reason);
            }
            Err(error) => break error,
        }
    };
    let info = session.info();
    if let Some(suppressed) = line_about(&cluster_lines, &info.agent) {
        tracing::info!(suppressed, cluster = info.agent.as_str(), session = %info.id, "agent gone: {}", chain(&error));
    }
}

/// For the agent.
const REVOKED: &str = "this agent was revoked";

/// Lets agents in by their keys.
pub(crate) struct Keys(pub(crate) Arc<Directory>);

impl Admission for Keys {
    fn admit<'a>(&'a self, proven: &'a Proven) -> BoxFuture<'a, Result<AgentName, Denied>> {
        let snapshot = self.0.snapshot();
        let cluster = snapshot.cluster_of_agent(&proven.key.to_string());
        let named = |cluster: &ClusterName| Ok(cluster.as_str().try_into()?);
        ready(cluster.map_or_else(|| Err(Denied::unknown_key()), named)).boxed()
    }

    /// A cluster has many nodes, and one of them may be captured: they leave the cluster's agents sessions of their own.
    fn share(&self, proven: &Proven, agent: &AgentName) -> Share {
        let snapshot = self.0.snapshot();
        let found = snapshot.agent_with_key(&proven.key.to_string());
        match found.map(|(_, agent)| agent.role) {
            Some(AgentRole::Node) => Share::of(format!("{}/node", agent.as_str()))
                .bounded(limits::SESSIONS_OF_NODE, limits::SESSIONS_OF_NODES),
            Some(AgentRole::Cluster) | None => Share::of(agent.as_str()),
        }
    }
}

/// The agent's answer, for the client: only that it declined the target, and in its own words, is its own to say.
pub(crate) fn declined(error: StreamError) -> ConnectError {
    match error {
        StreamError::Refused { code, reason } => {
            let decline = match code {
                ResetCode::Forbidden => Decline::Forbidden,
                ResetCode::UnknownTarget | ResetCode::TargetUnreachable => Decline::Unreachable,
                ResetCode::Overloaded => Decline::Overloaded,
                ResetCode::GoingAway => return ConnectError::NoAgent,
                _ => return ConnectError::AgentRefused { reason },
            };
            ConnectError::Declined { decline, reason }
        }
        error @ StreamError::NoAnswer(_) => ConnectError::NoAnswer(error.into()),
        error => ConnectError::Lost(error.into()),
    }
}

fn request(open: &Open) -> OpenRequest {
    let class = match open.class {
        StreamClass::Interactive => Class::Interactive,
        StreamClass::Bulk => Class::Bulk,
        _ => Class::Default,
    };
    OpenRequest {
        target: open.target.to_string(),
        class,
        header: open.identity.clone(),
    }
}

#[async_trait]
impl Clusters for Tunnel {
    async fn connect(&self, cluster: &ClusterName, open: &Open) -> Result<BoxedIo, ConnectError> {
        let request = request(open);
        // A stream waits in the session of an agent that has lost its transport, which is hardly ever back in time if it was killed.
        if !self.has_attached(cluster) {
            let through_node = self.through_node(cluster, open, &request);
            tokio::select! {
                answered = through_node => match answered {
                    Err(ConnectError::NoAgent) => {}
                    answered => return answered,
                },
                () = self.until_attached(cluster) => {}
            }
        }
        let through_agent = self.through_agent(cluster, &request);
        let Some((session, stream)) = through_agent.await? else {
            return self.through_node(cluster, open, &request).await;
        };
        if let Some(through) = through(&session, &self.directory.snapshot()) {
            open.via.set(through);
        }
        match open.target {
            Target::KubeApi => Ok(Box::new(stream)),
            _ => self.accepted(cluster, stream).await,
        }
    }

    async fn connect_node(
        &self,
        cluster: &ClusterName,
        node: &NodeName,
        open: &Open,
    ) -> Result<BoxedIo, ConnectError> {
        let (snapshot, asked) = (self.directory.snapshot(), request(open));
        let asked = (open, &asked);
        node_targets::connect(&self.nodes, &snapshot, cluster, node, asked).await
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use underpass_directory::{Agent, Cluster, Draft, Expect, MemoryStore};
    use underpass_tunnel::transport::memory;
    use underpass_tunnel::{Acceptor, AcceptorConfig, AgentKey, Connector, ConnectorConfig};

    use super::*;

    const ID: &str = "agent";

    pub(crate) async fn directory(key: &AgentKey) -> Arc<Directory> {
        let directory = Directory::open(Arc::new(MemoryStore::default()))
            .await
            .unwrap();
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
        let tunnel = Tunnel::new(Arc::clone(&directory));
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
        let tunnel = Tunnel::new(Arc::clone(&directory));
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
        let by_key = tunnel.by_key();
        assert_eq!(by_key.get(&key().public_key().to_string()), Some(&1));
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
        let tunnel = Tunnel::new(Arc::clone(&directory));
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
        let tunnel = Tunnel::new(Arc::clone(&directory));
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
}
