//! The folder of a node's shells on disk: their homes, and the uids that are taken.
//!
//! ```text
//! BASE/               of the agent's user, mode 0711
//!   uids/2000000007   locked while a shell has this uid
//!   agent-6f0c…/      locked while this agent runs
//!     1b9e…/          the home of a shell, mode 0700
//! ```
//!
//! The locks are the kernel's (flock(2)): those of an agent that was killed are free.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Gid, Mode, OFlags, Uid, chmod, fchmod, fchown, flock,
    fstat, mkdirat, open, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

const FOLDER: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const UIDS: &str = "uids";
const AGENT: &str = "agent-";

/// The folder, which is made when the first shell is opened.
#[derive(Debug)]
pub(crate) struct Base {
    path: PathBuf,
    opened: Mutex<Option<Arc<Opened>>>,
}

/// The folders of this agent.
#[derive(Debug)]
pub(crate) struct Opened {
    base: PathBuf,
    uids: OwnedFd,
    name: String,
    /// Locked.
    own: OwnedFd,
}

/// The home of one shell. It is there until [`remove`](Self::remove).
#[derive(Debug)]
pub(crate) struct Home {
    opened: Arc<Opened>,
    name: String,
}

impl Base {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            opened: Mutex::default(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The folders. Those of agents that have gone are removed when they are made. Blocks.
    pub(crate) fn open(&self) -> io::Result<Arc<Opened>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = &*opened {
            return Ok(Arc::clone(opened));
        }
        let new = Arc::new(Opened::new(&self.path)?);
        *opened = Some(Arc::clone(&new));
        Ok(new)
    }
}

