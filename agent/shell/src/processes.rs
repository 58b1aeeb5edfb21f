//! The processes of a shell: those of its session or its PID namespace, those that they have started, those that have its mark, and those
//! in its cgroup.
//!
//! Where there is neither a PID namespace nor a cgroup, a process that leaves the session, loses its parent and drops its environment is
//! not found.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

use crate::cgroup::Group;
use crate::limits;
use crate::record::ShellId;

/// The variable with the id of the shell, by which its processes are known.
pub(crate) const MARK: &str = "UNDERPASS_SHELL_ID";

/// The processes of one shell. The helper must not be reaped meanwhile: until then the number is its own.
#[derive(Clone, Debug)]
pub(crate) struct Processes {
    /// The helper, which is the leader of the program's session, or waits for a PID namespace.
    helper: Pid,
    mark: Vec<u8>,
    group: Option<Group>,
    has_namespace: bool,
}

/// proc_pid_stat(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    is_dead: bool,
    parent: i32,
    session: i32,
    started: u64,
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
            mark: format!("{MARK}={id}").into_bytes(),
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
        let mut environment = Vec::new();
        let Ok(file) = File::open(file_of(pid, "environ")) else {
            return false;
        };
        let read = file
            .take(limits::ENVIRONMENT_BYTES)
            .read_to_end(&mut environment);
        read.is_ok()
            && environment
                .split(|byte| *byte == 0)
                .any(|own| own == self.mark)
    }
}

type All = HashMap<i32, (Pid, Stat)>;

/// Every process of the node but this one.
fn read_all() -> io::Result<All> {
    let mut all = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        let pid = pid.and_then(Pid::from_raw);
        let pid = pid.filter(|pid| *pid != getpid());
        if let Some((pid, stat)) = pid.and_then(|pid| Some((pid, read_stat(pid)?))) {
            all.insert(pid.as_raw_nonzero().get(), (pid, stat));
        }
    }
    Ok(all)
}

/// Sends a signal to a process that was found.
fn send(pid: Pid, stat: &Stat, signal: Signal) -> Result<(), Errno> {
    // Held, the number stands for this process: it is looked at again before the signal is sent.
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    match read_stat(pid) {
        Some(now) if now.started == stat.started => pidfd_send_signal(&process, signal),
        _ => Err(Errno::SRCH),
    }
}

fn file_of(pid: Pid, name: &str) -> PathBuf {
    format!("/proc/{}/{name}", pid.as_raw_nonzero()).into()
}

fn read_stat(pid: Pid) -> Option<Stat> {
    let text = fs::read(file_of(pid, "stat")).ok()?;
    stat(&String::from_utf8_lossy(&text))
}

/// The second field is a name in parentheses, which may have any characters.
fn stat(text: &str) -> Option<Stat> {
    let (_, fields) = text.rsplit_once(')')?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    let field = |number: usize| fields.get(number.checked_sub(3)?).copied();
    Some(Stat {
        is_dead: matches!(field(3)?, "Z" | "X"),
        parent: field(4)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        started: field(22)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let text = "42 (a) Z (b) S 7 42 41 34816 42 4194304 1 2 3 4 5 6 7 8 20 0 1 0 12345 99 1";
        let expected = Stat {
            is_dead: false,
            parent: 7,
            session: 41,
            started: 12345,
        };
        assert_eq!(stat(text), Some(expected));
        assert!(stat(&text.replace(" S 7", " Z 7")).unwrap().is_dead);
        assert_eq!(stat("42 (a) S 7"), None);
        assert_eq!(stat(""), None);
    }
}
