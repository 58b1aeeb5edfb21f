//! Credentials for clusters' API servers that agents hand over (PROTOCOL.md, "Registered credentials").
//!
//! Each end has its say. Administrators of all clusters allow it for a cluster; without that, the stream is refused before the agent
//! has sent anything. An agent's owner asks for it, and each agent whose owner does not withdraws what is there: of a cluster's
//! connected agents one that withdraws is enough.

mod exchange;
mod offer;
#[cfg(test)]
mod tests;
mod told;
mod turns;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use time::OffsetDateTime;
use underpass_api::{RegistrationAnswer, RegistrationRefusal, RegistrationRequest};
use underpass_audit::AuditLog;
use underpass_core::rate::{Rate, RateLimiter};
use underpass_core::{AgentRole, ClusterLogShare, ClusterName};
use underpass_direct::RegisteredClusters;
use underpass_directory::seal::Keyring;
use underpass_directory::{
    Agent as Entry, ChangeError, Cluster, Directory, Draft, Expect, Registrant, Registration,
    Snapshot,
};
use underpass_tunnel::{IncomingStream, ResetCode, Session, chain};

use self::offer::Offer;
use self::told::{Outcome, RegistrationEvent};
use self::turns::Turn;
pub(crate) use self::turns::Turns;
use crate::{limits, tunnel};

/// Takes credentials from agents.
pub(crate) struct Registrations {
    directory: Arc<Directory>,
    keys: Arc<Keyring>,
    audit: AuditLog,
    /// The clusters as they are reached with what was registered.
    pub(crate) clusters: Arc<RegisteredClusters>,
    /// This server's names and addresses.
    own: Vec<String>,
    /// The sessions whose agents want none to be kept. A session is among them until it ends.
    withdrawn: Mutex<HashMap<ClusterName, Vec<Session>>>,
    pace: RateLimiter<ClusterName>,
    lines: ClusterLogShare,
}

/// The agent at a session's other end.
struct Agent {
    cluster: ClusterName,
    id: String,
}

impl Agent {
    fn event(&self, session: &Session) -> RegistrationEvent<'_> {
        RegistrationEvent {
            agent: &self.id,
            cluster: &self.cluster,
            remote: session.remote().map(|remote| remote.ip()),
        }
    }
}

/// Why nothing is read of a stream: the text is for the agent's log.
enum NotTaken {
    /// The agent may not register, and nothing is kept that it has registered.
    Forbidden(String),
    /// The session's agent has another key now.
    KeyReplaced,
}

impl Registrations {
    /// Keeps what agents register in the directory, sealed with `keys`, and writes it down in `audit`.
    pub(crate) fn new(
        directory: Arc<Directory>,
        keys: Arc<Keyring>,
        own: Vec<String>,
        audit: AuditLog,
    ) -> Self {
        Self {
            clusters: Arc::new(RegisteredClusters::new(
                Arc::clone(&directory),
                Arc::clone(&keys),
            )),
            directory,
            keys,
            audit,
            own,
            withdrawn: Mutex::default(),
            pace: RateLimiter::new(Rate {
                burst: limits::REGISTRATIONS,
                every: limits::REGISTRATION_EVERY,
                sources: limits::REGISTERING_CLUSTERS,
            }),
            lines: ClusterLogShare::default(),
        }
    }

    /// Serves a stream of an agent in the background. Of a session, the last one's word counts.
    pub(crate) fn take(
        self: &Arc<Self>,
        session: &Session,
        turns: &Arc<Turns>,
        incoming: IncomingStream,
    ) {
        let Some(turn) = turns.next() else {
            let why = "other registrations are under way: try again";
            return incoming.refuse(ResetCode::Overloaded, why);
        };
        let (this, session) = (Arc::clone(self), session.clone());
        tokio::spawn(async move { this.serve(&session, &turn, incoming).await });
    }

    /// Forgets that the agent of a session wanted no credential to be kept: the session has ended.
    pub(crate) fn forget(&self, session: &Session) {
        self.lock().retain(|_, sessions| {
            sessions.retain(|other| !other.is_same(session));
            !sessions.is_empty()
        });
    }

    async fn serve(&self, session: &Session, turn: &Turn, incoming: IncomingStream) {
        let agent = match agent_of(session, &self.directory.snapshot()) {
            Ok(agent) => agent,
            Err(NotTaken::Forbidden(why)) => return incoming.refuse(ResetCode::Forbidden, &why),
            // The session may prove that key yet, and what is kept is another holder's.
            Err(NotTaken::KeyReplaced) => {
                return incoming.refuse(ResetCode::Overloaded, KEY_REPLACED);
            }
        };
        let stream = match incoming.accept().await {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!("stream gone: {}", chain(&error)),
        };
        let deciding = |request| self.decide(session, turn, &agent, request);
        let answering = exchange::answer(stream, deciding);
        match answering.await {
            Ok(answer) => self.tell(&agent, &answer),
            Err(error) => {
                tracing::debug!(cluster = %agent.cluster, "no registration: {}", chain(&error));
            }
        }
    }

