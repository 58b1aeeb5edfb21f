//! The folder of recordings.

use underpass_api::ShellRecording;
use underpass_core::{ShellId, ShellKind};

use super::*;

const HOUR: Duration = Duration::from_secs(60 * 60);

fn facts(cluster: &str) -> Facts {
    Facts {
        cluster: ClusterName::new(cluster).unwrap(),
        id: ShellId::random(),
        kind: ShellKind::Kubectl,
        user: "alice".to_owned(),
        uid: None,
        origin: None,
        place: format!("cluster:{cluster}"),
        agent: "a1".to_owned(),
        created: OffsetDateTime::UNIX_EPOCH,
        recording: ShellRecording {
            required: true,
            input: false,
            wait_seconds: 60,
        },
        identity: "{}".to_owned(),
        finished: None,
    }
}

/// Writes a recording of so many bytes, which ended so many hours after 1970.
fn record(folder: &Folder, hours: u32, bytes: usize) -> Facts {
    let facts = facts("edge");
    folder.enter(&facts).unwrap();
    let path = folder.cast(&facts.key());
    fs::write(&path, vec![b'x'; bytes]).unwrap();
    let (sha256, bytes) = hash(&path).unwrap();
    let finished = Finished {
        at: OffsetDateTime::UNIX_EPOCH + HOUR * hours,
        bytes,
        milliseconds: 5,
        sha256,
        missing: 0,
        end: None,
    };
    folder.finish(&facts.key(), finished).unwrap();
    folder.facts(&facts.key()).unwrap()
}

fn ids(folder: &Folder) -> Vec<ShellId> {
    folder
        .all(|_| true)
        .into_iter()
        .map(|facts| facts.id)
        .collect()
}

#[test]
fn what_was_kept_for_long_enough_goes_and_nothing_that_is_being_written() {
    let parent = tempfile::tempdir().unwrap();
    let folder = Folder::open(parent.path().join("recordings"), 1000).unwrap();
    let open = facts("edge");
    folder.enter(&open).unwrap();
    let old = record(&folder, 1, 10);
    let young = record(&folder, 5, 10);
    let now = OffsetDateTime::UNIX_EPOCH + HOUR * 6;
    folder.prune(HOUR * 2, now);
    let mut kept = [open.id.clone(), young.id.clone()];
    kept.sort();
    assert_eq!(ids(&folder), kept);
    assert!(!folder.cast(&old.key()).exists());
    // After a restart as well.
    let again = Folder::open(parent.path().join("recordings"), 1000).unwrap();
    assert_eq!(ids(&again), kept);
    assert_eq!(again.written(), 1);
    folder.prune(HOUR, now + HOUR * 1000);
    assert_eq!(ids(&folder), [open.id]);
}

#[test]
fn the_oldest_make_room_and_those_that_are_being_written_never() {
    let parent = tempfile::tempdir().unwrap();
    let folder = Folder::open(parent.path().join("recordings"), 1000).unwrap();
    let open = facts("edge");
    folder.enter(&open).unwrap();
    let second = record(&folder, 2, 300);
    let first = record(&folder, 1, 300);
    folder.make_room(&open.key(), 100, 300).unwrap();
    assert_eq!(folder.bytes(), 700);
    folder.make_room(&open.key(), 300, 300).unwrap();
    assert!(!ids(&folder).contains(&first.id));
    assert!(ids(&folder).contains(&second.id));
    let error = folder.make_room(&open.key(), 900, 300).unwrap_err();
    assert!(matches!(error, RecordingError::NoRoom(1000)), "{error:?}");
    assert_eq!(ids(&folder), std::slice::from_ref(&open.id));
    folder.make_room(&open.key(), 1000, 0).unwrap();
    let error = folder.probe().unwrap_err();
    assert!(matches!(error, RecordingError::NoRoom(_)), "{error:?}");
}

#[test]
fn rule_15_a_file_that_was_changed_is_found() {
    let parent = tempfile::tempdir().unwrap();
    let folder = Folder::open(parent.path().join("recordings"), 1000).unwrap();
    let facts = record(&folder, 1, 100);
    let path = folder.cast(&facts.key());
    let state = |mut budget| folder.state(&facts, &mut budget);
    assert_eq!(state(99), RecordingState::Unchecked);
    assert_eq!(state(100), RecordingState::Intact);
    // It is not read again, and read again once it was touched.
    assert_eq!(state(0), RecordingState::Intact);
    let mut other = vec![b'x'; 100];
    other[50] = b'y';
    fs::write(&path, &other).unwrap();
    assert_eq!(state(100), RecordingState::Changed);
    fs::write(&path, vec![b'x'; 100]).unwrap();
    assert_eq!(state(100), RecordingState::Intact);
    fs::write(&path, vec![b'x'; 101]).unwrap();
    assert_eq!(state(0), RecordingState::Changed);
    fs::remove_file(&path).unwrap();
    assert_eq!(state(100), RecordingState::Changed);
    assert_eq!(folder.facts(&facts.key()).unwrap().identity, "");
}

#[test]
fn facts_that_are_not_where_they_belong_count_for_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("recordings");
    let folder = Folder::open(path.clone(), 1000).unwrap();
    let facts = record(&folder, 1, 10);
    let from = path.join("edge").join(format!("{}.json", facts.id));
    fs::create_dir(path.join("other")).unwrap();
    fs::copy(&from, path.join("other").join(from.file_name().unwrap())).unwrap();
    fs::write(path.join("edge/..json"), "{\"cluster\":\"../..\"}").unwrap();
    fs::write(path.join("edge/x.json"), "{").unwrap();
    let again = Folder::open(path, 1000).unwrap();
    assert_eq!(ids(&again), std::slice::from_ref(&facts.id));
    let error = again.enter(&facts).unwrap_err();
    assert!(matches!(error, RecordingError::Exists), "{error:?}");
}
