//! The processes of a shell: those of its session or its PID namespace, those that they have started, those that have its mark, and those
//! in its cgroup.
//!
//! Where there is neither a PID namespace nor a cgroup, a process that leaves the session, loses its parent and drops its environment is
//! not found.

use std::collections::{HashMap, HashSet};
use std::io;

use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use underpass_agent_processes::{Proc, Stat};

use crate::cgroup::Group;
use crate::record::ShellId;

/// The variable with the id of the shell, by which its processes are known.
pub(crate) const MARK: &str = "UNDERPASS_SHELL_ID";

/// The processes of one shell. The helper must not be reaped meanwhile: until then the number is its own.
#[derive(Clone, Debug)]
pub(crate) struct Processes {
    /// The helper, which is the leader of the program's session, or waits for a PID namespace.
    helper: Pid,
    /// The value of [`MARK`].
    id: Vec<u8>,
    group: Option<Group>,
    has_namespace: bool,
}

impl Processes {
    pub(crate) fn new(
        helper: Pid,
        id: &ShellId,
        group: Option<Group>,
        has_namespace: bool,
    ) -> Self {
        Self {
            helper,
            id: id.as_str().into(),
            group,
            has_namespace,
        }
    }

    /// Kills all that can be killed at once: neither a fork nor another session gets away. Blocks.
    pub(crate) fn kill_at_once(&self) {
        self.kill_namespace();
        if let Some(Err(error)) = self.group.as_ref().map(Group::kill) {
            tracing::debug!("the cgroup of a shell cannot be killed: {error}");
        }
    }

    /// Kills the first process of the PID namespace: the kernel kills all the others. Blocks.
    pub(crate) fn kill_namespace(&self) {
        let all = read_all().unwrap_or_default();
        let keepers = self.keepers(&all);
        let inits = keepers.iter().filter(|number| **number != self.number());
        for (pid, stat) in inits.filter_map(|init| all.get(init)) {
            if let Err(error) = send(*pid, stat, Signal::KILL) {
                tracing::debug!(
                    ?pid,
                    "the first process of a shell's namespace lives on: {error}"
                );
            }
        }
    }

    fn number(&self) -> i32 {
        self.helper.as_raw_nonzero().get()
    }

    /// The processes of the agent's that wait for the shell's: they end by themselves, and hear no signal meanwhile.
    fn keepers(&self, all: &All) -> HashSet<i32> {
        if !self.has_namespace {
            return HashSet::new();
        }
        let inits = all
            .iter()
            .filter(|(_, (_, stat))| stat.parent == self.number());
        let inits = inits.map(|(number, _)| *number);
        inits.chain([self.number()]).collect()
    }

    /// Sends a signal to each that lives, and gives their number. Blocks.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<usize> {
        let mut number: usize = 0;
        for (pid, stat) in self.find()? {
            match send(pid, &stat, signal) {
                Ok(()) => {}
                Err(Errno::SRCH) => continue,
                Err(error) => tracing::debug!(?pid, "no signal for a process of a shell: {error}"),
            }
            number = number.saturating_add(1);
        }
        Ok(number)
    }

    /// The number of those that live. Blocks.
    pub(crate) fn count(&self) -> io::Result<usize> {
        Ok(self.find()?.len())
    }

    fn find(&self) -> io::Result<Vec<(Pid, Stat)>> {
        let all = read_all()?;
        let mut own: HashMap<i32, (Pid, Stat)> = HashMap::new();
        let helper = self.number();
        let grouped: HashSet<_> = match &self.group {
            Some(group) => group.processes().into_iter().collect(),
            None => HashSet::new(),
        };
        for (number, (pid, stat)) in &all {
            let is_own = *number == helper || stat.session == helper;
            if is_own || grouped.contains(pid) || self.has_mark(*pid) {
                own.insert(*number, (*pid, *stat));
            }
        }
        loop {
            let is_new = |(number, (_, stat)): &(&i32, &(Pid, Stat))| {
                !own.contains_key(*number) && own.contains_key(&stat.parent)
            };
            let more: Vec<_> = all
                .iter()
                .filter(is_new)
                .map(|(n, found)| (*n, *found))
                .collect();
            if more.is_empty() {
                break;
            }
            own.extend(more);
        }
        let keepers = self.keepers(&all);
        own.retain(|number, (_, stat)| !stat.is_dead && !keepers.contains(number));
        Ok(own.into_values().collect())
    }

    fn has_mark(&self, pid: Pid) -> bool {
        let mark = Proc::default().variable(pid, MARK);
        mark.is_some_and(|mark| mark == self.id)
    }
}

type All = HashMap<i32, (Pid, Stat)>;

/// Every process of the node but this one.
fn read_all() -> io::Result<All> {
    let processes = Proc::default();
    let stat = |pid: Pid| Some((pid.as_raw_nonzero().get(), (pid, processes.stat(pid)?)));
    Ok(processes.others()?.into_iter().filter_map(stat).collect())
}

/// Sends a signal to a process that was found.
fn send(pid: Pid, stat: &Stat, signal: Signal) -> Result<(), Errno> {
    let is_same = || {
        let now = Proc::default().stat(pid);
        now.is_some_and(|now| now.started == stat.started)
    };
    underpass_agent_processes::send(pid, signal, is_same)
}
