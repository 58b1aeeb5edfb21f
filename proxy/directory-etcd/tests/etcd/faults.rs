//! Members that die, stop or are full, answers that are lost, and histories that are compacted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use underpass_directory::conformance::{end, set, soon};
use underpass_directory::{CommitError, Store as _};
use underpass_testenv::testing::eventually;

use super::gate::Gate;
use super::*;

/// Adds users for as long as it is asked to, and says which ones were added for certain.
async fn add_users(store: Arc<EtcdStore>, name: &str, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut added = Vec::new();
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        let at = match store.load().await {
            Ok(contents) => contents.revision,
            Err(_) => continue,
        };
        number += 1;
        let name = format!("{name}-{number}");
        match store.commit(at, vec![user(&name)]).await {
            Ok(revision) => {
                assert_eq!(revision, at.next());
                added.push(name);
            }
            Err(CommitError::Conflict | CommitError::Store(_) | CommitError::Unknown(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    added
}

#[tokio::test]
async fn no_change_is_lost_or_made_twice_while_members_are_killed() {
    let etcd = three().await;
    let config = config(etcd.urls());
    let stop = Arc::<AtomicBool>::default();
    let mut writing = Vec::new();
    for name in ["a", "b"] {
        let store = Arc::new(open(&config).await);
        let stop = Arc::clone(&stop);
        writing.push(tokio::spawn(
            async move { add_users(store, name, stop).await },
        ));
    }
    let watcher = open(&config).await;
    for _ in 0..3 {
        let before = load(&watcher).await.revision;
        let leader = etcd.leader().await;
        etcd.kill(leader);
        // Two are enough, and the watch is told of what they do.
        eventually("changes go on", async || {
            let at = watcher
                .load()
                .await
                .map_err(|error| chain(&error))?
                .revision;
            match at.0 > before.0 + 20 {
                true => Ok(()),
                false => Err(format!("{at}")),
            }
        })
        .await;
        let at = load(&watcher).await.revision;
        soon(watcher.changed(at)).await.unwrap();
        etcd.start_again(leader);
        etcd.healthy(None).await;
    }
    stop.store(true, Ordering::SeqCst);
    let mut added = Vec::new();
    for writing in writing {
        added.extend(soon(writing).await.unwrap());
    }
    let contents = load(&watcher).await;
    for name in &added {
        let key = (ObjectKind::User, name.clone());
        assert!(contents.records.contains_key(&key), "{name}");
    }
    // Each revision is one user's: the others were added by changes whose outcome was not known.
    assert_eq!(contents.records.len() as u64, contents.revision.0);
    let mut revisions: Vec<_> = contents
        .records
        .values()
        .map(|record| record.revision)
        .collect();
    revisions.sort();
    revisions.dedup();
    assert_eq!(revisions.len(), contents.records.len());
}

/// A member that is stopped keeps its connections.
#[tokio::test]
async fn a_member_that_is_silent_is_passed_over() {
    let etcd = three().await;
    let leader = etcd.leader().await;
    let silent = (0..3).find(|member| *member != leader).unwrap();
    let mut urls = etcd.urls().to_vec();
    urls.swap(0, silent);
    let config = config(&urls);
    let (store, other) = (open(&config).await, open(&config).await);
    let at = commit(&store, Revision(0), vec![user("alice")]).await;
    let told = async {
        let told = other.changed(at).await;
        (told, std::time::Instant::now())
    };
    let changing = async {
        etcd.pause(silent, true);
        let committed = store.commit(at, vec![user("bob")]).await;
        (committed, std::time::Instant::now())
    };
    let ((told, heard), (committed, done)) = soon(async { tokio::join!(told, changing) }).await;
    told.unwrap();
    committed.unwrap();
    assert!(heard.saturating_duration_since(done) < Duration::from_secs(10));
    etcd.pause(silent, false);
}

/// Its member was away, and what has happened meanwhile is compacted.
#[tokio::test]
async fn a_watch_that_was_away_too_long_reads_anew() {
    let etcd = three().await;
    let leader = etcd.leader().await;
    let away = (0..3).find(|member| *member != leader).unwrap();
    let everywhere = config(etcd.urls());
    let store = open(&everywhere).await;
    let one = EtcdConfig {
        endpoints: vec![etcd.urls()[away].parse().unwrap()],
        ..everywhere.clone()
    };
    let watcher = open(&one).await;
    let mut at = commit(&store, Revision(0), vec![user("alice")]).await;
    load(&watcher).await;
    let seen = at;
    {
        // It watches when its member goes.
        let mut watching = std::pin::pin!(watcher.changed(seen));
        let waited = tokio::time::timeout(Duration::from_millis(500), &mut watching).await;
        waited.unwrap_err();
        etcd.kill(away);
        for number in 0..50 {
            at = commit(&store, at, vec![user(&format!("u{number}"))]).await;
        }
        let status = etcd.ctl(&[
            "get",
            "x",
            "-w",
            "fields",
            "--endpoints",
            &etcd.urls()[leader],
        ]);
        let line = status
            .lines()
            .find(|line| line.contains("\"Revision\""))
            .unwrap();
        let revision = line.split(" : ").nth(1).unwrap().trim().to_owned();
        etcd.ctl(&["compact", &revision, "--endpoints", &etcd.urls()[leader]]);
        etcd.start_again(away);
        // It may say that etcd cannot be reached: the directory comes again then.
        let told = soon(watching).await;
        drop(told);
    }
    eventually("the change is told", async || {
        soon(watcher.changed(seen))
            .await
            .map_err(|error| chain(&error))
    })
    .await;
    assert_eq!(load(&watcher).await.revision, at);
}

/// On every page.
#[tokio::test]
async fn a_reading_begins_anew_when_its_revision_is_compacted() {
    let etcd = EtcdMembers::start(EtcdSetup::default()).await;
    let config = config(etcd.urls());
    let (store, reader) = (open(&config).await, open(&config).await);
    let value = "x".repeat(2000);
    let many = |round: usize| -> Vec<_> {
        let value = format!("{round} {value}");
        (0..2000)
            .map(|number| set(ObjectKind::Group, &format!("g{number}"), &value))
            .collect()
    };
    let mut at = commit(&store, Revision(0), many(0)).await;
    let stop = Arc::<AtomicBool>::default();
    let stopped = Arc::clone(&stop);
    let url = etcd.urls()[0].clone();
    let compacting = async {
        for round in 1..6 {
            at = commit(&store, at, many(round)).await;
            let status = etcd.ctl(&["get", "x", "-w", "fields", "--endpoints", &url]);
            let line = status
                .lines()
                .find(|line| line.contains("\"Revision\""))
                .unwrap();
            let revision = line.split(" : ").nth(1).unwrap().trim().to_owned();
            etcd.ctl(&["compact", &revision]);
            tokio::task::yield_now().await;
        }
        stop.store(true, Ordering::SeqCst);
    };
    let reading = async {
        while !stopped.load(Ordering::SeqCst) {
            let read = load(&reader).await;
            assert_eq!(read.records.len(), 2000);
            let first = &read.records.values().next().unwrap().value;
            assert!(read.records.values().all(|record| record.value == *first));
        }
    };
    soon(async { tokio::join!(compacting, reading) }).await;
}

#[tokio::test]
async fn a_full_etcd_is_named_and_is_written_again_without_a_restart() {
    let etcd = EtcdMembers::start(EtcdSetup {
        quota: 6 << 20,
        ..EtcdSetup::default()
    })
    .await;
    let config = config(etcd.urls());
    let (store, other) = (open(&config).await, open(&config).await);
    let at = commit(&store, Revision(0), vec![user("alice")]).await;
    let value = "x".repeat(100_000);
    eventually("etcd is full", async || {
        for number in 0..20 {
            let _ = etcd.try_ctl(&["put", &format!("filling-{number}"), &value]);
        }
        match etcd.ctl(&["alarm", "list"]).contains("NOSPACE") {
            true => Ok(()),
            false => Err("no alarm"),
        }
    })
    .await;
    let error = soon(store.check()).await.unwrap_err();
    assert!(chain(&error).contains("NOSPACE"), "{error:?}");
    for write in [user("bob"), end(ObjectKind::User, "alice")] {
        let refused = soon(store.commit(at, vec![write])).await;
        let Err(CommitError::Store(error)) = refused else {
            panic!("{refused:?}");
        };
        assert!(chain(&error).contains("NOSPACE"), "{error:?}");
    }
    let many = (0..1000).map(|number| user(&format!("u{number}")));
    let refused = soon(store.commit(at, many.collect())).await;
    assert!(matches!(refused, Err(CommitError::Store(_))), "{refused:?}");
    // It is still read.
    assert_eq!(load(&other).await.records.len(), 1);
    etcd.ctl(&["del", "--prefix", "filling"]);
    let status = etcd.ctl(&["get", "x", "-w", "fields"]);
    let line = status
        .lines()
        .find(|line| line.contains("\"Revision\""))
        .unwrap();
    let revision = line.split(" : ").nth(1).unwrap().trim().to_owned();
    etcd.ctl(&["compact", &revision]);
    etcd.ctl(&["defrag"]);
    etcd.ctl(&["alarm", "disarm"]);
    soon(store.check()).await.unwrap();
    let at = commit(&store, at, vec![end(ObjectKind::User, "alice")]).await;
    assert_eq!(load(&other).await.revision, at);
}

#[tokio::test]
async fn without_most_members_nothing_is_written_and_all_is_well_afterwards() {
    let etcd = three().await;
    let config = config(etcd.urls());
    let store = open(&config).await;
    let at = commit(&store, Revision(0), vec![user("alice")]).await;
    etcd.kill(0);
    etcd.kill(1);
    let error = soon(store.check()).await.unwrap_err();
    assert!(chain(&error).contains("etcd"), "{error:?}");
    let refused = soon(store.commit(at, vec![user("bob")])).await;
    assert!(
        matches!(
            refused,
            Err(CommitError::Unknown(_) | CommitError::Store(_))
        ),
        "{refused:?}"
    );
    soon(store.load()).await.unwrap_err();
    etcd.start_again(0);
    etcd.start_again(1);
    etcd.healthy(None).await;
    soon(store.check()).await.unwrap();
    let contents = load(&store).await;
    commit(&store, contents.revision, vec![user("carol")]).await;
    // And where it is all gone, the error says where it was looked for.
    for member in 0..3 {
        etcd.kill(member);
    }
    let error = chain(&soon(store.load()).await.unwrap_err());
    assert!(error.contains(&etcd.urls()[2]), "{error}");
}

/// An answer that is lost is found out by asking again, and the change happens once.
#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    let etcd = shared().await;
    let gate = Gate::before(&etcd.urls()[0]).await;
    let direct = config(etcd.urls());
    let through = EtcdConfig {
        endpoints: vec![gate.url.parse().unwrap()],
        ..direct.clone()
    };
    let (store, other) = (open(&through).await, open(&direct).await);
    let at = load(&store).await.revision;
    gate.lose_answers(true);
    let committing = store.commit(at, vec![user("alice")]);
    let repairing = async {
        other.changed(at).await.unwrap();
        gate.lose_answers(false);
        gate.cut();
    };
    let (committed, ()) = soon(async { tokio::join!(committing, repairing) }).await;
    assert_eq!(committed.unwrap(), at.next());
    let read = load(&other).await;
    assert_eq!((read.revision, read.records.len()), (at.next(), 1));
    // The same for a large one.
    gate.lose_answers(true);
    let many: Vec<_> = (0..1000)
        .map(|number| user(&format!("u{number}")))
        .collect();
    let committing = store.commit(at.next(), many);
    let repairing = async {
        eventually("something has arrived", async || {
            let parts = etcd.ctl(&[
                "get",
                "--prefix",
                "--keys-only",
                &format!("{}parts/", direct.prefix),
            ]);
            match parts.trim().is_empty() {
                true => Err(()),
                false => Ok(()),
            }
        })
        .await;
        gate.lose_answers(false);
        gate.cut();
    };
    let (committed, ()) = soon(async { tokio::join!(committing, repairing) }).await;
    let at = committed.unwrap();
    let read = load(&other).await;
    assert_eq!((read.revision, read.records.len()), (at, 1001));
}

#[tokio::test]
async fn an_answer_that_never_comes_leaves_the_outcome_unknown() {
    let etcd = shared().await;
    let gate = Gate::before(&etcd.urls()[0]).await;
    let direct = config(etcd.urls());
    let through = EtcdConfig {
        endpoints: vec![gate.url.parse().unwrap()],
        ..direct.clone()
    };
    let (store, other) = (open(&through).await, open(&direct).await);
    let at = load(&store).await.revision;
    gate.lose_answers(true);
    let committed = soon(store.commit(at, vec![user("alice")])).await;
    assert!(
        matches!(committed, Err(CommitError::Unknown(_))),
        "{committed:?}"
    );
    assert_eq!(load(&other).await.revision, at.next());
    gate.lose_answers(false);
    gate.cut();
    let read = load(&store).await;
    assert_eq!(read.revision, at.next());
    // Others may have gone on meanwhile, and then it is not known either.
    gate.lose_answers(true);
    let committing = store.commit(read.revision, vec![user("bob")]);
    let overtaking = async {
        other.changed(read.revision).await.unwrap();
        let at = load(&other).await.revision;
        commit(&other, at, vec![user("carol")]).await;
        gate.lose_answers(false);
        gate.cut();
    };
    let (committed, ()) = soon(async { tokio::join!(committing, overtaking) }).await;
    assert!(
        matches!(committed, Err(CommitError::Unknown(_))),
        "{committed:?}"
    );
    assert_eq!(load(&store).await.records.len(), 3);
}

/// A server that is killed between counting a change and moving its parts leaves a directory with the change.
#[tokio::test]
async fn parts_that_count_are_moved_by_whoever_comes_next() {
    let etcd = shared().await;
    let config = config(etcd.urls());
    let store = open(&config).await;
    let many = (0..1000).map(|number| user(&format!("u{number}")));
    let at = commit(&store, Revision(0), many.collect()).await;
    drop(store);
    let objects = format!("{}objects/", config.prefix);
    let count = || {
        etcd.ctl(&["get", "--prefix", "--keys-only", &objects])
            .split_whitespace()
            .count()
    };
    assert_eq!(count(), 0);
    let next = open(&config).await;
    assert_eq!(load(&next).await.records.len(), 1000);
    let (one, two) = (open(&config).await, open(&config).await);
    let gone = |name: &str| vec![end(ObjectKind::User, name)];
    let both =
        soon(async { tokio::join!(one.commit(at, gone("u1")), two.commit(at, gone("u2"))) }).await;
    let won = usize::from(both.0.is_ok()) + usize::from(both.1.is_ok());
    assert_eq!(won, 1, "{both:?}");
    assert_eq!(count(), 999);
    let read = load(&next).await;
    assert_eq!((read.revision, read.records.len()), (at.next(), 999));
    let parts = format!("{}parts/", config.prefix);
    assert_eq!(etcd.ctl(&["get", "--prefix", &parts]), "");
}
