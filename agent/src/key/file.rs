//! The file of a key that the agent has made itself.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;
use underpass_tunnel::{AgentKey, KeyError};
use zeroize::Zeroizing;

use super::Origin;
use crate::limits;

/// Why there is no key to use.
#[derive(Debug, Error)]
pub(super) enum KeyFileError {
    #[error("cannot read the key file {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("{} is no key file: it is no regular file, or too long for one", .0.display())]
    NoFile(PathBuf),
    #[error(
        "others can read the key file {} (mode {mode:04o}): delete it and join again, or, if nobody has read it, chmod 600",
        path.display()
    )]
    Open { path: PathBuf, mode: u32 },
    #[error("{} holds no key: delete it and join again, or name another file", .0.display())]
    NoKey(PathBuf, #[source] KeyError),
    #[error("cannot make the key file {}: its folder must exist and be writable", .0.display())]
    Make(PathBuf, #[source] io::Error),
}

/// Makes a key in the file, unless there is one. The file appears as a whole, readable by its owner only, and is on the disk
/// once this returns. Blocks.
pub(super) fn prepare(path: &Path) -> Result<Origin, KeyFileError> {
    match File::open(path) {
        Ok(_) => check(path).map(|()| Origin::Found),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            match make(path) {
                Ok(()) => Ok(Origin::Made),
                // Another process was faster.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    check(path).map(|()| Origin::Found)
                }
                Err(error) => Err(KeyFileError::Make(path.to_owned(), error)),
            }
        }
        Err(error) => Err(KeyFileError::Read(path.to_owned(), error)),
    }
}

fn check(path: &Path) -> Result<(), KeyFileError> {
    let text = read(path)?;
    let key: Result<AgentKey, _> = text.parse();
    key.map(drop)
        .map_err(|error| KeyFileError::NoKey(path.to_owned(), error))
}

/// The file's text, unless others can read it too. Blocks.
pub(super) fn read(path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
    let cannot = |error| KeyFileError::Read(path.to_owned(), error);
    let mut options = OpenOptions::new();
    // A FIFO would wait for a writer.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = options.read(true).custom_flags(flags).open(path);
    let file = file.map_err(cannot)?;
    let found = file.metadata().map_err(cannot)?;
    if !found.is_file() || found.len() > limits::KEY_FILE_BYTES {
        return Err(KeyFileError::NoFile(path.to_owned()));
    }
    let mode = found.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(KeyFileError::Open { path, mode });
    }
    let mut text = Zeroizing::new(String::new());
    let mut file = file.take(limits::KEY_FILE_BYTES);
    file.read_to_string(&mut text).map_err(cannot)?;
    Ok(text)
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
    use std::fs::{self, Permissions};

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
        assert!(matches!(error, KeyFileError::NoFile(_)), "{error}");
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
        assert!(matches!(error, KeyFileError::NoFile(_)), "{error}");
    }
}
