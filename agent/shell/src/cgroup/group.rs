//! One group.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use rustix::process::Pid;
use underpass_agent_policy::ShellResources;

use crate::limits;

/// A period of the bound on processor time, in microseconds: the kernel's own.
const PERIOD: u64 = 100_000;

/// The group of a shell.
#[derive(Clone, Debug)]
pub(crate) struct Group(PathBuf);

impl Group {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Bounds all of its processes together.
    ///
    /// # Errors
    /// One of the bounds is not to be had, for this reason.
    pub(super) fn bound(&self, resources: ShellResources) -> Result<(), String> {
        let ShellResources {
            memory,
            processes,
            cpu_millis,
        } = resources;
        let processes = u64::from(processes).saturating_add(limits::KEEPERS);
        let quota = u64::from(cpu_millis).saturating_mul(PERIOD / 1000);
        for (file, value) in [
            ("memory.max", memory.to_string()),
            // All of them end: the rest of a shell would not know that a part of it is gone.
            ("memory.oom.group", "1".to_owned()),
            ("pids.max", processes.to_string()),
            ("cpu.max", format!("{quota} {PERIOD}")),
        ] {
            write(&self.0.join(file), &value).map_err(|error| format!("{file}: {error}"))?;
        }
        // Memory that is swapped counts for no other bound. A kernel without swap has no such file.
        match write(&self.0.join("memory.swap.max"), "0") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("memory.swap.max: {error}"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn can_kill(&self) -> Result<(), String> {
        match self.0.join("cgroup.kill").exists() {
            true => Ok(()),
            false => Err("the kernel has no cgroup.kill (it is there since Linux 5.14)".to_owned()),
        }
    }

    /// Takes a process, and all that it will start.
    pub(crate) fn enter(&self, process: Pid) -> io::Result<()> {
        let number = process.as_raw_nonzero().to_string();
        write(&self.0.join("cgroup.procs"), &number)
    }

    /// Its processes, and those of groups below it, by the numbers that the agent knows them by.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let mut all = Vec::new();
        for folder in self.folders() {
            let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            let numbers = text.lines().filter_map(|line| line.trim().parse().ok());
            all.extend(numbers.filter_map(Pid::from_raw));
        }
        all
    }

    /// Kills all of its processes at once.
    pub(crate) fn kill(&self) -> io::Result<()> {
        write(&self.0.join("cgroup.kill"), "1")
    }

    /// Kills what is left, and removes it. Blocks.
    pub(crate) fn end(&self) -> io::Result<()> {
        let deadline = Instant::now() + limits::GROUP_END;
        loop {
            let killed = self.kill();
            let mut folders = self.folders().into_iter().rev();
            match folders.try_for_each(fs::remove_dir) {
                // The kernel removes none of whose processes some have yet to die.
                Err(error) if error.raw_os_error() == Some(BUSY) && Instant::now() < deadline => {
                    thread::sleep(limits::SEARCH_AGAIN);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return killed.and(Err(error)),
                Ok(()) => return Ok(()),
            }
        }
    }

    /// It, and the groups below it, which a shell of root's may make: each comes before those in it.
    fn folders(&self) -> Vec<PathBuf> {
        let mut all = vec![self.0.clone()];
        let mut at = 0;
        while let Some(folder) = all.get(at).filter(|_| at < limits::GROUPS) {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let inner = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            let inner: Vec<_> = inner.map(|entry| entry.path()).collect();
            all.extend(inner);
            at = at.saturating_add(1);
        }
        all
    }
}

const BUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();

/// Writes a file of the kernel's, which is there or not.
pub(super) fn write(file: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(file)?;
    file.write_all(text.as_bytes())
}
