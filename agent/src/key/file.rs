//! The file of a key that the agent has made itself.

mod lock;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use thiserror::Error;
use time::OffsetDateTime;
use underpass_tunnel::KeyError;

use self::lock::take_turn;
use super::Origin;
use super::record::{KeyRecord, OwnKey, RecordError};
use crate::files::{self, FileError};
use crate::limits;

/// Why there is no key to use.
#[derive(Debug, Error)]
pub(super) enum KeyFileError {
    #[error("the key file cannot be used")]
    File(#[source] FileError),
    #[error(
        "others can read the key file {} (mode {mode:04o}): delete it and join again, or, if nobody has read it, chmod 600",
        path.display()
    )]
    Open { path: PathBuf, mode: u32 },
    #[error(
        "the key file {} belongs to another user (uid {owner}), who can replace it: it has to belong to the agent's user (uid \
         {agent}) or to root",
        path.display()
    )]
    Foreign {
        path: PathBuf,
        owner: u32,
        agent: u32,
    },
    #[error("{} holds no key: delete it and join again, or name another file", .0.display())]
    NoKey(PathBuf, #[source] RecordError),
    #[error("cannot make the key file {}: its folder must exist and be writable", .0.display())]
    Make(PathBuf, #[source] io::Error),
    #[error("cannot write the key file {}: its folder must be writable for the agent", .0.display())]
    Write(PathBuf, #[source] io::Error),
    #[error(
        "another process has held the lock of the key file, {}, for {} s: end the process that hangs (`fuser` names it)",
        .0.display(), limits::KEY_LOCK_TIME.as_secs()
    )]
    Locked(PathBuf),
    #[error(
        "others can open {}, the lock of the key file, and so hold it: delete it, and the agent makes another one",
        .0.display()
    )]
    OpenLock(PathBuf),
    #[error("no key can be made")]
    Generate(#[source] KeyError),
}

/// Makes a key in the file, unless there is one. The file appears as a whole, readable by its owner only, and is on the disk
/// once this returns. Blocks.
pub(super) fn prepare(path: &Path) -> Result<Origin, KeyFileError> {
    match read(path) {
        Err(KeyFileError::File(error)) if error.is_missing() => {}
        found => return found.map(|_| Origin::Found),
    }
    let record = KeyRecord::new(OwnKey::generate().map_err(KeyFileError::Generate)?);
    match make(path, &record) {
        Ok(()) => Ok(Origin::Made),
        // Another process was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => read(path).map(|_| Origin::Found),
        Err(error) => Err(KeyFileError::Make(path.to_owned(), error)),
    }
}

/// The file's keys, unless others can read or replace it, as for ssh's keys. A file of an older agent has its own time for the key's.
/// Blocks.
pub(super) fn read(path: &Path) -> Result<KeyRecord, KeyFileError> {
    let (file, found) = files::open(path, limits::KEY_FILE_BYTES).map_err(KeyFileError::File)?;
    must_be_private(path, found.mode() & 0o7777, found.uid())?;
    let text = files::text(file, path, limits::KEY_FILE_BYTES).map_err(KeyFileError::File)?;
    let record = KeyRecord::read(&text);
    let mut record = record.map_err(|error| KeyFileError::NoKey(path.to_owned(), error))?;
    let modified = || OffsetDateTime::from_unix_timestamp(found.mtime()).ok();
    record.since = record.since.or_else(modified);
    Ok(record)
}

/// Changes the file's keys, unless `change` says that there is nothing to change, and gives them. Processes that share the file take turns.
/// The file is replaced as a whole, and the change is on the disk once this returns. Blocks.
pub(super) fn change(
    path: &Path,
    change: impl Fn(&mut KeyRecord) -> Result<bool, KeyError>,
) -> Result<KeyRecord, KeyFileError> {
    let cannot = |error| KeyFileError::Write(path.to_owned(), error);
    // A link stays one.
    let real = path.canonicalize().map_err(cannot)?;
    let mut record = read(&real)?;
    if !change(&mut record).map_err(KeyFileError::Generate)? {
        return Ok(record);
    }
    let _turn = take_turn(&real)?;
    let mut record = read(&real)?;
    if change(&mut record).map_err(KeyFileError::Generate)? {
        let written = write(&real, &record).and_then(|file| {
            file.persist(&real).map_err(|error| error.error)?;
            File::open(folder_of(&real))?.sync_all()
        });
        written.map_err(cannot)?;
    }
    Ok(record)
}

fn must_be_private(path: &Path, mode: u32, owner: u32) -> Result<(), KeyFileError> {
    let path = path.to_owned();
    let agent = rustix::process::geteuid().as_raw();
    if owner != agent && owner != 0 {
        return Err(KeyFileError::Foreign { path, owner, agent });
    }
    match mode & 0o077 {
        0 => Ok(()),
        _ => Err(KeyFileError::Open { path, mode }),
    }
}

fn make(path: &Path, record: &KeyRecord) -> io::Result<()> {
    let file = write(path, record)?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    File::open(folder_of(path))?.sync_all()
}

/// A file beside the path, for it to be renamed.
fn write(path: &Path, record: &KeyRecord) -> io::Result<NamedTempFile> {
    // Temporary files are made readable by their owner only.
    let mut file = NamedTempFile::new_in(folder_of(path))?;
    file.write_all(record.to_text().as_bytes())?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
