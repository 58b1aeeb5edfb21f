//! The directory's embedded store: one file in the data directory, crash-safe, of one process at a time.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use thiserror::Error;
use underpass_directory::{
    CommitError, Contents, Directory, ObjectKind, OpenError, Record, Revision, Store, StoreError,
    Write,
};

use crate::data_dir::DataDir;

/// The file's name in the data directory.
pub(crate) const NAME: &str = "directory.redb";

/// Objects: kind and name, to the revision of the last change and JSON.
const OBJECTS: TableDefinition<'_, (&str, &str), (u64, &[u8])> = TableDefinition::new("objects");

/// Numbers about the whole.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
const FORMAT: &str = "format";

/// How the file is laid out. Another one is not read.
const THIS_FORMAT: u64 = 1;

/// The database's cache of its file, at most.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

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
}

/// Opens the data directory's directory, and makes it where there is none. Waits for a moment where another process has it.
pub(crate) async fn open(data: &DataDir) -> Result<Arc<Directory>, DirectoryError> {
    let path = data.path(NAME);
    let deadline = Instant::now() + PATIENCE;
    let file = loop {
        match FileStore::open(&path) {
            Err(DirectoryError::InUse(_)) if Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            other => break other?,
        }
    };
    let opened = Directory::open(Arc::new(file)).await;
    opened.map_err(|error| DirectoryError::Contents(path, error))
}

/// Opens the directory, unless another process has it.
pub(crate) async fn try_open(data: &DataDir) -> Result<Arc<Directory>, DirectoryError> {
    let path = data.path(NAME);
    let opened = Directory::open(Arc::new(FileStore::open(&path)?)).await;
    opened.map_err(|error| DirectoryError::Contents(path, error))
}

/// The file. While it is open no other process can open it, so that nobody else changes it.
struct FileStore(Arc<Database>);

impl FileStore {
    fn open(path: &Path) -> Result<Self, DirectoryError> {
        let damaged = |error| DirectoryError::Database(path.to_owned(), Box::new(error));
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options
            .mode(0o600)
            .open(path)
            .map_err(|error| DirectoryError::Io(path.to_owned(), error))?;
        let backend = FileBackend::new(file).map_err(|error| damaged(error.into()))?;
        let mut builder = Database::builder();
        // Everything is read once, when the process starts.
        let builder = builder.set_cache_size(CACHE_BYTES);
        let database = match builder.create_with_backend(backend) {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                return Err(DirectoryError::InUse(path.to_owned()));
            }
            Err(error) => return Err(damaged(error.into())),
        };
        let format = format(&database).map_err(damaged)?;
        if format != THIS_FORMAT {
            return Err(DirectoryError::Format {
                path: path.to_owned(),
                found: format,
            });
        }
        Ok(Self(Arc::new(database)))
    }
}

/// The file's format, which a new one gets.
fn format(database: &Database) -> Result<u64, redb::Error> {
    let writing = database.begin_write()?;
    let format = {
        writing.open_table(OBJECTS)?;
        let mut meta = writing.open_table(META)?;
        let there = meta.get(FORMAT)?.map(|format| format.value());
        match there {
            Some(format) => format,
            None => {
                meta.insert(FORMAT, THIS_FORMAT)?;
                THIS_FORMAT
            }
        }
    };
    writing.commit()?;
    Ok(format)
}

fn load(database: &Database) -> Result<Contents, redb::Error> {
    let reading = database.begin_read()?;
    let revision = reading.open_table(META)?.get(REVISION)?;
    let mut contents = Contents {
        revision: Revision(revision.map_or(0, |revision| revision.value())),
        ..Contents::default()
    };
    for item in reading.open_table(OBJECTS)?.iter()? {
        let (key, value) = item?;
        let ((kind, name), (revision, value)) = (key.value(), value.value());
        let kind = ObjectKind::from_name(kind).ok_or_else(|| {
            redb::Error::Corrupted(format!("an object of the unknown kind {kind:?}"))
        })?;
        let record = Record {
            revision: Revision(revision),
            value: value.to_vec(),
        };
        contents.records.insert((kind, name.to_owned()), record);
    }
    Ok(contents)
}

/// Durable once it returns: the file is synced. `None`: the file is not at `at`.
fn commit(
    database: &Database,
    at: Revision,
    writes: &[Write],
) -> Result<Option<Revision>, redb::Error> {
    let writing = database.begin_write()?;
    let revision = at.next();
    {
        let mut meta = writing.open_table(META)?;
        let now = meta.get(REVISION)?.map_or(0, |revision| revision.value());
        if now != at.0 {
            return Ok(None);
        }
        meta.insert(REVISION, revision.0)?;
        let mut objects = writing.open_table(OBJECTS)?;
        for Write { key, value } in writes {
            let key = (key.0.as_str(), key.1.as_str());
            match value {
                Some(value) => drop(objects.insert(key, (revision.0, value.as_slice()))?),
                None => drop(objects.remove(key)?),
            }
        }
    }
    writing.commit()?;
    Ok(Some(revision))
}

#[async_trait]
impl Store for FileStore {
    async fn load(&self) -> Result<Contents, StoreError> {
        let database = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || load(&database)).await {
            Ok(Ok(contents)) => Ok(contents),
            Ok(Err(error)) => Err(StoreError(Box::new(error))),
            Err(error) => Err(StoreError(Box::new(error))),
        }
    }

    async fn commit(&self, at: Revision, writes: Vec<Write>) -> Result<Revision, CommitError> {
        let database = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || commit(&database, at, &writes)).await {
            Ok(Ok(Some(revision))) => Ok(revision),
            Ok(Ok(None)) => Err(CommitError::Conflict),
            // A transaction that fails is not there after a restart either, or it is, as a whole.
            Ok(Err(error)) => Err(CommitError::Unknown(Box::new(error))),
            Err(error) => Err(CommitError::Unknown(Box::new(error))),
        }
    }

    async fn changed(&self, _after: Revision) -> Result<(), StoreError> {
        // The file is this process's alone.
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use underpass_directory::{Cluster, Draft, Expect, Labels};

    use super::*;

    fn data() -> (tempfile::TempDir, DataDir) {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        (dir, data)
    }

    fn put(draft: &mut Draft, name: &str) -> Result<(), underpass_directory::ChangeError> {
        let cluster = Cluster {
            created: draft.now(),
            labels: Labels::default(),
            direct: None,
        };
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
        let store = FileStore::open(&data.path(NAME)).unwrap();
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
}
