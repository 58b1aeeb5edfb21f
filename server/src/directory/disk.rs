//! The directory's file, and the room on its disk that is kept for revocations.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use std::sync::{Mutex, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, Database, DatabaseError, StorageBackend};

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
        let backend = KeepingRoom::new(file);
        let backend = backend.map_err(|error| DirectoryError::damaged(&self.path, error))?;
        database(&self.path, backend)
    }

    fn keep_room(&self) -> io::Result<()> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        match &*file {
            Some(file) => keep_room(file),
            None => Ok(()),
        }
    }
}

/// A file that keeps its room on the disk beyond its end. A file that is cut loses that, also where it is cut to the length that it
/// has; and the database cuts its file each time that it is closed and opened.
#[derive(Debug)]
struct KeepingRoom {
    inner: FileBackend,
    file: File,
}

impl KeepingRoom {
    fn new(file: File) -> Result<Self, redb::Error> {
        let ours = file.try_clone()?;
        Ok(Self {
            inner: FileBackend::new(file)?,
            file: ours,
        })
    }
}

impl StorageBackend for KeepingRoom {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let before = self.inner.len()?;
        if len == before {
            return Ok(());
        }
        self.inner.set_len(len)?;
        if len < before
            && let Err(error) = keep_room(&self.file)
        {
            // Somebody else was faster. Readiness says so from the next look on.
            tracing::debug!(%error, "the directory's file has lost its room");
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}

/// # Errors
/// The disk has no room left. A file system that knows no such thing is no error.
fn keep_room(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    // A database that grows doubles its file.
    let room = length.max(limits::DIRECTORY_ROOM);
    match allocate(file, length.saturating_add(room)) {
        Err(error) if is_full(&error) => Err(error),
        _ => Ok(()),
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

    /// A stopped server's disk is filled by others.
    #[test]
    fn a_file_keeps_its_room_when_it_is_closed_and_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d");
        let allocated = || std::fs::metadata(&path).unwrap().blocks() * 512;
        let disk = FileDisk::new(&path);
        let database = disk.open(true).unwrap();
        disk.keep_room().unwrap();
        drop((database, disk));
        assert!(allocated() >= limits::DIRECTORY_ROOM, "{}", allocated());
        let disk = FileDisk::new(&path);
        let _database = disk.open(true).unwrap();
        assert!(allocated() >= limits::DIRECTORY_ROOM, "{}", allocated());
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
