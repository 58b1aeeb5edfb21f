//! Processes that are left of runs that have ended, wherever they are: a process can leave its group, and its agent can die.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};
use underpass_api::OperationId;

use crate::limits;

/// The variable by which the processes of a run are known: the directory of its record, and its id.
pub(crate) const MARK: &str = "UNDERPASS_OPERATION_RUN";

/// The processes of one store's runs.
#[derive(Clone, Debug)]
pub(crate) struct Remains {
    /// `/proc`.
    processes: PathBuf,
    store: String,
}

impl Remains {
    pub(crate) fn new(processes: &Path, store: &str) -> Self {
        Self {
            processes: processes.to_owned(),
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
        for entry in std::fs::read_dir(&self.processes)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let pid = name.and_then(|name| name.parse().ok());
            let Some(pid) = pid.and_then(Pid::from_raw).filter(|pid| *pid != getpid()) else {
                continue;
            };
            let Some(id) = self.run_of(&path, ids) else {
                continue;
            };
            // Held, the number stands for this process: it is looked at again before it is killed.
            let killed = match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(process) if self.run_of(&path, ids) == Some(id) => {
                    pidfd_send_signal(&process, Signal::KILL)
                }
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            match killed {
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
    fn run_of<'a>(&self, process: &Path, ids: &'a [OperationId]) -> Option<&'a OperationId> {
        let mut environment = Vec::new();
        let file = File::open(process.join("environ")).ok()?;
        let read = file
            .take(limits::ENVIRONMENT_BYTES)
            .read_to_end(&mut environment);
        read.ok()?;
        let id_of = |variable: &[u8]| {
            let text = std::str::from_utf8(variable).ok()?;
            let mark = text.strip_prefix(MARK)?.strip_prefix('=')?;
            let id = mark.strip_prefix(&self.store)?.strip_prefix('.')?;
            ids.iter().find(|known| known.as_str() == id)
        };
        environment.split(|byte| *byte == 0).find_map(id_of)
    }
}

/// Whether this process may look at the processes of every user. Blocks.
pub(crate) fn sees_all() -> bool {
    let status = std::fs::read_to_string("/proc/self/status");
    status.is_ok_and(|status| has_ptrace(&status))
}

/// proc(5): the effective capabilities, in hexadecimal. CAP_SYS_PTRACE is the bit 19.
fn has_ptrace(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.is_some_and(|bits| bits & (1 << 19) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_is_read() {
        assert!(has_ptrace("Name:\ta\nCapEff:\t0000000000080000\n"));
        assert!(has_ptrace("CapEff:\t000001ffffffffff"));
        assert!(!has_ptrace(
            "CapPrm:\t000001ffffffffff\nCapEff:\t000001fffff7ffff\n"
        ));
        assert!(!has_ptrace(""));
    }
}
