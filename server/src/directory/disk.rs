//! The directory's file, and the room on its disk that is kept for revocations.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, StorageBackend};

use super::DirectoryError;
use crate::limits;

/// The database's cache of its file, at most.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Where the database is. Tests have one that fails as they say.
pub(super) trait Disk: Send + Sync {
    fn path(&self) -> &Path;

    /// Opens the database, and makes it where there is none if it may. Another one must not be open.
    fn open(&self, create: bool) -> Result<Database, DirectoryError>;

    /// Takes room on the disk for the next writes, so that no other file can.
    ///
    /// # Errors
    /// The disk has none left. A disk that cannot keep room is no error.
    fn keep_room(&self) -> io::Result<()>;
}

/// A file of the data directory.
pub(super) struct FileDisk {
    path: PathBuf,
    /// The file that the database has open.
    file: Mutex<Option<File>>,
}

impl FileDisk {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: Mutex::default(),
        }
    }

    /// The file, for the database.
    pub(super) fn file(&self, create: bool) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(create);
        let file = options.truncate(false).mode(0o600).open(&self.path)?;
        let ours = file.try_clone()?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(ours);
        Ok(file)
    }
}

impl Disk for FileDisk {
    fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self, create: bool) -> Result<Database, DirectoryError> {
        let file = self.file(create);
        let file = file.map_err(|error| DirectoryError::Io(self.path.clone(), error))?;
        let backend = FileBackend::new(file);
        let backend = backend.map_err(|error| DirectoryError::damaged(&self.path, error.into()))?;
        database(&self.path, backend)
    }

    fn keep_room(&self) -> io::Result<()> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = &*file else {
            return Ok(());
        };
        let length = file.metadata()?.len();
        // A database that grows doubles its file.
        let room = length.max(limits::DIRECTORY_ROOM);
        match allocate(file, length.saturating_add(room)) {
            Err(error) if is_full(&error) => Err(error),
            // Other errors are those of file systems that know no such thing.
            _ => Ok(()),
        }
    }
}

/// Opens a database.
pub(super) fn database(
    path: &Path,
    backend: impl StorageBackend,
) -> Result<Database, DirectoryError> {
    let mut builder = Database::builder();
    // Everything is read once, when the process starts.
    let builder = builder.set_cache_size(CACHE_BYTES);
    match builder.create_with_backend(backend) {
        Ok(database) => Ok(database),
        Err(DatabaseError::DatabaseAlreadyOpen) => Err(DirectoryError::InUse(path.to_owned())),
        Err(error) => Err(DirectoryError::damaged(path, error.into())),
    }
}

/// Has the file system give the file blocks for so many bytes, holes included, and leaves its length as it is.
#[cfg(target_os = "linux")]
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};

    Ok(fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes)?)
}

#[cfg(not(target_os = "linux"))]
fn allocate(_: &File, _: u64) -> io::Result<()> {
    Ok(())
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_file_has_twice_its_length_on_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FileDisk::new(&folder.path().join("d"));
        let _database = disk.open(true).unwrap();
        disk.keep_room().unwrap();
        let file = std::fs::metadata(disk.path()).unwrap();
        let allocated = file.blocks() * 512;
        let wanted = file.len() + file.len().max(limits::DIRECTORY_ROOM);
        assert!(allocated >= wanted, "{allocated} of {wanted}");
        // The database's length is its own.
        disk.keep_room().unwrap();
        assert_eq!(std::fs::metadata(disk.path()).unwrap().len(), file.len());
    }

    #[test]
    fn a_file_that_is_gone_is_not_made_anew_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FileDisk::new(&folder.path().join("d"));
        let error = disk.open(false).unwrap_err();
        assert!(matches!(error, DirectoryError::Io(..)), "{error:?}");
        assert!(!disk.path().exists());
    }
}
