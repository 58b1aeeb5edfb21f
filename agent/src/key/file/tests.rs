//! A key file, as processes and users find it.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use rustix::fs::{FlockOperation, flock};

use super::*;

#[test]
fn a_key_is_made_once_and_for_its_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.key");
    assert_eq!(prepare(&path).unwrap(), Origin::Made);
    let made = read(&path).unwrap();
    assert!(made.since.is_some());
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(prepare(&path).unwrap(), Origin::Found);
    assert_eq!(read(&path).unwrap(), made);
    let left = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 1, "no temporary file stays");
}

#[test]
fn agents_that_start_together_share_the_key_that_was_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.key");
    let starting: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || (prepare(&path).unwrap(), read(&path).unwrap()))
        })
        .collect();
    let started: Vec<_> = starting
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    let made = started.iter().filter(|(origin, _)| *origin == Origin::Made);
    assert_eq!(made.count(), 1);
    assert!(started.iter().all(|(_, key)| *key == started[0].1));
}

#[test]
fn rule_14_a_key_file_that_others_can_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.key");
    prepare(&path).unwrap();
    let secret = read(&path).unwrap().key.text().to_string();
    for mode in [0o644, 0o640, 0o604, 0o660, 0o602] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = prepare(&path).unwrap_err();
        assert!(matches!(error, KeyFileError::Open { .. }), "{error}");
        let said = error.to_string();
        assert!(
            said.contains("chmod 600") && said.contains("agent.key"),
            "{said}"
        );
        assert!(!format!("{error:?}").contains(&secret[4..]));
    }
    fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
    assert_eq!(prepare(&path).unwrap(), Origin::Found);
}

#[test]
fn a_place_where_no_key_can_be_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = prepare(&folder.path().join("none/agent.key")).unwrap_err();
    assert!(
        error.to_string().contains("its folder must exist"),
        "{error}"
    );
    let error = prepare(folder.path()).unwrap_err();
    let is_no_file = matches!(error, KeyFileError::File(FileError::NoFile(_)));
    assert!(is_no_file, "{error}");
    let path = folder.path().join("agent.key");
    let mut file = OpenOptions::new();
    let mut file = file
        .create(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .unwrap();
    file.write_all(b"upa_half").unwrap();
    let error = prepare(&path).unwrap_err();
    assert!(matches!(error, KeyFileError::NoKey(..)), "{error}");
    file.write_all(&[b'x'; 4096]).unwrap();
    let error = prepare(&path).unwrap_err();
    let is_too_long = matches!(error, KeyFileError::File(FileError::TooLong { .. }));
    assert!(is_too_long, "{error}");
}

#[test]
fn rule_14_a_key_file_of_another_user_is_refused() {
    let path = Path::new("agent.key");
    let agent = rustix::process::geteuid().as_raw();
    for owner in [agent, 0] {
        must_be_private(path, 0o600, owner).unwrap();
    }
    let error = must_be_private(path, 0o600, agent + 1).unwrap_err();
    assert!(matches!(error, KeyFileError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("agent.key"), "{error}");
}

#[test]
fn keys_are_replaced_on_the_disk_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.key");
    prepare(&path).unwrap();
    let before = read(&path).unwrap();
    let begun = change(&path, KeyRecord::begin).unwrap();
    assert_eq!(begun.key, before.key);
    assert_eq!(read(&path).unwrap(), begun);
    let next = begun.next.clone().unwrap();
    let done = change(&path, |record| Ok(record.finish(&next.public()))).unwrap();
    assert_eq!((&done.key, &done.next), (&next, &None));
    assert_eq!(read(&path).unwrap(), done);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let left = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 2, "the lock, and no temporary file");
    let written = fs::metadata(&path).unwrap().ino();
    change(&path, |_| Ok(false)).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().ino(),
        written,
        "nothing is written"
    );
}

