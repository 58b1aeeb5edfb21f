//! A store without room.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;

use super::*;

/// Writes nothing, and counts how often it is read.
#[derive(Default)]
struct Full {
    store: MemoryStore,
    loads: AtomicUsize,
}

#[async_trait]
impl Store for Full {
    async fn load(&self) -> Result<Contents, StoreError> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        self.store.load().await
    }

    async fn commit(&self, _: Revision, _: Vec<Write>) -> Result<Revision, CommitError> {
        Err(StoreError("no space is left".into()).into())
    }

    async fn changed(&self, after: Revision) -> Result<(), StoreError> {
        self.store.changed(after).await
    }
}

/// Revocations would wait for each reading.
#[tokio::test]
async fn rule_12_changes_that_find_no_room_do_not_read_the_directory_again() {
    let store = Arc::new(Full::default());
    let directory = Directory::open(store.clone()).await.unwrap();
    let before = store.loads.load(Ordering::Relaxed);
    for number in 0..100 {
        let put = |draft: &mut Draft| {
            let user = User::new(draft.now());
            draft.put(&format!("user-{number}"), user, Expect::Absent)
        };
        let refused = directory.change(put).await;
        assert!(matches!(refused, Err(ChangeError::Store(_))));
    }
    assert_eq!(store.loads.load(Ordering::Relaxed), before);
    assert!(!directory.is_writable());
}
