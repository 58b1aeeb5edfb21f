//! Shells at agents: which agents to ask, and the life of those that were opened here.

mod keeper;

use bytes::Bytes;
use serde::Serialize;
use thiserror::Error;
use underpass_api::{ShellAnswer, ShellProblem, ShellQuestion, ShellView};
use underpass_core::{Revocation, ShellKind, Target};
use underpass_tunnel::{ResetCode, Session, chain};

pub(crate) use self::keeper::{Keepers, Keeping};
use crate::limits;
use crate::questions::{Answer, AskError, ask};
use crate::tunnel::likeliest_first;

/// The agents that may have a caller's shells: those of one node, or those of a cluster in the role `cluster`.
#[derive(Debug)]
pub(crate) struct Agents(Vec<Session>);

/// Why an agent does not do what it was asked.
#[derive(Debug, Error)]
pub(crate) enum ShellError {
    #[error(transparent)]
    Ask(#[from] AskError),
    /// It says why.
    #[error(transparent)]
    Refused(#[from] ShellProblem),
    #[error("the agent did not answer in time; it may have the question")]
    Silent,
}

/// A shell that was just opened, which its agent tells the end of.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) view: ShellView,
    /// The id of its agent.
    pub(crate) agent: String,
    answer: Answer<ShellAnswer>,
}

/// The end of a shell, as far as it is known here.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The agent tells how.
    Told(ShellView),
    /// The permission was taken back.
    Revoked,
    /// The agent is gone, or says nothing that can be understood.
    Lost,
}

impl Agents {
    /// Those with these sessions, the first of which are asked first.
    pub(crate) fn with(mut sessions: Vec<Session>) -> Self {
        sessions.retain(Session::is_open);
        likeliest_first(&mut sessions);
        Self(sessions)
    }

    fn are_away(&self) -> bool {
        self.0.is_empty()
    }

    /// Opens a shell at the first agent that takes the question, or asks it to keep one.
    ///
    /// # Errors
    /// There is no shell that the caller hears of.
    ///
    /// # Cancel safety
    /// There may be a shell, which the caller may find in the list.
    pub(crate) async fn open(
        &self,
        kind: ShellKind,
        identity: &Bytes,
        question: &ShellQuestion,
    ) -> Result<Opened, ShellError> {
        let target = Target::Shells(kind);
        let mut failed = AskError::Gone;
        for session in &self.0 {
            let mut answer = match in_time(ask(session, &target, identity, question)).await? {
                Ok(answer) => answer,
                // Nothing was opened: another agent may.
                Err(error @ (AskError::Gone | AskError::Dial(_) | AskError::Refused { .. })) => {
                    tracing::debug!("{}", chain(&error));
                    failed = error;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let told = match in_time(answer.next()).await {
                Ok(told) => told,
                Err(silent) => {
                    // A shell that the agent opens later is nobody's.
                    answer.reset(ResetCode::Forbidden);
                    return Err(silent);
                }
            };
            return match told? {
                Some(ShellAnswer::Shell(view)) if view.kind == kind => Ok(Opened {
                    view,
                    agent: session.info().owner.clone(),
                    answer,
                }),
                Some(ShellAnswer::Refused(problem)) => Err(ShellError::Refused(problem)),
                _ => Err(AskError::Unreadable.into()),
            };
        }
        Err(failed.into())
    }

    /// The caller's shells of a kind at all of these agents. An agent that does not answer has none that the caller could use now.
    pub(crate) async fn list(
        &self,
        kind: ShellKind,
        identity: &Bytes,
    ) -> Result<Vec<ShellView>, ShellError> {
        let mut views = Vec::<ShellView>::new();
        let mut failed = None;
        for session in &self.0 {
            match self.list_of(session, kind, identity).await {
                // An agent may have two sessions.
                Ok(of_agent) => of_agent.into_iter().for_each(|view| {
                    if views.iter().all(|known| known.id != view.id) {
                        views.push(view);
                    }
                }),
                // Its policy allows this caller none.
                Err(ShellError::Ask(AskError::Refused { .. })) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) if views.is_empty() => Err(error),
            _ => Ok(views),
        }
    }

    async fn list_of(
        &self,
        session: &Session,
        kind: ShellKind,
        identity: &Bytes,
    ) -> Result<Vec<ShellView>, ShellError> {
        let target = Target::Shells(kind);
        let listing = async {
            let question = ShellQuestion::List {};
            let mut answer = ask(session, &target, identity, &question).await?;
            let mut views = Vec::new();
            while let Some(line) = answer.next().await? {
                match line {
                    ShellAnswer::Shell(view) if view.kind == kind => views.push(view),
                    ShellAnswer::Refused(problem) => return Err(ShellError::Refused(problem)),
                    ShellAnswer::Shell(_) => return Err(AskError::Unreadable.into()),
                }
                if views.len() >= limits::SHELL_LIST {
                    break;
                }
            }
            Ok(views)
        };
        in_time(listing).await?
    }

    /// Asks about one shell, of the agent that has it.
    pub(crate) async fn about(
        &self,
        kind: ShellKind,
        identity: &Bytes,
        question: &ShellQuestion,
    ) -> Result<ShellView, ShellError> {
        let mut failed = ShellError::Ask(AskError::Gone);
        for session in &self.0 {
            let asked = in_time(one(session, kind, identity, question)).await?;
            match asked {
                Ok(view) => return Ok(view),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

async fn one(
    session: &Session,
    kind: ShellKind,
    identity: &Bytes,
    question: &impl Serialize,
) -> Result<ShellView, ShellError> {
    let mut answer = ask(session, &Target::Shells(kind), identity, question).await?;
    match answer.next().await? {
        Some(ShellAnswer::Shell(view)) if view.kind == kind => Ok(view),
        Some(ShellAnswer::Refused(problem)) => Err(ShellError::Refused(problem)),
        _ => Err(AskError::Unreadable.into()),
    }
}

async fn in_time<F: Future>(asking: F) -> Result<F::Output, ShellError> {
    let asked = tokio::time::timeout(limits::NODE_TIME, asking).await;
    asked.map_err(|_| ShellError::Silent)
}

impl Opened {
    /// Takes the permission for it back: it ends.
    pub(crate) fn revoke(self) {
        self.answer.reset(ResetCode::Forbidden);
    }

    /// Waits until the shell has ended, or the permission for it, of which the agent is told at once.
    ///
    /// # Cancel safety
    /// Where the future is dropped the shell goes on, and its viewers with it.
    async fn until_ended(mut self, permission: Revocation) -> Ended {
        let told = tokio::select! {
            told = self.answer.next() => told,
            () = permission.revoked() => {
                self.answer.reset(ResetCode::Forbidden);
                return Ended::Revoked;
            }
        };
        match told {
            Ok(Some(ShellAnswer::Shell(view))) if view.id == self.view.id => Ended::Told(view),
            _ => Ended::Lost,
        }
    }
}
