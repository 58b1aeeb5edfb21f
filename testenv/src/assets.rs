//! The programs that a cluster consists of.

mod fetch;
mod releases;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::build::Cache;
use crate::{AssetsError, recipe};

/// The variables that name a folder of ready-made programs, the first one found wins. The second is what the
/// Kubernetes controller libraries' own test environment reads.
const FOLDERS: [&str; 2] = ["UNDERPASS_TESTENV_ASSETS", "KUBEBUILDER_ASSETS"];

const ETCD: &str = "etcd";
const KUBE_APISERVER: &str = "kube-apiserver";
const KUBE_CONTROLLER_MANAGER: &str = "kube-controller-manager";
const KUBECTL: &str = "kubectl";

/// The programs that a [`crate::Cluster`] runs.
#[derive(Debug, Clone)]
pub struct Assets {
    etcd: PathBuf,
    kube_apiserver: PathBuf,
    kube_controller_manager: PathBuf,
    kubectl: PathBuf,
    node: PathBuf,
    supervise: PathBuf,
}

impl Assets {
    /// Finds the programs, or builds those that are not there.
    ///
    /// etcd and Kubernetes come from the folder that `UNDERPASS_TESTENV_ASSETS` (or `KUBEBUILDER_ASSETS`) names, else
    /// from the cache; the kubelet stand-in and the supervisor are always this checkout's. The cache is
    /// `UNDERPASS_CACHE`, else `underpass/testenv` in `XDG_CACHE_HOME` or `~/.cache`. Its programs are found by a hash of
    /// everything that they were built from, so another version, Go release or source never meets a stale program. Two
    /// processes that need the same build share one.
    ///
    /// Where `assets/sha256sums` pins a release's programs, those that are not there are downloaded from its own site, and
    /// built from its Go modules if that fails.
    ///
    /// `progress` gets a line every few seconds for everything that takes a while. The call blocks: an instant if
    /// everything is there, seven minutes on two cores if everything is built.
    ///
    /// # Errors
    /// Go is missing or too old (the stand-in and the supervisor are always built), modules cannot be downloaded, the disk is full, or a build fails otherwise.
    pub fn ensure(mut progress: impl FnMut(&str)) -> Result<Self, AssetsError> {
        let cache = Cache::open()?;
        let progress: &mut dyn FnMut(&str) = &mut progress;
        let (etcd, kubernetes) = match folder()? {
            Some(folder) => (folder.clone(), folder),
            None => (
                fetch::ensure(&cache, &recipe::ETCD, &releases::ETCD, progress)?,
                fetch::ensure(&cache, &recipe::KUBERNETES, &releases::KUBERNETES, progress)?,
            ),
        };
        Ok(Self {
            etcd: etcd.join(ETCD),
            kube_apiserver: kubernetes.join(KUBE_APISERVER),
            kube_controller_manager: kubernetes.join(KUBE_CONTROLLER_MANAGER),
            kubectl: kubernetes.join(KUBECTL),
            node: cache.ensure(&recipe::NODE, progress)?.join("kubelet"),
            supervise: cache
                .ensure(&recipe::SUPERVISE, progress)?
                .join("supervise"),
        })
    }

    /// The folder with etcdctl and etcdutl of etcd's release, built from its Go modules where they are not there. Blocks.
    ///
    /// # Errors
    /// As [`Self::ensure`].
    pub fn etcd_tools(mut progress: impl FnMut(&str)) -> Result<PathBuf, AssetsError> {
        Cache::open()?.ensure(&recipe::ETCD_TOOLS, &mut progress)
    }

    /// etcd.
    #[must_use]
    pub fn etcd(&self) -> &Path {
        &self.etcd
    }

    /// kube-apiserver.
    #[must_use]
    pub fn kube_apiserver(&self) -> &Path {
        &self.kube_apiserver
    }

    /// kube-controller-manager.
    #[must_use]
    pub fn kube_controller_manager(&self) -> &Path {
        &self.kube_controller_manager
    }

    /// kubectl.
    #[must_use]
    pub fn kubectl(&self) -> &Path {
        &self.kubectl
    }

    pub(crate) fn node(&self) -> &Path {
        &self.node
    }

    pub(crate) fn supervise(&self) -> &Path {
        &self.supervise
    }
}

/// The folder of ready-made programs, if the environment names one.
fn folder() -> Result<Option<PathBuf>, AssetsError> {
    let Some((variable, folder)) = FOLDERS.iter().find_map(|variable| {
        let folder = std::env::var_os(variable).filter(|value| !value.is_empty())?;
        Some((*variable, PathBuf::from(folder)))
    }) else {
        return Ok(None);
    };
    // Processes run in folders of their own, where a relative path would mean something else.
    let folder = std::path::absolute(&folder).map_err(|source| AssetsError::Io {
        path: folder,
        source,
    })?;
    for program in [ETCD, KUBE_APISERVER, KUBE_CONTROLLER_MANAGER, KUBECTL] {
        if !folder.join(program).is_file() {
            return Err(AssetsError::NotInFolder {
                variable,
                folder,
                program,
            });
        }
    }
    Ok(Some(folder))
}

/// Progress for people: a line on standard error.
pub fn progress_to_stderr(line: &str) {
    // Nobody is left to tell if this fails.
    let _ = writeln!(std::io::stderr(), "testenv: {line}");
}
