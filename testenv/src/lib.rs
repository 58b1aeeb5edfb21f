//! Real Kubernetes control planes for tests, benchmarks and the demo.
//!
//! A [`Cluster`] is a real etcd, kube-apiserver and kube-controller-manager of one pinned release, with kubectl to match,
//! and a stand-in for a node's kubelet that runs pods as local processes. It needs neither root nor containers, listens
//! on loopback only, and leaves nothing behind, however the process that started it ends.
//!
//! [`scenarios`] are what users do with kubectl, as tests that run on any way to a cluster; [`testing`] is what they
//! are made of.
//!
//! The programs are built from their Go modules once and cached outside the checkout; see [`Assets`].
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use underpass_testenv::{Cluster, ClusterOptions};
//!
//! let cluster = Cluster::start_blocking(ClusterOptions::default())?;
//! let alice = cluster.kubeconfig_for("alice", &["developers"])?;
//! let answer = cluster.kubectl_with(&alice).args(["auth", "whoami"]).output()?;
//! assert!(answer.status.success());
//! # Ok(())
//! # }
//! ```

mod agent;
mod assets;
mod build;
mod certs;
mod cluster;
mod components;
mod error;
mod kubeconfig;
mod kubectl;
mod options;
mod ports;
mod recipe;
pub mod scenarios;
mod supervisor;
pub mod testing;
mod underpass;

pub use assets::{Assets, progress_to_stderr};
pub use cluster::Cluster;
pub use error::{AssetsError, ClusterError, KubectlError};
pub use options::{ClusterOptions, NODE_NAME};
pub use recipe::KUBERNETES_VERSION;
pub use underpass::{CLUSTER_NAME, Programs, Transport, Underpass};
