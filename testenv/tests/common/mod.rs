//! The cluster that the tests of a binary share.

use std::sync::LazyLock;

use underpass_testenv::testing::{Client, Wire};
use underpass_testenv::{Cluster, ClusterOptions};

/// Nothing drops it: it ends with the process.
pub(crate) static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    Cluster::start_blocking(ClusterOptions::default()).unwrap_or_else(|e| panic!("{e:?}"))
});

/// The administrator, straight to the API server.
pub(crate) fn admin() -> Client<'static> {
    Client::direct(&CLUSTER, Wire::WebSocket)
}
