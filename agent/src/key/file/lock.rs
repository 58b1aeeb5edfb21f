//! Processes that share a key file take turns.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Instant;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::{KeyFileError, must_be_private};
use crate::limits;

/// Locks a file beside the key's, which stays. Each user who can open a file can lock it, and this one is private to the agent's user. The
/// kernel gives the lock back where the process dies. Blocks.
pub(super) fn take_turn(key: &Path) -> Result<File, KeyFileError> {
    let mut path = key.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let cannot = |error| KeyFileError::Write(key.to_owned(), error);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&path)
        .map_err(cannot)?;
    let found = file.metadata().map_err(cannot)?;
    if must_be_private(&path, found.mode() & 0o7777, found.uid()).is_err() {
        return Err(KeyFileError::OpenLock(path));
    }
    let end = Instant::now() + limits::KEY_LOCK_TIME;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if Instant::now() < end => sleep(limits::KEY_LOCK_AGAIN),
            Err(Errno::WOULDBLOCK) => return Err(KeyFileError::Locked(path)),
            Err(error) => return Err(cannot(error.into())),
        }
    }
}
