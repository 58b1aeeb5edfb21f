//! Recordings of a server.

use super::*;

#[test]
fn rule_19_a_user_without_room_makes_the_server_unready_for_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let config = RecordingsConfig {
        record: Record::Required,
        ..RecordingsConfig::default()
    };
    let path = |name: &str| folder.path().join(name);
    let recordings = Recordings::open(config, path, AuditLog::default()).unwrap();
    let shared = recordings.0.clone().unwrap();
    for theirs in [
        RecordingError::Share,
        RecordingError::NoRoom(1),
        RecordingError::TooLarge(1),
    ] {
        shared.note(Some(&theirs));
        assert!(recordings.are_writable(), "{theirs}");
    }
    let full = RecordingError::Full(io::ErrorKind::StorageFull.into());
    shared.note(Some(&full));
    assert!(!recordings.are_writable());
}
