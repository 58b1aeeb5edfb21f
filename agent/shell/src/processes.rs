//! The processes of a shell: those of its session, those that they have started in sessions of their own, and those that have its mark.
//!
//! A process that leaves the session, loses its parent and drops its environment is not found. The protection `cgroup` will be the
//! answer to that one.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

use crate::limits;
use crate::record::ShellId;

/// The variable with the id of the shell, by which its processes are known.
pub(crate) const MARK: &str = "UNDERPASS_SHELL_ID";

/// The processes of one shell. Its leader must not be reaped meanwhile: until then the session's number is its own.
#[derive(Clone, Debug)]
pub(crate) struct Processes {
    leader: Pid,
    mark: Vec<u8>,
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
    pub(crate) fn new(leader: Pid, id: &ShellId) -> Self {
        Self {
            leader,
            mark: format!("{MARK}={id}").into_bytes(),
        }
    }

    /// Sends a signal to each that lives, and gives their number. Blocks.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<usize> {
        let mut number: usize = 0;
        for (pid, stat) in self.find()? {
            // Held, the number stands for this process: it is looked at again before the signal is sent.
            let sent = match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(process) if read_stat(pid).is_some_and(|now| now.started == stat.started) => {
                    pidfd_send_signal(&process, signal)
                }
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            match sent {
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
        let mut own: HashMap<i32, (Pid, Stat)> = HashMap::new();
        let leader = self.leader.as_raw_nonzero().get();
        for (number, (pid, stat)) in &all {
            if stat.session == leader || self.has_mark(*pid) {
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
        let lives = |(_, stat): &(Pid, Stat)| !stat.is_dead;
        Ok(own.into_values().filter(lives).collect())
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
