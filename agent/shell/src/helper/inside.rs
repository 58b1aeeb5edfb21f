//! The namespaces that a process enters by itself, and the shell's home.

use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, mount};
use underpass_agent_policy::Protection;

use super::guard::{Failure, Guard, Refused};
use super::{files, mounts};

/// Enters what the plan wants. In a PID namespace, the caller is its first process.
pub(super) fn enter(guard: &mut Guard, has_pids: bool) -> Result<(), Failure> {
    let has_ipc = guard.wants(Protection::IpcNamespace)
        && tried(guard, Protection::IpcNamespace, || {
            unshare(CloneFlags::CLONE_NEWIPC).map_err(Refused::to("unshare"))
        });
    let has_mounts = guard.wants(Protection::MountNamespace)
        && tried(guard, Protection::MountNamespace, || {
            unshare(CloneFlags::CLONE_NEWNS).map_err(Refused::to("unshare"))
        });
    if has_mounts {
        let plan = guard.plan.clone();
        tried(guard, Protection::MountNamespace, || mounts::arrange(&plan));
    }
    match (has_pids, has_mounts) {
        (true, true) => {
            tried(guard, Protection::PidNamespace, mount_proc);
        }
        // The /proc of the node stays, with all of its processes.
        (true, false) => guard.lacks(
            Protection::PidNamespace,
            "without a mount namespace there is no /proc of its own",
        ),
        (false, _) => {}
    }
    if has_ipc && has_mounts && Path::new("/dev/mqueue").is_dir() {
        tried(guard, Protection::IpcNamespace, mount_queues);
    }
    files::place(guard)
}

/// A step of a protection: whether it succeeded.
fn tried(
    guard: &mut Guard,
    protection: Protection,
    step: impl FnOnce() -> Result<(), Refused>,
) -> bool {
    match step() {
        Ok(()) => true,
        Err(refused) => {
            guard.lacks(protection, refused);
            false
        }
    }
}

/// Read-only: root without capabilities may write sysctl(8) otherwise, and no program of a shell needs to write here.
fn mount_proc() -> Result<(), Refused> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    // Kernels before 5.8 know the option for the whole namespace, which is the same here.
    let hides = mount("proc", "/proc", "proc", flags, c"hidepid=2");
    hides
        .or_else(|_| mount("proc", "/proc", "proc", flags, None))
        .map_err(Refused::to("mounting /proc"))
}

/// The queues of the node are in its IPC namespace, and a mount of them leads there from any other.
fn mount_queues() -> Result<(), Refused> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("mqueue", "/dev/mqueue", "mqueue", flags, None)
        .map_err(Refused::to("mounting /dev/mqueue"))
}
