//! The runs of a node: which there are, and each from its beginning to its end.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use time::OffsetDateTime;
use tokio::process::Command;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use underpass_agent_policy::Operation;
use underpass_api::{OperationId, OperationRecord};

use crate::error::{OpenError, RecordError, RunError};
use crate::follow::Follower;
use crate::output::Writer;
use crate::remains::Remains;
use crate::retention::Retention;
use crate::run::{Asked, Process, SpawnError};
use crate::runs::{Run, Runs};
use crate::store::Store;
use crate::stored::Stored;
use crate::{limits, process};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Arc<Store>,
    pub(crate) retention: Retention,
    remains: Remains,
    runs: Mutex<Runs>,
    /// One at a time: the files that it removes must not be another run's by then.
    pub(crate) removing: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
}

/// A run that is new.
struct Entered {
    run: Arc<Run>,
    /// The agent does not stop before the run is written down.
    _token: TaskTrackerToken,
}

impl Shared {
    pub(crate) fn open(
        folder: &Path,
        retention: Retention,
        processes: &Path,
    ) -> Result<Arc<Self>, OpenError> {
        let store = Store::open(folder)?;
        let mut records = store.load().map_err(|source| OpenError::Directory {
            directory: folder.to_owned(),
            source,
        })?;
        let remains = Remains::new(processes, store.name());
        let is_there = |stored: &&Stored| !stored.record.has_ended() || stored.remains;
        let there = records.iter().filter(is_there);
        let there: Vec<_> = there.map(|stored| stored.record.id.clone()).collect();
        let left = remains.kill(&there);
        let mut runs = Runs {
            sequence: records
                .iter()
                .map(|stored| stored.sequence)
                .max()
                .unwrap_or(0),
            ..Runs::default()
        };
        // Those that have ended before are in their order, and those without a number are the newest.
        records.sort_by_key(|stored| stored.sequence.wrapping_sub(1));
        for mut stored in records {
            if stored.sequence == 0 {
                stored.sequence = runs.next();
            }
            stored.remains = left.contains(&stored.record.id);
            recover(&store, &mut stored);
            let id = stored.record.id.clone();
            runs.by_id.insert(id, Run::new(stored, 0));
        }
        let shared = Arc::new(Self {
            store: Arc::new(store),
            retention,
            remains,
            runs: Mutex::new(runs),
            removing: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
        });
        left.into_iter().for_each(|id| shared.watch_remains(id));
        Ok(shared)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn find(&self, id: &OperationId) -> Result<Arc<Run>, RecordError> {
        let found = self.lock().by_id.get(id).cloned();
        found.ok_or_else(|| RecordError::NotFound(id.clone()))
    }

    pub(crate) fn follower(&self, run: &Run, from: u64, waits: bool) -> Follower {
        Follower::new(Arc::clone(&self.store), run.now.subscribe(), from, waits)
    }

    /// The runs whose records fit, the newest first.
    pub(crate) fn ids(&self, fits: impl Fn(&OperationRecord) -> bool) -> Vec<OperationId> {
        let runs: Vec<_> = self.lock().by_id.values().cloned().collect();
        let mut found: Vec<_> = runs
            .iter()
            .filter_map(|run| {
                let record = &run.now.borrow().record;
                fits(record).then(|| (record.created, record.id.clone()))
            })
            .collect();
        found.sort_by_key(|(created, _)| std::cmp::Reverse(*created));
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// Starts the run of this record, unless its id has one already. Gives that, and whether it is new.
    ///
    /// # Cancel safety
    /// Dropping the future starts the run or not; it ends none.
    pub(crate) async fn run(
        self: &Arc<Self>,
        record: OperationRecord,
        operation: &Arc<Operation>,
        argv: Vec<String>,
    ) -> Result<(Arc<Run>, bool), RunError> {
        let entered = match self.enter(record, operation)? {
            Ok(entered) => entered,
            Err(earlier) => return Ok((earlier, false)),
        };
        let run = Arc::clone(&entered.run);
        let (shared, operation) = (Arc::clone(self), Arc::clone(operation));
        let starting = self
            .tasks
            .spawn(async move { shared.start(&entered, &operation, argv).await });
        let started = starting.await;
        started.map_err(|gone| RunError::Record(io::Error::other(gone)))??;
        Ok((run, true))
    }

    /// A new run, or the earlier one of its id.
    fn enter(
        &self,
        record: OperationRecord,
        operation: &Operation,
    ) -> Result<Result<Entered, Arc<Run>>, RunError> {
        let mut runs = self.lock();
        if let Some(run) = runs.by_id.get(&record.id) {
            let there = run.record();
            let same = there.operation == record.operation
                && there.arguments == record.arguments
                && (there.user, there.uid) == (record.user, record.uid);
            return match same {
                true => Ok(Err(Arc::clone(run))),
                false => Err(RunError::Conflict(record.id)),
            };
        }
        if runs.is_stopping {
            return Err(RunError::Stopping);
        }
        let is_same = |run: &&Arc<Run>| run.now.borrow().record.operation == record.operation;
        let mut there = runs.by_id.values().filter(|run| run.is_there());
        if operation.is_exclusive()
            && let Some(busy) = there.find(is_same)
        {
            let OperationRecord { operation, id, .. } = busy.record();
            return Err(RunError::Busy { operation, id });
        }
        let there = runs.by_id.values().filter(|run| run.is_there());
        if there.count() >= limits::RUNNING {
            return Err(RunError::Overloaded);
        }
        let id = record.id.clone();
        let run = Run::new(Stored::new(record), operation.output_limit());
        runs.by_id.insert(id, Arc::clone(&run));
        let _token = self.tasks.token();
        Ok(Ok(Entered { run, _token }))
    }

    /// Starts the command of a run that was entered, once its record is on the disk.
    async fn start(
        self: &Arc<Self>,
        Entered { run, _token }: &Entered,
        operation: &Arc<Operation>,
        argv: Vec<String>,
    ) -> Result<(), RunError> {
        let prepared = {
            let (this, run, operation) = (Arc::clone(self), Arc::clone(run), Arc::clone(operation));
            tokio::task::spawn_blocking(move || this.prepare(&run, &operation, &argv)).await
        };
        let prepared =
            prepared.unwrap_or_else(|gone| Err(RunError::Record(io::Error::other(gone))));
        let (mut command, output) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                self.give_up(run, &error);
                return Err(error);
            }
        };
        let process = Process::spawn(&mut command).await;
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

    /// The command, and the files for its output. Blocks.
    fn prepare(
        &self,
        run: &Run,
        operation: &Operation,
        argv: &[String],
    ) -> Result<(Command, Writer), RunError> {
        let stored = run.now.borrow().clone();
        let id = &stored.record.id;
        let command = process::prepare(operation, argv, id, &self.remains)?;
        let reserved = self.lock().reserved();
        let needed = reserved.saturating_add(self.retention.room);
        let free = self.store.free().map_err(RunError::Record)?;
        if free < needed {
            let operation = stored.record.operation;
            return Err(RunError::NoRoom {
                operation,
                free,
                needed,
            });
        }
        self.store.create(&stored).map_err(RunError::Record)?;
        let output = self.store.write_output(id, operation.output_limit());
        let output = output.map_err(|error| {
            self.store.remove(id);
            RunError::Record(error)
        })?;
        Ok((command, output))
    }

    /// Forgets a run that was not started. Those who attached to it meanwhile hear of its end.
    fn give_up(&self, run: &Run, error: &RunError) {
        let id = run.record().id;
        self.lock().by_id.remove(&id);
        run.now.send_modify(|now| {
            now.record.state = underpass_api::OperationState::Failed;
            now.record.ended = Some(OffsetDateTime::now_utc());
            now.record.reason = Some(error.to_string());
        });
    }

    /// Sees a run to its end, and writes that down.
    async fn attend(
        self: &Arc<Self>,
        run: &Run,
        operation: &Operation,
        process: Result<Process, SpawnError>,
        output: Writer,
    ) {
        let mut stored = run.now.borrow().clone();
        let record = &mut stored.record;
        match process {
            Ok(process) => {
                let asked = run.asked.subscribe();
                let publish = |(output, on_disk)| {
                    run.now.send_modify(|now| {
                        now.record.output = output;
                        now.on_disk = on_disk;
                    });
                };
                let limit = operation.time_limit();
                let end = process.run(output, limit, asked, publish).await;
                (record.state, record.exit, record.reason) = (end.state, end.exit, end.reason);
                (record.output, stored.on_disk) = (end.output, end.on_disk);
            }
            Err(error) => {
                record.state = error.state();
                record.reason = Some(error.to_string());
            }
        }
        record.ended = Some(OffsetDateTime::now_utc());
        stored.sequence = self.lock().next();
        let this = Arc::clone(self);
        // Nothing of the command outlives it, and none of it is there when the next run may begin.
        let written = tokio::task::spawn_blocking(move || {
            let id = stored.record.id.clone();
            stored.remains = !this.remains.kill(&[id]).is_empty();
            let written = this.store.finish(&stored);
            (stored, written)
        });
        let Ok((stored, written)) = written.await else {
            return;
        };
        let record = stored.record.clone();
        if let Err(error) = written {
            // The next start finds it running, and says that it was interrupted.
            tracing::error!(id = %record.id, "the end of an operation cannot be recorded: {error}");
        }
        tracing::info!(
            target: "underpass::audit", id = %record.id, operation = record.operation, user = record.user,
            state = %record.state, exit = ?record.exit, reason = record.reason, "an operation ended"
        );
        if stored.remains {
            self.watch_remains(record.id);
        }
        run.now.send_replace(stored);
        self.remove_old().await;
    }

    /// Kills what is left of a run until there is nothing.
    fn watch_remains(self: &Arc<Self>, id: OperationId) {
        let shared = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(limits::SEARCH_LATER).await;
                // The agent may stop meanwhile: its next start searches again.
                let Some(this) = Weak::upgrade(&shared) else {
                    return;
                };
                let (remains, again) = (this.remains.clone(), id.clone());
                let killing = tokio::task::spawn_blocking(move || remains.kill_again(&again));
                if let Ok(false) = killing.await {
                    if let Ok(run) = this.find(&id) {
                        run.now.send_modify(|now| now.remains = false);
                    }
                    tracing::info!(%id, "nothing is left of an operation's processes");
                    return;
                }
            }
        });
    }

    /// Ends every run as interrupted, and waits until all are written down.
    pub(crate) async fn stop(&self) {
        {
            let mut runs = self.lock();
            runs.is_stopping = true;
            let all = runs.by_id.values();
            all.for_each(|run| run.ask(Asked::Stop));
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Marks a run whose agent died, and holds a record against the output that is there. A disk that fails here has the run as it is in
/// memory; the next start finds it as this one did.
fn recover(store: &Store, stored: &mut Stored) {
    let id = stored.record.id.clone();
    let was_running = !stored.record.has_ended();
    match store.output_bytes(&id) {
        Ok(Some((there, on_disk))) => {
            if was_running {
                (stored.record.output.kept, stored.on_disk) = (there, on_disk);
            }
            stored.cut_output(there);
        }
        Ok(None) => stored.forget_output(),
        Err(error) => {
            tracing::error!(%id, "the output of an operation cannot be found: {error}");
        }
    }
    if !was_running {
        return;
    }
    tracing::warn!(%id, operation = stored.record.operation, "an operation was interrupted");
    stored.interrupt();
    if let Err(error) = store.finish(stored) {
        tracing::error!(%id, "the end of an operation cannot be recorded: {error}");
    }
}
