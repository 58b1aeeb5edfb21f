//! The folder that holds what the server must not lose: its CA and who may do what.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The data directory. Only its owner can read it.
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

impl DataDir {
    /// Opens the folder, and makes it where it does not exist.
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let create = DirBuilder::new().recursive(true).mode(0o700).create(path);
        create.map_err(|source| FileError {
            action: "create",
            path: path.into(),
            source,
        })?;
        Ok(Self(path.into()))
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
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_replaced_whole_and_private() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&parent.path().join("a/b")).unwrap();
        assert_eq!(dir.read("x").unwrap(), None);
        dir.write("x", "one").unwrap();
        dir.write("x", "two").unwrap();
        assert_eq!(dir.read("x").unwrap().as_deref(), Some("two"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.path("x")), 0o600);
        assert_eq!(mode(&parent.path().join("a/b")), 0o700);
    }
}
