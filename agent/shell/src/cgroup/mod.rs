//! The cgroups of shells (cgroup v2), below the agent's own.
//!
//! ```text
//! the agent's own group
//! ├ underpass-agent      the agent, where its group may not have both processes and groups that are bounded
//! └ underpass-shells-…   locked while this agent runs (flock(2))
//!   └ 1b9e…              a shell
//! ```
//!
//! The agent has to be allowed to have groups of its own: `Delegate=yes` of a systemd service, or a container whose `/sys/fs/cgroup` can be
//! written. Bounds need the controllers `memory`, `pids` and `cpu` in this hierarchy. Without one of them a shell still has a group, by which
//! all of its processes are killed, and its protection is said to be missing.

mod find;
mod group;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use underpass_agent_policy::ShellResources;

pub(crate) use self::group::Group;

const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
const SHELLS: &str = "underpass-shells-";
const AGENT: &str = "underpass-agent";

/// The groups of an agent's shells. They are made when the first shell is opened.
#[derive(Debug, Default)]
pub(crate) struct Groups(Mutex<Option<Arc<Parent>>>);

/// The group of all shells.
#[derive(Debug)]
struct Parent {
    path: PathBuf,
    /// The controllers that are missing, as a reason.
    lacks: Option<String>,
    _lock: OwnedFd,
}

impl Groups {
    /// Makes a group for a shell, and gives what is missing of its bounds.
    ///
    /// # Errors
    /// There can be none, for this reason.
    pub(crate) fn create(
        &self,
        name: &str,
        resources: ShellResources,
    ) -> Result<(Group, Option<String>), String> {
        let parent = self.parent()?;
        let path = parent.path.join(name);
        fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let group = Group::new(path);
        let mut lacks: Vec<_> = parent.lacks.iter().cloned().collect();
        if lacks.is_empty() {
            lacks.extend(group.bound(resources).err());
        }
        lacks.extend(group.can_kill().err());
        let lacks = (!lacks.is_empty()).then(|| lacks.join("; "));
        Ok((group, lacks))
    }

    fn parent(&self) -> Result<Arc<Parent>, String> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(parent) = &*held {
            return Ok(Arc::clone(parent));
        }
        let parent = Arc::new(Parent::new(&find::own()?)?);
        *held = Some(Arc::clone(&parent));
        Ok(parent)
    }
}

impl Parent {
    /// In a group, which is the agent's.
    fn new(own: &Path) -> Result<Self, String> {
        sweep(own);
        let path = own.join(format!("{SHELLS}{:016x}", rand::random::<u64>()));
        let failed = |error: io::Error| format!("no group below {}: {error}", own.display());
        fs::create_dir(&path).map_err(failed)?;
        let lock = lock(&path).map_err(failed)?;
        let lock = lock.ok_or_else(|| failed(Errno::WOULDBLOCK.into()))?;
        let lacks = bounds(own, &path).err();
        Ok(Self {
            path,
            lacks,
            _lock: lock,
        })
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        // With the groups of shells that were not waited for. The next agent tries once more.
        let _ = Group::new(self.path.clone()).end();
    }
}

/// Has the controllers bound what is below the group of all shells, or says which cannot.
fn bounds(own: &Path, shells: &Path) -> Result<(), String> {
    let offered = words(&own.join("cgroup.controllers"));
    let missing: Vec<_> = CONTROLLERS
        .into_iter()
        .filter(|name| !offered.iter().any(|own| own == name))
        .collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(format!(
            "the cgroup v2 hierarchy does not offer the agent the controllers {missing}"
        ));
    }
    for name in CONTROLLERS {
        pass_down(own, shells, name).map_err(|error| {
            let own = own.display();
            format!("the controller {name} cannot bound groups below {own}: {error}")
        })?;
    }
    Ok(())
}

fn pass_down(own: &Path, shells: &Path, controller: &str) -> io::Result<()> {
    match pass_on(own, controller) {
        // A group with processes of its own passes nothing on: the agent goes into one beside those of shells.
        Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
            step_aside(own)?;
            pass_on(own, controller)?;
        }
        passed => passed?,
    }
    pass_on(shells, controller)
}

fn pass_on(group: &Path, controller: &str) -> io::Result<()> {
    let file = group.join("cgroup.subtree_control");
    match words(&file).iter().any(|own| own == controller) {
        true => Ok(()),
        false => group::write(&file, &format!("+{controller}")),
    }
}

/// Moves the agent alone: other processes of its group are not its own to move.
fn step_aside(own: &Path) -> io::Result<()> {
    let aside = own.join(AGENT);
    match fs::create_dir(&aside) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => group::write(&aside.join("cgroup.procs"), "0"),
    }
}

/// Ends the shells of agents that have gone, and removes their groups.
fn sweep(own: &Path) {
    let entries = fs::read_dir(own).into_iter().flatten().flatten();
    for entry in entries {
        let is_shells = entry.file_name().to_string_lossy().starts_with(SHELLS);
        if !is_shells || !matches!(lock(&entry.path()), Ok(Some(_))) {
            continue;
        }
        let left = Group::new(entry.path());
        if let Err(error) = left.end() {
            tracing::warn!(group = %entry.path().display(), "a group of an earlier agent's shells stays: {error}");
        }
    }
}

/// `None` where another agent has it.
fn lock(group: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(group, flags, Mode::empty())?;
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(folder)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn words(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
