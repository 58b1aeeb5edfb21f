//! The file of a key that the agent has made itself.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use underpass_tunnel::{AgentKey, KeyError};
use zeroize::Zeroizing;

use super::Origin;
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
    NoKey(PathBuf, #[source] KeyError),
    #[error("cannot make the key file {}: its folder must exist and be writable", .0.display())]
    Make(PathBuf, #[source] io::Error),
}

/// Makes a key in the file, unless there is one. The file appears as a whole, readable by its owner only, and is on the disk
/// once this returns. Blocks.
pub(super) fn prepare(path: &Path) -> Result<Origin, KeyFileError> {
    match check(path) {
        Err(KeyFileError::File(error)) if error.is_missing() => {}
        checked => return checked.map(|()| Origin::Found),
    }
    match make(path) {
        Ok(()) => Ok(Origin::Made),
        // Another process was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            check(path).map(|()| Origin::Found)
        }
        Err(error) => Err(KeyFileError::Make(path.to_owned(), error)),
    }
}

fn check(path: &Path) -> Result<(), KeyFileError> {
    let text = read(path)?;
    let key: Result<AgentKey, _> = text.parse();
    key.map(drop)
        .map_err(|error| KeyFileError::NoKey(path.to_owned(), error))
}

/// The file's text, unless others can read or replace it, as for ssh's keys. Blocks.
pub(super) fn read(path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
    let (file, found) = files::open(path, limits::KEY_FILE_BYTES).map_err(KeyFileError::File)?;
    must_be_private(path, found.mode() & 0o7777, found.uid())?;
    files::text(file, path, limits::KEY_FILE_BYTES).map_err(KeyFileError::File)
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

fn make(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let key = AgentKey::from_seed(rand::random()).map_err(io::Error::other)?;
    // Temporary files are made readable by their owner only.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(key.to_secret_text().as_bytes())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions, Permissions};
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.key");
        assert_eq!(prepare(&path).unwrap(), Origin::Made);
        let made = read(&path).unwrap();
        made.parse::<AgentKey>().unwrap();
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
        let secret = read(&path).unwrap();
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
}
