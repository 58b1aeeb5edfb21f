//! Agents on nodes that serve the API server while no agent of the role `cluster` is connected.
//!
//! Both sides decide. Here the directory allows it for the cluster, since a node's administrator could answer for the cluster
//! otherwise. At the node the agent's own policy does: an agent whose policy does not accepts no such stream. So that an agent
//! which declines costs no call, its answer is waited for before anything of the call is sent. One that never answers costs a call
//! [`STAND_IN_SEARCH`](limits::STAND_IN_SEARCH) at the most, with any number of sessions of its key.

mod stream;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use underpass_core::ClusterName;
use underpass_tunnel::{
    OpenError, OpenRequest, Registry, ResetCode, Session, Stream, StreamError, chain,
};

pub(crate) use self::stream::WhileAllowed;
use crate::limits;

/// The answers of agents on nodes, and the streams that go through them.
#[derive(Debug, Default)]
pub(crate) struct StandIns {
    answers: Mutex<HashMap<String, Answer>>,
    /// Tokens that end the streams of a cluster once its nodes may not stand in any more.
    allowed: Mutex<HashMap<ClusterName, CancellationToken>>,
}

/// An agent's last answer to a stream to the API server.
#[derive(Debug, Clone, Copy)]
struct Answer {
    serves: bool,
    at: Instant,
}

impl Answer {
    fn counts(&self) -> bool {
        let age = match self.serves {
            true => limits::STAND_IN_SERVES,
            false => limits::STAND_IN_DECLINES,
        };
        self.at.elapsed() < age
    }
}

/// A stream through a node's agent, which has accepted it.
pub(crate) struct StandIn {
    pub(crate) session: Session,
    pub(crate) stream: WhileAllowed<Stream>,
}

/// Why there is none.
pub(crate) enum NoStandIn {
    /// No agent on a node is connected, or none of those that were asked serves the API server.
    NoAgent,
    HeaderTooLarge,
}

impl StandIns {
    /// Opens a stream to the API server through an agent on a node: one that has served before, or else the first to accept of
    /// those that have not declined lately. Takes [`limits::STAND_IN_SEARCH`] at the most.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the streams that it has opened.
    pub(crate) async fn connect(
        &self,
        nodes: &Registry,
        cluster: &ClusterName,
        request: &OpenRequest,
    ) -> Result<StandIn, NoStandIn> {
        let allowed = self.allowed(cluster);
        let searching = self.search(nodes, cluster, request);
        let found = tokio::time::timeout(limits::STAND_IN_SEARCH, searching).await;
        let (session, stream) = found.unwrap_or(Err(NoStandIn::NoAgent))?;
        let stream = WhileAllowed::new(stream, allowed);
        Ok(StandIn { session, stream })
    }

    async fn search(
        &self,
        nodes: &Registry,
        cluster: &ClusterName,
        request: &OpenRequest,
    ) -> Result<(Session, Stream), NoStandIn> {
        let mut asked = HashSet::new();
        let mut asking = FuturesUnordered::new();
        loop {
            let room = limits::STAND_INS_ASKED_AT_ONCE.saturating_sub(asking.len());
            for session in self.next(nodes, cluster, &mut asked, room) {
                asking.push(self.ask(session, request.clone()));
            }
            match asking.next().await {
                None => return Err(NoStandIn::NoAgent),
                Some(answer) => {
                    if let Some(accepted) = answer? {
                        return Ok(accepted);
                    }
                }
            }
        }
    }

    /// Does this agent serve the API server, as far as is known?
    pub(crate) fn serves(&self, session: &Session) -> bool {
        self.answer(session).is_some_and(|answer| answer.serves)
    }

    /// Ends the streams of those clusters whose nodes may not stand in.
    pub(crate) fn enforce(&self, may: impl Fn(&ClusterName) -> bool) {
        lock(&self.allowed).retain(|cluster, allowed| {
            let may = may(cluster);
            if !may {
                allowed.cancel();
            }
            may
        });
    }

    fn allowed(&self, cluster: &ClusterName) -> CancellationToken {
        let mut allowed = lock(&self.allowed);
        allowed.entry(cluster.clone()).or_default().clone()
    }

    /// The sessions to ask next, of `room` agents: one that has served, or those that are not known.
    fn next(
        &self,
        nodes: &Registry,
        cluster: &ClusterName,
        asked: &mut HashSet<String>,
        room: usize,
    ) -> Vec<Session> {
        let mut batch = Vec::new();
        while batch.len() < room && asked.len() < limits::STAND_INS_ASKED {
            let pick = |wanted: &dyn Fn(Option<Answer>) -> bool| {
                nodes.pick_where(cluster.as_str(), |session| {
                    !asked.contains(&session.info().owner) && wanted(self.answer(session))
                })
            };
            let known = pick(&|answer| answer.is_some_and(|answer| answer.serves));
            let is_known = known.is_some();
            let Some(session) = known.or_else(|| pick(&|answer| answer.is_none())) else {
                break;
            };
            asked.insert(session.info().owner.clone());
            batch.push(session);
            if is_known {
                break;
            }
        }
        batch
    }

    async fn ask(
        &self,
        session: Session,
        request: OpenRequest,
    ) -> Result<Option<(Session, Stream)>, NoStandIn> {
        let opened = session.open(request).await;
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(OpenError::TooLarge { .. }) => return Err(NoStandIn::HeaderTooLarge),
            Err(error) => {
                tracing::debug!(session = %session.info().id, "{}", chain(&error));
                if let OpenError::NoAnswer(_) = error {
                    self.note(&session, false);
                }
                return Ok(None);
            }
        };
        match stream.accepted().await {
            Ok(()) => {
                self.note(&session, true);
                Ok(Some((session, stream)))
            }
            Err(error) => {
                tracing::debug!(session = %session.info().id, "a node does not stand in: {}", chain(&error));
                let declines = match &error {
                    StreamError::NoAnswer(_) => true,
                    StreamError::Refused { code, .. } => {
                        !matches!(code, ResetCode::GoingAway | ResetCode::Overloaded)
                    }
                    _ => false,
                };
                if declines {
                    self.note(&session, false);
                }
                Ok(None)
            }
        }
    }

    fn answer(&self, session: &Session) -> Option<Answer> {
        let answer = lock(&self.answers).get(&session.info().owner).copied();
        answer.filter(Answer::counts)
    }

    fn note(&self, session: &Session, serves: bool) {
        let at = Instant::now();
        let mut answers = lock(&self.answers);
        if answers.len() >= limits::STAND_IN_ANSWERS {
            answers.retain(|_, answer| answer.counts());
        }
        // An agent whose answer is forgotten is asked again.
        if answers.len() >= limits::STAND_IN_ANSWERS {
            answers.clear();
        }
        answers.insert(session.info().owner.clone(), Answer { serves, at });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
