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
mod retention;
mod run;
mod store;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use time::OffsetDateTime;
use tokio::process::Command;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use underpass_agent_policy::Operation;
use underpass_api::{OperationId, OperationRecord, OperationRequest, OperationState, OutputBytes};

pub use self::error::{OpenError, RecordError, RunError};
pub use self::follow::Follower;
pub use self::retention::Retention;

use self::follow::Snapshot;
use self::output::Writer;
use self::run::{Asked, Process};
use self::store::Store;

/// The runs of a node, and their records. Clones are the same.
#[derive(Clone, Debug)]
pub struct Operations(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    retention: Retention,
    runs: Mutex<Runs>,
    /// One at a time: the files that it removes must not be another run's by then.
    removing: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct Runs {
    by_id: HashMap<OperationId, Arc<Run>>,
    is_stopping: bool,
}

/// A run, whether it has ended or not.
#[derive(Debug)]
struct Run {
    now: watch::Sender<Snapshot>,
    asked: watch::Sender<Asked>,
}

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

impl Run {
    fn new(record: OperationRecord, readable: u64) -> Arc<Self> {
        Arc::new(Self {
            now: watch::Sender::new(Snapshot { record, readable }),
            asked: watch::Sender::new(Asked::Nothing),
        })
    }

    fn is_running(&self) -> bool {
        !self.now.borrow().record.has_ended()
    }

    fn record(&self) -> OperationRecord {
        self.now.borrow().record.clone()
    }
}

impl Operations {
    /// Opens the records in this directory, and makes it where there is none. Runs that were interrupted are marked so. Blocks.
    ///
    /// # Errors
    /// The directory cannot be used, or another process has it.
    pub fn open(folder: &Path, retention: Retention) -> Result<Self, OpenError> {
        let store = Store::open(folder)?;
        let failed = |source| OpenError::Directory {
            directory: folder.to_owned(),
            source,
        };
        let records = store.load().map_err(failed)?;
        let running = records.iter().filter(|record| !record.has_ended());
        let running: Vec<_> = running.map(|record| record.id.clone()).collect();
        process::kill_remains(&running);
        let mut runs = Runs::default();
        for mut record in records {
            let (kept, readable) = output::recover(&store.output(&record.id)).map_err(failed)?;
            if !record.has_ended() {
                interrupt(&mut record, kept);
                tracing::warn!(id = %record.id, operation = record.operation, "an operation was interrupted");
                store.finish(&record).map_err(failed)?;
            }
            runs.by_id
                .insert(record.id.clone(), Run::new(record, readable));
        }
        Ok(Self(Arc::new(Shared {
            store: Arc::new(store),
            retention,
            runs: Mutex::new(runs),
            removing: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
        })))
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
        let (run, is_new) = self.0.enter(record, operation)?;
        if is_new {
            let (shared, operation, run) =
                (Arc::clone(&self.0), Arc::clone(operation), Arc::clone(&run));
            let starting = self
                .0
                .tasks
                .spawn(async move { shared.start(&run, &operation, argv).await });
            starting
                .await
                .map_err(|gone| RunError::Record(std::io::Error::other(gone)))??;
        }
        let now = run.now.subscribe();
        let follower = Follower::new(Arc::clone(&self.0.store), now, 0, true);
        Ok(Asking { follower, is_new })
    }

    /// Every record, the newest first.
    pub fn list(&self) -> Vec<OperationRecord> {
        let runs = self.0.lock();
        let mut records: Vec<_> = runs.by_id.values().map(|run| run.record()).collect();
        drop(runs);
        records.sort_by_key(|record| std::cmp::Reverse(record.created));
        records
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
        let now = self.0.find(id)?.now.subscribe();
        Ok(Follower::new(Arc::clone(&self.0.store), now, from, waits))
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
        self.0.stop();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl Run {
    /// The first to ask decides.
    fn ask(&self, wanted: Asked) {
        self.asked.send_if_modified(|asked| {
            let is_first = *asked == Asked::Nothing;
            if is_first {
                *asked = wanted;
            }
            is_first
        });
    }
}

fn interrupt(record: &mut OperationRecord, kept: u64) {
    record.state = OperationState::Interrupted;
    record.ended = Some(OffsetDateTime::now_utc());
    record.output.kept = kept;
    let reason = "the agent died in its midst: whether the command has done its work is not known";
    record.reason = Some(reason.to_owned());
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets no run begin, and asks for the end of each.
    fn stop(&self) {
        let mut runs = self.lock();
        runs.is_stopping = true;
        for run in runs.by_id.values() {
            run.ask(Asked::Stop);
        }
    }

    fn find(&self, id: &OperationId) -> Result<Arc<Run>, RecordError> {
        let runs = self.lock();
        let found = runs.by_id.get(id).cloned();
        found.ok_or_else(|| RecordError::NotFound(id.clone()))
    }

    /// The run of the record's id, and whether it is this one.
    fn enter(
        &self,
        record: OperationRecord,
        operation: &Operation,
    ) -> Result<(Arc<Run>, bool), RunError> {
        let mut runs = self.lock();
        if let Some(run) = runs.by_id.get(&record.id) {
            let there = run.record();
            let same = there.operation == record.operation
                && there.arguments == record.arguments
                && (there.user, there.uid) == (record.user, record.uid);
            return match same {
                true => Ok((Arc::clone(run), false)),
                false => Err(RunError::Conflict(record.id)),
            };
        }
        if runs.is_stopping {
            return Err(RunError::Stopping);
        }
        let running: Vec<_> = runs.by_id.values().filter(|run| run.is_running()).collect();
        let mut same = running.iter().map(|run| run.record());
        let busy =
            same.find(|other| operation.is_exclusive() && other.operation == record.operation);
        if let Some(busy) = busy {
            return Err(RunError::Busy {
                operation: busy.operation,
                id: busy.id,
            });
        }
        if running.len() >= limits::RUNNING {
            return Err(RunError::Overloaded);
        }
        let (id, run) = (record.id.clone(), Run::new(record, 0));
        runs.by_id.insert(id, Arc::clone(&run));
        Ok((run, true))
    }

    /// Starts the command of a run that was entered, once its record is on the disk.
    async fn start(
        self: &Arc<Self>,
        run: &Arc<Run>,
        operation: &Arc<Operation>,
        argv: Vec<String>,
    ) -> Result<(), RunError> {
        let prepared = {
            let (this, record, operation) = (Arc::clone(self), run.record(), Arc::clone(operation));
            tokio::task::spawn_blocking(move || this.prepare(&record, &operation, &argv)).await
        };
        let prepared =
            prepared.unwrap_or_else(|gone| Err(RunError::Record(std::io::Error::other(gone))));
        let (mut command, output) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                self.give_up(run, &error);
                return Err(error);
            }
        };
        let process = Process::spawn(&mut command);
        let record = run.record();
        tracing::info!(
            target: "underpass::audit", id = %record.id, operation = record.operation, user = record.user,
            arguments = ?record.arguments, "an operation begins"
        );
        run.now
            .send_modify(|now| now.record.started = Some(OffsetDateTime::now_utc()));
        let (this, run, operation) = (Arc::clone(self), Arc::clone(run), Arc::clone(operation));
        self.tasks.spawn(async move {
            this.attend(&run, &operation, process, output).await;
        });
        Ok(())
    }

    /// The command, and the file for its output. Blocks.
    fn prepare(
        &self,
        record: &OperationRecord,
        operation: &Operation,
        argv: &[String],
    ) -> Result<(Command, Writer), RunError> {
        let command = process::prepare(operation, argv, &record.id)?;
        let needed = operation.output_limit().saturating_add(self.retention.room);
        let free = self.store.free().map_err(RunError::Record)?;
        if free < needed {
            return Err(RunError::NoRoom {
                operation: record.operation.clone(),
                free,
                needed,
            });
        }
        self.store.create(record).map_err(RunError::Record)?;
        let output = Writer::create(&self.store.output(&record.id), operation.output_limit());
        let output = output.map_err(|error| {
            self.store.remove(&record.id);
            RunError::Record(error)
        })?;
        Ok((command, output))
    }

    /// Forgets a run that was not started. Those who attached to it meanwhile hear of its end.
    fn give_up(&self, run: &Run, error: &RunError) {
        let id = run.record().id;
        self.lock().by_id.remove(&id);
        run.now.send_modify(|now| {
            now.record.state = OperationState::Failed;
            now.record.ended = Some(OffsetDateTime::now_utc());
            now.record.reason = Some(error.to_string());
        });
    }

    /// Sees a run to its end, and writes that down.
    async fn attend(
        self: &Arc<Self>,
        run: &Run,
        operation: &Operation,
        process: std::io::Result<Process>,
        output: Writer,
    ) {
        let mut record = run.record();
        let mut readable = 0;
        match process {
            Ok(process) => {
                let publish = |output: OutputBytes, readable: u64| {
                    run.now.send_modify(|now| {
                        now.record.output = output;
                        now.readable = readable;
                    });
                };
                let asked = run.asked.subscribe();
                let end = process
                    .run(output, operation.time_limit(), asked, publish)
                    .await;
                readable = run.now.borrow().readable;
                (record.state, record.exit, record.reason) = (end.state, end.exit, end.reason);
                record.output = end.output;
            }
            Err(error) => {
                record.state = OperationState::Failed;
                record.reason = Some(format!("the command cannot be started: {error}"));
            }
        }
        record.ended = Some(OffsetDateTime::now_utc());
        let (this, written) = (Arc::clone(self), record.clone());
        let written = tokio::task::spawn_blocking(move || this.store.finish(&written)).await;
        if let Err(error) | Ok(Err(error)) = written.map_err(std::io::Error::other) {
            // The next start finds it running, and says that it was interrupted.
            tracing::error!(id = %record.id, "the end of an operation cannot be recorded: {error}");
        }
        tracing::info!(
            target: "underpass::audit", id = %record.id, operation = record.operation, user = record.user,
            state = %record.state, exit = ?record.exit, reason = record.reason, "an operation ended"
        );
        run.now.send_replace(Snapshot { record, readable });
        self.remove_old().await;
    }
}
