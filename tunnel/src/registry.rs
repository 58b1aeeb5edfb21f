//! Which session serves which agent's name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::RngExt;
use underpass_proto::agent_name::AgentName;
use underpass_proto::code::CloseCode;

use crate::session::Session;

/// The sessions of this process, by the agent's name. Clones share their content.
///
/// Several processes of one agent may be connected at once (a rollout, a second replica): each
/// has a session here. A second session of the same process takes the first one's place.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    sessions: Arc<Mutex<HashMap<AgentName, Vec<Session>>>>,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a session under its agent's name, until it ends.
    pub fn insert(&self, session: Session) {
        let superseded = self.put(session.clone());
        if let Some(old) = superseded {
            old.close(
                CloseCode::Superseded,
                "the same agent process has connected again",
            );
        }
        let registry = self.clone();
        tokio::spawn(async move {
            session.closed().await;
            registry.remove(&session);
        });
    }

    fn put(&self, session: Session) -> Option<Session> {
        let mut sessions = self.lock();
        let of_agent = sessions.entry(session.info().agent.clone()).or_default();
        let same_process = |old: &Session| old.info().instance == session.info().instance;
        let superseded = of_agent
            .iter()
            .position(same_process)
            .map(|at| of_agent.remove(at));
        of_agent.push(session);
        superseded
    }

    fn remove(&self, session: &Session) {
        let mut sessions = self.lock();
        let agent = &session.info().agent;
        if let Some(of_agent) = sessions.get_mut(agent) {
            of_agent.retain(|other| !other.is_same(session));
            if of_agent.is_empty() {
                sessions.remove(agent);
            }
        }
    }

    /// The session to open `agent`'s next stream in. Of those that take streams and whose peers answer, the one with fewer streams
    /// of two neighbours in a random place, so that they share the load. A session that left an OPEN unanswered is passed over until
    /// its peer is heard from: waiting for it once more would only make the next caller wait too. One whose transport has just been
    /// lost or fallen silent is taken where there is no other: it is likely to be [back soon](Session::is_reachable).
    pub fn pick(&self, agent: &str) -> Option<Session> {
        self.pick_where(agent, |_| true)
    }

    /// As [`pick`](Self::pick), and one that has [not refused](Session::has_refused) the target where there is one.
    pub fn pick_for(&self, agent: &str, target: &str) -> Option<Session> {
        let willing = |session: &Session| !session.has_refused(target);
        self.pick_where(agent, willing).or_else(|| self.pick(agent))
    }

    /// As [`pick`](Self::pick), of those sessions that are `wanted`.
    pub fn pick_where(
        &self,
        agent: &str,
        mut wanted: impl FnMut(&Session) -> bool,
    ) -> Option<Session> {
        let sessions = self.lock();
        let of_agent = sessions.get(agent)?;
        let start = rand::rng().random_range(0..of_agent.len().max(1));
        let (later, sooner) = of_agent.split_at_checked(start)?;
        let mut away = None;
        let mut usable = sooner.iter().chain(later).filter(|session| {
            let is_usable = session.is_open() && session.is_reachable() && wanted(session);
            let answers = !session.is_suspect() && session.transport().is_some();
            if is_usable && !answers && away.is_none() {
                away = Some((*session).clone());
            }
            is_usable && answers
        });
        let (first, second) = (usable.next(), usable.next());
        drop(usable);
        let of_two = match (first, second) {
            (Some(one), Some(other)) if other.open_streams() < one.open_streams() => Some(other),
            (one, _) => one,
        };
        of_two.cloned().or(away)
    }

    /// How many sessions `agent` has.
    pub fn count(&self, agent: &str) -> usize {
        self.lock().get(agent).map_or(0, Vec::len)
    }

    /// All sessions.
    pub fn sessions(&self) -> Vec<Session> {
        self.lock().values().flatten().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentName, Vec<Session>>> {
        // Nothing under the lock leaves the map half-changed.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
