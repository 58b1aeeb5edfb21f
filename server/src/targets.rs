//! Streams to targets at particular agents: through the agent of a node, or through that agent of a cluster which has the target.

use std::collections::HashSet;

use underpass_core::{BoxedIo, ClusterName, ConnectError, Decline, NodeName, Open, Target};
use underpass_directory::Snapshot;
use underpass_tunnel::{OpenError, OpenRequest, Registry, Session, StreamError, chain};

use crate::tunnel::{self, declined};

/// Opens a stream through the node's agent, which has accepted it. Of the agent's sessions, the next one is asked where one turns out to
/// be gone, or its peer to be silent: nothing was asked of the target yet.
///
/// # Errors
/// Why there is no stream.
///
/// # Cancel safety
/// Dropping the future cancels the stream.
pub(crate) async fn at_node(
    nodes: &Registry,
    snapshot: &Snapshot,
    cluster: &ClusterName,
    node: &NodeName,
    (open, request): (&Open, &OpenRequest),
) -> Result<(Session, BoxedIo), ConnectError> {
    if !snapshot.has_cluster(cluster) {
        return Err(ConnectError::UnknownCluster);
    }
    // By their ids: an agent's key changes, and its sessions go on.
    let agents = snapshot.agents_of_node(cluster, node);
    if agents.is_empty() {
        return Err(ConnectError::UnknownNode(node.clone()));
    }
    let is_nodes = |session: &Session| agents.contains(&session.info().owner.as_str());
    let connecting = first(nodes, snapshot, cluster, (open, request), is_nodes).await?;
    connecting.ok_or_else(|| ConnectError::NodeAway(node.clone()))
}

/// Opens a stream through the cluster's agent that has the target, a shell, and has accepted it.
///
/// # Errors
/// Why there is no stream.
///
/// # Cancel safety
/// Dropping the future cancels the stream.
pub(crate) async fn at_cluster(
    agents: &Registry,
    snapshot: &Snapshot,
    cluster: &ClusterName,
    asked: (&Open, &OpenRequest),
) -> Result<(Session, BoxedIo), ConnectError> {
    if !snapshot.has_cluster(cluster) {
        return Err(ConnectError::UnknownCluster);
    }
    let connecting = first(agents, snapshot, cluster, asked, |_| true).await?;
    connecting.ok_or(ConnectError::NoAgent)
}

/// A stream in the first of the sessions that fit whose agent takes it; `None` where no agent is there.
async fn first(
    registry: &Registry,
    snapshot: &Snapshot,
    cluster: &ClusterName,
    (open, request): (&Open, &OpenRequest),
    fits: impl Fn(&Session) -> bool,
) -> Result<Option<(Session, BoxedIo)>, ConnectError> {
    let mut asked = HashSet::new();
    let mut elsewhere = None;
    loop {
        let next = |session: &Session| fits(session) && !asked.contains(&session.info().id);
        let Some(session) = registry.pick_where(cluster.as_str(), next) else {
            return elsewhere.map_or(Ok(None), Err);
        };
        asked.insert(session.info().id);
        match through(&session, request).await {
            Ok(stream) => {
                note(&session, snapshot, open);
                return Ok(Some((session, stream)));
            }
            Err(Failed::Gone) => {
                tracing::debug!(%cluster, session = %session.info().id, "an agent's session is gone");
            }
            Err(Failed::Refused(error)) if is_elsewhere(&open.target, &error) => {
                elsewhere = Some(error);
            }
            Err(Failed::Refused(error)) => {
                note(&session, snapshot, open);
                return Err(error);
            }
        }
    }
}

/// May another agent have the target? A shell is at one of them.
fn is_elsewhere(target: &Target, error: &ConnectError) -> bool {
    let declined = matches!(
        error,
        ConnectError::Declined {
            decline: Decline::Unreachable,
            ..
        }
    );
    declined && matches!(target, Target::Shell(..))
}

/// Why a session has no stream.
enum Failed {
    /// It is over, or its peer says nothing: another session may do. Nothing was answered.
    Gone,
    Refused(ConnectError),
}

/// A stream in this session, which the agent has accepted.
async fn through(session: &Session, request: &OpenRequest) -> Result<BoxedIo, Failed> {
    let opened = session.open(request.clone()).await;
    let mut stream = opened.map_err(|error| {
        tracing::debug!("{}", chain(&error));
        match error {
            OpenError::TooLarge { .. } => Failed::Refused(ConnectError::HeaderTooLarge),
            _ if session.is_open() && !session.is_suspect() => {
                Failed::Refused(ConnectError::TooManyStreams)
            }
            _ => Failed::Gone,
        }
    })?;
    match stream.accepted().await {
        Ok(()) => Ok(Box::new(stream)),
        Err(error) => {
            tracing::debug!("{}", chain(&error));
            Err(match error {
                StreamError::Refused { .. } => match declined(error) {
                    // The agent is going away.
                    ConnectError::NoAgent => Failed::Gone,
                    error => Failed::Refused(error),
                },
                _ => Failed::Gone,
            })
        }
    }
}

