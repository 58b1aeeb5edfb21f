//! The folder of recordings: `CLUSTER/ID.cast`, and `CLUSTER/ID.json` with the facts about it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use underpass_api::RecordingState;
use underpass_core::ClusterName;

use super::error::RecordingError;
use super::facts::{Facts, Finished, Key};
use super::file::hash;
use crate::limits;

/// The folder, and what is in it.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    most: u64,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    all: BTreeMap<Key, Facts>,
    /// Bytes of the recordings that are being written.
    written: HashMap<Key, u64>,
    /// The last look at a file that is finished, and whether it had its hash.
    looks: HashMap<Key, (Look, bool)>,
}

/// A file's own marks: one that was changed has others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Folder {
    /// The folder at a path, which is made where it is missing.
    ///
    /// # Errors
    /// It cannot be made or read.
    pub(super) fn open(path: PathBuf, most: u64) -> io::Result<Self> {
        make(&path)?;
        let mut index = Index::default();
        for cluster in fs::read_dir(&path)? {
            let cluster = cluster?;
            if !cluster.file_type()?.is_dir() {
                continue;
            }
            for file in fs::read_dir(cluster.path())? {
                let file = file?.path();
                if file
                    .extension()
                    .is_some_and(|extension| extension == "json")
                {
                    index.take_in(&path, &file);
                }
            }
        }
        Ok(Self {
            path,
            most,
            index: Mutex::new(index),
        })
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The path of a recording's file.
    pub(super) fn cast(&self, key: &Key) -> PathBuf {
        path_of(&self.path, key, "cast")
    }

    /// Enters a recording that is about to be written.
    ///
    /// # Errors
    /// It cannot be written, or there is one.
    pub(super) fn enter(&self, facts: &Facts) -> Result<(), RecordingError> {
        let key = facts.key();
        if self.index().all.contains_key(&key) {
            return Err(RecordingError::Exists);
        }
        self.write(facts)?;
        let mut index = self.index();
        index.written.insert(key.clone(), 0);
        index.all.insert(key, facts.clone());
        Ok(())
    }

    /// Notes the size of a recording that is being written, to which so much more is to be added. Finished ones make room.
    ///
    /// # Errors
    /// There is no room.
    pub(super) fn make_room(&self, key: &Key, bytes: u64, more: u64) -> Result<(), RecordingError> {
        self.index().written.insert(key.clone(), bytes);
        loop {
            let oldest = {
                let index = self.index();
                if index.bytes().saturating_add(more) <= self.most {
                    return Ok(());
                }
                index.oldest().cloned()
            };
            match oldest {
                Some(oldest) => self.remove(&oldest.key(), "to make room")?,
                None => return Err(RecordingError::NoRoom(self.most)),
            }
        }
    }

    /// Is there room for a new recording? The disk is asked.
    pub(super) fn probe(&self) -> Result<(), RecordingError> {
        make(&self.path)?;
        let mut probe = tempfile::tempfile_in(&self.path)?;
        probe.write_all(&vec![0; limits::RECORDING_PROBE])?;
        let index = self.index();
        let written: u64 = index.written.values().sum();
        match written < self.most {
            true => Ok(()),
            false => Err(RecordingError::NoRoom(self.most)),
        }
    }

    /// Notes the end of a recording. Where that cannot be written yet, it counts nevertheless, until a restart.
    pub(super) fn finish(&self, key: &Key, finished: Finished) -> Result<(), RecordingError> {
        let facts = {
            let mut index = self.index();
            index.written.remove(key);
            let Some(facts) = index.all.get_mut(key) else {
                return Ok(());
            };
            facts.finished = Some(finished);
            facts.identity = String::new();
            facts.clone()
        };
        self.write(&facts)
    }

    /// Forgets a recording that could not begin. A file of its name is another one's.
    pub(super) fn forget(&self, key: &Key) {
        if let Err(error) = gone(fs::remove_file(path_of(&self.path, key, "json"))) {
            tracing::warn!(id = %key.id, "the facts about a recording that there is not stay: {error}");
        }
        let mut index = self.index();
        index.all.remove(key);
        index.written.remove(key);
    }

    /// Removes a recording that is finished.
    ///
    /// # Errors
    /// Its files stay.
    pub(super) fn remove(&self, key: &Key, why: &str) -> io::Result<()> {
        // First the recording: a restart in between finds that it is gone.
        gone(fs::remove_file(self.cast(key)))?;
        gone(fs::remove_file(path_of(&self.path, key, "json")))?;
        let mut index = self.index();
        index.all.remove(key);
        index.looks.remove(key);
        drop(index);
        metrics::counter!("underpass_recordings_removed_total").increment(1);
        tracing::info!(cluster = %key.cluster, id = %key.id, "a recording is removed {why}");
        Ok(())
    }

    /// Removes the recordings that were kept for long enough, the oldest first. None that is being written is removed.
    pub(super) fn prune(&self, keep: Duration, now: OffsetDateTime) {
        loop {
            let oldest = self.index().oldest().cloned();
            let Some(oldest) = oldest else {
                return;
            };
            let ended = oldest.finished.as_ref().map(|finished| finished.at);
            if ended.is_none_or(|ended| now - ended <= keep) {
                return;
            }
            if let Err(error) = self.remove(&oldest.key(), "at the end of its time") {
                tracing::error!("a recording cannot be removed: {error}");
                return;
            }
        }
    }

    pub(super) fn facts(&self, key: &Key) -> Option<Facts> {
        self.index().all.get(key).cloned()
    }

    /// Those that fit.
    pub(super) fn all(&self, fits: impl Fn(&Facts) -> bool) -> Vec<Facts> {
        let index = self.index();
        index
            .all
            .values()
            .filter(|facts| fits(facts))
            .cloned()
            .collect()
    }

    /// Bytes of all recordings.
    pub(super) fn bytes(&self) -> u64 {
        self.index().bytes()
    }

    pub(super) fn written(&self) -> usize {
        self.index().written.len()
    }

    /// Whether a finished recording's file is as it was. Where it was not looked at since it last changed, it is read, within a budget of
    /// bytes.
    pub(super) fn state(&self, facts: &Facts, budget: &mut u64) -> RecordingState {
        let (key, path) = (facts.key(), self.cast(&facts.key()));
        let Some(finished) = &facts.finished else {
            return RecordingState::Recording;
        };
        let Ok(look) = Look::at(&path) else {
            return RecordingState::Changed;
        };
        let known = self.index().looks.get(&key).copied();
        let is_intact = match known.filter(|(known, _)| *known == look) {
            Some((_, is_intact)) => is_intact,
            None if look.bytes != finished.bytes => false,
            None => {
                let Some(rest) = budget.checked_sub(look.bytes) else {
                    return RecordingState::Unchecked;
                };
                *budget = rest;
                hash(&path).is_ok_and(|(hash, _)| hash == finished.sha256)
            }
        };
        self.index().looks.insert(key, (look, is_intact));
        match is_intact {
            true => RecordingState::Intact,
            false => RecordingState::Changed,
        }
    }

    fn write(&self, facts: &Facts) -> Result<(), RecordingError> {
        let folder = self.path.join(facts.cluster.as_str());
        make(&folder)?;
        let text = serde_json::to_vec(facts).map_err(io::Error::from)?;
        // Temporary files are made readable by their owner only.
        let mut file = tempfile::NamedTempFile::new_in(&folder)?;
        file.write_all(&text)?;
        file.as_file().sync_all()?;
        let persisted = file.persist(path_of(&self.path, &facts.key(), "json"));
        persisted.map_err(|error| RecordingError::from(error.error))?;
        File::open(&folder)?.sync_all()?;
        Ok(())
    }
}

