//! The tunnel's sessions, as the proxy and the operator see them.

mod calls;
mod keys;
mod repeatable;
mod rotation;
mod shown;
#[cfg(test)]
pub(crate) mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rand::RngExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use underpass_api::{AGENT_KEY, CREDENTIALS_TARGET};
use underpass_audit::AuditLog;
use underpass_core::{AgentRole, ClusterLogShare, ClusterName, NetworkLogShare, Through};
use underpass_directory::{Agent, Cluster, Directory, Snapshot};
use underpass_tunnel::{
    AcceptError, Accepted, CloseCode, NoRoom, Registry, ResetCode, Session, chain,
};

pub(crate) use self::calls::declined;
pub(crate) use self::keys::Keys;
use self::rotation::Rotations;
pub(crate) use self::rotation::{AskError, have_rotated};
use crate::occasional::Occasional;
use crate::recordings::Recordings;
use crate::registrations::{Registrations, Turns};
use crate::shells::Keepers;
use crate::stand_in::StandIns;

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
    rotations: Arc<Rotations>,
    keepers: Arc<Keepers>,
    audit: AuditLog,
    ended: CancellationToken,
    /// Streams of this handle never go through a node.
    without_nodes: bool,
    /// Takes credentials from agents, and reaches clusters with them; `None` where streams of this handle go through agents alone.
    registrations: Option<Arc<Registrations>>,
}

impl Tunnel {
    pub(crate) fn new(directory: Arc<Directory>, audit: AuditLog) -> Self {
        Self {
            rotations: Arc::new(Rotations::new(Arc::clone(&directory), audit.clone())),
            keepers: Arc::default(),
            audit,
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
            registrations: None,
        }
    }

    /// The same, with what agents register.
    pub(crate) fn with_registrations(self, registrations: Arc<Registrations>) -> Self {
        Self {
            registrations: Some(registrations),
            ..self
        }
    }

    /// The same, with shells that are recorded there.
    pub(crate) fn with_recordings(self, recordings: Recordings) -> Self {
        Self {
            keepers: Arc::new(Keepers::with(recordings)),
            ..self
        }
    }

    /// The same clusters, through their own agents that are connected and nothing else.
    pub(crate) fn agents_alone(&self) -> Self {
        Self {
            registrations: None,
            ..self.without_nodes()
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
        if let Ok(accepted) = &accepted {
            let info = accepted.info();
            self.rotations.proved(info.key, Some(remote));
        }
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
        let snapshot = self.directory.snapshot();
        match role(&session, &snapshot) {
            // So was its key replaced.
            Some(_) if !rotation::counts(&session, &snapshot) => {
                session.close(CloseCode::KeyReplaced, rotation::REPLACED);
            }
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
        tokio::spawn(self.clone().watch(session));
    }

    fn registry_of(&self, role: AgentRole) -> &Registry {
        match role {
            AgentRole::Cluster => &self.registry,
            AgentRole::Node => &self.nodes,
        }
    }

    /// Ends a session whose agent may no longer serve its cluster in this role. One whose agent has another key now has to prove that.
    fn enforce(&self, session: &Session, in_role: AgentRole, snapshot: &Snapshot) {
        if role(session, snapshot) != Some(in_role) {
            session.close(CloseCode::Revoked, REVOKED);
        } else if !rotation::counts(session, snapshot) {
            self.rotations.must_prove_anew(session, snapshot);
        }
    }

    /// Refuses what the agent opens, but for streams about its key and about a credential that it registers, since nothing here is
    /// for agents to reach, and logs the end.
    async fn watch(self, session: Session) {
        let turns = Arc::new(Turns::default());
        let error = loop {
            match session.accept().await {
                Ok(incoming) if incoming.target() == AGENT_KEY => {
                    self.rotations.serve(&session, incoming).await;
                }
                Ok(incoming) => match &self.registrations {
                    Some(registrations) if incoming.target() == CREDENTIALS_TARGET => {
                        registrations.take(&session, &turns, incoming);
                    }
                    _ => {
                        let target = incoming.target().to_owned();
                        let reason = format!("this server serves no target `{target}`");
                        incoming.refuse(ResetCode::UnknownTarget, &reason);
                    }
                },
                Err(error) => break error,
            }
        };
        if let Some(registrations) = &self.registrations {
            registrations.forget(&session);
        }
        let info = session.info();
        if let Some(suppressed) = line_about(&self.cluster_lines, &info.agent) {
            tracing::info!(suppressed, cluster = info.agent.as_str(), session = %info.id, "agent gone: {}", chain(&error));
        }
    }

    fn refused(&self, error: &AcceptError, remote: IpAddr) {
        if let AcceptError::AddressUnproven = error {
            // The peer comes again; a flood must not fill the log.
            metrics::counter!("underpass_agents_asked_for_address_total").increment(1);
            return;
        }
        metrics::counter!("underpass_agents_refused_total", "reason" => refusal(error))
            .increment(1);
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

    /// How many agents are connected that serve the cluster's API server.
    pub(crate) fn connected(&self, cluster: &ClusterName) -> usize {
        self.registry.count(cluster.as_str())
    }

    /// The sessions of agents in this role.
    pub(crate) fn sessions_in(&self, role: AgentRole) -> Vec<Session> {
        self.registry_of(role).sessions()
    }

    /// All sessions.
    pub(crate) fn sessions(&self) -> Vec<Session> {
        let mut sessions = self.registry.sessions();
        sessions.extend(self.nodes.sessions());
        sessions
    }
}

/// The agent at the other end of a session, and its id.
pub(crate) fn agent_of<'a>(
    session: &Session,
    snapshot: &'a Snapshot,
) -> Option<(&'a str, &'a Agent)> {
    let (id, entry) = snapshot
        .all::<Agent>()
        .get_key_value(&session.info().owner)?;
    Some((id, &entry.object))
}

/// The key of the agent's that the session has proved, as the directory has it: the one that follows, where it has proved both. `None`
/// where no key counts that it has proved.
pub(crate) fn proved_key<'a>(session: &Session, agent: &'a Agent) -> Option<&'a str> {
    let proved = |key: &str| key.parse().is_ok_and(|key| session.has_proved(&key));
    let counting = agent.keys().filter(|(_, standing)| standing.counts());
    counting
        .map(|(key, _)| key)
        .filter(|key| proved(key))
        .last()
}

