//! How clusters are reached: from here, or through the tunnel.

use std::sync::Arc;

use async_trait::async_trait;
use underpass_core::{BoxedIo, ClusterName, NodeName};
use underpass_core::{Clusters, ConnectError, Open};
use underpass_direct::DirectClusters;
use underpass_directory::Directory;

use crate::tunnel::Tunnel;

/// Every cluster of the directory.
pub(crate) struct ClusterRouter {
    pub(crate) directory: Arc<Directory>,
    pub(crate) direct: Arc<DirectClusters>,
    pub(crate) tunnel: Tunnel,
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
