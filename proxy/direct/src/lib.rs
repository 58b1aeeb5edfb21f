//! Clusters whose API server this server reaches itself ([`Direct`]).
//!
//! Such a cluster is the agent's half of the proxy in the server's own process: the same cleaning, the same policy, the
//! same pools. Between the halves is a stream in memory instead of one through a tunnel.
//!
//! [`RegisteredClusters`] do the same with a credential that a cluster's agent has registered, while no agent serves.

mod addresses;
mod config;
mod plugins;
mod registered;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

pub use self::{
    addresses::RegisteredPlaces,
    plugins::{KNOWN_VARIABLES, PluginError, Plugins},
    registered::RegisteredClusters,
};
use underpass_core::{BoxedIo, ClusterName, ConnectError, Open, Target, memory_stream};
use underpass_directory::{
    Cluster, Credential, Direct, Directory, OpenCredentialError, seal::Keyring,
};
use underpass_upstream::{ApiServer, ApiServerError, ApiServerOptions, CheckError};

/// Why a cluster of the directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnusableError {
    /// Its credential does not open.
    #[error(transparent)]
    Credential(#[from] OpenCredentialError),
    /// Its plugin may not be run, or not with its variables.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The directory's part of it was written by hand, or by another version.
    #[error("the cluster's endpoint cannot be used")]
    Endpoint,
    /// TLS cannot be set up.
    #[error(transparent)]
    ApiServer(#[from] ApiServerError),
}

/// Why a cluster's API server is not there for us.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReachError {
    /// It cannot be asked.
    #[error(transparent)]
    Unusable(UnusableError),
    /// It has been asked.
    #[error(transparent)]
    Check(CheckError),
}

/// The clusters that are reached from here.
#[derive(Debug)]
pub struct DirectClusters {
    keys: Arc<Keyring>,
    plugins: Plugins,
    reached: Mutex<HashMap<ClusterName, Arc<Reached>>>,
}

/// A cluster as long as nothing about the way to it changes.
#[derive(Debug)]
struct Reached {
    direct: Direct,
    /// Made when it is first needed.
    server: OnceCell<Arc<ApiServer>>,
    over: CancellationToken,
}

impl Reached {
    /// Streams that depend on it end (rule 12).
    fn end(&self) {
        self.over.cancel();
    }
}

/// Carries the exchange of a stream to the API server, until its end or until the way to the cluster is over.
fn serve(server: Arc<ApiServer>, open: &Open, over: CancellationToken) -> BoxedIo {
    let (front, io) = memory_stream();
    let identity = open.identity.clone();
    let serving = async move {
        // Dropping the stream resets it.
        let served = tokio::select! {
            // First: the way may have changed while the credential was opened (rule 25).
            biased;
            () = over.cancelled() => return tracing::debug!("the way to the cluster was changed"),
            served = server.serve_stream(io, &identity) => served,
        };
        if let Err(error) = served {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "stream ended early"
            );
        }
    };
    tokio::spawn(serving.in_current_span());
    Box::new(front)
}

impl DirectClusters {
    /// Opens credentials with `keys`, and runs `plugins`.
    pub fn new(keys: Arc<Keyring>, plugins: Plugins) -> Self {
        Self {
            keys,
            plugins,
            reached: Mutex::default(),
        }
    }

    /// The keys that credentials are sealed with.
    pub fn keys(&self) -> &Arc<Keyring> {
        &self.keys
    }

    /// The programs that may be run.
    pub fn plugins(&self) -> &Plugins {
        &self.plugins
    }

    /// Opens a stream to the cluster's API server; `None` where the cluster is not reached directly.
    ///
    /// # Errors
    /// The directory's settings are unusable. An API server that cannot be reached is an answer on the stream.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub async fn connect(
        &self,
        directory: &Directory,
        cluster: &ClusterName,
        open: &Open,
    ) -> Option<Result<BoxedIo, ConnectError>> {
        let reached = self.reached(directory, cluster)?;
        // There is no agent: this server has nothing to do in the cluster's network.
        if open.target != Target::KubeApi {
            return Some(Err(ConnectError::NoTarget(open.target.clone())));
        }
        let server = match self.server(cluster, &reached).await {
            Ok(server) => server,
            Err(error) => return Some(Err(ConnectError::Unusable(Box::new(error)))),
        };
        Some(Ok(serve(server, open, reached.over.clone())))
    }

    /// Asks the cluster's API server for its version, within
    /// [`limits::API_SERVER_CHECK_TIMEOUT`](underpass_core::limits::API_SERVER_CHECK_TIMEOUT) and a plugin's run; `None` where the
    /// cluster is not reached directly.
    ///
    /// # Errors
    /// The reason that it was not reached.
    pub async fn check(
        &self,
        directory: &Directory,
        cluster: &ClusterName,
    ) -> Option<Result<String, ReachError>> {
        let reached = self.reached(directory, cluster)?;
        Some(match self.server(cluster, &reached).await {
            Ok(server) => server.check().await.map_err(ReachError::Check),
            Err(error) => Err(ReachError::Unusable(error)),
        })
    }

    /// Ends streams whose way to their cluster has changed, for as long as the process runs.
    pub async fn enforce(self: Arc<Self>, directory: Arc<Directory>) {
        let mut changes = directory.changes();
        // Clusters that were reached before this task listened.
        changes.mark_changed();
        while changes.changed().await.is_ok() {
            let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
            let snapshot = directory.snapshot();
            reached.retain(|name, reached| {
                let now = snapshot.get::<Cluster>(name.as_str());
                let same =
                    now.is_some_and(|now| now.object.direct.as_ref() == Some(&reached.direct));
                if !same {
                    reached.end();
                }
                same
            });
        }
    }

    fn reached(&self, directory: &Directory, cluster: &ClusterName) -> Option<Arc<Reached>> {
        let mut all = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock: `enforce` takes it after a later change, and finds the entry made here.
        let snapshot = directory.snapshot();
        let direct = snapshot.get::<Cluster>(cluster.as_str())?;
        let direct = direct.object.direct.as_ref()?;
        if let Some(reached) = all.get(cluster) {
            if reached.direct == *direct {
                return Some(Arc::clone(reached));
            }
            reached.end();
        }
        let reached = Arc::new(Reached {
            direct: direct.clone(),
            server: OnceCell::new(),
            over: CancellationToken::new(),
        });
        all.insert(cluster.clone(), Arc::clone(&reached));
        Some(reached)
    }

    async fn server(
        &self,
        cluster: &ClusterName,
        reached: &Reached,
    ) -> Result<Arc<ApiServer>, UnusableError> {
        let making = || self.make(cluster, &reached.direct);
        reached.server.get_or_try_init(making).await.map(Arc::clone)
    }

    async fn make(
        &self,
        cluster: &ClusterName,
        direct: &Direct,
    ) -> Result<Arc<ApiServer>, UnusableError> {
        let credential = direct.open(cluster, &self.keys)?;
        let config = config::of(&direct.endpoint, &credential)?;
        let plugin = match credential {
            Credential::Exec(exec) => {
                self.plugins.check(&exec)?;
                Some(exec)
            }
            _ => None,
        };
        let options = ApiServerOptions {
            policy: direct.policy.impersonation(),
            ..ApiServerOptions::default()
        };
        let server = ApiServer::with_plugin(config, options, plugin).await?;
        Ok(Arc::new(server))
    }
}
