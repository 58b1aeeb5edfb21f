//! The folder that holds what the server must not lose: its CA and who may do what.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
#[cfg(test)]
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The data directory. Only its owner can read it.
#[derive(Debug, Clone)]
pub(crate) struct DataDir(PathBuf);

/// Files that hold secrets, or grant everything.
const SECRETS: [&str; 4] = ["ca.key", "secrets.key", "directory.redb", "admin.token"];

/// The data directory, or a secret in it, is open to others.
#[derive(Debug, Error)]
pub(crate) enum Exposed {
    #[error(
        "{0} is open to other users of this machine, and holds secrets: `chmod {1} {0}`, and ask who has read it"
    )]
    Mode(String, &'static str),
    #[error(
        "{path} belongs to another user ({owner}), who can read and change all of it: `chown` it to the user that the \
         server runs as ({us}); of a volume that cannot be changed, name a new folder in it as --data-dir"
    )]
    Owner { path: String, owner: u32, us: u32 },
    #[error("{0} is a symbolic link, and has to be the file itself")]
    Link(String),
    #[error("{0} is no folder")]
    NoFolder(String),
}

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
        let failed = |action, source| FileError {
            action,
            path: path.into(),
            source,
        };
        create.map_err(|source| failed("create", source))?;
        let data = Self(path.into());
        data.check().map_err(|source| failed("use", source))?;
        Ok(data)
    }

    /// Whoever can write to the folder can put another CA there, whoever can read it is an administrator: what an
    /// unpacked backup or a volume has by way of permissions is not taken as found.
    fn check(&self) -> io::Result<()> {
        let exposed = |exposed: Exposed| io::Error::new(io::ErrorKind::PermissionDenied, exposed);
        let us = user()?;
        let folder = fs::metadata(&self.0)?;
        let shown = self.0.display().to_string();
        if !folder.is_dir() {
            return Err(exposed(Exposed::NoFolder(shown)));
        }
        check(&folder, shown, us, "0700").map_err(exposed)?;
        for name in SECRETS {
            let shown = self.path(name).display().to_string();
            match fs::symlink_metadata(self.path(name)) {
                Ok(file) if file.is_symlink() => return Err(exposed(Exposed::Link(shown))),
                Ok(file) => check(&file, shown, us, "0600").map_err(exposed)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
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

/// Whom this process runs as: the owner of what it makes.
fn user() -> io::Result<u32> {
    Ok(tempfile::tempfile()?.metadata()?.uid())
}

fn check(
    found: &fs::Metadata,
    shown: String,
    us: u32,
    wanted: &'static str,
) -> Result<(), Exposed> {
    const ROOT: u32 = 0;
    let owner = found.uid();
    // Root can read everything anyway, and administers what a server of another user serves.
    if owner != us && us != ROOT {
        return Err(Exposed::Owner {
            path: shown,
            owner,
            us,
        });
    }
    if found.mode() & 0o077 != 0 {
        return Err(Exposed::Mode(shown, wanted));
    }
    Ok(())
}

/// For tests: as the server would make it.
#[cfg(test)]
pub(crate) fn private_folder() -> tempfile::TempDir {
    let private = fs::Permissions::from_mode(0o700);
    let mut folder = tempfile::Builder::new();
    folder.permissions(private).tempdir().unwrap()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use underpass_tunnel::chain;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refused(path: &Path, why: &str) {
        let error = chain(&DataDir::open(path).unwrap_err());
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn rule_9_a_folder_that_others_can_enter_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        DataDir::open(&path).unwrap();
        for mode in [0o755, 0o770, 0o701] {
            set(&path, mode);
            refused(&path, "chmod 0700");
        }
        set(&path, 0o700);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn rule_9_a_secret_that_others_can_read_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let data = DataDir::open(&path).unwrap();
        for name in SECRETS {
            data.write(name, "secret").unwrap();
            DataDir::open(&path).unwrap();
            set(&data.path(name), 0o644);
            refused(&path, "chmod 0600");
            fs::remove_file(data.path(name)).unwrap();
            symlink("/dev/null", data.path(name)).unwrap();
            refused(&path, "symbolic link");
            fs::remove_file(data.path(name)).unwrap();
        }
    }

    #[test]
    fn rule_9_a_folder_of_another_user_is_refused() {
        let folder = private_folder();
        let found = fs::metadata(folder.path()).unwrap();
        let (us, other) = (found.uid(), found.uid() + 1);
        check(&found, "data".into(), us, "0700").unwrap();
        let error = check(&found, "data".into(), other, "0700").unwrap_err();
        assert!(error.to_string().contains("chown"), "{error}");
    }

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
