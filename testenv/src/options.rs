//! The parts of a cluster.

use std::time::Duration;

use crate::Assets;

/// The name of a cluster's one node.
pub const NODE_NAME: &str = "node";

/// The parts to start; the default is all of them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClusterOptions {
    /// Run kube-controller-manager: ServiceAccounts, Deployments, Jobs, garbage collection. Without it namespaces get no
    /// default ServiceAccount, so the admission plugin that insists on one is off. On by default.
    pub controller_manager: bool,
    /// Run the kubelet stand-in, which registers [`NODE_NAME`], binds every pod to it and runs it. On by default.
    pub node: bool,
    /// Let the node take WebSocket connections, as nodes of the pinned release do. If false the API server translates
    /// them to SPDY itself, as it does for older nodes. On by default.
    pub node_websockets: bool,
    /// Write an audit log, one line per event at level Metadata; see [`crate::Cluster::audit_log`]. On by default.
    pub audit_log: bool,
    /// The share of requests (0 to 0.02) whose HTTP/2 connection the API server tells to go away. 0 by default.
    pub goaway_chance: f64,
    /// Further arguments of kube-apiserver, such as `--authentication-token-webhook-config-file=…`.
    pub api_server_arguments: Vec<String>,
    /// How long each part may take until it is ready. A minute by default, of which a start usually takes a tenth.
    pub deadline: Duration,
    /// The programs to use; by default [`Assets::ensure`] finds or builds them.
    pub assets: Option<Assets>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            controller_manager: true,
            node: true,
            node_websockets: true,
            audit_log: true,
            goaway_chance: 0.0,
            api_server_arguments: Vec::new(),
            deadline: Duration::from_secs(60),
            assets: None,
        }
    }
}

impl ClusterOptions {
    /// Only etcd and kube-apiserver: the quickest to start, for what needs the API and no pods.
    #[must_use]
    pub fn api_only() -> Self {
        Self {
            controller_manager: false,
            node: false,
            ..Self::default()
        }
    }

    /// Adds arguments to kube-apiserver's command line.
    #[must_use]
    pub fn with_api_server_arguments<I>(mut self, arguments: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.api_server_arguments
            .extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets [`Self::goaway_chance`].
    #[must_use]
    pub fn with_goaway_chance(mut self, chance: f64) -> Self {
        self.goaway_chance = chance;
        self
    }

    /// Sets [`Self::node_websockets`].
    #[must_use]
    pub fn with_node_websockets(mut self, on: bool) -> Self {
        self.node_websockets = on;
        self
    }

    /// Sets [`Self::assets`].
    #[must_use]
    pub fn with_assets(mut self, assets: Assets) -> Self {
        self.assets = Some(assets);
        self
    }
}
