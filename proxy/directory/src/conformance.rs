//! The suite that every store passes: [`store_conformance!`](crate::store_conformance) makes tests of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "code for tests; the lints know only functions that are marked as tests"
)]

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;

use crate::{CommitError, Contents, Key, ObjectKind, Record, Revision, Store, Write};
use underpass_core::limits;

/// Longer than anything takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// Contents of a store, empty at first.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The store as one process has it: of another process each time, where several may have it.
    async fn open(&self) -> Arc<dyn Store>;

    /// All processes have ended. No store of theirs is in use any more.
    async fn close(&self);

    /// Whether several processes may have it.
    fn is_shared(&self) -> bool;
}

/// Tests that a store keeps its contract. The expression makes a [`Fixture`], and may wait.
#[macro_export]
macro_rules! store_conformance {
    ($fixture:expr) => {
        $crate::store_conformance! { @cases $fixture;
            an_empty_store_is_at_the_first_revision,
            what_is_committed_is_read_back,
            what_is_written_is_there_after_all_processes_have_ended,
            whoever_is_late_is_told_and_changes_nothing,
            of_writers_at_once_one_wins,
            names_are_kept_as_they_are,
            an_end_of_something_that_is_not_there_is_a_change_as_well,
            revocations_are_written_as_other_changes,
            a_change_is_as_large_as_the_directory,
            a_large_change_is_all_or_nothing_for_readers,
            ten_thousand_objects_are_read,
            a_change_that_is_given_up_is_whole_or_nothing,
            others_changes_are_told,
            a_store_that_works_says_so,
        }
    };
    (@cases $fixture:expr; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $case() {
                $crate::conformance::$case(&$fixture).await;
            }
        )*
    };
}

/// Waits, but not for ever.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(DEADLINE, future).await;
    waited.expect("it takes too long")
}

/// An object's new value.
pub fn set(kind: ObjectKind, name: &str, value: impl AsRef<[u8]>) -> Write {
    Write {
        key: (kind, name.to_owned()),
        value: Some(value.as_ref().to_vec()),
    }
}

/// An object's end.
pub fn end(kind: ObjectKind, name: &str) -> Write {
    Write {
        key: (kind, name.to_owned()),
        value: None,
    }
}