    /// One line for each answer, of which a cluster has its share.
    fn tell(&self, Agent { cluster, id }: &Agent, answer: &RegistrationAnswer) {
        let Some(suppressed) = self.lines.take(cluster.as_str()) else {
            return;
        };
        match answer {
            RegistrationAnswer::Registered { expires } => tracing::info!(
                suppressed, %cluster, agent = id, %expires, "an agent has registered a credential for the API server"
            ),
            RegistrationAnswer::Withdrawn {} => {
                tracing::debug!(%cluster, agent = id, "an agent wants no credential to be kept");
            }
            RegistrationAnswer::Refused { reason, detail } => tracing::warn!(
                suppressed, %cluster, agent = id, %reason, "a credential of an agent is refused: {detail}"
            ),
        }
    }

    /// Answers where no later stream of the session was answered.
    async fn decide(
        &self,
        session: &Session,
        turn: &Turn,
        agent: &Agent,
        request: Option<RegistrationRequest>,
    ) -> RegistrationAnswer {
        let Some(_deciding) = turn.decide().await else {
            let why = "a later stream of this session has had its answer";
            return refusal(RegistrationRefusal::Unavailable, why);
        };
        self.answer(session, agent, request).await
    }

    async fn answer(
        &self,
        session: &Session,
        agent: &Agent,
        request: Option<RegistrationRequest>,
    ) -> RegistrationAnswer {
        let answered = match request {
            None => Err(refusal(
                RegistrationRefusal::Malformed,
                "the line is no registration, or is too long",
            )),
            Some(RegistrationRequest::Withdraw {}) => self.withdraw(session, agent).await,
            Some(RegistrationRequest::Register(offered)) => {
                let offer = Offer::read(offered, OffsetDateTime::now_utc());
                self.register(session, agent, offer).await
            }
        };
        answered.unwrap_or_else(|refused| refused)
    }

    async fn withdraw(
        &self,
        session: &Session,
        agent: &Agent,
    ) -> Result<RegistrationAnswer, RegistrationAnswer> {
        // First: a registration that is under way finds it.
        self.note(session, &agent.cluster);
        let ready = self.audit.ready_to_revoke().await;
        ready.map_err(|_stuck| unwritten())?;
        let removing = self.directory.change(|draft| {
            let found = draft.get::<Entry>(&agent.id);
            key_of(session, found.map(|found| found.object.as_ref()))?;
            let there = kept(draft, &agent.cluster);
            if there.is_some() {
                draft.remove::<Registration>(agent.cluster.as_str(), Expect::Anything)?;
            }
            Ok::<_, Unchanged>(there)
        });
        let removed = removing.await.map_err(Unchanged::into_answer)?.value;
        if let Some(removed) = &removed {
            let event = agent.event(session);
            event.write(&self.audit, &Outcome::Withdrawn(removed));
        }
        Ok(RegistrationAnswer::Withdrawn {})
    }

    async fn register(
        &self,
        session: &Session,
        agent: &Agent,
        offer: Result<Offer, RegistrationAnswer>,
    ) -> Result<RegistrationAnswer, RegistrationAnswer> {
        let cluster = &agent.cluster;
        let offer = offer?;
        // It wants one now, though it may have withdrawn before.
        self.forget(session);
        self.nobody_withdraws(cluster)?;
        if self.pace.take(cluster.clone()).is_none() {
            let why = "the cluster's agents register too often: try again in some minutes";
            return Err(refusal(RegistrationRefusal::TooOften, why));
        }
        let ready = self.audit.ready().await;
        ready.map_err(|_stuck| unwritten())?;
        let registering = self.directory.change(|draft| {
            self.nobody_withdraws(cluster)?;
            // Its key and role, and the cluster's rules, as they are now (rule 25).
            let found = draft.get::<Entry>(&agent.id);
            let key = key_of(session, found.map(|found| found.object.as_ref()))?;
            let found = draft.get::<Cluster>(cluster.as_str());
            let rules = found.and_then(|found| found.object.registrations.as_ref());
            let rules = rules.ok_or_else(|| not_allowed(cluster))?;
            offer.check_place(rules, &self.own)?;
            let by = Registrant {
                agent: &agent.id,
                key: &key,
            };
            let registration = offer.seal(cluster, by, draft.now(), &self.keys)?;
            let before = kept(draft, cluster);
            draft.put(cluster.as_str(), registration.clone(), Expect::Anything)?;
            Ok::<_, Unchanged>((registration, before))
        });
        let changed = registering.await.map_err(Unchanged::into_answer)?;
        let (now, before) = &changed.value;
        let before = before.as_ref();
        let event = agent.event(session);
        event.write(&self.audit, &Outcome::Registered { now, before });
        let expires = offer.expires();
        Ok(RegistrationAnswer::Registered { expires })
    }

