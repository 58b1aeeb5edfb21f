//! The target `operation`: a question about operations of this node, and the answer to it, in lines of JSON (PROTOCOL.md,
//! "Operations").

use std::pin::pin;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use underpass_agent_operations::{Caller, Follower, Operations, RunError};
use underpass_agent_policy::Denied;
use underpass_api::{
    OperationEvent, OperationId, OperationProblem, OperationQuestion, OperationRecord,
    OperationRefusal, OperationRequest,
};
use underpass_core::Identity;
use underpass_tunnel::{ResetCode, Stream, WriteHalf, chain};

use super::lines::{self, Unanswered, write};
use crate::limits;
use crate::policy::{InForce, Policies};

/// The answers to one caller.
pub(super) struct Answers<'a> {
    pub(super) operations: &'a Operations,
    pub(super) policies: &'a Policies,
    pub(super) identity: &'a Identity,
}

/// The content of an answer.
enum Answer {
    Record(Box<OperationRecord>),
    /// The newest runs. Each record is read when it is written: answers that nobody reads hold ids alone.
    Records(Vec<OperationId>),
    Story(Box<Follower>),
}

impl Answers<'_> {
    /// Answers the one question of a stream. The peer's end of the stream, or its reset, ends the answer; a run goes on.
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream.
    pub(super) async fn serve(&self, stream: Stream) -> Result<(), Unanswered> {
        let (mut from, mut to) = stream.into_split();
        let question = lines::question(&mut from).await?;
        let answering = async {
            match question {
                Ok(question) => self.answer(question, &mut to).await?,
                Err(why) => refuse(&mut to, malformed(&why)).await?,
            }
            to.shutdown().await?;
            Ok(())
        };
        let gone = async {
            let mut more = [0];
            from.read(&mut more).await
        };
        let answered = tokio::select! {
            answered = answering => answered,
            _ = gone => Ok(()),
        };
        if let Err(Unanswered::Policy) = &answered {
            to.reset(ResetCode::Forbidden);
        }
        answered
    }

    async fn answer(
        &self,
        question: OperationQuestion,
        to: &mut WriteHalf,
    ) -> Result<(), Unanswered> {
        let detaches = matches!(&question, OperationQuestion::Run(request) if request.detach);
        match self.find(question).await {
            Err(problem) => refuse(to, problem).await,
            Ok(Answer::Record(record)) => write(to, &OperationEvent::Record(*record)).await,
            Ok(Answer::Records(ids)) => {
                for id in ids {
                    // Meanwhile it may have gone, or the policy may have changed.
                    if let Ok(record) = self.record(self.operations, &id) {
                        write(to, &OperationEvent::Record(record)).await?;
                    }
                }
                Ok(())
            }
            Ok(Answer::Story(follower)) if detaches => {
                write(to, &OperationEvent::Record(follower.record())).await
            }
            Ok(Answer::Story(follower)) => self.tell(*follower, to).await,
        }
    }

    async fn find(&self, question: OperationQuestion) -> Result<Answer, OperationProblem> {
        let operations = self.operations;
        match question {
            OperationQuestion::Run(request) => self.run(operations, &request).await,
            OperationQuestion::List {} => {
                let policy = self.policies.current();
                let sees = |record: &OperationRecord| self.denied(&policy, record).is_none();
                let newest = operations.newest(limits::OPERATION_LIST, sees);
                Ok(Answer::Records(newest))
            }
            OperationQuestion::Read { id } => {
                let record = self.record(operations, &id)?;
                Ok(Answer::Record(Box::new(record)))
            }
            OperationQuestion::Output { id, from, follow } => {
                self.record(operations, &id)?;
                let follower = operations.follow(&id, from, follow);
                let follower = follower.map_err(|error| OperationProblem::from(&error))?;
                Ok(Answer::Story(Box::new(follower)))
            }
            OperationQuestion::Cancel { id } => {
                self.record(operations, &id)?;
                let cancelled = operations.cancel(&id, &self.caller());
                let record = cancelled.map_err(|error| OperationProblem::from(&error))?;
                tracing::info!(
                    target: "underpass::audit", user = self.identity.user(), %id, operation = record.operation,
                    "a caller has an operation end"
                );
                Ok(Answer::Record(Box::new(record)))
            }
        }
    }

    async fn run(
        &self,
        operations: &Operations,
        request: &OperationRequest,
    ) -> Result<Answer, OperationProblem> {
        let (user, groups) = (self.identity.user(), self.identity.groups());
        let policy = self.policies.current();
        // The policy may have lost the operation since: its run is found all the same.
        if let Some(follower) = operations.attach(request, &self.caller()) {
            return match self.denied(&policy, &follower.record()) {
                Some(denied) => Err(denied),
                None => Ok(Answer::Story(Box::new(follower))),
            };
        }
        let decided = policy
            .targets
            .decide_operation(&request.operation, user, groups);
        let operation = decided.map_err(|denied| {
            tracing::info!(target: "underpass::audit", user, reason = %denied, "an operation is refused");
            problem(&denied)
        })?;
        let caller = self.caller();
        let asked = operations.run(request, &operation, &caller).await;
        let asking = asked.map_err(|error: RunError| {
            tracing::info!(
                target: "underpass::audit", user, operation = &**operation.name(), reason = %chain(&error),
                "an operation is refused"
            );
            OperationProblem::from(&error)
        })?;
        Ok(Answer::Story(Box::new(asking.follower)))
    }

    /// A record that the caller may see.
    fn record(
        &self,
        operations: &Operations,
        id: &OperationId,
    ) -> Result<OperationRecord, OperationProblem> {
        let record = operations.read(id);
        let record = record.map_err(|error| OperationProblem::from(&error))?;
        match self.denied(&self.policies.current(), &record) {
            Some(denied) => Err(denied),
            None => Ok(record),
        }
    }

    /// An operation that the policy has for others keeps its records from this caller. Nothing tells for whom one was that the policy
    /// has no more: its records are for the user of the run alone, and damaged ones for nobody.
    fn denied(&self, policy: &InForce, record: &OperationRecord) -> Option<OperationProblem> {
        let (user, groups) = (self.identity.user(), self.identity.groups());
        let decided = policy
            .targets
            .decide_operation(&record.operation, user, groups);
        match decided.err()? {
            denied @ Denied::Caller(_) => Some(problem(&denied)),
            Denied::NoOperation(_) if !self.is_of(record) => Some(OperationProblem {
                reason: OperationRefusal::Forbidden,
                detail: "the policy does not have the operation of this record: it is for the user of the run alone"
                    .to_owned(),
                parameter: None,
            }),
            _ => None,
        }
    }

    fn is_of(&self, record: &OperationRecord) -> bool {
        let own = (self.identity.user(), self.identity.uid());
        own == (record.user.as_str(), record.uid.as_deref())
    }

    fn caller(&self) -> Caller {
        Caller {
            user: self.identity.user().to_owned(),
            uid: self.identity.uid().map(str::to_owned),
        }
    }

    /// Tells of a run, as long as the caller may hear of it.
    async fn tell(&self, mut follower: Follower, to: &mut WriteHalf) -> Result<(), Unanswered> {
        let record = follower.record();
        let mut denied = pin!(self.policies.until(|now| {
            let never = now.impersonation.check(self.identity).err().map(drop);
            never.or_else(|| self.denied(now, &record).map(drop))
        }));
        loop {
            let event = tokio::select! {
                event = follower.next() => event,
                () = &mut denied => return Err(Unanswered::Policy),
            };
            match event {
                Ok(Some(event)) => {
                    tokio::select! {
                        written = write(to, &event) => written?,
                        () = &mut denied => return Err(Unanswered::Policy),
                    }
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::error!("{}", chain(&error));
                    return refuse(to, OperationProblem::from(&error)).await;
                }
            }
        }
    }
}

async fn refuse(to: &mut WriteHalf, problem: OperationProblem) -> Result<(), Unanswered> {
    write(to, &OperationEvent::Refused(problem)).await
}

fn malformed(why: &str) -> OperationProblem {
    OperationProblem {
        reason: OperationRefusal::Malformed,
        detail: format!("the agent cannot read the question: {why}"),
        parameter: None,
    }
}

fn problem(denied: &Denied) -> OperationProblem {
    let reason = match denied {
        Denied::NoOperation(_) => OperationRefusal::UnknownOperation,
        _ => OperationRefusal::Forbidden,
    };
    OperationProblem {
        reason,
        detail: denied.to_string(),
        parameter: None,
    }
}
