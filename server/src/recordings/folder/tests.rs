//! The folder of recordings.

use underpass_api::ShellRecording;
use underpass_core::{ShellId, ShellKind};

use super::*;
use crate::audit::Kept;

const HOUR: Duration = Duration::from_secs(60 * 60);

const BLOCK: usize = 4096;

/// A folder with room for ten blocks, of which each recording's facts take one.
fn open(path: PathBuf) -> Folder {
    open_audited(path, AuditLog::default())
}

fn open_audited(path: PathBuf, audit: AuditLog) -> Folder {
    let most = Room {
        bytes: 10 * BLOCK as u64,
        number: 100,
    };
    Folder::open(path, most, audit).unwrap()
}

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
        begun: None,
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
    let folder = open(parent.path().join("recordings"));
    let written = facts("edge");
    folder.enter(&written).unwrap();
    let old = record(&folder, 1, 10);
    let young = record(&folder, 5, 10);
    let now = OffsetDateTime::UNIX_EPOCH + HOUR * 6;
    folder.prune(HOUR * 2, now);
    let mut kept = [written.id.clone(), young.id.clone()];
    kept.sort();
    assert_eq!(ids(&folder), kept);
    assert!(!folder.cast(&old.key()).exists());
    // After a restart as well.
    let again = open(parent.path().join("recordings"));
    assert_eq!(ids(&again), kept);
    assert_eq!(again.written(), 1);
    folder.prune(HOUR, now + HOUR * 1000);
    assert_eq!(ids(&folder), [written.id]);
}

#[test]
fn the_oldest_make_room_and_those_that_are_being_written_never() {
    let parent = tempfile::tempdir().unwrap();
    let folder = open(parent.path().join("recordings"));
    let written = facts("edge");
    folder.enter(&written).unwrap();
    let second = record(&folder, 2, 3 * BLOCK);
    let first = record(&folder, 1, 3 * BLOCK);
    folder.make_room(&written.key(), 1, 0).unwrap();
    assert_eq!(folder.bytes(), 10 * BLOCK as u64);
    folder.make_room(&written.key(), 1, 1).unwrap();
    assert_eq!(folder.bytes(), 6 * BLOCK as u64);
    assert!(!ids(&folder).contains(&first.id));
    assert!(ids(&folder).contains(&second.id));
    // More than half of it is not for one user, and costs the others nothing.
    let more = 5 * BLOCK as u64;
    let error = folder.make_room(&written.key(), more, 1).unwrap_err();
    assert!(matches!(error, RecordingError::Share), "{error:?}");
    let error = folder.has_room(&written.holder()).unwrap_err();
    assert!(matches!(error, RecordingError::Share), "{error:?}");
    assert_eq!(ids(&folder).len(), 2);
    folder.probe().unwrap();
    // A restart knows the sizes.
    fs::write(folder.cast(&written.key()), vec![b'x'; 5 * BLOCK]).unwrap();
    let again = open(parent.path().join("recordings"));
    assert_eq!(again.bytes(), folder.bytes());
}

#[tokio::test]
async fn rule_15_what_is_removed_by_itself_is_in_the_audit_log() {
    let parent = tempfile::tempdir().unwrap();
    let kept = Kept::default();
    let folder = open_audited(parent.path().join("recordings"), kept.audit_log());
    let first = record(&folder, 1, 4 * BLOCK);
    let second = record(&folder, 2, 4 * BLOCK);
    folder.remove(&second.key(), Removal::Asked).unwrap();
    let third = record(&folder, 3, 4 * BLOCK);
    // The first one makes room for it.
    let fourth = record(&folder, 4, BLOCK);
    folder.prune(HOUR, OffsetDateTime::UNIX_EPOCH + HOUR * 5);
    assert_eq!(ids(&folder), std::slice::from_ref(&fourth.id));
    let expected = [
        (first.id, "removed to make room"),
        (third.id, "removed at the end of its time"),
    ];
    let events = kept.all(expected.len()).await;
    let told: Vec<_> = events
        .iter()
        .map(|event| {
            assert_eq!(event["user"]["username"], "underpass:recorder");
            let told = &event["annotations"];
            assert!(told["underpass.dev/recording-sha256"].is_string());
            assert_eq!(told["underpass.dev/recorded-user"], "alice");
            let object = told["underpass.dev/object"].as_str().unwrap();
            let outcome = told["underpass.dev/outcome"].as_str().unwrap();
            (object.to_owned(), outcome.to_owned())
        })
        .collect();
    let expected = expected.map(|(id, how)| (format!("recording/{id}"), how.to_owned()));
    assert_eq!(told, expected);
}

#[test]
fn rule_15_a_file_that_was_changed_is_found() {
    let parent = tempfile::tempdir().unwrap();
    let folder = open(parent.path().join("recordings"));
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
    let folder = open(path.clone());
    let facts = record(&folder, 1, 10);
    let from = path.join("edge").join(format!("{}.json", facts.id));
    fs::create_dir(path.join("other")).unwrap();
    fs::copy(&from, path.join("other").join(from.file_name().unwrap())).unwrap();
    fs::write(path.join("edge/..json"), "{\"cluster\":\"../..\"}").unwrap();
    fs::write(path.join("edge/x.json"), "{").unwrap();
    let again = open(path);
    assert_eq!(ids(&again), std::slice::from_ref(&facts.id));
    let error = again.enter(&facts).unwrap_err();
    assert!(matches!(error, RecordingError::Exists), "{error:?}");
}
