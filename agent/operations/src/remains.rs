//! Processes that are left of runs that have ended, wherever they are: a process can leave its group, and its agent can die.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use underpass_agent_processes::{Proc, send};
use underpass_api::OperationId;

use crate::limits;

/// The variable by which the processes of a run are known: the directory of its record, and its id.
pub(crate) const MARK: &str = "UNDERPASS_OPERATION_RUN";

/// The processes of one store's runs.
#[derive(Clone, Debug)]
pub(crate) struct Remains {
    processes: Proc,
    store: String,
}

impl Remains {
    pub(crate) fn new(processes: &Path, store: &str) -> Self {
        Self {
            processes: Proc::at(processes),
            store: store.to_owned(),
        }
    }

    /// The value of [`MARK`] for a run.
    pub(crate) fn mark(&self, id: &OperationId) -> String {
        format!("{}.{id}", self.store)
    }

    /// Kills every process of these runs, in any process group and session. Gives the runs of which some may be left. Blocks, for a
    /// second at the most.
    pub(crate) fn kill(&self, ids: &[OperationId]) -> HashSet<OperationId> {
        let mut left = HashSet::new();
        if ids.is_empty() {
            return left;
        }
        for _ in 0..limits::SEARCHES {
            left = match self.kill_once(ids) {
                Ok(left) => left,
                Err(error) => {
                    tracing::error!("processes of operations cannot be searched for: {error}");
                    return ids.iter().cloned().collect();
                }
            };
            if left.is_empty() {
                return left;
            }
            std::thread::sleep(limits::SEARCH_AGAIN);
        }
        for id in &left {
            tracing::error!(%id, "processes of an operation that has ended do not end");
        }
        left
    }

    /// Kills what is there of a run now. Gives whether something may be left. Blocks.
    pub(crate) fn kill_again(&self, id: &OperationId) -> bool {
        let found = self.kill_once(std::slice::from_ref(id));
        found.map_or(true, |found| !found.is_empty())
    }

    /// Gives the runs of which there were some.
    fn kill_once(&self, ids: &[OperationId]) -> io::Result<HashSet<OperationId>> {
        let mut found = HashSet::new();
        for pid in self.processes.others()? {
            let Some(id) = self.run_of(pid, ids) else {
                continue;
            };
            match send(pid, Signal::KILL, || self.run_of(pid, ids) == Some(id)) {
                Ok(()) => tracing::debug!(%id, ?pid, "a process that an operation left is killed"),
                Err(Errno::SRCH) => continue,
                Err(error) => {
                    tracing::debug!(%id, ?pid, "a process that an operation left is not killed: {error}");
                }
            }
            found.insert(id.clone());
        }
        Ok(found)
    }

    /// The run that a process is of. One that cannot be looked at belongs to another user: none of a run's, unless the command has
    /// changed its user (SECURITY.md, "What is not covered").
    fn run_of<'a>(&self, pid: Pid, ids: &'a [OperationId]) -> Option<&'a OperationId> {
        let mark = self.processes.variable(pid, MARK)?;
        let mark = std::str::from_utf8(&mark).ok()?;
        let id = mark.strip_prefix(&self.store)?.strip_prefix('.')?;
        ids.iter().find(|known| known.as_str() == id)
    }
}
