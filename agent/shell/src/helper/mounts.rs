//! The files that a shell sees: those of the node, which it cannot change, and some of its own.
//!
//! A shell's home, `/tmp`, `/var/tmp` and `/dev/shm` are folders of one file system in memory, which ends with the shell's mount namespace.
//! All else is read-only. So nothing is left of a shell that a later one with the same uid would own.
//!
//! A process of the shell may make a user namespace, in which it has all capabilities. It can take away none of these mounts there: the
//! kernel locks those that come from a namespace with more privileges.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid, chownat, fchmod, mkdirat, open, openat};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_remount,
};

use rustix::process::umask;

use super::guard::Refused;
use crate::limits;
use crate::mountinfo::{self, Mount};
use crate::talk::{HomePlan, Plan};

const OWN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// Arranges them in a mount namespace that is new.
pub(super) fn arrange(plan: &Plan) -> Result<(), Refused> {
    // No mount goes out, and none comes in: one that the node makes later would be writable here, and could cover the shell's own. So one
    // that the node unmounts stays busy until the shell has ended.
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", flags).map_err(Refused::to("mount propagation"))?;
    make_read_only()?;
    let Some(home) = &plan.home else {
        return plan.hide.iter().try_for_each(|path| hide(path, None));
    };
    let scratch = Scratch::mount(plan, home)?;
    for (folder, path) in [
        (&scratch.tmp, "/tmp"),
        (&scratch.var_tmp, "/var/tmp"),
        (&scratch.shm, "/dev/shm"),
    ] {
        if Path::new(path).is_dir() {
            bind(folder, Path::new(path))?;
        }
    }
    for path in &plan.hide {
        hide(path, Some(&scratch.empty))?;
    }
    // The homes of other shells. Where the folder is in another one that is covered by now, there is none.
    if home.base.is_dir() {
        cover(&home.base)?;
    }
    make_place(&home.path).map_err(Refused::to("the place of the home"))?;
    bind(&scratch.home, &home.path)?;
    let covered = plan.hide.iter().chain([&home.base]);
    covered.filter(|path| path.is_dir()).try_for_each(close)
}

/// Every mount that can be reached.
fn make_read_only() -> Result<(), Refused> {
    let text = fs::read("/proc/self/mountinfo").map_err(Refused::to("/proc/self/mountinfo"))?;
    for mount in mountinfo::parse(&text) {
        // To look at one that mounts on demand would mount it.
        if mount.kind == "autofs" {
            continue;
        }
        let flags = MountFlags::BIND | MountFlags::RDONLY | held(&mount);
        match mount_remount(&mount.point, flags, "") {
            // Another one covers it, or it is gone.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => {
                let what = format!("making {} read-only", mount.point.display());
                return Err(Refused::to(what)(error));
            }
        }
    }
    Ok(())
}

/// The options of a mount that it keeps.
fn held(mount: &Mount) -> MountFlags {
    let options = mount.options.iter().map(|option| match option.as_str() {
        "nodev" => MountFlags::NODEV,
        "noexec" => MountFlags::NOEXEC,
        "noatime" => MountFlags::NOATIME,
        "nodiratime" => MountFlags::NODIRATIME,
        "relatime" => MountFlags::RELATIME,
        _ => MountFlags::empty(),
    });
    options.fold(MountFlags::NOSUID, MountFlags::union)
}

/// The folders of one file system in memory.
struct Scratch {
    home: OwnedFd,
    tmp: OwnedFd,
    var_tmp: OwnedFd,
    shm: OwnedFd,
    /// A file without a right for anyone.
    empty: OwnedFd,
}

impl Scratch {
    /// On the folder of all homes, since that is there for sure. It is covered later.
    fn mount(plan: &Plan, home: &HomePlan) -> Result<Self, Refused> {
        let refused = Refused::to::<Errno>("the shell's own files");
        let options = format!(
            "mode=0700,size={},nr_inodes={}",
            plan.memory,
            limits::INODES
        );
        let options = std::ffi::CString::new(options)
            .map_err(|error| Refused::to("options")(io::Error::other(error)))?;
        mount("tmpfs", &home.base, "tmpfs", OWN, options.as_c_str()).map_err(&refused)?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = open(&home.base, flags, Mode::empty()).map_err(&refused)?;
        let folder = |name: &str, mode: Mode, is_theirs: bool| {
            mkdirat(&root, name, Mode::RWXU)?;
            let folder = openat(&root, name, flags, Mode::empty())?;
            if let Some(uid) = plan.uid.filter(|_| is_theirs) {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
                chownat(
                    &folder,
                    "",
                    Some(uid),
                    Some(gid),
                    rustix::fs::AtFlags::EMPTY_PATH,
                )?;
            }
            fchmod(&folder, mode)?;
            Ok(folder)
        };
        let shared = Mode::RWXU | Mode::RWXG | Mode::RWXO | Mode::SVTX;
        let file = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::CLOEXEC;
        let make = || {
            Ok(Self {
                home: folder("home", Mode::RWXU, true)?,
                tmp: folder("tmp", shared, false)?,
                var_tmp: folder("var-tmp", shared, false)?,
                shm: folder("shm", shared, false)?,
                empty: openat(&root, "empty", file, Mode::empty())?,
            })
        };
        make().map_err(refused)
    }
}

/// Folders that the shell's user may pass through: the agent's umask does not count.
fn make_place(path: &Path) -> io::Result<()> {
    let held = umask(Mode::empty());
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path);
    umask(held);
    made
}

fn bind(source: &OwnedFd, target: &Path) -> Result<(), Refused> {
    let source = format!("/proc/self/fd/{}", source.as_raw_fd());
    mount_bind(source, target).map_err(Refused::to(format_args!("mounting {}", target.display())))
}

/// Has a file or a folder be empty, where it is there.
fn hide(path: &PathBuf, empty: Option<&OwnedFd>) -> Result<(), Refused> {
    match (fs::metadata(path), empty) {
        (Ok(about), _) if about.is_dir() => cover(path),
        (Ok(_), Some(empty)) => bind(empty, path),
        (Ok(_), None) => mount_bind("/dev/null", path).map_err(Refused::to("hiding a file")),
        (Err(error), _) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(()),
            _ => Err(Refused::to(path.display())(error)),
        },
    }
}

/// An empty folder. Others may pass through it, for a home that is in it.
fn cover(path: &Path) -> Result<(), Refused> {
    let options = c"mode=0711,size=4k,nr_inodes=16";
    mount("tmpfs", path, "tmpfs", OWN, options)
        .map_err(Refused::to(format_args!("hiding {}", path.display())))
}

fn close(path: &PathBuf) -> Result<(), Refused> {
    let flags = MountFlags::BIND | MountFlags::RDONLY | OWN;
    match mount_remount(path, flags, "") {
        // It is in a folder that is covered as a whole.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(Refused::to(format_args!("closing {}", path.display()))(
            error,
        )),
    }
}
