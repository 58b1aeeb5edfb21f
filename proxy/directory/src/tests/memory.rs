//! The store in memory keeps the contract of stores.

use async_trait::async_trait;

use super::*;
use crate::conformance::Fixture;

#[derive(Default)]
struct Memory(Arc<MemoryStore>);

#[async_trait]
impl Fixture for Memory {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::clone(&self.0) as _
    }

    /// It is gone with its process: the tests' own goes on.
    async fn close(&self) {}

    fn is_shared(&self) -> bool {
        true
    }
}

crate::store_conformance!(Memory::default());
