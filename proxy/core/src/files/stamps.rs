//! Whether files have changed.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Files, and how each was when it was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamps(Vec<(PathBuf, Option<Stamp>)>);

/// Links are followed: the kubelet and cert-manager replace a link to a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    /// Of the content, and of the inode, which no program can set back.
    modified: [(i64, i64); 2],
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            length: found.len(),
            modified: [
                (found.mtime(), found.mtime_nsec()),
                (found.ctime(), found.ctime_nsec()),
            ],
        })
    }
}

impl Stamps {
    /// Looks at files. Blocks.
    pub fn of(files: Vec<PathBuf>) -> Self {
        let look = |file: PathBuf| {
            let stamp = Stamp::of(&file);
            (file, stamp)
        };
        Self(files.into_iter().map(look).collect())
    }

    /// And at these. Blocks.
    #[must_use]
    pub fn and(mut self, files: &[PathBuf]) -> Self {
        self.0.append(&mut Self::of(files.to_vec()).0);
        self
    }

    /// Are the files as they were? Blocks.
    pub fn are_current(&self) -> bool {
        Self::of(self.0.iter().map(|(file, _)| file.clone()).collect()) == *self
    }

    /// Has one of the files changed, or come, or gone?
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn have_changed(&self) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let files = self.0.iter().map(|(file, _)| file.clone()).collect();
        let looking = tokio::task::spawn_blocking(move || Self::of(files));
        looking.await.is_ok_and(|now| now != *self)
    }
}
