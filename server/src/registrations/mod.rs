//! Credentials for clusters' API servers that agents hand over (PROTOCOL.md, "Registered credentials").
//!
//! Each end has its say. Administrators of all clusters allow it for a cluster; without that, the stream is refused before the agent
//! has sent anything. An agent's owner asks for it, and each agent whose owner does not withdraws what is there: of a cluster's
//! connected agents one that withdraws is enough.

mod exchange;
mod offer;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use time::OffsetDateTime;
use tokio::sync::Semaphore;
use underpass_api::{RegistrationAnswer, RegistrationRefusal, RegistrationRequest};
use underpass_core::rate::{Rate, RateLimiter};
use underpass_core::{AgentRole, ClusterLogShare, ClusterName};
use underpass_direct::RegisteredClusters;
use underpass_directory::seal::Keyring;
use underpass_directory::{ChangeError, Cluster, Directory, Expect, Registration, Snapshot};
use underpass_tunnel::{IncomingStream, ResetCode, Session, chain};

use self::offer::Offer;
use crate::{limits, tunnel};

/// Takes credentials from agents.
pub(crate) struct Registrations {
    directory: Arc<Directory>,
    keys: Arc<Keyring>,
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

/// Why nothing is read of a stream: for the agent's log.
struct NotTaken(String);

impl Registrations {
    /// Keeps what agents register in the directory, sealed with `keys`.
    pub(crate) fn new(directory: Arc<Directory>, keys: Arc<Keyring>, own: Vec<String>) -> Self {
        Self {
            clusters: Arc::new(RegisteredClusters::new(
                Arc::clone(&directory),
                Arc::clone(&keys),
            )),
            directory,
            keys,
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

    /// Serves a stream of an agent in the background. Of a session, one at a time.
    pub(crate) fn take(
        self: &Arc<Self>,
        session: &Session,
        one: &Arc<Semaphore>,
        incoming: IncomingStream,
    ) {
        let Ok(place) = Arc::clone(one).try_acquire_owned() else {
            return incoming.refuse(ResetCode::Overloaded, "another registration is under way");
        };
        let (this, session) = (Arc::clone(self), session.clone());
        tokio::spawn(async move {
            this.serve(&session, incoming).await;
            drop(place);
        });
    }

    /// Forgets that the agent of a session wanted no credential to be kept: the session has ended.
    pub(crate) fn forget(&self, session: &Session) {
        self.lock().retain(|_, sessions| {
            sessions.retain(|other| !other.is_same(session));
            !sessions.is_empty()
        });
    }

    async fn serve(&self, session: &Session, incoming: IncomingStream) {
        let agent = match agent_of(session, &self.directory.snapshot()) {
            Ok(agent) => agent,
            Err(NotTaken(why)) => return incoming.refuse(ResetCode::Forbidden, &why),
        };
        let stream = match incoming.accept().await {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!("stream gone: {}", chain(&error)),
        };
        let answering = exchange::answer(stream, |request| self.answer(session, &agent, request));
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
        let removing = self.directory.change(|draft| {
            if draft.get::<Registration>(agent.cluster.as_str()).is_some() {
                draft.remove::<Registration>(agent.cluster.as_str(), Expect::Anything)?;
            }
            Ok::<_, ChangeError>(())
        });
        removing.await.map_err(|error| not_changed(&error))?;
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
        let registering = self.directory.change(|draft| {
            self.nobody_withdraws(cluster)?;
            // Its role, and the cluster's rules, as they are now (rule 25).
            let found = draft.get::<Cluster>(cluster.as_str());
            let rules = found.and_then(|found| found.object.registrations.as_ref());
            let rules = rules.ok_or_else(|| not_allowed(cluster))?;
            offer.check_place(rules, &self.own)?;
            let registration = offer.seal(cluster, &agent.id, draft.now(), &self.keys)?;
            let put = draft.put(cluster.as_str(), registration, Expect::Anything);
            put.map_err(Unchanged::from)
        });
        registering.await.map_err(Unchanged::into_answer)?;
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
    let (id, agent) = found.ok_or_else(|| NotTaken("this agent was revoked".to_owned()))?;
    if agent.role != AgentRole::Cluster || info.agent != agent.cluster.as_str() {
        let why =
            "agents of the role node register no credentials: only those of the role cluster do";
        return Err(NotTaken(why.to_owned()));
    }
    let cluster = snapshot.get::<Cluster>(agent.cluster.as_str());
    if cluster.is_none_or(|cluster| cluster.object.registrations.is_none()) {
        return Err(NotTaken(not_allowed_text(&agent.cluster)));
    }
    Ok(Agent {
        cluster: agent.cluster.clone(),
        id: id.to_owned(),
    })
}

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
