//! The directory on etcd, of which a data directory remembers that it is there.
//!
//! A data directory whose directory was moved to etcd must not begin anew from the file that it has left behind, nor the other way
//! round: everything that was revoked meanwhile would be back. So the file `installation` says that the directory is on etcd, and whose it is.

use std::fs::{File, TryLockError};

use async_trait::async_trait;
use underpass_directory::{CommitError, Contents, Revision, Store, StoreError, Write};
use underpass_directory_etcd::{EtcdConfig, EtcdError, EtcdStore, Missing};

use super::{DirectoryError, NAME};
use crate::data_dir::DataDir;

/// The file with the installation's number.
pub(super) const INSTALLATION: &str = "installation";

/// The lock that one server holds on its data directory, as it holds the embedded store's file.
const LOCK: &str = "server.lock";

/// The store of one server's data directory.
struct OfServer {
    store: EtcdStore,
    /// Unlocked with its end.
    _alone: File,
}

/// The directory of this data directory's server, which no other process has meanwhile.
pub(crate) async fn store(
    data: &DataDir,
    config: &EtcdConfig,
) -> Result<impl Store + use<>, DirectoryError> {
    let alone = data.open_lock(LOCK)?;
    match alone.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(DirectoryError::InUse(data.path(LOCK))),
        Err(TryLockError::Error(error)) => return Err(DirectoryError::Io(data.path(LOCK), error)),
    }
    // A directory in a file was meant to be moved.
    let has_own = data.path(NAME).is_file();
    let missing = if has_own {
        Missing::Refuse
    } else {
        Missing::Create
    };
    let opened = open(data, config, missing).await;
    let store = opened.map_err(|error| match error {
        DirectoryError::Etcd(EtcdError::NoDirectory { .. }) if has_own => {
            DirectoryError::NotMoved(data.path(NAME))
        }
        error => error,
    })?;
    Ok(OfServer {
        store,
        _alone: alone,
    })
}

/// The directory on etcd, which has to be that of the data directory's installation, where it has one. From now on it has.
pub(crate) async fn open(
    data: &DataDir,
    config: &EtcdConfig,
    missing: Missing,
) -> Result<EtcdStore, DirectoryError> {
    let known = data.read(INSTALLATION)?;
    let config = EtcdConfig {
        installation: known.as_deref().map(|known| known.trim().to_owned()),
        ..config.clone()
    };
    let store = EtcdStore::open(config, missing).await;
    let store = store.map_err(DirectoryError::Etcd)?;
    data.write(INSTALLATION, &format!("{}\n", store.installation()))?;
    Ok(store)
}

#[async_trait]
impl Store for OfServer {
    async fn load(&self) -> Result<Contents, StoreError> {
        self.store.load().await
    }

    async fn commit(&self, at: Revision, writes: Vec<Write>) -> Result<Revision, CommitError> {
        self.store.commit(at, writes).await
    }

    async fn commit_revocation(
        &self,
        at: Revision,
        writes: Vec<Write>,
    ) -> Result<Revision, CommitError> {
        self.store.commit_revocation(at, writes).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.store.check().await
    }

    async fn changed(&self, after: Revision) -> Result<(), StoreError> {
        self.store.changed(after).await
    }
}