#[test]
fn of_processes_that_share_a_file_one_makes_the_next_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.key");
    prepare(&path).unwrap();
    let rotating: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || change(&path, KeyRecord::begin).unwrap())
        })
        .collect();
    let next: Vec<_> = rotating
        .into_iter()
        .map(|thread| thread.join().unwrap().next)
        .collect();
    assert!(next[0].is_some() && next.iter().all(|other| *other == next[0]));
    // And one puts it into its place. Another one does not take a later next key for it.
    let public = next[0].as_ref().unwrap().public();
    change(&path, |record| Ok(record.finish(&public))).unwrap();
    let later = change(&path, KeyRecord::begin).unwrap();
    let late = change(&path, |record| Ok(record.finish(&public))).unwrap();
    assert_eq!(late, later);
}

#[test]
fn a_process_that_comes_after_a_whole_rotation_begins_no_other_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.key");
    prepare(&path).unwrap();
    let read = read(&path).unwrap().key.public();
    let begin = |record: &mut KeyRecord| record.begin_after(&read);
    let next = change(&path, begin).unwrap().next.unwrap();
    change(&path, |record| Ok(record.finish(&next.public()))).unwrap();
    let late = change(&path, begin).unwrap();
    assert_eq!((late.key, late.next), (next, None));
}

#[test]
fn rule_14_no_other_user_holds_up_a_change_of_the_key_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.key");
    prepare(&path).unwrap();
    // Each user who can read the folder can lock it.
    let others = File::open(folder.path()).unwrap();
    flock(&others, FlockOperation::LockExclusive).unwrap();
    let begun = change(&path, KeyRecord::begin).unwrap();
    let lock = folder.path().join("agent.key.lock");
    let mode = fs::metadata(&lock).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    // A process of the agent's own that hangs costs a moment, and is named.
    let own = File::open(&lock).unwrap();
    flock(&own, FlockOperation::LockExclusive).unwrap();
    let finish = |record: &mut KeyRecord| Ok(record.finish(&begun.next.as_ref().unwrap().public()));
    let error = change(&path, finish).unwrap_err();
    assert!(matches!(error, KeyFileError::Locked(_)), "{error}");
    assert!(error.to_string().contains("agent.key.lock"), "{error}");
    assert_eq!(read(&path).unwrap(), begun);
    drop(own);
    assert_eq!(Some(change(&path, finish).unwrap().key), begun.next);
    // A lock that others can open is theirs as well.
    fs::set_permissions(&lock, Permissions::from_mode(0o644)).unwrap();
    let error = change(&path, KeyRecord::begin).unwrap_err();
    assert!(matches!(error, KeyFileError::OpenLock(_)), "{error}");
}

#[test]
fn a_link_to_a_key_file_stays_one() {
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("agent.key"), folder.path().join("link"));
    prepare(&path).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let begun = change(&link, KeyRecord::begin).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(read(&path).unwrap(), begun);
}

#[test]
fn a_file_of_an_older_agent_is_as_old_as_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.key");
    prepare(&path).unwrap();
    let key = read(&path).unwrap().key;
    let mut file = OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&path)
        .unwrap();
    file.write_all(key.text().as_bytes()).unwrap();
    let day = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(86_400);
    file.set_modified(day).unwrap();
    let since = read(&path).unwrap().since.unwrap();
    assert_eq!(since.unix_timestamp(), 86_400);
    // A role that it joins in leaves that as it is.
    let change_role = |record: &mut KeyRecord| {
        record.role = Some(underpass_core::AgentRole::Node);
        Ok(true)
    };
    assert_eq!(change(&path, change_role).unwrap().since, Some(since));
    assert_eq!(read(&path).unwrap().since, Some(since));
}

#[test]
fn a_folder_that_takes_no_file_leaves_the_key_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.key");
    prepare(&path).unwrap();
    let before = read(&path).unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o500)).unwrap();
    let changed = change(&path, KeyRecord::begin);
    fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
    // Root writes everywhere.
    if !rustix::process::geteuid().is_root() {
        let error = changed.unwrap_err();
        assert!(matches!(error, KeyFileError::Write(..)), "{error}");
        assert_eq!(read(&path).unwrap(), before);
    }
}