fn group(number: usize) -> Write {
    let value = format!(r#"{{"number":{number}}}"#);
    set(ObjectKind::Group, &format!("g{number:05}"), value)
}

async fn load(store: &dyn Store) -> Contents {
    soon(store.load()).await.unwrap()
}

async fn commit(store: &dyn Store, at: Revision, writes: Vec<Write>) -> Revision {
    soon(store.commit(at, writes)).await.unwrap()
}

/// Nothing, at revision 0.
pub async fn an_empty_store_is_at_the_first_revision(world: &dyn Fixture) {
    let store = world.open().await;
    assert_eq!(load(&*store).await, Contents::default());
}

/// Values, their revisions, and that of the whole.
pub async fn what_is_committed_is_read_back(world: &dyn Fixture) {
    let store = world.open().await;
    let mut expected = BTreeMap::<Key, Record>::new();
    let mut at = Revision(0);
    for writes in [
        vec![
            set(ObjectKind::User, "alice", "{}"),
            set(ObjectKind::Group, "alice", r#"{"a":1}"#),
        ],
        vec![set(ObjectKind::User, "bob", "{}")],
        vec![
            set(ObjectKind::User, "alice", r#"{"disabled":true}"#),
            end(ObjectKind::Group, "alice"),
        ],
    ] {
        let revision = commit(&*store, at, writes.clone()).await;
        assert_eq!(revision, at.next());
        at = revision;
        for Write { key, value } in writes {
            match value {
                Some(value) => drop(expected.insert(key, Record { revision, value })),
                None => drop(expected.remove(&key)),
            }
        }
        let read = load(&*world.open().await).await;
        assert_eq!((read.revision, read.records), (at, expected.clone()));
    }
}

/// As it was.
pub async fn what_is_written_is_there_after_all_processes_have_ended(world: &dyn Fixture) {
    let store = world.open().await;
    let at = commit(&*store, Revision(0), vec![group(1), group(2)]).await;
    commit(&*store, at, vec![end(ObjectKind::Group, "g00001")]).await;
    let before = load(&*store).await;
    drop(store);
    world.close().await;
    assert_eq!(load(&*world.open().await).await, before);
}

/// [`CommitError::Conflict`], from revisions of the past and of the future.
pub async fn whoever_is_late_is_told_and_changes_nothing(world: &dyn Fixture) {
    let (store, late) = (world.open().await, world.open().await);
    load(&*late).await;
    let at = commit(&*store, Revision(0), vec![group(1)]).await;
    for wrong in [Revision(0), at.next(), Revision(u64::MAX)] {
        let refused = soon(late.commit(wrong, vec![group(2)])).await;
        assert!(matches!(refused, Err(CommitError::Conflict)), "{refused:?}");
    }
    let read = load(&*late).await;
    assert_eq!((read.revision, read.records.len()), (at, 1));
    // Having read it, they are not late any more.
    commit(&*late, at, vec![group(2)]).await;
}

/// And the others are told.
pub async fn of_writers_at_once_one_wins(world: &dyn Fixture) {
    const WRITERS: usize = 8;
    let mut at = Revision(0);
    for round in 0..10 {
        // All of them have read it before the first one writes.
        let mut stores = Vec::new();
        for _ in 0..WRITERS {
            let store = world.open().await;
            load(&*store).await;
            stores.push(store);
        }
        let writing = stores.into_iter().enumerate().map(|(writer, store)| {
            let write = set(ObjectKind::Group, &format!("{round}"), format!("{writer}"));
            tokio::spawn(async move { soon(store.commit(at, vec![write])).await })
        });
        let writing: Vec<_> = writing.collect();
        let mut won = Vec::new();
        for (writer, written) in writing.into_iter().enumerate() {
            match written.await.unwrap() {
                Ok(revision) => won.push((writer, revision)),
                Err(CommitError::Conflict) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        let [(writer, revision)] = won[..] else {
            panic!("{won:?}");
        };
        assert_eq!(revision, at.next());
        at = revision;
        let read = load(&*world.open().await).await;
        let key = (ObjectKind::Group, round.to_string());
        assert_eq!(read.revision, at);
        assert_eq!(read.records[&key].value, writer.to_string().as_bytes());
    }
}

/// All that a header can hold, and more.
pub async fn names_are_kept_as_they_are(world: &dyn Fixture) {
    let store = world.open().await;
    let names = [
        "a",
        "a/b",
        "a/",
        "/",
        "//",
        "..",
        "%2f",
        " ",
        "A",
        "\u{e4}",
        "\u{1f600} x",
        "https://issuer.example/realms/a#alice",
        &"n".repeat(limits::OBJECT_NAME_BYTES),
    ];
    let kinds = ObjectKind::ALL;
    let writes: Vec<_> = names
        .iter()
        .flat_map(|name| kinds.map(|kind| set(kind, name, format!("{kind} {name}"))))
        .collect();
    let count = writes.len();
    commit(&*store, Revision(0), writes).await;
    let read = load(&*store).await;
    assert_eq!(read.records.len(), count);
    for ((kind, name), record) in &read.records {
        assert_eq!(record.value, format!("{kind} {name}").as_bytes());
    }
    let at = commit(&*store, read.revision, vec![end(ObjectKind::User, "a/b")]).await;
    let read = load(&*store).await;
    assert_eq!((read.revision, read.records.len()), (at, count - 1));
}

/// It has a revision, too.
pub async fn an_end_of_something_that_is_not_there_is_a_change_as_well(world: &dyn Fixture) {
    let store = world.open().await;
    let at = commit(&*store, Revision(0), vec![end(ObjectKind::User, "x")]).await;
    let read = load(&*store).await;
    assert_eq!((read.revision, read.records.len()), (at, 0));
}

/// [`Store::commit_revocation`].
pub async fn revocations_are_written_as_other_changes(world: &dyn Fixture) {
    let store = world.open().await;
    let at = commit(&*store, Revision(0), vec![group(1), group(2)]).await;
    let gone = vec![end(ObjectKind::Group, "g00001")];
    let late = soon(store.commit_revocation(Revision(0), gone.clone())).await;
    assert!(matches!(late, Err(CommitError::Conflict)), "{late:?}");
    let after = soon(store.commit_revocation(at, gone)).await.unwrap();
    let read = load(&*store).await;
    assert_eq!((read.revision, read.records.len()), (after, 1));
}

/// Thousands of objects, and objects as large as one may be, in one change each.
pub async fn a_change_is_as_large_as_the_directory(world: &dyn Fixture) {
    let store = world.open().await;
    let many: Vec<_> = (0..3000).map(group).collect();
    let at = commit(&*store, Revision(0), many).await;
    let read = load(&*world.open().await).await;
    assert_eq!((read.revision, read.records.len()), (at, 3000));
    assert!(read.records.values().all(|record| record.revision == at));
    let large = vec![b'x'; limits::OBJECT_BYTES];
    let names = (0..9).map(|number| format!("large-{number}"));
    let writes: Vec<_> = names
        .map(|name| set(ObjectKind::Binding, &name, &large))
        .collect();
    let at = commit(&*store, at, writes).await;
    let read = load(&*world.open().await).await;
    assert_eq!((read.revision, read.records.len()), (at, 3009));
    let key = (ObjectKind::Binding, "large-8".to_owned());
    assert!(read.records[&key].value == large);
    // Most of it goes, and something small follows at once.
    let gone = (0..2999).map(|number| end(ObjectKind::Group, &format!("g{number:05}")));
    let at = commit(&*store, at, gone.collect()).await;
    let at = commit(&*store, at, vec![group(0)]).await;
    let other = world.open().await;
    let read = load(&*other).await;
    assert_eq!((read.revision, read.records.len()), (at, 11));
    let zero = &read.records[&(ObjectKind::Group, "g00000".to_owned())];
    assert_eq!((zero.revision, &*zero.value), (at, &br#"{"number":0}"#[..]));
    // And another process goes on from there.
    let at = commit(&*other, at, vec![end(ObjectKind::Group, "g02999")]).await;
    soon(store.check()).await.unwrap();
    let read = load(&*store).await;
    assert_eq!((read.revision, read.records.len()), (at, 10));
}

/// Each reading is as of one revision.
pub async fn a_large_change_is_all_or_nothing_for_readers(world: &dyn Fixture) {
    const OBJECTS: usize = 600;
    let (writer, reader) = (world.open().await, world.open().await);
    let writing = tokio::spawn(async move {
        let mut at = Revision(0);
        for round in 1..=6 {
            let name = |number: usize| format!("g{number:05}");
            let value = round.to_string();
            let writes = (0..OBJECTS).map(|n| set(ObjectKind::Group, &name(n), &value));
            at = commit(&*writer, at, writes.collect()).await;
        }
        at
    });
    loop {
        // A store that never waits would leave the writer no turn.
        tokio::task::yield_now().await;
        let done = writing.is_finished();
        let read = load(&*reader).await;
        let value = read.revision.to_string();
        if read.revision > Revision(0) {
            assert_eq!(read.records.len(), OBJECTS);
        }
        for record in read.records.values() {
            assert_eq!(record.value, value.as_bytes());
            assert_eq!(record.revision, read.revision);
        }
        if done {
            break;
        }
    }
    assert_eq!(writing.await.unwrap(), Revision(6));
}

/// From a store that has grown by many changes.
pub async fn ten_thousand_objects_are_read(world: &dyn Fixture) {
    let store = world.open().await;
    let mut at = Revision(0);
    for step in 0..100 {
        let writes = (step * 100..(step + 1) * 100).map(group).collect();
        at = commit(&*store, at, writes).await;
    }
    let read = load(&*world.open().await).await;
    assert_eq!((read.revision, read.records.len()), (at, 10_000));
    let last = &read.records[&(ObjectKind::Group, "g09999".to_owned())];
    assert_eq!(last.value, br#"{"number":9999}"#);
}

/// Wherever its future is dropped.
pub async fn a_change_that_is_given_up_is_whole_or_nothing(world: &dyn Fixture) {
    let store = world.open().await;
    for polls in 1..30 {
        let before = load(&*store).await;
        let value = format!("{polls}");
        let writes = (0..300).map(|number| set(ObjectKind::Group, &format!("{number}"), &value));
        {
            let mut committing = pin!(store.commit(before.revision, writes.collect()));
            let mut left = polls;
            soon(std::future::poll_fn(|cx| {
                left -= 1;
                match committing.as_mut().poll(cx) {
                    Poll::Pending if left > 0 => Poll::Pending,
                    _ => Poll::Ready(()),
                }
            }))
            .await;
        }
        // The write may still be under way.
        loop {
            let after = load(&*store).await;
            if after.revision != before.revision {
                assert_eq!(after.records.len(), 300);
                let mut records = after.records.values();
                assert!(records.all(|record| record.value == value.as_bytes()));
            } else {
                assert_eq!(after.records, before.records);
            }
            let more = set(ObjectKind::User, "more", "{}");
            match soon(store.commit(after.revision, vec![more])).await {
                Ok(at) => {
                    let gone = end(ObjectKind::User, "more");
                    commit(&*store, at, vec![gone]).await;
                    break;
                }
                Err(CommitError::Conflict) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

/// Each of them, however soon after the last one. A store of one process waits for ever.
pub async fn others_changes_are_told(world: &dyn Fixture) {
    let (store, other) = (world.open().await, world.open().await);
    let mut at = load(&*other).await.revision;
    if !world.is_shared() {
        let mut changed = pin!(other.changed(at));
        let mut context = Context::from_waker(Waker::noop());
        assert!(changed.as_mut().poll(&mut context).is_pending());
        commit(&*store, at, vec![group(0)]).await;
        assert!(changed.as_mut().poll(&mut context).is_pending());
        return;
    }
    // Behind already: told at once.
    let first = commit(&*store, at, vec![group(0)]).await;
    soon(other.changed(at)).await.unwrap();
    at = first;
    for number in 1..50 {
        let told =
            soon(async { tokio::join!(other.changed(at), store.commit(at, vec![group(number)])) });
        let (told, committed) = told.await;
        told.unwrap();
        at = committed.unwrap();
        assert_eq!(load(&*other).await.revision, at);
    }
    // Nothing has happened since: a change that is not there is not told.
    let mut changed = pin!(other.changed(at));
    tokio::select! {
        biased;
        told = &mut changed => panic!("{told:?}"),
        () = async {
            for _ in 0..20 {
                load(&*store).await;
            }
        } => {}
    }
    commit(&*store, at, vec![group(50)]).await;
    soon(changed).await.unwrap();
}

/// [`Store::check`].
pub async fn a_store_that_works_says_so(world: &dyn Fixture) {
    let store = world.open().await;
    soon(store.check()).await.unwrap();
    let at = commit(&*store, Revision(0), vec![group(0)]).await;
    soon(store.check()).await.unwrap();
    // It has changed nothing.
    assert_eq!(load(&*store).await.revision, at);
}
