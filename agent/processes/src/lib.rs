//! The processes of a node, as proc(5) shows them: those that carry a mark in their environment are found wherever they are, and a signal
//! reaches the process that was found or none.
//!
//! A process can leave its group, its session and its parent, and its agent can die. The variable that it was started with stays in
//! `/proc/PID/environ`, unless the process writes over its own environment.

mod stat;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

pub use self::stat::Stat;

/// Bytes of a process's environment that are read: Linux allows a quarter of the stack, which has 8 MiB on an ordinary node.
pub const ENVIRONMENT_BYTES: u64 = 2 * 1024 * 1024;

/// Where the kernel shows processes: `/proc`.
#[derive(Clone, Debug)]
pub struct Proc(PathBuf);

impl Default for Proc {
    fn default() -> Self {
        Self::at(Path::new("/proc"))
    }
}

impl Proc {
    /// Another place than `/proc`.
    pub fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Every process but this one, in no order. Blocks.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn others(&self) -> io::Result<Vec<Pid>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.parse().ok());
            let pid = number.and_then(Pid::from_raw);
            all.extend(pid.filter(|pid| *pid != getpid()));
        }
        Ok(all)
    }

    /// The value of a variable that a process was started with, of the first [`ENVIRONMENT_BYTES`] of its environment. There is none
    /// where the process has ended, or is another user's and may not be looked at. Blocks.
    pub fn variable(&self, pid: Pid, name: &str) -> Option<Vec<u8>> {
        let file = File::open(self.file(pid, "environ")).ok()?;
        let mut environment = Vec::new();
        let read = file.take(ENVIRONMENT_BYTES).read_to_end(&mut environment);
        read.ok()?;
        let value = |variable: &[u8]| {
            let value = variable.strip_prefix(name.as_bytes())?;
            Some(value.strip_prefix(b"=")?.to_owned())
        };
        environment.split(|byte| *byte == 0).find_map(value)
    }

    /// The state of a process; `None` once it has been reaped. Blocks.
    pub fn stat(&self, pid: Pid) -> Option<Stat> {
        let text = fs::read(self.file(pid, "stat")).ok()?;
        Stat::read(&String::from_utf8_lossy(&text))
    }

    fn file(&self, pid: Pid, name: &str) -> PathBuf {
        let process = self.0.join(pid.as_raw_nonzero().to_string());
        process.join(name)
    }
}

/// Sends a signal to a process that was found, unless its number belongs to another process by now: `is_same` looks at it again, after
/// the number has been taken hold of. Blocks.
///
/// # Errors
/// [`Errno::SRCH`] where the process has ended; otherwise the reason of the system.
pub fn send(pid: Pid, signal: Signal, is_same: impl FnOnce() -> bool) -> Result<(), Errno> {
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    if !is_same() {
        return Err(Errno::SRCH);
    }
    pidfd_send_signal(&process, signal)
}

/// Whether this process may look at the processes of every user (CAP_SYS_PTRACE). Blocks.
pub fn sees_all() -> bool {
    let status = fs::read_to_string("/proc/self/status");
    status.is_ok_and(|status| has_ptrace(&status))
}

/// proc(5): the effective capabilities, in hexadecimal. CAP_SYS_PTRACE is the bit 19.
fn has_ptrace(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.is_some_and(|bits| bits & (1 << 19) != 0)
}

#[cfg(test)]
mod tests;