    fn note(&self, session: &Session, cluster: &ClusterName) {
        let mut withdrawn = self.lock();
        let sessions = withdrawn.entry(cluster.clone()).or_default();
        if !sessions.iter().any(|other| other.is_same(session)) {
            sessions.push(session.clone());
        }
        drop(withdrawn);
        if !session.is_open() {
            // Its end may have been noticed before.
            self.forget(session);
        }
    }

    /// Of a cluster's connected agents one that wants no credential to be kept is enough.
    fn nobody_withdraws(&self, cluster: &ClusterName) -> Result<(), RegistrationAnswer> {
        if !self.lock().contains_key(cluster) {
            return Ok(());
        }
        let why = "another agent of the cluster, which is connected, is not started with --register-credentials, or its policy denies \
                   users, groups or the API server";
        Err(refusal(RegistrationRefusal::Withdrawn, why))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ClusterName, Vec<Session>>> {
        self.withdrawn
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The agent of a session, where it may register a credential for its cluster.
fn agent_of(session: &Session, snapshot: &Snapshot) -> Result<Agent, NotTaken> {
    let info = session.info();
    let found = tunnel::agent_of(session, snapshot);
    let (id, agent) =
        found.ok_or_else(|| NotTaken::Forbidden("this agent was revoked".to_owned()))?;
    if agent.role != AgentRole::Cluster || info.agent != agent.cluster.as_str() {
        let why =
            "agents of the role node register no credentials: only those of the role cluster do";
        return Err(NotTaken::Forbidden(why.to_owned()));
    }
    let cluster = snapshot.get::<Cluster>(agent.cluster.as_str());
    if cluster.is_none_or(|cluster| cluster.object.registrations.is_none()) {
        return Err(NotTaken::Forbidden(not_allowed_text(&agent.cluster)));
    }
    // A key that was stolen opens nothing after its rotation, though its session lasts for a while.
    if tunnel::proved_key(session, agent).is_none() {
        return Err(NotTaken::KeyReplaced);
    }
    Ok(Agent {
        cluster: agent.cluster.clone(),
        id: id.to_owned(),
    })
}

/// The key with which the session's agent says something: one that counts.
fn key_of(session: &Session, agent: Option<&Entry>) -> Result<String, RegistrationAnswer> {
    let key = agent.and_then(|agent| tunnel::proved_key(session, agent));
    let key = key.ok_or_else(|| refusal(RegistrationRefusal::Unavailable, KEY_REPLACED))?;
    Ok(key.to_owned())
}

/// For the agent.
const KEY_REPLACED: &str =
    "another key has taken the place of the one that this session has proved: prove that one first";

fn not_allowed_text(cluster: &ClusterName) -> String {
    format!(
        "cluster {cluster} lets no agent register a credential: an administrator of the server allows it with `underpass cluster \
         credentials allow {cluster}`"
    )
}

fn not_allowed(cluster: &ClusterName) -> RegistrationAnswer {
    refusal(RegistrationRefusal::NotAllowed, not_allowed_text(cluster))
}

fn refusal(reason: RegistrationRefusal, detail: impl Into<String>) -> RegistrationAnswer {
    let detail = detail.into();
    RegistrationAnswer::Refused { reason, detail }
}

fn unwritten() -> RegistrationAnswer {
    let why = "the server's audit log takes no event now: try again later";
    refusal(RegistrationRefusal::Unavailable, why)
}

fn kept(draft: &Draft, cluster: &ClusterName) -> Option<Registration> {
    let entry = draft.get::<Registration>(cluster.as_str())?;
    Some(Registration::clone(&entry.object))
}

/// For the agent. The log has the rest.
fn not_changed(error: &ChangeError) -> RegistrationAnswer {
    match error {
        ChangeError::NoRegistration(_) | ChangeError::NotFound { .. } => refusal(
            RegistrationRefusal::NotAllowed,
            "the agent may not register a credential for this cluster any more",
        ),
        error => {
            tracing::warn!("a registration was not written: {}", chain(error));
            let why = "the server cannot keep it now; its log says why";
            refusal(RegistrationRefusal::Unavailable, why)
        }
    }
}

/// Why the directory was not changed: an answer that was decided on, or an error of the directory's own.
enum Unchanged {
    Answer(RegistrationAnswer),
    Error(ChangeError),
}

impl From<ChangeError> for Unchanged {
    fn from(error: ChangeError) -> Self {
        Self::Error(error)
    }
}

impl From<RegistrationAnswer> for Unchanged {
    fn from(answer: RegistrationAnswer) -> Self {
        Self::Answer(answer)
    }
}

impl Unchanged {
    fn into_answer(self) -> RegistrationAnswer {
        match self {
            Self::Answer(answer) => answer,
            Self::Error(error) => not_changed(&error),
        }
    }
}
