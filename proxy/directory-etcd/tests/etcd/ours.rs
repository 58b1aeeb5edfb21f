//! Prefixes that hold another directory than this server's.

use underpass_directory::Store as _;
use underpass_directory::conformance::{end, soon};
use underpass_directory_etcd::{EtcdError, EtcdStore, Missing};

use super::*;

async fn refused(config: &EtcdConfig, missing: Missing) -> EtcdError {
    let opening = EtcdStore::open(config.clone(), missing);
    soon(opening).await.unwrap_err()
}

#[tokio::test]
async fn keys_of_something_else_are_left_alone() {
    let etcd = shared().await;
    let config = config(etcd.urls());
    let key = format!("{}something", config.prefix);
    etcd.ctl(&["put", &key, "else"]);
    let error = refused(&config, Missing::Create).await;
    assert!(matches!(error, EtcdError::NotOurs { .. }), "{error}");
    assert!(error.to_string().contains(&key), "{error}");
    etcd.ctl(&["del", &key]);
    open(&config).await;
    // A mark that others have made.
    let key = format!("{}format", config.prefix);
    for mark in [
        r#"{"product":"other","format":1,"installation":"x"}"#,
        r#"{"product":"underpass","format":99,"installation":"x"}"#,
        "7",
    ] {
        etcd.ctl(&["put", &key, mark]);
        refused(&config, Missing::Create).await;
    }
}

#[tokio::test]
async fn the_directory_of_another_installation_is_refused() {
    let etcd = shared().await;
    let mut ours = config(etcd.urls());
    let store = open(&ours).await;
    assert!(store.is_new());
    ours.installation = Some(store.installation().to_owned());
    assert!(!open(&ours).await.is_new());
    let theirs = EtcdConfig {
        installation: Some("another".to_owned()),
        ..ours.clone()
    };
    let error = refused(&theirs, Missing::Create).await;
    assert!(
        matches!(error, EtcdError::AnotherInstallation { .. }),
        "{error}"
    );
    // Nothing there is a loss, and no beginning.
    let empty = EtcdConfig {
        prefix: config(etcd.urls()).prefix,
        ..ours.clone()
    };
    let error = refused(&empty, Missing::Create).await;
    assert!(matches!(error, EtcdError::Gone { .. }), "{error}");
    let new = config(etcd.urls());
    let error = refused(&new, Missing::Refuse).await;
    assert!(matches!(error, EtcdError::NoDirectory { .. }), "{error}");
}

#[tokio::test]
async fn servers_that_begin_at_once_have_one_directory() {
    let etcd = shared().await;
    let config = config(etcd.urls());
    let opening = (0..8).map(|_| EtcdStore::open(config.clone(), Missing::Create));
    let opened = soon(futures_util::future::join_all(opening)).await;
    let stores: Vec<_> = opened.into_iter().map(Result::unwrap).collect();
    for store in &stores {
        assert_eq!(store.installation(), stores[0].installation());
    }
    let at = commit(&stores[1], Revision(0), vec![user("alice")]).await;
    assert_eq!(load(&stores[2]).await.revision, at);
}

#[tokio::test]
async fn rule_12_an_older_copy_in_its_place_brings_nothing_back() {
    let etcd = shared().await;
    let config = config(etcd.urls());
    let store = open(&config).await;
    let at = commit(&store, Revision(0), vec![user("alice")]).await;
    let key = format!("{}revision", config.prefix);
    let object = format!("{}objects/user/alice", config.prefix);
    let get = |key: &str| {
        let value = etcd.ctl(&["get", "--print-value-only", key]);
        value.trim_end().to_owned()
    };
    let copy = [(&key, get(&key)), (&object, get(&object))];
    let at = commit(&store, at, vec![end(ObjectKind::User, "alice")]).await;
    for (key, value) in &copy {
        etcd.ctl(&["put", key, value]);
    }
    for error in [
        soon(store.load()).await.map(drop).unwrap_err(),
        soon(store.check()).await.unwrap_err(),
        soon(store.changed(at)).await.unwrap_err(),
    ] {
        assert!(chain(&error).contains("an older copy"), "{error:?}");
    }
    let refused = soon(store.commit(at, vec![user("bob")])).await.unwrap_err();
    assert!(chain(&refused).contains("an older copy"), "{refused:?}");
    // As many changes on the older copy are another history.
    let other = open(&config).await;
    let again = commit(&other, Revision(1), vec![user("carol")]).await;
    assert_eq!(again, at);
    let error = soon(store.load()).await.map(drop).unwrap_err();
    assert!(chain(&error).contains("another history"), "{error:?}");
    let refused = soon(store.commit(at, vec![user("bob")])).await.unwrap_err();
    assert!(chain(&refused).contains("another history"), "{refused:?}");
}

#[tokio::test]
async fn a_directory_that_is_gone_is_not_made_anew() {
    let etcd = shared().await;
    let config = config(etcd.urls());
    let store = open(&config).await;
    let at = commit(&store, Revision(0), vec![user("alice")]).await;
    let watching = soon(async {
        tokio::join!(store.changed(at), async {
            etcd.ctl(&["del", "--prefix", &config.prefix.to_string()]);
        })
    });
    let (told, ()) = watching.await;
    assert!(chain(&told.unwrap_err()).contains("is empty"));
    soon(store.load()).await.unwrap_err();
    soon(store.check()).await.unwrap_err();
    let refused = soon(store.commit(at, vec![user("bob")])).await.unwrap_err();
    assert!(chain(&refused).contains("is empty"), "{refused:?}");
}

#[tokio::test]
async fn values_that_no_version_writes_are_named() {
    let etcd = shared().await;
    let config = config(etcd.urls());
    let store = open(&config).await;
    for key in ["objects/dragon/x", "objects/user/x"] {
        let key = format!("{}{key}", config.prefix);
        etcd.ctl(&["put", &key, "{}"]);
        let error = soon(store.load()).await.unwrap_err();
        assert!(chain(&error).contains(&key), "{error:?}");
        etcd.ctl(&["del", &key]);
    }
    load(&store).await;
}

/// Parts that a killed server has left do not count, and go.
#[tokio::test]
async fn parts_of_a_change_that_never_counted_go() {
    let etcd = shared().await;
    let config = config(etcd.urls());
    let store = open(&config).await;
    let key = format!("{}parts/0123/0000", config.prefix);
    etcd.ctl(&["put", &key, "x"]);
    assert_eq!(load(&store).await, Contents::default());
    assert!(etcd.ctl(&["get", &key]).contains("0123"));
    open(&config).await;
    assert_eq!(etcd.ctl(&["get", &key]), "");
}