impl Index {
    /// Takes in a file with facts. One that cannot be read, or that is not where its facts say, is left alone.
    fn take_in(&mut self, folder: &Path, file: &Path) {
        let read = fs::read(file).ok();
        let facts: Option<Facts> = read.and_then(|text| serde_json::from_slice(&text).ok());
        let facts = facts.filter(|facts| path_of(folder, &facts.key(), "json") == file);
        let Some(facts) = facts else {
            tracing::warn!(path = %file.display(), "the facts about a recording cannot be read");
            return;
        };
        if facts.finished.is_none() {
            self.written.insert(facts.key(), 0);
        }
        self.all.insert(facts.key(), facts);
    }

    fn bytes(&self) -> u64 {
        let finished = self
            .all
            .values()
            .filter_map(|facts| facts.finished.as_ref());
        let finished = finished.map(|finished| finished.bytes);
        let written = self.written.values().copied();
        finished.chain(written).fold(0, u64::saturating_add)
    }

    /// The one that ended first.
    fn oldest(&self) -> Option<&Facts> {
        let finished = self.all.values().filter(|facts| facts.finished.is_some());
        finished.min_by_key(|facts| facts.finished.as_ref().map(|finished| finished.at))
    }
}

impl Look {
    fn at(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self {
            inode: found.ino(),
            bytes: found.len(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

fn path_of(folder: &Path, key: &Key, extension: &str) -> PathBuf {
    let name = format!("{}.{extension}", key.id);
    folder.join(key.cluster.as_str()).join(name)
}

fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The cluster's recordings.
pub(super) fn of(cluster: &ClusterName) -> impl Fn(&Facts) -> bool {
    move |facts| facts.cluster == *cluster
}

#[cfg(test)]
mod tests;
