//! The CAs of clusters' services that speak TLS: `CLUSTER.pem` in a folder of the operator's, looked at for each use, so that a new
//! file counts at once, and read where it has changed.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::Semaphore;
use underpass_core::files::{self, Stamps};
use underpass_core::{BoxError, ClusterName, limits};
use underpass_gateway::ServiceRoots;
use underpass_https::{Roots, RootsError};

use crate::limits::SERVICE_CA_READINGS;

/// A folder with CAs.
pub(crate) struct RootsFolder {
    folder: PathBuf,
    shared: Arc<Shared>,
    time: Duration,
}

struct Shared {
    /// Those with a file, and those that are being looked at.
    clusters: Mutex<HashMap<ClusterName, Arc<CaFile>>>,
    /// A file that hangs holds one of these threads (security rule 23).
    threads: Arc<Semaphore>,
    /// [`read`]. Blocks.
    read: Reader,
}

type Reader = fn(&Path) -> Result<Option<Roots>, Unreadable>;

/// A cluster's file. It is looked at by one thread at a time.
type CaFile = tokio::sync::Mutex<Option<Look>>;

type Found = Result<Option<Roots>, Arc<Unreadable>>;

/// The last look at a file.
struct Look {
    began: Instant,
    stamps: Stamps,
    found: Found,
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
            shared: Arc::new(Shared {
                clusters: Mutex::default(),
                threads: Arc::new(Semaphore::new(SERVICE_CA_READINGS)),
                read,
            }),
            time: limits::FILE_TIME,
        }
    }
}

#[async_trait]
impl ServiceRoots for RootsFolder {
    async fn roots(&self, cluster: &ClusterName) -> Result<Option<Roots>, BoxError> {
        // A cluster's name is safe in a path.
        let path = self.folder.join(format!("{cluster}.pem"));
        let looking = Use::of(&self.shared, cluster).look(path.clone());
        let found = tokio::time::timeout(self.time, looking).await;
        found.unwrap_or_else(|_late| Err(Unreadable::TooSlow(path).into()))
    }
}

impl Shared {
    fn clusters(&self) -> MutexGuard<'_, HashMap<ClusterName, Arc<CaFile>>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request's use of a cluster's file. The last one forgets a file that is none.
struct Use {
    shared: Arc<Shared>,
    cluster: ClusterName,
    file: Arc<CaFile>,
}

impl Use {
    fn of(shared: &Arc<Shared>, cluster: &ClusterName) -> Self {
        let mut clusters = shared.clusters();
        let file = Arc::clone(clusters.entry(cluster.clone()).or_default());
        Self {
            shared: Arc::clone(shared),
            cluster: cluster.clone(),
            file,
        }
    }

    /// # Cancel safety
    /// A look that has begun goes on, and keeps the file and its thread.
    async fn look(self, path: PathBuf) -> Result<Option<Roots>, BoxError> {
        let came = Instant::now();
        let mut last = Arc::clone(&self.file).lock_owned().await;
        if let Some(look) = last.as_ref().filter(|look| look.began >= came) {
            return Ok(look.found.clone()?);
        }
        let thread = Arc::clone(&self.shared.threads).acquire_owned().await?;
        let looking = tokio::task::spawn_blocking(move || {
            let look = Look::at(&path, last.take(), self.shared.read);
            let found = look.found.clone();
            *last = Some(look);
            drop(last);
            drop((self, thread));
            found
        });
        Ok(looking.await??)
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut clusters = self.shared.clusters();
        let is_last = clusters.get(&self.cluster).is_some_and(|file| {
            Arc::ptr_eq(file, &self.file)
                && file.try_lock().is_ok_and(|last| {
                    let found = last.as_ref().map(|look| &look.found);
                    !matches!(found, Some(Ok(Some(_))))
                })
        });
        if is_last {
            clusters.remove(&self.cluster);
        }
    }
}

impl Look {
    /// Reads the file if it has changed since the last look. Blocks.
    fn at(path: &Path, last: Option<Self>, read: Reader) -> Self {
        let began = Instant::now();
        // Before the content: a file that changes meanwhile is read again.
        let stamps = Stamps::of(vec![path.to_owned()]);
        let same = last.filter(|last| last.stamps == stamps && last.found.is_ok());
        let found = match same {
            Some(last) => last.found,
            None => read(path).map_err(Arc::new),
        };
        Self {
            began,
            stamps,
            found,
        }
    }
}

/// Blocks.
fn read(path: &Path) -> Result<Option<Roots>, Unreadable> {
    let pem = match files::read(path, limits::PEM_FILE_BYTES) {
        Ok(pem) => pem,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            return Err(Unreadable::TooLarge(path.to_owned()));
        }
        Err(error) => return Err(Unreadable::File(path.to_owned(), error)),
    };
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

