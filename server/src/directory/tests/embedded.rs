//! The embedded store keeps the contract of stores.

use std::sync::Mutex;

use async_trait::async_trait;
use underpass_directory::conformance::Fixture;

use super::*;

/// A data directory, and its store while a process has it open.
struct Embedded {
    _folder: tempfile::TempDir,
    data: DataDir,
    store: Mutex<Option<Arc<dyn Store>>>,
}

impl Embedded {
    fn new() -> Self {
        let (folder, data) = data();
        Self {
            _folder: folder,
            data,
            store: Mutex::default(),
        }
    }
}

#[async_trait]
impl Fixture for Embedded {
    async fn open(&self) -> Arc<dyn Store> {
        let mut store = self.store.lock().unwrap();
        Arc::clone(store.get_or_insert_with(|| in_file(&self.data).unwrap()))
    }

    async fn close(&self) {
        let store = self.store.lock().unwrap().take();
        // Nothing else has it: it is closed, and its file can be opened again.
        assert_eq!(store.map(|store| Arc::strong_count(&store)), Some(1));
    }

    fn is_shared(&self) -> bool {
        false
    }
}

underpass_directory::store_conformance!(Embedded::new());

/// And the other way round.
#[tokio::test]
async fn rule_12_a_directory_that_went_to_etcd_does_not_begin_anew_from_its_file() {
    let (_folder, data) = data();
    drop(open(&data).await.unwrap());
    data.write(INSTALLATION, "0123\n").unwrap();
    let refused = open(&data).await.err().unwrap();
    assert!(refused.to_string().contains("--etcd"), "{refused}");
    assert!(matches!(
        try_open(&data).await,
        Err(DirectoryError::OnEtcd(_))
    ));
    belongs_to_file(&data).unwrap();
    open(&data).await.unwrap();
}
