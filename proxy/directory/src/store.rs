//! Where the directory is kept.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::watch;

use super::object::ObjectKind;
use underpass_core::{BoxError, Revision};

/// The key of an object.
pub type Key = (ObjectKind, String);

/// An object as a store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it was last changed.
    pub revision: Revision,
    /// JSON.
    pub value: Vec<u8>,
}

/// Everything that a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The store's state.
    pub revision: Revision,
    /// Every object.
    pub records: BTreeMap<Key, Record>,
}

/// One object's new value, or its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Which object.
    pub key: Key,
    /// Its value; `None` removes it.
    pub value: Option<Vec<u8>>,
}

/// Keeps a directory's objects. The directory holds all of them in memory and decides from there: a store is asked when
/// the process starts, and when something changes.
#[async_trait]
pub trait Store: Send + Sync {
    /// Reads everything, as of one moment.
    ///
    /// # Errors
    /// It cannot be read.
    async fn load(&self) -> Result<Contents, StoreError>;

    /// Makes all of `writes`, durably, or none of them: only while the store is still as it was at `at`. Gives the
    /// revision after it, which the written objects have then.
    ///
    /// # Errors
    /// Another writer was faster, or it cannot be written. Nothing has changed then; after [`CommitError::Unknown`] perhaps
    /// all.
    ///
    /// # Cancel safety
    /// A future that is dropped leaves behind all of the writes or none.
    async fn commit(&self, at: Revision, writes: Vec<Write>) -> Result<Revision, CommitError>;

    /// The same for writes of which some remove or replace an object, as every revocation does. A store that keeps room back for
    /// revocations gives it to these and to no others.
    ///
    /// # Errors
    /// As [`Store::commit`].
    ///
    /// # Cancel safety
    /// As [`Store::commit`].
    async fn commit_revocation(
        &self,
        at: Revision,
        writes: Vec<Write>,
    ) -> Result<Revision, CommitError> {
        self.commit(at, writes).await
    }

    /// Finds out whether a change could be written now, and recovers from an outage that is over. It is called every few
    /// seconds. A store that cannot tell at a low price leaves it out, and counts as working until its next change fails.
    ///
    /// # Errors
    /// A change could not be written now.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Waits until another writer has changed the store since `after`. A store that one process has for itself waits for ever.
    ///
    /// # Errors
    /// It cannot be watched now; the caller comes again.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    async fn changed(&self, after: Revision) -> Result<(), StoreError>;
}

/// The store does not work.
#[derive(Debug, thiserror::Error)]
#[error("the directory's store does not work")]
pub struct StoreError(#[source] pub BoxError);

/// Nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The store has another revision: read it again.
    #[error("the directory was changed meanwhile")]
    Conflict,
    /// The store does not work; nothing has changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store did not say whether it has written.
    #[error("it is not known whether the directory was changed")]
    Unknown(#[source] BoxError),
}

/// A store in memory: for tests, and for data that need not last.
#[derive(Debug)]
pub struct MemoryStore {
    contents: Mutex<Contents>,
    revision: watch::Sender<Revision>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self {
            contents: Mutex::default(),
            revision: watch::Sender::new(Revision::default()),
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn load(&self) -> Result<Contents, StoreError> {
        Ok(self
            .contents
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }

    async fn commit(&self, at: Revision, writes: Vec<Write>) -> Result<Revision, CommitError> {
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        if contents.revision != at {
            return Err(CommitError::Conflict);
        }
        let revision = at.next();
        contents.revision = revision;
        for Write { key, value } in writes {
            match value {
                Some(value) => contents.records.insert(key, Record { revision, value }),
                None => contents.records.remove(&key),
            };
        }
        self.revision.send_replace(revision);
        Ok(revision)
    }

    async fn changed(&self, after: Revision) -> Result<(), StoreError> {
        let mut revision = self.revision.subscribe();
        match revision.wait_for(|revision| *revision > after).await {
            Ok(_) => Ok(()),
            // The sender lives as long as `self`.
            Err(closed) => Err(StoreError(Box::new(closed))),
        }
    }
}
