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
use underpass_audit::AuditLog;
use underpass_core::ClusterName;

use super::error::RecordingError;
use super::facts::{Facts, Finished, Key, ListPlace, Page};
use super::file::hash;
use super::shares::{Holder, Place, Room, Shares};
use super::told::{self, Removal};
use crate::limits;

/// The folder, and what is in it.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    most: Room,
    audit: AuditLog,
    index: Mutex<Index>,
}

#[derive(Debug)]
struct Index {
    all: BTreeMap<Key, Facts>,
    shares: Shares,
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
    pub(super) fn open(path: PathBuf, most: Room, audit: AuditLog) -> io::Result<Self> {
        make(&path)?;
        let mut index = Index {
            all: BTreeMap::new(),
            shares: Shares::of(most),
            looks: HashMap::new(),
        };
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
            audit,
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

    /// Enters a recording that is about to be written. Finished ones make room.
    ///
    /// # Errors
    /// It cannot be written, there is one, or there is no room.
    pub(super) fn enter(&self, facts: &Facts) -> Result<(), RecordingError> {
        let key = facts.key();
        if self.index().all.contains_key(&key) {
            return Err(RecordingError::Exists);
        }
        self.room_for(&facts.holder(), Room::one())?;
        self.write(facts)?;
        let mut index = self.index();
        index.shares.add(facts, 0);
        index.all.insert(key, facts.clone());
        Ok(())
    }

    /// Notes the size of a recording that is being written, to which so much more is to be added. Finished ones make room.
    ///
    /// # Errors
    /// There is no room.
    pub(super) fn make_room(&self, key: &Key, bytes: u64, more: u64) -> Result<(), RecordingError> {
        let holder = {
            let mut index = self.index();
            let Some(facts) = index.all.get(key).cloned() else {
                return Ok(());
            };
            // The size of one that is finished is in its facts.
            if facts.finished.is_none() {
                index.shares.take(&facts);
                index.shares.add(&facts, bytes);
            }
            facts.holder()
        };
        self.room_for(&holder, Room::bytes(more))
    }

    /// Can a user have a new recording? Nothing is removed for the answer.
    ///
    /// # Errors
    /// There is no room for one.
    pub(super) fn has_room(&self, holder: &Holder) -> Result<(), RecordingError> {
        let place = self.index().shares.place(holder, Room::one());
        match place {
            Place::Free | Place::After(_) => Ok(()),
            full => Err(self.no_room(&full)),
        }
    }

    fn room_for(&self, holder: &Holder, wanted: Room) -> Result<(), RecordingError> {
        loop {
            let place = self.index().shares.place(holder, wanted);
            match place {
                Place::Free => return Ok(()),
                Place::After(oldest) => {
                    self.remove(&oldest, Removal::ForRoom)?;
                }
                full => return Err(self.no_room(&full)),
            }
        }
    }

    fn no_room(&self, place: &Place) -> RecordingError {
        match place {
            Place::NotTheirs => RecordingError::Share,
            _ => RecordingError::NoRoom(self.most.bytes),
        }
    }

    /// Does the disk take something?
    pub(super) fn probe(&self) -> Result<(), RecordingError> {
        make(&self.path)?;
        let mut probe = tempfile::tempfile_in(&self.path)?;
        probe.write_all(&vec![0; limits::RECORDING_PROBE])?;
        Ok(())
    }

    /// Notes the end of a recording. Where that cannot be written yet, it counts nevertheless, until a restart.
    pub(super) fn finish(&self, key: &Key, finished: Finished) -> Result<(), RecordingError> {
        let facts = {
            let mut index = self.index();
            let Some(mut facts) = index.all.get(key).cloned() else {
                return Ok(());
            };
            index.shares.take(&facts);
            let bytes = finished.bytes;
            facts.finished = Some(finished);
            facts.identity = String::new();
            index.shares.add(&facts, bytes);
            index.all.insert(key.clone(), facts.clone());
            facts
        };
        self.write(&facts)
    }

    /// Forgets a recording that could not begin. A file of its name is another one's.
    pub(super) fn forget(&self, key: &Key) {
        if let Err(error) = gone(fs::remove_file(path_of(&self.path, key, "json"))) {
            tracing::warn!(id = %key.id, "the facts about a recording that there is not stay: {error}");
        }
        let mut index = self.index();
        if let Some(facts) = index.all.remove(key) {
            index.shares.take(&facts);
        }
    }

    /// Removes a recording that is finished. The audit log has it, where no request in the log has asked for it.
    ///
    /// # Errors
    /// Its files stay.
    pub(super) fn remove(&self, key: &Key, why: Removal) -> io::Result<()> {
        // First the recording: a restart in between finds that it is gone.
        gone(fs::remove_file(self.cast(key)))?;
        gone(fs::remove_file(path_of(&self.path, key, "json")))?;
        let removed = {
            let mut index = self.index();
            index.looks.remove(key);
            let removed = index.all.remove(key);
            if let Some(facts) = &removed {
                index.shares.take(facts);
            }
            removed
        };
        // Another one may have removed it meanwhile, and has said so.
        let Some(facts) = removed else {
            return Ok(());
        };
        let how = why.as_str();
        metrics::counter!("underpass_recordings_removed_total").increment(1);
        tracing::info!(cluster = %key.cluster, id = %key.id, "a recording is removed {how}");
        if why != Removal::Asked {
            told::removed(&self.audit, &facts, why);
        }
        Ok(())
    }

    /// Removes the recordings that were kept for long enough, the oldest first. None that is being written is removed.
    pub(super) fn prune(&self, keep: Duration, now: OffsetDateTime) {
        loop {
            let oldest = {
                let index = self.index();
                let oldest = index.shares.oldest();
                oldest.and_then(|key| index.all.get(key)).cloned()
            };
            let Some(oldest) = oldest else {
                return;
            };
            let ended = oldest.finished.as_ref().map(|finished| finished.at);
            if ended.is_none_or(|ended| now - ended <= keep) {
                return;
            }
            if let Err(error) = self.remove(&oldest.key(), Removal::OfAge) {
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

    /// A page of those that fit, and the place of its last one where there are more.
    pub(super) fn page(
        &self,
        fits: impl Fn(&Facts) -> bool,
        page: &Page,
    ) -> (Vec<Facts>, Option<ListPlace>) {
        let index = self.index();
        let fitting = index.all.values().filter(|facts| fits(facts));
        let placed = fitting.map(|facts| (facts.place_in_lists(), facts));
        let is_behind = |place: &ListPlace| page.behind.as_ref().is_none_or(|last| place > last);
        let mut placed: Vec<_> = placed.filter(|(place, _)| is_behind(place)).collect();
        placed.sort_by(|(one, _), (other, _)| one.cmp(other));
        let is_all = placed.len() <= page.limit;
        placed.truncate(page.limit);
        let last = placed.last().filter(|_| !is_all);
        let last = last.map(|(place, _)| place.clone());
        (
            placed.into_iter().map(|(_, facts)| facts.clone()).collect(),
            last,
        )
    }

    /// Bytes of all recordings, in whole blocks of a disk.
    pub(super) fn bytes(&self) -> u64 {
        self.index().shares.bytes()
    }

    /// The number of those that are being written.
    pub(super) fn written(&self) -> usize {
        let index = self.index();
        let written = index.all.values().filter(|facts| facts.finished.is_none());
        written.count()
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
        let bytes = match &facts.finished {
            Some(finished) => finished.bytes,
            // Its recorder reads it again.
            None => fs::symlink_metadata(path_of(folder, &facts.key(), "cast"))
                .map_or(0, |found| found.len()),
        };
        self.shares.add(&facts, bytes);
        self.all.insert(facts.key(), facts);
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
