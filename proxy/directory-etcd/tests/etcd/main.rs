//! The store on real etcd: the suite of all stores, and what only etcd can do to it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests state expectations as tests do; the lints know only functions marked as tests"
)]

mod access;
mod conformance;
mod faults;
mod gate;
mod ours;

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::OnceCell;
use underpass_directory::conformance::soon;
use underpass_directory::{Contents, ObjectKind, Revision, Store, Write};
use underpass_directory_etcd::{EtcdConfig, EtcdStore, Missing};
use underpass_testenv::testing::providers::{EtcdMembers, EtcdSetup};

/// One member for the tests that do it no harm. It ends with the process.
async fn shared() -> &'static EtcdMembers {
    static ETCD: OnceCell<EtcdMembers> = OnceCell::const_new();
    ETCD.get_or_init(|| EtcdMembers::start(EtcdSetup::default()))
        .await
}

async fn three() -> EtcdMembers {
    EtcdMembers::start(EtcdSetup {
        members: 3,
        ..EtcdSetup::default()
    })
    .await
}

/// Below a prefix that no other test has.
fn config(urls: &[String]) -> EtcdConfig {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    EtcdConfig {
        endpoints: urls.iter().map(|url| url.parse().unwrap()).collect(),
        ca: None,
        certificate: None,
        user: None,
        prefix: format!("/test-{number}/").parse().unwrap(),
        installation: None,
    }
}

async fn open(config: &EtcdConfig) -> EtcdStore {
    let opening = EtcdStore::open(config.clone(), Missing::Create);
    soon(opening).await.unwrap()
}

/// The error and its sources.
fn chain(error: &dyn std::error::Error) -> String {
    underpass_testenv::testing::chain(error)
}

async fn load(store: &EtcdStore) -> Contents {
    soon(store.load()).await.unwrap()
}

async fn commit(store: &EtcdStore, at: Revision, writes: Vec<Write>) -> Revision {
    soon(store.commit(at, writes)).await.unwrap()
}

fn user(name: &str) -> Write {
    underpass_directory::conformance::set(ObjectKind::User, name, "{}")
}
