//! The folder that holds what the server must not lose: its CA and who may do what.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt as _, OpenOptionsExt, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use thiserror::Error;
use underpass_core::files;

use crate::limits;

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
        let (handle, folder) = File::open(path)
            .and_then(|handle| {
                let found = handle.metadata()?;
                Ok((handle, found))
            })
            .map_err(|error| data.error("look at", "", error))?;
        // Root may do what the owner may, and runs commands for them.
        let us = rustix::process::geteuid();
        if folder.uid() != us.as_raw() && !us.is_root() {
            return Err(DataDirError::AnothersFolder {
                path: path.into(),
                owner: folder.uid(),
                us: us.as_raw(),
            });
        }
        data.close("", &handle, &folder)?;
        for name in SECRETS {
            if let Some((file, found)) = data.open_file(name)? {
                data.close(name, &file, &found)?;
            }
        }
        Ok(data)
    }

    /// A file of the folder, where there is one. A link leads to where other permissions hold, as those of mounted secrets do: it is
    /// left alone. The file stays the same until its permissions are changed, also where root runs this in a folder of
    /// another user's, who could put a link in its place meanwhile.
    fn open_file(&self, name: &str) -> Result<Option<(File, fs::Metadata)>, FileError> {
        // A FIFO would wait for a writer.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(flags.bits().cast_signed());
        let opened = options.open(self.path(name)).and_then(|file| {
            let found = file.metadata()?;
            Ok(found.is_file().then_some((file, found)))
        });
        match opened {
            Ok(opened) => Ok(opened),
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) =>
            {
                Ok(None)
            }
            Err(error) => Err(self.error("look at", name, error)),
        }
    }

    /// Takes from others what they may do with the folder or a file of it. A volume that Kubernetes mounts for a group
    /// (`fsGroup`) is opened to it anew at each start.
    fn close(&self, name: &str, file: &File, found: &fs::Metadata) -> Result<(), FileError> {
        let mode = found.permissions().mode() & 0o7777;
        if mode & 0o077 == 0 {
            return Ok(());
        }
        let path = self.path(name);
        tracing::warn!(
            path = %path.display(), mode = format!("{mode:04o}"),
            "others could use this: closed to them now; keys that they may have read have to be made anew"
        );
        file.set_permissions(fs::Permissions::from_mode(mode & 0o700))
            .map_err(|error| self.error("close", name, error))
    }

    /// A file's path.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file's text, or `None` where there is no such file.
    pub(crate) fn read(&self, name: &str) -> Result<Option<String>, FileError> {
        match files::read_text(&self.path(name), limits::DATA_FILE_BYTES) {
            Ok(mut text) => Ok(Some(std::mem::take(&mut *text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error("read", name, error)),
        }
    }

    /// Replaces a file as a whole: after a crash it holds the old text or the new one. A file that holds this text already is left
    /// alone, so that a server whose disk is full starts again.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<(), FileError> {
        let found = files::read(&self.path(name), limits::DATA_FILE_BYTES);
        if found.is_ok_and(|found| *found == text.as_bytes()) {
            return Ok(());
        }
        self.write_atomically(name, text)
            .map_err(|error| self.error("write", name, error))
    }

    /// Removes a file, where there is one.
    pub(crate) fn remove(&self, name: &str) -> Result<(), FileError> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.error("remove", name, error))
            }
            _ => Ok(()),
        }
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
        let file = self.open_lock(NAME)?;
        file.lock()
            .map_err(|error| self.error("lock", NAME, error))?;
        Ok(file)
    }

    /// A file of the folder to lock.
    pub(crate) fn open_lock(&self, name: &str) -> Result<File, FileError> {
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true).mode(0o600);
        let opened = options.open(self.path(name));
        opened.map_err(|error| self.error("open", name, error))
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

    /// And a FIFO is not waited for.
    #[test]
    fn rule_9_a_link_in_the_place_of_a_secret_leads_nowhere() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let dir = DataDir::open(&path).unwrap();
        let elsewhere = parent.path().join("elsewhere");
        fs::write(&elsewhere, "somebody else's").unwrap();
        chmod(&elsewhere, 0o644);
        std::os::unix::fs::symlink(&elsewhere, dir.path("ca.key")).unwrap();
        let mode_644 = rustix::fs::Mode::from_raw_mode(0o644);
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, dir.path("admin.token"), fifo, mode_644, 0).unwrap();
        DataDir::open(&path).unwrap();
        assert_eq!(mode(&elsewhere), 0o644);
    }

    /// A full disk would take no new file.
    #[test]
    fn a_file_that_holds_the_text_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&parent.path().join("data")).unwrap();
        dir.write("x", "one").unwrap();
        let before = fs::metadata(dir.path("x")).unwrap();
        dir.write("x", "one").unwrap();
        let after = fs::metadata(dir.path("x")).unwrap();
        assert_eq!(before.ino(), after.ino());
        dir.write("x", "two").unwrap();
        assert_eq!(dir.read("x").unwrap().as_deref(), Some("two"));
        dir.remove("x").unwrap();
        dir.remove("x").unwrap();
        assert_eq!(dir.read("x").unwrap(), None);
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
