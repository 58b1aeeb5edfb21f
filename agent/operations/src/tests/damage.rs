//! Disks that fail, files that are damaged, and clocks that are set.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::Duration;

use rustix::process::geteuid;
use underpass_api::OperationState;

use super::world::{Story, World, alice, all, edit, id, make_running, open_again, request, script};
use crate::{OpenError, Operations, Retention};

#[tokio::test]
async fn output_that_is_damaged_keeps_no_agent_from_starting() {
    for is_running in [false, true] {
        let world = World::new();
        let both = script("echo hello; echo world >&2", "");
        world.run("1", &both).await;
        let (_folder, state) = world.stop().await;
        if is_running {
            make_running(&state.join("1.json"));
        }
        fs::write(state.join("1.places"), [b'a'; 4000]).unwrap();
        let operations = open_again(&state, Retention::default());
        let record = operations.read(&id("1")).unwrap();
        assert_eq!(record.output.kept, 12);
        let follower = operations.follow(&id("1"), 0, true).unwrap();
        assert_eq!(Story::of(follower).await.text().len(), 12);
        operations.stop().await;
        drop(operations);
        // The end of it is missing.
        fs::write(state.join("1.output"), "hel").unwrap();
        let operations = open_again(&state, Retention::default());
        let follower = operations.follow(&id("1"), 0, true).unwrap();
        let story = Story::of(follower).await;
        assert_eq!(story.text(), "hel");
        assert_eq!((story.record.output.kept, story.record.output.lost), (3, 9));
        assert!(story.record.reason.unwrap().contains("missing"));
    }
}

#[tokio::test]
async fn a_disk_without_room_keeps_no_agent_from_starting() {
    let world = World::new();
    world.run("1", &script("echo hello", "")).await;
    let (_folder, state) = world.stop().await;
    let path = state.join("1.json");
    // No other file can be written.
    fs::create_dir(state.join("1.tmp")).unwrap();
    make_running(&path);
    let on_disk = || fs::read_to_string(&path).unwrap();
    let open = || {
        let operations = open_again(&state, Retention::default());
        let record = operations.read(&id("1")).unwrap();
        assert_eq!(record.state, OperationState::Interrupted);
        assert_eq!(record.output.kept, 6);
    };
    open();
    assert!(on_disk().contains("running"));
    // The room that was kept for its end is used.
    fs::write(state.join("1.end"), vec![b' '; 8192]).unwrap();
    open();
    assert!(on_disk().contains("interrupted"));
    assert!(!state.join("1.end").exists());
}

#[tokio::test]
async fn a_clock_that_was_set_lets_no_id_run_again() {
    let keeps_two = Retention {
        records: 2,
        ..Retention::default()
    };
    let world = World::keeping(keeps_two);
    let once = script("echo hello", "");
    world.run("1", &once).await;
    world.run("2", &once).await;
    let (_folder, state) = world.stop().await;
    for run in ["1.json", "2.json"] {
        edit(&state.join(run), |fields| {
            fields.insert("ended".to_owned(), "2040-01-01T00:00:00Z".into());
        });
    }
    let operations = open_again(&state, keeps_two);
    let run = async |run| {
        let asked = operations.run(&request(run, None), &once, &alice()).await;
        let asking = asked.unwrap();
        Story::of(asking.follower).await;
        asking.is_new
    };
    assert!(run("3").await);
    operations.stop().await;
    let mut kept = all(&operations);
    kept.sort();
    assert_eq!(kept, [id("2"), id("3")]);
    assert!(!run("3").await);
}

#[tokio::test]
async fn rule_19_old_output_goes_and_its_record_stays() {
    let nothing = Retention {
        output_bytes: 0,
        ..Retention::default()
    };
    let at_once = Retention {
        age: Duration::ZERO,
        ..Retention::default()
    };
    for retention in [nothing, at_once] {
        let world = World::keeping(retention);
        let once = script("echo hello", "");
        for run in ["1", "2"] {
            assert_eq!(world.run(run, &once).await.text(), "hello\n");
        }
        let (_folder, state) = world.stop().await;
        let left = |run: &str| state.join(format!("{run}.output")).exists();
        assert!(!left("1") && left("2"));
        let operations = open_again(&state, retention);
        let asked = operations.run(&request("1", None), &once, &alice()).await;
        let asking = asked.unwrap();
        assert!(!asking.is_new);
        let story = Story::of(asking.follower).await;
        assert_eq!(story.record.state, OperationState::Succeeded);
        assert_eq!(
            (story.record.output.kept, story.record.output.dropped),
            (0, 6)
        );
        assert_eq!(story.text(), "");
    }
}

#[tokio::test]
async fn rule_19_readers_of_output_are_bounded() {
    let world = World::new();
    world.run("1", &script("echo hello", "")).await;
    let readers = world.operations.0.store.readers();
    let most = u32::try_from(crate::limits::READERS).unwrap();
    let all = readers.acquire_many(most).await.unwrap();
    let mut follower = world.operations.follow(&id("1"), 0, true).unwrap();
    follower.next().await.unwrap();
    let mut reading = std::pin::pin!(follower.next());
    let read = tokio::time::timeout(Duration::from_millis(200), &mut reading).await;
    assert!(read.is_err(), "{read:?}");
    drop(all);
    assert!(reading.await.unwrap().is_some());
}

#[test]
fn rule_9_records_are_in_a_folder_of_the_agents_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let refused = |name: &str| {
        let opened = Operations::open(&path(name), Retention::default());
        assert!(matches!(opened, Err(OpenError::Shared(_))), "{name}");
    };
    let with = |name: &str, mode| {
        fs::create_dir_all(path(name)).unwrap();
        fs::set_permissions(path(name), Permissions::from_mode(mode)).unwrap();
    };
    with("own", 0o755);
    Operations::open(&path("own"), Retention::default()).unwrap();
    with("group", 0o770);
    refused("group");
    symlink(path("own"), path("link")).unwrap();
    refused("link");
    with("open/inner", 0o700);
    with("open", 0o777);
    refused("open/inner");
    if geteuid().is_root() {
        with("others", 0o700);
        std::os::unix::fs::chown(path("others"), Some(65534), None).unwrap();
        refused("others");
    }
    // A link in it is not followed.
    fs::write(path("precious"), "precious").unwrap();
    with("linked", 0o700);
    symlink(path("precious"), path("linked/lock")).unwrap();
    let opened = Operations::open(&path("linked"), Retention::default());
    assert!(matches!(opened, Err(OpenError::Directory { .. })));
}
