//! The kubeconfig of one run.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;
use underpass_terminal::say;

use crate::secret_file::SecretFile;

/// A kubeconfig, readable by its owner alone. It is removed when this is dropped.
pub(super) struct KubeconfigFile {
    path: PathBuf,
    /// Where the user has named no file. Closed to others, and removed with all that kubectl put there.
    _folder: Option<TempDir>,
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
        SecretFile::prepare(&path)?.write(text)?;
        Ok(Self {
            path,
            _folder: folder,
        })
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

impl Drop for KubeconfigFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            say!("underpass: {} is not removed: {error}", self.path.display());
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
}