/// The role in which the session's agent may serve the session's cluster; `None` where it may not.
fn role(session: &Session, snapshot: &Snapshot) -> Option<AgentRole> {
    let (_, agent) = agent_of(session, snapshot)?;
    (session.info().agent == agent.cluster.as_str()).then_some(agent.role)
}

/// May agents on nodes serve the cluster's API server?
fn may_stand_in(cluster: &ClusterName, snapshot: &Snapshot) -> bool {
    let found = snapshot.get::<Cluster>(cluster.as_str());
    found.is_some_and(|entry| entry.object.nodes_may_stand_in)
}

/// Has the agent a connection, and has it answered lately, as far as is known?
fn is_there(session: &Session) -> bool {
    let is_usable = session.is_open() && session.is_reachable() && !session.is_suspect();
    is_usable && session.transport().is_some()
}

/// Puts those sessions first that are most likely to answer: an agent that died has one for a while, whose peer says nothing.
pub(crate) fn likeliest_first(sessions: &mut [Session]) {
    sessions.sort_by_key(|session| (!session.is_reachable(), session.is_suspect()));
}

/// Why a connection has no session, for metrics: none of it is the peer's own text.
fn refusal(error: &AcceptError) -> &'static str {
    match error {
        AcceptError::Overloaded => "overloaded",
        AcceptError::AddressUnproven => "address not proven",
        AcceptError::Quic(_) | AcceptError::Transport(_) => "connection lost",
        AcceptError::Handshake(_) => "bad handshake",
        AcceptError::Timeout => "timeout",
        AcceptError::Denied(_) => "not let in",
        AcceptError::NoRoom(NoRoom::Agent(_)) => "too many sessions of the agent",
        AcceptError::NoRoom(NoRoom::Name(_)) => "too many sessions of the cluster",
        AcceptError::NoRoom(_) => "too many sessions",
        AcceptError::Resume(_) | AcceptError::NoSession => "not resumed",
        _ => "other",
    }
}

/// The agent at the other end of a session.
pub(crate) fn through(session: &Session, snapshot: &Snapshot) -> Option<Through> {
    let (id, agent) = agent_of(session, snapshot)?;
    Some(Through {
        role: agent.role,
        agent: id.to_owned(),
        by_credential: false,
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

/// For the agent.
const REVOKED: &str = "this agent was revoked";
