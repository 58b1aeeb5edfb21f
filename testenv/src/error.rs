//! Errors, by cause.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why the programs of a cluster could not be found or built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssetsError {
    /// There is no Go toolchain.
    #[error(
        "Kubernetes is built from its Go modules, and there is no `go` in PATH: install Go {needed} or newer \
         (https://go.dev/dl, or the package `golang`), or set UNDERPASS_TESTENV_ASSETS to a folder with etcd, \
         kube-apiserver, kube-controller-manager and kubectl"
    )]
    GoMissing {
        /// The oldest version that will do.
        needed: &'static str,
    },
    /// The Go toolchain is older than the modules require, and may not fetch a newer one by itself.
    #[error(
        "Go {needed} or newer is needed and {found} was found: install it from https://go.dev/dl, or set \
         GOTOOLCHAIN=auto so that Go fetches it"
    )]
    GoTooOld {
        /// The version that `go` prints.
        found: String,
        /// The oldest version that will do.
        needed: &'static str,
    },
    /// Modules have to be downloaded and the module proxy did not answer.
    #[error(
        "the Go module proxy could not be reached (see GOPROXY, and HTTPS_PROXY); Go said:\n{output}"
    )]
    ProxyUnreachable {
        /// The end of Go's output.
        output: String,
    },
    /// The disk that holds the cache, or Go's own, is full.
    #[error(
        "no space left: a cold build needs about 6 GB (the cache is {}, and Go has its own); Go said:\n{output}",
        cache.display()
    )]
    DiskFull {
        /// The cache's folder.
        cache: PathBuf,
        /// The end of Go's output.
        output: String,
    },
    /// Go failed for another reason.
    #[error("`go build` of {what} failed:\n{output}")]
    BuildFailed {
        /// The component.
        what: String,
        /// The end of Go's output.
        output: String,
    },
    /// A folder named by the environment lacks a program.
    #[error("{variable} names {}, which has no {program}", folder.display())]
    NotInFolder {
        /// The environment variable.
        variable: &'static str,
        /// The name in it.
        folder: PathBuf,
        /// The missing program.
        program: &'static str,
    },
    /// Neither `UNDERPASS_CACHE`, `XDG_CACHE_HOME` nor `HOME` says where to keep the built programs.
    #[error("nowhere to keep the built programs: set UNDERPASS_CACHE or HOME")]
    NoCacheFolder,
    /// A file could not be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why a cluster did not start, or did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The programs are not there.
    #[error("the cluster's programs are not available")]
    Assets(#[from] AssetsError),
    /// A part of the cluster ended, or never came up.
    #[error("{name} ended ({status}); the end of its log:\n{log}")]
    ComponentEnded {
        /// The program.
        name: &'static str,
        /// How it ended.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// A part of the cluster runs but did not become ready in time.
    #[error("{name} was not ready after {} s: {last}; the end of its log:\n{log}", waited.as_secs())]
    NotReady {
        /// The condition.
        name: &'static str,
        /// For how long.
        waited: Duration,
        /// The error of the last attempt.
        last: String,
        /// The end of the log of the part that is responsible.
        log: String,
    },
    /// The process that owns the cluster's processes is gone.
    #[error("the cluster's supervisor is gone")]
    SupervisorGone,
    /// No certificate could be issued.
    #[error("a certificate could not be issued")]
    Certificate(#[from] rcgen::Error),
    /// kubectl, with which the cluster is set up, failed.
    #[error("the cluster could not be asked")]
    Kubectl(#[from] KubectlError),
    /// A file or a process could not be created.
    #[error("{what}")]
    Io {
        /// The attempt.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl ClusterError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Why a kubectl command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KubectlError {
    /// It ran and failed.
    #[error("kubectl {arguments}: {stderr}")]
    Failed {
        /// The arguments.
        arguments: String,
        /// Its standard error.
        stderr: String,
    },
    /// It could not be run.
    #[error("kubectl could not be run")]
    Io(#[from] io::Error),
}