/// Leaves the agent for the audit log.
fn note(session: &Session, snapshot: &Snapshot, open: &Open) {
    if let Some(through) = tunnel::through(session, snapshot) {
        open.via.set(through);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use underpass_audit::AuditLog;
    use underpass_core::{AgentRole, Clusters, StreamClass};
    use underpass_directory::{Agent, Cluster, Directory, Draft, Expect};
    use underpass_tunnel::{AgentKey, CloseCode, ResetCode};

    use super::*;
    use crate::tunnel::tests::{directory, session};
    use crate::tunnel::{Keys, Tunnel};

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn key(seed: u8) -> AgentKey {
        AgentKey::from_seed([seed; 32]).unwrap()
    }

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn cluster(text: &str) -> ClusterName {
        ClusterName::new(text).unwrap()
    }

    fn to_socket() -> Open {
        let target = "unix:/run/docker.sock".parse().unwrap();
        Open::new(target, "who".into(), StreamClass::Default, "id")
    }

    /// Cluster `edge` has the agent of key 1; the node `n1` that of key 2, and `n2` that of key 3. Key 4 has no node's name.
    async fn site() -> (Arc<Directory>, Tunnel) {
        let directory = directory(&key(1)).await;
        let fill = |draft: &mut Draft| {
            let other = Cluster::new(draft.now());
            draft.put("other", other, Expect::Absent)?;
            for (id, seed, node) in [
                ("a2", 2, Some("n1")),
                ("a3", 3, Some("n2")),
                ("a4", 4, None),
            ] {
                let public = key(seed).public_key().to_string();
                let mut agent = Agent::new(draft.now(), cluster("edge"), public);
                agent.role = AgentRole::Node;
                agent.node = node.map(name);
                draft.put(id, agent, Expect::Absent)?;
            }
            Ok::<_, underpass_directory::ChangeError>(())
        };
        directory.change(fill).await.unwrap();
        let tunnel = Tunnel::new(Arc::clone(&directory), AuditLog::default());
        (directory, tunnel)
    }

    async fn agent(directory: &Arc<Directory>, tunnel: &Tunnel, seed: u8) -> Session {
        let (agent, accepted) = session(key(seed), Keys(Arc::clone(directory))).await;
        tunnel.serve(accepted, HERE);
        agent
    }

    /// Connects to a node, at which this agent declines in its own words.
    async fn declined_by(tunnel: &Tunnel, node: &str, agent: &Session, code: ResetCode) -> String {
        let (edge, node, open) = (cluster("edge"), name(node), to_socket());
        let declining = async {
            let incoming = agent.accept().await.unwrap();
            assert_eq!(incoming.target(), "unix:/run/docker.sock");
            assert_eq!(&incoming.header()[..], b"who");
            incoming.refuse(code, "no rule");
        };
        let connecting = tunnel.connect_node(&edge, &node, &open);
        let (connected, ()) = tokio::join!(connecting, declining);
        match connected.err().unwrap() {
            ConnectError::Declined {
                decline: Decline::Forbidden,
                reason,
            } => format!("{reason} {}", open.via.through().unwrap()),
            error => error.to_string(),
        }
    }

    async fn error(tunnel: &Tunnel, of: &str, node: &str) -> String {
        let (of, node, open) = (cluster(of), name(node), to_socket());
        let connected = tunnel.connect_node(&of, &node, &open).await;
        connected.err().unwrap().to_string()
    }

    #[tokio::test]
    async fn rule_6_a_nodes_target_is_reached_through_that_nodes_agent_alone() {
        let (directory, tunnel) = site().await;
        let forbidden = ResetCode::Forbidden;
        let _cluster = agent(&directory, &tunnel, 1).await;
        let second = agent(&directory, &tunnel, 3).await;
        // Neither the cluster's agent nor another node's stands in.
        for node in ["n1", "a4"] {
            let away = format!("the agent of node {node} is not connected");
            assert_eq!(error(&tunnel, "edge", node).await, away);
        }
        for (of, node) in [("edge", "n3"), ("edge", "agent"), ("other", "n1")] {
            let unknown = format!("the cluster has no node {node}");
            assert_eq!(error(&tunnel, of, node).await, unknown);
        }
        assert_eq!(
            error(&tunnel, "none", "n1").await,
            "the cluster is not known"
        );
        let first = agent(&directory, &tunnel, 2).await;
        let nameless = agent(&directory, &tunnel, 4).await;
        for (node, session, id) in [
            ("n1", &first, "a2"),
            ("n2", &second, "a3"),
            ("a2", &first, "a2"),
            ("a4", &nameless, "a4"),
        ] {
            let declined = declined_by(&tunnel, node, session, forbidden).await;
            assert_eq!(declined, format!("no rule node/{id}"), "{node}");
        }
        let leaving = declined_by(&tunnel, "n1", &first, ResetCode::GoingAway).await;
        assert_eq!(leaving, "the agent of node n1 is not connected");
    }

    #[tokio::test]
    async fn a_node_with_two_sessions_is_reached_by_the_one_that_lives() {
        let (directory, tunnel) = site().await;
        let dead = agent(&directory, &tunnel, 2).await;
        let alive = agent(&directory, &tunnel, 2).await;
        dead.close(CloseCode::Shutdown, "killed");
        dead.closed().await;
        for _ in 0..8 {
            let declined = declined_by(&tunnel, "n1", &alive, ResetCode::Forbidden).await;
            assert_eq!(declined, "no rule node/a2");
        }
        alive.close(CloseCode::Shutdown, "killed");
        alive.closed().await;
        let away = error(&tunnel, "edge", "n1").await;
        assert_eq!(away, "the agent of node n1 is not connected");
    }

    /// An agent that was killed without a word has a session for a while.
    #[tokio::test(start_paused = true)]
    async fn a_session_whose_peer_says_nothing_is_passed_over() {
        let (directory, tunnel) = site().await;
        let _silent = agent(&directory, &tunnel, 2).await;
        assert_eq!(
            error(&tunnel, "edge", "n1").await,
            "the agent of node n1 is not connected"
        );
        let _silent_too = agent(&directory, &tunnel, 2).await;
        let alive = agent(&directory, &tunnel, 2).await;
        for _ in 0..8 {
            let declined = declined_by(&tunnel, "n1", &alive, ResetCode::Forbidden).await;
            assert_eq!(declined, "no rule node/a2");
        }
    }
}