    /// A file that has not changed is parsed once, however many ask.
    #[tokio::test]
    async fn rule_23_a_file_of_service_cas_is_parsed_once() {
        let folder = tempfile::tempdir().unwrap();
        let roots = RootsFolder::new(folder.path().to_owned());
        let edge = ClusterName::new("edge").unwrap();
        let made = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap();
        fs::write(folder.path().join("edge.pem"), made.cert.pem()).unwrap();
        let of = async || roots.roots(&edge).await.unwrap().unwrap().store();
        let first = of().await;
        let many = futures_util::future::join_all((0..50).map(|_| of())).await;
        assert!(many.iter().all(|store| Arc::ptr_eq(store, &first)));
        // Another one counts at once.
        let next = folder.path().join("next");
        let two = made.cert.pem().repeat(2);
        fs::write(&next, two).unwrap();
        fs::rename(next, folder.path().join("edge.pem")).unwrap();
        assert_eq!(of().await.len(), 2);
        // And nothing is kept of a cluster without one.
        fs::remove_file(folder.path().join("edge.pem")).unwrap();
        assert!(roots.roots(&edge).await.unwrap().is_none());
        assert!(roots.shared.clusters().is_empty());
    }

    fn fifo(path: &Path) {
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    }

    #[tokio::test]
    async fn rule_23_a_pipe_in_the_place_of_service_cas_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.pem");
        fifo(&path);
        let roots = RootsFolder::new(folder.path().to_owned());
        let of = async || roots.roots(&ClusterName::new("edge").unwrap()).await;
        let error = underpass_tunnel::chain(&*of().await.err().unwrap());
        assert!(error.contains("is no regular file"), "{error}");
        fs::remove_file(&path).unwrap();
        assert!(of().await.unwrap().is_none(), "its thread is free");
    }

    /// A pipe that is never written blocks this reader for good, as a file system that hangs does.
    #[tokio::test]
    async fn rule_23_a_file_of_service_cas_that_hangs_holds_one_thread() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("edge.pem");
        fifo(&pipe);
        let mut roots = RootsFolder::new(folder.path().to_owned());
        roots.time = Duration::from_millis(100);
        let hanging: Reader = |path| match path.exists() {
            true => fs::read(path)
                .map(|_| None)
                .map_err(|error| Unreadable::File(path.to_owned(), error)),
            false => Ok(None),
        };
        Arc::get_mut(&mut roots.shared).unwrap().read = hanging;
        let edge = ClusterName::new("edge").unwrap();
        for _ in 0..3 {
            let error = roots.roots(&edge).await.err().unwrap().to_string();
            assert!(error.contains("takes too long"), "{error}");
        }
        let free = || roots.shared.threads.available_permits();
        assert_eq!(free(), SERVICE_CA_READINGS - 1);
        // Nor does it hold up another cluster.
        let other = roots.roots(&ClusterName::new("other").unwrap()).await;
        assert!(other.unwrap().is_none());
        // Lets the thread go.
        fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    }
}
