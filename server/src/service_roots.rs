//! The CAs of clusters' services that speak TLS: `CLUSTER.pem` in a folder of the operator's, read at each use, so that a new file
//! counts at once.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;
use underpass_core::{BoxError, ClusterName, limits};
use underpass_gateway::ServiceRoots;
use underpass_https::{Roots, RootsError};

/// A folder with CAs.
pub(crate) struct RootsFolder {
    folder: PathBuf,
    /// A file that hangs holds one thread (security rule 23).
    reading: Arc<Semaphore>,
    time: Duration,
}

/// Why a cluster's CAs cannot be read.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("cannot read {0:?}")]
    File(PathBuf, #[source] io::Error),
    #[error("{0:?} is larger than the certificates of any CAs")]
    TooLarge(PathBuf),
    #[error("cannot use {0:?}")]
    Roots(PathBuf, #[source] RootsError),
    #[error("reading {0:?} takes too long")]
    TooSlow(PathBuf),
}

impl RootsFolder {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            reading: Arc::new(Semaphore::new(1)),
            time: limits::FILE_TIME,
        }
    }
}

#[async_trait]
impl ServiceRoots for RootsFolder {
    async fn roots(&self, cluster: &ClusterName) -> Result<Option<Roots>, BoxError> {
        // A cluster's name is safe in a path.
        let path = self.folder.join(format!("{cluster}.pem"));
        let (reading, file) = (Arc::clone(&self.reading), path.clone());
        let read = async move {
            let place = reading.acquire_owned().await?;
            let reading = tokio::task::spawn_blocking(move || {
                let read = read(&file);
                drop(place);
                read
            });
            reading.await?.map_err(BoxError::from)
        };
        let read = tokio::time::timeout(self.time, read).await;
        read.unwrap_or_else(|_late| Err(Unreadable::TooSlow(path).into()))
    }
}

/// Blocks.
fn read(path: &Path) -> Result<Option<Roots>, Unreadable> {
    let unreadable = |error| Unreadable::File(path.to_owned(), error);
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(unreadable)?,
    };
    let mut pem = Vec::new();
    let most = limits::PEM_FILE_BYTES;
    let read = file.take(most.saturating_add(1)).read_to_end(&mut pem);
    let read = read.map_err(unreadable)?;
    if u64::try_from(read).is_ok_and(|read| read > most) {
        return Err(Unreadable::TooLarge(path.to_owned()));
    }
    let roots = Roots::from_pem(&pem).map_err(|error| Unreadable::Roots(path.to_owned(), error))?;
    Ok(Some(roots))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn rule_10_a_clusters_cas_are_those_of_its_own_file() {
        let folder = tempfile::tempdir().unwrap();
        let roots = RootsFolder::new(folder.path().to_owned());
        let of = async |cluster: &str| roots.roots(&ClusterName::new(cluster).unwrap()).await;
        assert!(of("edge").await.unwrap().is_none());
        let made = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap();
        fs::write(folder.path().join("edge.pem"), made.cert.pem()).unwrap();
        let found = of("edge").await.unwrap().unwrap();
        assert_eq!(found.store().len(), 1);
        assert!(of("other").await.unwrap().is_none());
        // A file that cannot be used is no file without CAs.
        for text in [
            "",
            "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n",
        ] {
            fs::write(folder.path().join("edge.pem"), text).unwrap();
            assert!(of("edge").await.is_err(), "{text:?}");
        }
        let large = usize::try_from(limits::PEM_FILE_BYTES).unwrap() + 1;
        fs::write(folder.path().join("edge.pem"), vec![b'#'; large]).unwrap();
        let error = of("edge").await.err().unwrap().to_string();
        assert!(error.contains("is larger than"), "{error}");
    }

    /// A pipe that is never written blocks its reader for good.
    #[tokio::test]
    async fn rule_23_a_file_of_service_cas_that_hangs_holds_one_thread() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("edge.pem");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let roots = RootsFolder {
            time: Duration::from_millis(100),
            ..RootsFolder::new(folder.path().to_owned())
        };
        let edge = ClusterName::new("edge").unwrap();
        for _ in 0..3 {
            let error = roots.roots(&edge).await.err().unwrap().to_string();
            assert!(error.contains("takes too long"), "{error}");
        }
        assert_eq!(roots.reading.available_permits(), 0);
        // Lets the thread go.
        fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    }
}
