//! One process at a time changes a login: kubectl runs `underpass credential` in several processes at once.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use http::Uri;

use super::files;

/// The right to change a login. Other processes have to wait while it lives, also while a server is asked: without that, two
/// could renew one token, and the file would know only one of the two new ones. The kernel releases it with the process.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the login at this server. A process that holds it asks a server at the most, which has an end.
    ///
    /// # Errors
    /// The file system has no such locks, or the file cannot be made.
    pub(crate) async fn of(url: &Uri) -> Result<Self> {
        Self::wait(&files::stem(url)?).await
    }

    /// `None` where another process has it.
    ///
    /// # Errors
    /// As [`Lock::of`].
    pub(crate) fn try_of(url: &Uri) -> Result<Option<Self>> {
        let (file, path) = open(&files::stem(url)?)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// Waits for a file of that name.
    pub(super) async fn wait(name: &str) -> Result<Self> {
        let (file, path) = open(name)?;
        let locking = tokio::task::spawn_blocking(move || file.lock().map(|()| file));
        let file = locking.await?;
        let file = file.with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Self { _file: file })
    }
}

/// The lock files stay: a process could wait for one that another has removed, and a third one make it anew.
fn open(name: &str) -> Result<(File, PathBuf)> {
    let path = files::folder()?.join(format!("locks/{name}.lock"));
    files::make_folder(&path)?;
    let mut options = OpenOptions::new();
    let options = options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(&path);
    let file = file.with_context(|| format!("cannot write {}", path.display()))?;
    Ok((file, path))
}
