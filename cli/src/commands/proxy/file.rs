//! The kubeconfig of one run.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;
use underpass_terminal::say;

use crate::secret_file::SecretFile;

/// A kubeconfig, readable by its owner alone. It is removed when this is dropped; a file that has taken its place is not.
pub(super) struct KubeconfigFile {
    path: PathBuf,
    /// Open, so that its number is no other file's meanwhile.
    file: File,
    /// Where the user has named no file. Closed to others, and removed with all that kubectl put there.
    folder: Option<TempDir>,
}

impl KubeconfigFile {
    /// Writes it to `path`, where there must be nothing yet, or into a folder of its own.
    pub(super) fn write(path: Option<&Path>, text: &str) -> Result<Self> {
        let (path, folder) = match path {
            Some(path) => (std::path::absolute(path)?, None),
            None => {
                let folder = tempfile::Builder::new()
                    .prefix("underpass-proxy-")
                    .permissions(Permissions::from_mode(0o700))
                    .tempdir();
                let folder = folder.context("cannot make a folder for the kubeconfig")?;
                (folder.path().join("config"), Some(folder))
            }
        };
        let file = SecretFile::prepare(&path)?.write(text)?;
        Ok(Self { path, file, folder })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The path as one word of a shell.
    pub(super) fn quoted(&self) -> String {
        format!(
            "'{}'",
            self.path.display().to_string().replace('\'', r"'\''")
        )
    }
}

impl KubeconfigFile {
    /// Whether it was there to be removed.
    fn remove(&self) -> io::Result<bool> {
        let there = fs::symlink_metadata(&self.path)?;
        let own = self.file.metadata()?;
        let is_own = (there.dev(), there.ino()) == (own.dev(), own.ino());
        if is_own {
            fs::remove_file(&self.path)?;
        }
        Ok(is_own)
    }
}

impl Drop for KubeconfigFile {
    fn drop(&mut self) {
        let path = self.path.display();
        match self.remove() {
            Ok(true) => {}
            // Its folder goes, with all that is in it.
            Ok(false) if self.folder.is_some() => {}
            Ok(false) => say!("underpass: {path} stays, since another file has taken its place"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => say!("underpass: {path} is not removed: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn rule_6_a_kubeconfig_is_its_owners_and_goes_with_the_run() {
        let file = KubeconfigFile::write(None, "x").unwrap();
        let path = file.path().to_owned();
        let folder = path.parent().unwrap().to_owned();
        assert_eq!((mode(&path), mode(&folder)), (0o600, 0o700));
        drop(file);
        assert!(!folder.exists());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("it's");
        let file = KubeconfigFile::write(Some(&path), "x").unwrap();
        assert_eq!(mode(&path), 0o600);
        assert!(file.quoted().ends_with(r"it'\''s'"), "{}", file.quoted());
        drop(file);
        fs::write(&path, "another's").unwrap();
        let refused = KubeconfigFile::write(Some(&path), "x").err().unwrap();
        assert!(refused.to_string().contains("not overwritten"), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "another's");
    }
    #[test]
    fn a_file_that_has_taken_the_kubeconfigs_place_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let left = || fs::read_to_string(&path).ok();
        // Removed and made anew: file systems give the number of the old one to the new one at once.
        let file = KubeconfigFile::write(Some(&path), "x").unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(file);
        assert_eq!(left().as_deref(), Some("another's"));
        fs::remove_file(&path).unwrap();
        // A link to it is not it.
        let file = KubeconfigFile::write(Some(&path), "x").unwrap();
        let moved = folder.path().join("moved");
        fs::rename(&path, &moved).unwrap();
        std::os::unix::fs::symlink(&moved, &path).unwrap();
        drop(file);
        assert_eq!(left().as_deref(), Some("x"));
        fs::remove_file(&path).unwrap();
        // kubectl writes into the file, which stays the same one.
        let file = KubeconfigFile::write(Some(&path), "x").unwrap();
        fs::write(&path, "changed").unwrap();
        drop(file);
        assert_eq!(left(), None);
    }
}
