//! Operations on an agent's node: commands that its policy names, run at most once.
//!
//! [`Operations::run`] runs one under an id that its caller chooses. The record of the run is on the disk before the command starts, so
//! that the same id is the same run: it gives the result, or tells of the command while it runs, and starts nothing. An agent that
//! died in the midst of a run finds its record as *running*, kills the rest of it, and marks it *interrupted*. A caller that
//! goes away changes nothing; [`Operations::cancel`] ends a run.
//!
//! The crate knows neither the tunnel nor Kubernetes, and decides nothing: its caller has asked the policy.

pub mod limits;

mod account;
mod error;
mod follow;
mod output;
mod process;
mod remains;
mod retention;
mod run;
mod runs;
mod shared;
mod store;
mod stored;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use time::OffsetDateTime;
use underpass_agent_policy::Operation;
use underpass_api::{OperationId, OperationRecord, OperationRequest, OperationState, OutputBytes};

pub use self::error::{OpenError, RecordError, RunError};
pub use self::follow::Follower;
pub use self::retention::Retention;

use self::run::Asked;
use self::shared::Shared;

/// The runs of a node, and their records. Clones are the same.
#[derive(Clone, Debug)]
pub struct Operations(Arc<Shared>);

/// The caller of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Their name.
    pub user: String,
    /// Their uid, where there is one.
    pub uid: Option<String>,
}

/// A run that was asked for.
#[derive(Debug)]
pub struct Asking {
    /// Tells of it.
    pub follower: Follower,
    /// Whether it was started now, or is that of an earlier question.
    pub is_new: bool,
}

impl Operations {
    /// Opens the records in this directory, and makes it where there is none. Runs that were interrupted are marked so, and what is
    /// left of them is killed. Blocks. Call it in a runtime.
    ///
    /// # Errors
    /// The directory cannot be used, or another process has it.
    pub fn open(folder: &Path, retention: Retention) -> Result<Self, OpenError> {
        Self::open_with(folder, retention, Path::new("/proc"))
    }

    fn open_with(folder: &Path, retention: Retention, processes: &Path) -> Result<Self, OpenError> {
        Shared::open(folder, retention, processes).map(Self)
    }

    /// Runs an operation, or attaches to the run of this id where operation, arguments and caller are the same.
    ///
    /// # Errors
    /// Nothing was run, for this reason.
    ///
    /// # Cancel safety
    /// Dropping the future starts the run or not; it ends none.
    pub async fn run(
        &self,
        request: &OperationRequest,
        operation: &Arc<Operation>,
        caller: &Caller,
    ) -> Result<Asking, RunError> {
        if let Some(follower) = self.attach(request, caller) {
            let is_new = false;
            return Ok(Asking { follower, is_new });
        }
        let arguments = request.arguments.iter();
        let bytes = arguments.map(|(name, value)| name.len().saturating_add(value.len()));
        let bytes = bytes.fold(0, usize::saturating_add);
        if bytes > limits::ARGUMENTS_BYTES {
            return Err(RunError::TooLarge(bytes));
        }
        let argv = operation.argv(&request.arguments)?;
        let record = OperationRecord {
            id: request.id.clone(),
            operation: operation.name().to_string(),
            arguments: request.arguments.clone(),
            user: caller.user.clone(),
            uid: caller.uid.clone(),
            created: OffsetDateTime::now_utc(),
            started: None,
            ended: None,
            state: OperationState::Running,
            exit: None,
            reason: None,
            output: OutputBytes::default(),
        };
        let (run, is_new) = self.0.run(record, operation, argv).await?;
        let follower = self.0.follower(&run, 0, true);
        Ok(Asking { follower, is_new })
    }

    /// Tells of the run of this id from its beginning, where there is one of the same operation, arguments and caller.
    pub fn attach(&self, request: &OperationRequest, caller: &Caller) -> Option<Follower> {
        let run = self.0.find(&request.id).ok()?;
        let record = run.record();
        let same = record.operation == request.operation
            && record.arguments == request.arguments
            && (record.user, record.uid) == (caller.user.clone(), caller.uid.clone());
        same.then(|| self.0.follower(&run, 0, true))
    }

    /// The ids of the newest records that fit, the newest first.
    pub fn newest(&self, most: usize, fits: impl Fn(&OperationRecord) -> bool) -> Vec<OperationId> {
        let mut ids = self.0.ids(fits);
        ids.truncate(most);
        ids
    }

    /// A record.
    ///
    /// # Errors
    /// There is none.
    pub fn read(&self, id: &OperationId) -> Result<OperationRecord, RecordError> {
        self.0.find(id).map(|run| run.record())
    }

    /// Tells of a run from a byte of its output on: until it ends, or as far as it is now.
    ///
    /// # Errors
    /// There is no record of it.
    pub fn follow(
        &self,
        id: &OperationId,
        from: u64,
        waits: bool,
    ) -> Result<Follower, RecordError> {
        let run = self.0.find(id)?;
        Ok(self.0.follower(&run, from, waits))
    }

    /// Has a run end: SIGTERM, and SIGKILL after [`limits::GRACE`]. Its record says when it has.
    ///
    /// # Errors
    /// There is no record of it, or it has ended.
    pub fn cancel(&self, id: &OperationId, by: &Caller) -> Result<OperationRecord, RecordError> {
        let run = self.0.find(id)?;
        if !run.is_running() {
            return Err(RecordError::Ended(id.clone()));
        }
        run.ask(Asked::Cancel {
            by: by.user.clone(),
        });
        Ok(run.record())
    }

    /// Ends every run as interrupted, and waits until all are written down.
    pub async fn stop(&self) {
        self.0.stop().await;
    }
}
