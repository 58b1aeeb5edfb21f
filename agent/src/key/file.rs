//! The file of a key that the agent has made itself.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Instant;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use tempfile::NamedTempFile;
use thiserror::Error;
use time::OffsetDateTime;
use underpass_tunnel::KeyError;

use super::Origin;
use super::record::{KeyRecord, OwnKey, RecordError};
use crate::files::{self, FileError};
use crate::limits;

/// Why there is no key to use.
#[derive(Debug, Error)]
pub(super) enum KeyFileError {
    #[error("the key file cannot be used")]
    File(#[source] FileError),
    #[error(
        "others can read the key file {} (mode {mode:04o}): delete it and join again, or, if nobody has read it, chmod 600",
        path.display()
    )]
    Open { path: PathBuf, mode: u32 },
    #[error(
        "the key file {} belongs to another user (uid {owner}), who can replace it: it has to belong to the agent's user (uid \
         {agent}) or to root",
        path.display()
    )]
    Foreign {
        path: PathBuf,
        owner: u32,
        agent: u32,
    },
    #[error("{} holds no key: delete it and join again, or name another file", .0.display())]
    NoKey(PathBuf, #[source] RecordError),
    #[error("cannot make the key file {}: its folder must exist and be writable", .0.display())]
    Make(PathBuf, #[source] io::Error),
    #[error("cannot write the key file {}: its folder must be writable for the agent", .0.display())]
    Write(PathBuf, #[source] io::Error),
    #[error(
        "another process has held the lock of the key file, {}, for {} s: end the process that hangs (`fuser` names it)",
        .0.display(), limits::KEY_LOCK_TIME.as_secs()
    )]
    Locked(PathBuf),
    #[error(
        "others can open {}, the lock of the key file, and so hold it: delete it, and the agent makes another one",
        .0.display()
    )]
    OpenLock(PathBuf),
    #[error("no key can be made")]
    Generate(#[source] KeyError),
}

/// Makes a key in the file, unless there is one. The file appears as a whole, readable by its owner only, and is on the disk
/// once this returns. Blocks.
pub(super) fn prepare(path: &Path) -> Result<Origin, KeyFileError> {
    match read(path) {
        Err(KeyFileError::File(error)) if error.is_missing() => {}
        found => return found.map(|_| Origin::Found),
    }
    let record = KeyRecord::new(OwnKey::generate().map_err(KeyFileError::Generate)?);
    match make(path, &record) {
        Ok(()) => Ok(Origin::Made),
        // Another process was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => read(path).map(|_| Origin::Found),
        Err(error) => Err(KeyFileError::Make(path.to_owned(), error)),
    }
}

/// The file's keys, unless others can read or replace it, as for ssh's keys. A file of an older agent has its own time for the key's.
/// Blocks.
pub(super) fn read(path: &Path) -> Result<KeyRecord, KeyFileError> {
    let (file, found) = files::open(path, limits::KEY_FILE_BYTES).map_err(KeyFileError::File)?;
    must_be_private(path, found.mode() & 0o7777, found.uid())?;
    let text = files::text(file, path, limits::KEY_FILE_BYTES).map_err(KeyFileError::File)?;
    let record = KeyRecord::read(&text);
    let mut record = record.map_err(|error| KeyFileError::NoKey(path.to_owned(), error))?;
    let modified = || OffsetDateTime::from_unix_timestamp(found.mtime()).ok();
    record.since = record.since.or_else(modified);
    Ok(record)
}

/// Changes the file's keys, unless `change` says that there is nothing to change, and gives them. Processes that share the file take turns.
/// The file is replaced as a whole, and the change is on the disk once this returns. Blocks.
pub(super) fn change(
    path: &Path,
    change: impl Fn(&mut KeyRecord) -> Result<bool, KeyError>,
) -> Result<KeyRecord, KeyFileError> {
    let cannot = |error| KeyFileError::Write(path.to_owned(), error);
    // A link stays one.
    let real = path.canonicalize().map_err(cannot)?;
    let mut record = read(&real)?;
    if !change(&mut record).map_err(KeyFileError::Generate)? {
        return Ok(record);
    }
    let _turn = take_turn(&real)?;
    let mut record = read(&real)?;
    if change(&mut record).map_err(KeyFileError::Generate)? {
        let written = write(&real, &record).and_then(|file| {
            file.persist(&real).map_err(|error| error.error)?;
            File::open(folder_of(&real))?.sync_all()
        });
        written.map_err(cannot)?;
    }
    Ok(record)
}

/// Locks a file beside the key's, which stays. Each user who can open a file can lock it, and this one is private to the agent's user. The
/// kernel gives the lock back where the process dies. Blocks.
fn take_turn(key: &Path) -> Result<File, KeyFileError> {
    let mut path = key.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let cannot = |error| KeyFileError::Write(key.to_owned(), error);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&path)
        .map_err(cannot)?;
    let found = file.metadata().map_err(cannot)?;
    if must_be_private(&path, found.mode() & 0o7777, found.uid()).is_err() {
        return Err(KeyFileError::OpenLock(path));
    }
    let end = Instant::now() + limits::KEY_LOCK_TIME;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if Instant::now() < end => sleep(limits::KEY_LOCK_AGAIN),
            Err(Errno::WOULDBLOCK) => return Err(KeyFileError::Locked(path)),
            Err(error) => return Err(cannot(error.into())),
        }
    }
}

fn must_be_private(path: &Path, mode: u32, owner: u32) -> Result<(), KeyFileError> {
    let path = path.to_owned();
    let agent = rustix::process::geteuid().as_raw();
    if owner != agent && owner != 0 {
        return Err(KeyFileError::Foreign { path, owner, agent });
    }
    match mode & 0o077 {
        0 => Ok(()),
        _ => Err(KeyFileError::Open { path, mode }),
    }
}

fn make(path: &Path, record: &KeyRecord) -> io::Result<()> {
    let file = write(path, record)?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    File::open(folder_of(path))?.sync_all()
}

/// A file beside the path, for it to be renamed.
fn write(path: &Path, record: &KeyRecord) -> io::Result<NamedTempFile> {
    // Temporary files are made readable by their owner only.
    let mut file = NamedTempFile::new_in(folder_of(path))?;
    file.write_all(record.to_text().as_bytes())?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

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
        let finish =
            |record: &mut KeyRecord| Ok(record.finish(&begun.next.as_ref().unwrap().public()));
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
}
