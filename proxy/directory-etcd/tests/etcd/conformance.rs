//! The suite of all stores.

use std::sync::Arc;

use async_trait::async_trait;
use underpass_directory::Store;
use underpass_directory::conformance::Fixture;
use underpass_directory_etcd::EtcdConfig;

struct OnEtcd(EtcdConfig);

impl OnEtcd {
    async fn new() -> Self {
        Self(crate::config(crate::shared().await.urls()))
    }
}

#[async_trait]
impl Fixture for OnEtcd {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(crate::open(&self.0).await)
    }

    async fn close(&self) {}

    fn is_shared(&self) -> bool {
        true
    }
}

underpass_directory::store_conformance!(OnEtcd::new().await);
