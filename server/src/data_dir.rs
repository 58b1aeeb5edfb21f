//! The folder that holds what the server must not lose: its CA and who may do what.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt as _, OpenOptionsExt, PermissionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The data directory. Only its owner can enter it, and the owner is who runs this.
#[derive(Debug, Clone)]
pub(crate) struct DataDir(PathBuf);

/// A file of the data directory cannot be read or written.
#[derive(Debug, Error)]
#[error("cannot {action} {}", path.display())]
pub(crate) struct FileError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Files closed to others even if the folder was open once.
const SECRETS: [&str; 4] = ["ca.key", "secrets.key", "admin.token", "directory.redb"];

/// The data directory cannot be used.
#[derive(Debug, Error)]
pub(crate) enum DataDirError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(
        "{} belongs to the user with the id {owner}, and this runs as {us}: run it as its owner, or give it over with chown",
        path.display()
    )]
    AnothersFolder { path: PathBuf, owner: u32, us: u32 },
}

impl DataDir {
    /// Opens the folder, and makes it where it does not exist. It holds every cluster's keys, and write access to it gives the
    /// server's rights: it is closed to others, and refused where another user owns it.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        let create = DirBuilder::new().recursive(true).mode(0o700).create(path);
        create.map_err(|source| FileError {
            action: "create",
            path: path.into(),
            source,
        })?;
        let data = Self(path.into());
        let folder = fs::metadata(path).map_err(|error| data.error("look at", "", error))?;
        // Root may do what the owner may, and runs commands for them.
        let us = rustix::process::geteuid();
        if folder.uid() != us.as_raw() && !us.is_root() {
            return Err(DataDirError::AnothersFolder {
                path: path.into(),
                owner: folder.uid(),
                us: us.as_raw(),
            });
        }
        data.close("", &folder)?;
        for name in SECRETS {
            match fs::symlink_metadata(data.path(name)) {
                Ok(found) if found.is_file() => data.close(name, &found)?,
                // A link leads to where other permissions hold, as those of mounted secrets do.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(data.error("look at", name, error).into()),
            }
        }
        Ok(data)
    }

    /// Takes from others what they may do with the folder or a file of it. A volume that Kubernetes mounts for a group
    /// (`fsGroup`) is opened to it anew at each start.
    fn close(&self, name: &str, found: &fs::Metadata) -> Result<(), FileError> {
        let mode = found.permissions().mode() & 0o7777;
        if mode & 0o077 == 0 {
            return Ok(());
        }
        let path = self.path(name);
        tracing::warn!(
            path = %path.display(), mode = format!("{mode:04o}"),
            "others could use this: closed to them now; keys that they may have read have to be made anew"
        );
        fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o700))
            .map_err(|error| self.error("close", name, error))
    }

    /// A file's path.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file's text, or `None` where there is no such file.
    pub(crate) fn read(&self, name: &str) -> Result<Option<String>, FileError> {
        match fs::read_to_string(self.path(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error("read", name, error)),
        }
    }

    /// Replaces a file as a whole: after a crash it holds the old text or the new one.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<(), FileError> {
        self.write_atomically(name, text)
            .map_err(|error| self.error("write", name, error))
    }

    fn write_atomically(&self, name: &str, text: &str) -> io::Result<()> {
        // Temporary files are made readable by their owner only.
        let mut file = tempfile::NamedTempFile::new_in(&self.0)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(self.path(name))?;
        File::open(&self.0)?.sync_all()
    }

    /// Waits until no other process changes the folder. Dropping the file ends the lock.
    pub(crate) fn lock(&self) -> Result<File, FileError> {
        const NAME: &str = "lock";
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true).mode(0o600);
        let file = options
            .open(self.path(NAME))
            .map_err(|error| self.error("open", NAME, error))?;
        file.lock()
            .map_err(|error| self.error("lock", NAME, error))?;
        Ok(file)
    }

    fn error(&self, action: &'static str, name: &str, source: io::Error) -> FileError {
        FileError {
            action,
            path: self.path(name),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn rule_9_what_others_can_enter_is_closed_to_them() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let dir = DataDir::open(&path).unwrap();
        for secret in SECRETS {
            dir.write(secret, "secret").unwrap();
        }
        for (folder, file) in [
            (0o755, 0o644),
            (0o2770, 0o660),
            (0o701, 0o604),
            (0o777, 0o666),
        ] {
            chmod(&path, folder);
            for secret in SECRETS {
                chmod(&dir.path(secret), file);
            }
            DataDir::open(&path).unwrap();
            assert_eq!(mode(&path), 0o700);
            for secret in SECRETS {
                assert_eq!(mode(&dir.path(secret)), 0o600, "{secret}");
            }
        }
    }

    #[test]
    fn files_are_replaced_whole_and_private() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&parent.path().join("a/b")).unwrap();
        assert_eq!(dir.read("x").unwrap(), None);
        dir.write("x", "one").unwrap();
        dir.write("x", "two").unwrap();
        assert_eq!(dir.read("x").unwrap().as_deref(), Some("two"));
        assert_eq!(mode(&dir.path("x")), 0o600);
        assert_eq!(mode(&parent.path().join("a/b")), 0o700);
    }
}
