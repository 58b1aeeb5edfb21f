//! A new file for a secret that is shown once.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

/// A file that is to be, readable by its owner only, which takes no other's place. Its folder takes files already, so that no secret
/// is made and lost.
pub(crate) struct SecretFile {
    path: PathBuf,
    file: NamedTempFile,
}

impl SecretFile {
    /// Prepares the file, which does not appear yet.
    pub(crate) fn prepare(path: &Path) -> Result<Self> {
        if path.symlink_metadata().is_ok() {
            bail!(already_there(path));
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // Temporary files are made readable by their owner only.
        let file = NamedTempFile::new_in(folder);
        Ok(Self {
            path: path.to_owned(),
            file: file.with_context(|| format!("cannot make {}", path.display()))?,
        })
    }

    /// The file appears, with the whole text. It stays open in the caller's hands, who can tell it from one that takes its place later.
    pub(crate) fn write(mut self, text: &str) -> Result<File> {
        let shown = || format!("cannot write {}", self.path.display());
        self.file.write_all(text.as_bytes()).with_context(shown)?;
        self.file.as_file().sync_all().with_context(shown)?;
        match self.file.persist_noclobber(&self.path) {
            Ok(file) => Ok(file),
            Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {
                bail!(already_there(&self.path))
            }
            Err(error) => {
                let shown = format!("cannot write {}", self.path.display());
                Err(error.error).context(shown)
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn already_there(path: &Path) -> String {
    format!(
        "{} exists, and is not overwritten: name another file, or remove it",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn rule_14_a_secrets_file_is_its_owners_and_takes_no_others_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("join.token");
        let file = SecretFile::prepare(&path).unwrap();
        assert!(!path.exists());
        file.write("upj_x\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "upj_x\n");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let refused = |result: Result<()>| {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("not overwritten"), "{error}");
        };
        refused(SecretFile::prepare(&path).map(drop));
        // Neither where another program was faster, nor through a link that leads nowhere.
        let other = folder.path().join("other");
        let late = SecretFile::prepare(&other).unwrap();
        fs::write(&other, "mine").unwrap();
        refused(late.write("upj_x").map(drop));
        assert_eq!(fs::read_to_string(&other).unwrap(), "mine");
        let link = folder.path().join("link");
        symlink(folder.path().join("nowhere"), &link).unwrap();
        refused(SecretFile::prepare(&link).map(drop));
        assert!(SecretFile::prepare(&folder.path().join("none/x")).is_err());
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 3, "no temporary file stays");
    }
}
