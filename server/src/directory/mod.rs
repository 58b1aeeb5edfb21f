//! The directory's stores. The embedded one is a file in the data directory, crash-safe, of one process at a time; the other one is
//! on etcd.

pub(crate) mod copy;
mod disk;
mod shared;
mod store;
mod tables;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use underpass_directory::{Directory, OpenError, Store};
use underpass_directory_etcd::{EtcdConfig, EtcdError};

use self::disk::FileDisk;
use self::shared::INSTALLATION;
pub(crate) use self::shared::open as on_etcd;
use self::store::FileStore;
use self::tables::THIS_FORMAT;
use crate::data_dir::{DataDir, FileError};

/// The file's name in the data directory.
pub(crate) const NAME: &str = "directory.redb";

/// The wait for another process that has the file open: `recover` has it for milliseconds. A server that still drains may
/// have it for longer; starting the next one before its end is an error that says so.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pause between two attempts meanwhile.
const PAUSE: Duration = Duration::from_millis(20);

/// Why there is no directory.
#[derive(Debug, Error)]
pub(crate) enum DirectoryError {
    #[error("cannot open {}", .0.display())]
    Io(PathBuf, #[source] io::Error),
    #[error("{} is in use by another process (a server on the same data directory?)", .0.display())]
    InUse(PathBuf),
    #[error("{} is no directory of Underpass's, or is damaged", .0.display())]
    Database(PathBuf, #[source] Box<redb::Error>),
    #[error("{} has format {found}; this version reads {THIS_FORMAT}", path.display())]
    Format { path: PathBuf, found: u64 },
    #[error("{} cannot be used", .0.display())]
    Contents(PathBuf, #[source] OpenError),
    #[error("the directory on etcd cannot be used")]
    Etcd(#[source] EtcdError),
    #[error("the directory on etcd cannot be used")]
    EtcdContents(#[source] OpenError),
    #[error(
        "the directory of this data directory is on etcd, as {} says: name it with --etcd. To leave etcd, export the directory \
         from there, and import it", .0.display()
    )]
    OnEtcd(PathBuf),
    #[error(
        "etcd holds no directory, and this data directory has one, {}: move it with `underpass-server directory export` and \
         `import --etcd`, or remove the file to begin anew", .0.display()
    )]
    NotMoved(PathBuf),
    #[error(transparent)]
    File(#[from] FileError),
}

impl DirectoryError {
    fn damaged(path: &Path, error: redb::Error) -> Self {
        Self::Database(path.to_owned(), Box::new(error))
    }
}

/// Opens the data directory's directory, and makes it where there is none. Waits for a moment where another process has it.
pub(crate) async fn open(data: &DataDir) -> Result<Arc<Directory>, DirectoryError> {
    let deadline = Instant::now() + PATIENCE;
    let file = loop {
        match in_file(data) {
            Err(DirectoryError::InUse(_)) if Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            other => break other?,
        }
    };
    let opened = Directory::open(file).await;
    opened.map_err(|error| DirectoryError::Contents(data.path(NAME), error))
}

/// Opens the directory on etcd for the data directory's server. Waits for a moment where another one has the data directory.
pub(crate) async fn open_on_etcd(
    data: &DataDir,
    config: &EtcdConfig,
) -> Result<Arc<Directory>, DirectoryError> {
    let deadline = Instant::now() + PATIENCE;
    let store = loop {
        match shared::store(data, config).await {
            Err(DirectoryError::InUse(_)) if Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            other => break other?,
        }
    };
    let opened = Directory::open(Arc::new(store)).await;
    opened.map_err(DirectoryError::EtcdContents)
}

/// Opens the directory, unless another process has it.
pub(crate) async fn try_open(data: &DataDir) -> Result<Arc<Directory>, DirectoryError> {
    let opened = Directory::open(in_file(data)?).await;
    opened.map_err(|error| DirectoryError::Contents(data.path(NAME), error))
}

/// The embedded store, unless another process has it, or the directory is elsewhere.
pub(crate) fn in_file(data: &DataDir) -> Result<Arc<dyn Store>, DirectoryError> {
    if data.read(INSTALLATION)?.is_some() {
        return Err(DirectoryError::OnEtcd(data.path(INSTALLATION)));
    }
    take_into_file(data)
}

/// The same for a directory that comes from elsewhere, or does so again.
pub(crate) fn take_into_file(data: &DataDir) -> Result<Arc<dyn Store>, DirectoryError> {
    Ok(Arc::new(FileStore::open(FileDisk::new(&data.path(NAME)))?))
}

/// From now on the directory of the data directory is in its file.
pub(crate) fn belongs_to_file(data: &DataDir) -> Result<(), FileError> {
    data.remove(INSTALLATION)
}

#[cfg(test)]
mod tests {
    mod embedded;

    use std::os::unix::fs::PermissionsExt;

    use std::io::ErrorKind;
    use std::sync::atomic::{AtomicU8, Ordering};

    use redb::backends::FileBackend;
    use redb::{Database, StorageBackend};
    use underpass_directory::{
        ChangeError, Cluster, CommitError, Draft, Expect, ObjectKind, Revision, Store, User, Write,
    };

    use super::disk::{Disk, database};
    use super::*;

    fn data() -> (tempfile::TempDir, DataDir) {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        (dir, data)
    }

    fn put(draft: &mut Draft, name: &str) -> Result<(), underpass_directory::ChangeError> {
        let cluster = Cluster::new(draft.now());
        draft.put(name, cluster, Expect::Anything)
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_a_restart() {
        let (_dir, data) = data();
        let directory = open(&data).await.unwrap();
        directory
            .change(|draft| {
                put(draft, "gone")?;
                put(draft, "prod")
            })
            .await
            .unwrap();
        directory
            .change(|draft| draft.remove::<Cluster>("gone", Expect::Present))
            .await
            .unwrap();
        let before = directory.snapshot();
        drop(directory);
        let after = open(&data).await.unwrap().snapshot();
        assert_eq!(after.revision(), before.revision());
        assert_eq!(after.all::<Cluster>(), before.all::<Cluster>());
        let mode = std::fs::metadata(data.path(NAME)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_copy_of_the_file_at_any_commit_is_whole() {
        // A crash leaves the file as it was on disk at some moment, never closed.
        let (_dir, data) = data();
        let directory = open(&data).await.unwrap();
        for number in 0..20 {
            directory
                .change(|draft| {
                    put(draft, &format!("a{number}"))?;
                    put(draft, &format!("b{number}"))
                })
                .await
                .unwrap();
            let (_other_dir, other) = self::data();
            std::fs::copy(data.path(NAME), other.path(NAME)).unwrap();
            let copy = open(&other).await.unwrap().snapshot();
            assert_eq!(copy.all::<Cluster>().len(), 2 * (number + 1));
            assert_eq!(copy.revision(), directory.snapshot().revision());
        }
    }

    #[tokio::test]
    async fn whoever_is_late_is_told() {
        let (_dir, data) = data();
        let store = FileStore::open(FileDisk::new(&data.path(NAME))).unwrap();
        let write = || {
            vec![Write {
                key: (ObjectKind::Group, "g".to_owned()),
                value: Some(b"{}".to_vec()),
            }]
        };
        let first = store.commit(Revision(0), write()).await.unwrap();
        assert_eq!(first, Revision(1));
        let late = store.commit(Revision(0), write()).await;
        assert!(matches!(late, Err(CommitError::Conflict)));
        let contents = store.load().await.unwrap();
        assert_eq!((contents.revision, contents.records.len()), (first, 1));
    }

    #[tokio::test]
    async fn a_file_of_something_else_is_named() {
        let (_dir, data) = data();
        data.write(NAME, "users: 7\n").unwrap();
        let error = open(&data).await.err().unwrap();
        assert!(error.to_string().contains(NAME), "{error}");
        assert!(matches!(error, DirectoryError::Database(..)), "{error:?}");
    }

    #[tokio::test]
    async fn two_processes_do_not_share_a_file() {
        let (_dir, data) = data();
        let _open = open(&data).await.unwrap();
        let again = try_open(&data).await.err().unwrap();
        assert!(matches!(again, DirectoryError::InUse(_)), "{again:?}");
    }

    /// How much room a disk has.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[repr(u8)]
    enum Room {
        Enough,
        /// That which was kept for revocations.
        Kept,
        None,
        /// Writes arrive and syncing fails.
        NoSync,
    }

    /// A disk in a folder, with as much room as the test says.
    #[derive(Debug, Clone)]
    struct TestDisk {
        path: PathBuf,
        room: Arc<AtomicU8>,
    }

    impl TestDisk {
        fn new(data: &DataDir) -> Self {
            Self {
                path: data.path(NAME),
                room: Arc::default(),
            }
        }

        fn set(&self, room: Room) {
            self.room.store(room as u8, Ordering::Release);
        }

        fn has(&self, room: Room) -> bool {
            self.room.load(Ordering::Acquire) == room as u8
        }

        fn full() -> io::Error {
            ErrorKind::StorageFull.into()
        }
    }

    impl Disk for TestDisk {
        fn path(&self) -> &Path {
            &self.path
        }

        fn open(&self, create: bool) -> Result<Database, DirectoryError> {
            let file = FileDisk::new(&self.path).file(create);
            let file = file.map_err(|error| DirectoryError::Io(self.path.clone(), error))?;
            let (disk, file) = (self.clone(), FileBackend::new(file).unwrap());
            database(&self.path, Backend { disk, file })
        }

        fn keep_room(&self) -> io::Result<()> {
            match self.has(Room::Enough) || self.has(Room::NoSync) {
                true => Ok(()),
                false => Err(Self::full()),
            }
        }
    }

    #[derive(Debug)]
    struct Backend {
        disk: TestDisk,
        file: FileBackend,
    }

    impl Backend {
        fn write(&self, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
            match self.disk.has(Room::None) {
                true => Err(TestDisk::full()),
                false => write(),
            }
        }
    }

    impl StorageBackend for Backend {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.write(|| self.file.set_len(len))
        }

        fn sync_data(&self) -> io::Result<()> {
            match self.disk.has(Room::NoSync) {
                true => Err(TestDisk::full()),
                false => self.write(|| self.file.sync_data()),
            }
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.write(|| self.file.write(offset, data))
        }
    }

    async fn on(disk: &TestDisk) -> Arc<Directory> {
        let store = FileStore::open(disk.clone()).unwrap();
        Directory::open(Arc::new(store)).await.unwrap()
    }

    fn user(draft: &mut Draft, disabled: bool) -> Result<(), ChangeError> {
        let user = User {
            disabled,
            ..User::new(draft.now())
        };
        draft.put("alice", user, Expect::Anything)
    }

    async fn becomes(directory: &Directory, writable: bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(600);
        while directory.is_writable() != writable {
            assert!(tokio::time::Instant::now() < deadline, "not {writable}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_disk_that_has_room_again_is_written_without_a_restart() {
        let (_dir, data) = data();
        let disk = TestDisk::new(&data);
        let directory = on(&disk).await;
        directory.change(|draft| user(draft, false)).await.unwrap();
        let turn = |draft: &mut Draft| {
            let disabled = draft.get::<User>("alice").unwrap().object.disabled;
            user(draft, !disabled)
        };
        for room in [Room::None, Room::NoSync] {
            disk.set(room);
            for _ in 0..3 {
                let change = directory.change(turn).await;
                assert!(
                    matches!(change, Err(ChangeError::Store(_) | ChangeError::Unknown(_))),
                    "{room:?}: {change:?}"
                );
                assert!(!directory.is_writable());
            }
            disk.set(Room::Enough);
            directory.change(turn).await.unwrap();
        }
        let before = directory.snapshot();
        drop(directory);
        let after = on(&disk).await.snapshot();
        assert_eq!(after.revision(), before.revision());
        assert_eq!(after.all::<User>(), before.all::<User>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_is_full_is_noticed_without_a_change_and_so_is_its_room() {
        let (_dir, data) = data();
        let disk = TestDisk::new(&data);
        let directory = on(&disk).await;
        let keeping = tokio::spawn(Arc::clone(&directory).keep_store());
        disk.set(Room::Kept);
        becomes(&directory, false).await;
        disk.set(Room::Enough);
        becomes(&directory, true).await;
        // And where the database has seen an error.
        disk.set(Room::None);
        directory
            .change(|draft| put(draft, "prod"))
            .await
            .unwrap_err();
        let removed = directory.change(|draft| user(draft, true)).await;
        removed.unwrap_err();
        becomes(&directory, false).await;
        disk.set(Room::Enough);
        becomes(&directory, true).await;
        keeping.abort();
    }

    #[tokio::test]
    async fn rule_12_what_is_taken_back_is_written_where_nothing_else_is() {
        let (_dir, data) = data();
        let disk = TestDisk::new(&data);
        let directory = on(&disk).await;
        let set_up = directory.change(|draft| {
            put(draft, "prod")?;
            user(draft, false)
        });
        set_up.await.unwrap();
        disk.set(Room::Kept);
        let refused = directory.change(|draft| put(draft, "new")).await;
        let Err(ChangeError::Store(error)) = refused else {
            panic!("{refused:?}");
        };
        let why = error.0.to_string();
        assert!(why.contains("no room") && why.contains(NAME), "{why}");
        directory.change(|draft| user(draft, true)).await.unwrap();
        let removed = directory.change(|draft| draft.remove::<Cluster>("prod", Expect::Present));
        removed.await.unwrap();
        drop(directory);
        let after = on(&disk).await.snapshot();
        assert!(after.get::<User>("alice").unwrap().object.disabled);
        assert!(after.all::<Cluster>().is_empty());
    }

    #[tokio::test]
    async fn rule_12_an_older_file_in_its_place_brings_nothing_back() {
        let (_dir, data) = data();
        let disk = TestDisk::new(&data);
        let directory = on(&disk).await;
        directory.change(|draft| user(draft, false)).await.unwrap();
        let backup = data.path("backup");
        std::fs::copy(&disk.path, &backup).unwrap();
        for disabled in [true, false, true] {
            directory
                .change(|draft| user(draft, disabled))
                .await
                .unwrap();
        }
        std::fs::rename(&backup, &disk.path).unwrap();
        disk.set(Room::NoSync);
        directory
            .change(|draft| put(draft, "prod"))
            .await
            .unwrap_err();
        disk.set(Room::Enough);
        let change = directory.change(|draft| put(draft, "prod")).await;
        let Err(ChangeError::Store(error)) = change else {
            panic!("{change:?}");
        };
        assert!(error.0.to_string().contains("another file"), "{error:?}");
        let now = directory.snapshot();
        assert!(now.get::<User>("alice").unwrap().object.disabled);
    }
}
