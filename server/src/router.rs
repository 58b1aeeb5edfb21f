//! How clusters are reached: from here, or through the tunnel.

use std::sync::Arc;

use async_trait::async_trait;
use underpass_core::{BoxedIo, ClusterName, NodeName};
use underpass_core::{Clusters, ConnectError, Open};
use underpass_direct::DirectClusters;
use underpass_directory::Directory;

use crate::tunnel::Tunnel;

/// Every cluster of the directory.
struct ClusterRouter {
    directory: Arc<Directory>,
    direct: Arc<DirectClusters>,
    tunnel: Tunnel,
}

/// The ways to the clusters, by the trust that an answer needs.
pub(crate) struct Ways {
    /// Calls of users: every way.
    pub(crate) calls: Arc<dyn Clusters>,
    /// Reviews of impersonation. The answers are for calls that go the same way.
    pub(crate) reviews: Arc<dyn Clusters>,
    /// Authenticators: through agents of clusters, and to direct clusters. A node's administrator could invent users, for whom rights in
    /// other clusters count. So could the agent that has registered a credential, since it names the address.
    pub(crate) vouching: Arc<dyn Clusters>,
    /// Pods that join. Through agents alone, for the same reasons; a direct cluster has none.
    pub(crate) joining: Arc<dyn Clusters>,
}

impl Ways {
    pub(crate) fn new(
        directory: &Arc<Directory>,
        direct: &Arc<DirectClusters>,
        tunnel: &Tunnel,
    ) -> Self {
        let through = |tunnel: Tunnel| -> Arc<dyn Clusters> {
            Arc::new(ClusterRouter {
                directory: Arc::clone(directory),
                direct: Arc::clone(direct),
                tunnel,
            })
        };
        Self {
            calls: through(tunnel.clone()),
            reviews: through(tunnel.without_nodes()),
            vouching: through(tunnel.agents_alone()),
            joining: Arc::new(tunnel.agents_alone()),
        }
    }
}

#[async_trait]
impl Clusters for ClusterRouter {
    async fn connect(&self, cluster: &ClusterName, open: &Open) -> Result<BoxedIo, ConnectError> {
        // Direct clusters have no agents, and never wait for one.
        match self.direct.connect(&self.directory, cluster, open).await {
            Some(connected) => connected,
            None => self.tunnel.connect(cluster, open).await,
        }
    }

    fn has_another_way(&self, cluster: &ClusterName) -> bool {
        self.tunnel.has_another_way(cluster)
    }

    async fn connect_node(
        &self,
        cluster: &ClusterName,
        node: &NodeName,
        open: &Open,
    ) -> Result<BoxedIo, ConnectError> {
        // The nodes of a direct cluster may have agents, though it has none.
        self.tunnel.connect_node(cluster, node, open).await
    }
}