impl Opened {
    fn new(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path.parent().unwrap_or(path))?;
        let passable = Mode::RWXU | Mode::XGRP | Mode::XOTH;
        match rustix::fs::mkdir(path, passable) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let base = open(path, FOLDER, Mode::empty())?;
        if fstat(&base)?.st_uid != geteuid().as_raw() {
            return Err(io::Error::other("the folder is another user's"));
        }
        // The agent's umask counts for no folder here.
        fchmod(&base, passable)?;
        // No other agent removes what this one has yet to lock.
        flock(&base, FlockOperation::LockExclusive)?;
        sweep(&base)?;
        let uids = folder(&base, UIDS, Mode::RWXU)?;
        let name = format!("{AGENT}{:016x}", rand::random::<u64>());
        let own = folder(&base, &name, passable)?;
        flock(&own, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self {
            base: path.to_owned(),
            uids,
            name,
            own,
        })
    }

    /// Takes a uid until the file is closed. `None` where a shell has it, of any agent on the node.
    pub(crate) fn lock(&self, uid: u32) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.uids, uid.to_string(), flags, Mode::RUSR | Mode::WUSR)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes an empty home of a user's, or of the agent's own.
    pub(crate) fn home(self: &Arc<Self>, name: &str, uid: Option<u32>) -> io::Result<Home> {
        mkdirat(&self.own, name, Mode::RWXU)?;
        let home = Home {
            opened: Arc::clone(self),
            name: name.to_owned(),
        };
        let given = openat(&self.own, name, FOLDER, Mode::empty()).and_then(|folder| {
            fchmod(&folder, Mode::RWXU)?;
            match uid {
                Some(uid) => {
                    let (owner, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
                    fchown(&folder, Some(owner), Some(group))
                }
                None => Ok(()),
            }
        });
        match given {
            Ok(()) => Ok(home),
            Err(error) => {
                home.remove()?;
                Err(error.into())
            }
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // Where the base is gone, so is this.
        if let Ok(base) = open(&self.base, FOLDER, Mode::empty()) {
            let _ = remove(&base, &self.name);
        }
    }
}

impl Home {
    pub(crate) fn path(&self) -> PathBuf {
        let Opened { base, name, .. } = &*self.opened;
        base.join(name).join(&self.name)
    }

    /// Removes it with all that is in it. Blocks.
    pub(crate) fn remove(&self) -> io::Result<()> {
        remove(&self.opened.own, &self.name)
    }
}

fn folder(base: &OwnedFd, name: &str, mode: Mode) -> io::Result<OwnedFd> {
    match mkdirat(base, name, mode) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let folder = openat(base, name, FOLDER, Mode::empty())?;
    fchmod(&folder, mode)?;
    Ok(folder)
}

/// Removes the folders of agents that have gone.
fn sweep(base: &OwnedFd) -> io::Result<()> {
    for name in names(base)? {
        if !name.starts_with(AGENT.as_bytes()) {
            continue;
        }
        let gone = openat(base, &*name, FOLDER, Mode::empty());
        let gone = gone.and_then(|folder| flock(&folder, FlockOperation::NonBlockingLockExclusive));
        if gone.is_ok() {
            let removed = remove(base, &*name);
            if let Err(error) = removed {
                tracing::warn!("homes of shells of an earlier agent cannot be removed: {error}");
            }
        }
    }
    Ok(())
}

/// The names in a folder.
fn names(folder: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_owned();
        if !matches!(&*name, b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes a folder that a user of a shell had for themselves. No link of theirs is followed, and folders within folders cost neither
/// stack nor descriptors, however deep they are: each comes up before it is emptied.
fn remove<P: rustix::path::Arg + Copy>(parent: &OwnedFd, name: P) -> io::Result<()> {
    let top = openat(parent, name, FOLDER, Mode::empty())?;
    // The agent may be an ordinary user, and the folder unreadable for its owner.
    fchmod(&top, Mode::RWXU)?;
    let mut number: u64 = 0;
    loop {
        let names = names(&top)?;
        if names.is_empty() {
            break;
        }
        for name in names {
            empty(&top, &name, &mut number)?;
        }
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// Removes one entry. The folders that are in it come up beside it.
fn empty(top: &OwnedFd, name: &[u8], number: &mut u64) -> io::Result<()> {
    let about = statat(top, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(about.st_mode) != FileType::Directory {
        return Ok(unlinkat(top, name, AtFlags::empty())?);
    }
    open_up(top, name)?;
    let folder = openat(top, name, FOLDER, Mode::empty())?;
    for inner in names(&folder)? {
        let about = statat(&folder, &*inner, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(about.st_mode) != FileType::Directory {
            unlinkat(&folder, &*inner, AtFlags::empty())?;
            continue;
        }
        // Moving a folder writes its parent's number into it.
        open_up(&folder, &inner)?;
        *number = number.saturating_add(1);
        let up = format!("{:016x}-{number}", rand::random::<u64>());
        renameat(&folder, &*inner, top, up)?;
    }
    Ok(unlinkat(top, name, AtFlags::REMOVEDIR)?)
}

/// Lets the owner of a folder do all with it: an agent that is an ordinary user is that.
fn open_up(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let held = openat(parent, name, FOLDER | OFlags::PATH, Mode::empty())?;
    // By the descriptor: fchmodat(2) would follow a link.
    Ok(chmod(
        format!("/proc/self/fd/{}", held.as_raw_fd()),
        Mode::RWXU,
    )?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn opened(folder: &tempfile::TempDir) -> Arc<Opened> {
        Base::new(folder.path().join("base")).open().unwrap()
    }

    #[test]
    fn rule_17_a_home_is_removed_with_all_that_is_in_it_and_nothing_that_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (file, kept) = (folder.path().join("kept"), folder.path().join("folder"));
        fs::write(&file, "kept").unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("inside"), "kept").unwrap();
        fs::set_permissions(&kept, fs::Permissions::from_mode(0o750)).unwrap();
        let opened = opened(&folder);
        let home = opened.home("home", None).unwrap();
        let path = home.path();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o700
        );
        symlink(&kept, path.join("link")).unwrap();
        symlink(&file, path.join("file")).unwrap();
        symlink("/no/where", path.join("broken")).unwrap();
        fs::hard_link(&file, path.join("hard")).unwrap();
        fs::create_dir_all(path.join("a/b/c")).unwrap();
        symlink(&kept, path.join("a/b/link")).unwrap();
        fs::write(path.join("a/b/c/file"), "").unwrap();
        for shut in ["a/b/c", "a/b", "a"] {
            fs::set_permissions(path.join(shut), fs::Permissions::from_mode(0o0)).unwrap();
        }
        home.remove().unwrap();
        assert!(!path.exists());
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
        assert_eq!(fs::read_to_string(kept.join("inside")).unwrap(), "kept");
        let mode = fs::metadata(&kept).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o750);
    }

    #[test]
    fn rule_19_folders_within_folders_cost_no_descriptors_and_no_stack() {
        let folder = tempfile::tempdir().unwrap();
        let opened = opened(&folder);
        let home = opened.home("home", None).unwrap();
        // Deeper than a process may have files open, and than a path may be long.
        let mut inner = open(home.path(), FOLDER, Mode::empty()).unwrap();
        for _ in 0..3000 {
            inner = super::folder(&inner, "folder", Mode::RWXU).unwrap();
        }
        home.remove().unwrap();
        assert!(!home.path().exists());
    }

    #[test]
    fn a_folder_that_another_one_put_there_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("base");
        symlink(folder.path(), &path).unwrap();
        Base::new(path.clone()).open().unwrap_err();
        fs::remove_file(&path).unwrap();
        if geteuid().is_root() {
            fs::create_dir(&path).unwrap();
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            let error = Base::new(path).open().unwrap_err();
            assert!(error.to_string().contains("another user"), "{error}");
        }
    }

    #[test]
    fn homes_of_an_agent_that_was_killed_are_removed_and_those_of_another_one_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let opened = opened(&folder);
        let base = folder.path().join("base");
        let theirs = opened.home("theirs", None).unwrap();
        fs::create_dir_all(base.join("agent-gone/home/inner")).unwrap();
        fs::create_dir(base.join("other")).unwrap();
        let own = Base::new(base.clone()).open().unwrap();
        assert!(!base.join("agent-gone").exists());
        assert!(theirs.path().exists() && base.join("other").exists());
        let home = own.home("mine", None).unwrap();
        let path = home.path();
        drop((home, own));
        assert!(!path.parent().unwrap().exists());
    }

    #[test]
    fn a_uid_is_locked_for_all_agents_of_the_node() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (opened(&folder), opened(&folder));
        let held = one.lock(70_000).unwrap().unwrap();
        assert!(other.lock(70_000).unwrap().is_none());
        assert!(one.lock(70_000).unwrap().is_none());
        other.lock(70_001).unwrap().unwrap();
        drop(held);
        other.lock(70_000).unwrap().unwrap();
    }
}
