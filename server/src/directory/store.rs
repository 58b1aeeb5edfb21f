//! The directory's store in one file.
//!
//! A database that has seen an error of its disk does nothing any more: it is closed then, and opened again for the next
//! question.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use redb::Database;
use thiserror::Error;
use underpass_core::BoxError;
use underpass_directory::{CommitError, Contents, Revision, Store, StoreError, Write};

use super::DirectoryError;
use super::disk::Disk;
use super::tables::{self, THIS_FORMAT};

/// The file. While it is open no other process can open it, so that nobody else changes it.
pub(super) struct FileStore(Arc<Inner>);

struct Inner {
    disk: Box<dyn Disk>,
    state: Mutex<State>,
}

struct State {
    /// Open, unless the last question to it failed.
    database: Option<Database>,
    /// The last revision that was read or written here.
    known: Revision,
    /// Nothing was written since a question failed.
    broken: bool,
}

/// Why the file is of no use now.
#[derive(Debug, Error)]
enum Failure {
    #[error(transparent)]
    Open(DirectoryError),
    #[error(
        "{} is at revision {found}, and this server was at {known}: another file is in its place. Put the right one back, \
         or restart the server if this is meant", path.display()
    )]
    Another {
        path: PathBuf,
        found: u64,
        known: u64,
    },
    #[error("{} cannot be read or written", .0.display())]
    Disk(PathBuf, #[source] Box<redb::Error>),
    #[error(
        "the disk of {} has no room but the part that is kept for revocations: free some room", .0.display()
    )]
    Full(PathBuf, #[source] io::Error),
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        Self(Box::new(failure))
    }
}

/// Whether writes may take the room that is kept for revocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Ordinary,
    Kept,
}

impl FileStore {
    /// Opens the file, and makes it where there is none.
    pub(super) fn open(disk: impl Disk + 'static) -> Result<Self, DirectoryError> {
        let database = open(&disk, true)?;
        let known = tables::revision(&database);
        let known = known.map_err(|error| DirectoryError::damaged(disk.path(), error))?;
        Ok(Self(Arc::new(Inner {
            disk: Box::new(disk),
            state: Mutex::new(State {
                database: Some(database),
                known,
                broken: false,
            }),
        })))
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Inner) -> T + Send + 'static,
    ) -> Result<T, BoxError> {
        let inner = Arc::clone(&self.0);
        let asked = tokio::task::spawn_blocking(move || question(&inner)).await;
        asked.map_err(Into::into)
    }

    async fn write(
        &self,
        at: Revision,
        writes: Vec<Write>,
        room: Room,
    ) -> Result<Revision, CommitError> {
        let asked = self.ask(move |inner| inner.commit(at, &writes, room));
        asked
            .await
            .unwrap_or_else(|panic| Err(CommitError::Unknown(panic)))
    }
}

/// Opens the database of a format that this version knows.
fn open(disk: &dyn Disk, create: bool) -> Result<Database, DirectoryError> {
    let database = disk.open(create)?;
    let format = tables::format(&database);
    let format = format.map_err(|error| DirectoryError::damaged(disk.path(), error))?;
    if format == THIS_FORMAT {
        return Ok(database);
    }
    Err(DirectoryError::Format {
        path: disk.path().to_owned(),
        found: format,
    })
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| {
            self.state.clear_poison();
            let mut state = PoisonError::into_inner(poisoned);
            // A panic may have left it in the middle of something.
            state.database = None;
            state.broken = true;
            state
        })
    }

    /// Asks the database, which is opened again first where it was closed.
    fn with<T>(
        &self,
        state: &mut State,
        question: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, Failure> {
        let database = match state.database.take() {
            Some(database) => database,
            None => self.reopen(state.known)?,
        };
        match question(&database) {
            Ok(answer) => {
                state.database = Some(database);
                Ok(answer)
            }
            Err(error) => {
                state.broken = true;
                Err(self.failed(error))
            }
        }
    }

    /// Opens the file again. It must be the one that it was, or hold one more change, of which it was not known whether it had
    /// happened: an older file would bring revoked rights back.
    fn reopen(&self, known: Revision) -> Result<Database, Failure> {
        let database = open(&*self.disk, false).map_err(Failure::Open)?;
        let found = tables::revision(&database).map_err(|error| self.failed(error))?;
        if found == known || found == known.next() {
            return Ok(database);
        }
        Err(Failure::Another {
            path: self.disk.path().to_owned(),
            found: found.0,
            known: known.0,
        })
    }

    fn failed(&self, error: redb::Error) -> Failure {
        Failure::Disk(self.disk.path().to_owned(), Box::new(error))
    }

    fn room(&self) -> Result<(), Failure> {
        let kept = self.disk.keep_room();
        kept.map_err(|error| Failure::Full(self.disk.path().to_owned(), error))
    }

    fn load(&self) -> Result<Contents, Failure> {
        let mut state = self.state();
        let contents = self.with(&mut state, tables::load)?;
        state.known = contents.revision;
        Ok(contents)
    }

    fn commit(&self, at: Revision, writes: &[Write], room: Room) -> Result<Revision, CommitError> {
        let mut state = self.state();
        // Revocations go on in the room that there is.
        if let Err(full) = self.room()
            && room == Room::Ordinary
        {
            return Err(CommitError::Store(full.into()));
        }
        let was_open = state.database.is_some();
        match self.with(&mut state, |database| tables::commit(database, at, writes)) {
            Ok(Some(revision)) => {
                state.known = revision;
                state.broken = false;
                Ok(revision)
            }
            Ok(None) => Err(CommitError::Conflict),
            Err(error @ (Failure::Open(_) | Failure::Another { .. })) if !was_open => {
                Err(CommitError::Store(error.into()))
            }
            // A transaction that fails is not there afterwards, or it is, as a whole.
            Err(error) => match self.with(&mut state, tables::revision) {
                Ok(found) if found == at => Err(CommitError::Store(error.into())),
                _ => Err(CommitError::Unknown(Box::new(error))),
            },
        }
    }

    fn check(&self) -> Result<(), Failure> {
        let mut state = self.state();
        if state.broken {
            self.with(&mut state, tables::write_format)?;
            state.broken = false;
        }
        self.room()
    }
}

#[async_trait]
impl Store for FileStore {
    async fn load(&self) -> Result<Contents, StoreError> {
        let loaded = self.ask(Inner::load).await.map_err(StoreError)?;
        Ok(loaded?)
    }

    async fn commit(&self, at: Revision, writes: Vec<Write>) -> Result<Revision, CommitError> {
        self.write(at, writes, Room::Ordinary).await
    }

    async fn commit_revocation(
        &self,
        at: Revision,
        writes: Vec<Write>,
    ) -> Result<Revision, CommitError> {
        self.write(at, writes, Room::Kept).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        let checked = self.ask(Inner::check).await.map_err(StoreError)?;
        Ok(checked?)
    }

    async fn changed(&self, _after: Revision) -> Result<(), StoreError> {
        // The file is this process's alone.
        std::future::pending().await
    }
}
