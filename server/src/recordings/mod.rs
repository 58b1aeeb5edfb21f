//! Recordings of shells: an agent sends the output of a shell, which goes into a file here, and stays for as long as the settings say.
//!
//! A recorder attends each recorded shell at its agent until the shell has ended, across cuts, a full disk and restarts of this server,
//! and goes on behind the byte that is in the file. The agent keeps what the recorder has not written down yet.

mod error;
mod facts;
mod file;
mod folder;
mod options;
mod origin;
mod outdated;
mod recorder;
mod shares;
mod text;
mod told;
mod unwritten;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::sleep;
use underpass_api::{CastHeader, RecordingView, ShellRecording, ShellView, TerminalSize};
use underpass_audit::AuditLog;
use underpass_core::ClusterName;

pub(crate) use self::error::RecordingError;
use self::facts::Progress;
pub(crate) use self::facts::{Facts, Finished, Key, ListPlace, Page};
use self::file::CastFile;
use self::folder::Folder;
pub(crate) use self::options::Options;
pub use self::options::{Record, RecordingsConfig};
pub(crate) use self::origin::Origin;
use self::recorder::Recorder;
pub(crate) use self::shares::Holder;
use self::shares::Room;
use self::told::Removal;
use crate::api::Sessions;
use crate::limits;
use crate::occasional::Occasional;

/// A line of a recording: the data of one line of an agent's, escaped.
const LINE_BYTES: u64 = 1024 * 1024;

/// The folder's name in the data directory.
const NAME: &str = "recordings";

/// The recordings of a server. Clones are the same; the default has none, and records nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recordings(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    config: RecordingsConfig,
    folder: Folder,
    audit: AuditLog,
    active: Mutex<HashMap<Key, Active>>,
    /// Whether the last write failed.
    fails: Mutex<bool>,
    news: Occasional,
}

/// A recording that has a recorder.
#[derive(Clone, Debug)]
struct Active {
    progress: watch::Sender<Progress>,
    finished: watch::Sender<Option<Finished>>,
}

/// The wait for the end of a recording.
pub(crate) struct Ending(watch::Receiver<Option<Finished>>);

impl Recordings {
    /// The recordings in the folder that the settings name, or in the data directory.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub(crate) fn open(
        config: RecordingsConfig,
        data: impl FnOnce(&str) -> PathBuf,
        audit: AuditLog,
    ) -> io::Result<Self> {
        let path = config.dir.clone().unwrap_or_else(|| data(NAME));
        let most = Room {
            bytes: config.most_bytes,
            number: limits::RECORDINGS,
        };
        Ok(Self(Some(Arc::new(Shared {
            folder: Folder::open(path, most, audit.clone())?,
            config,
            audit,
            active: Mutex::default(),
            fails: Mutex::default(),
            news: Occasional::default(),
        }))))
    }

    /// How a new shell is recorded; `None` where none is.
    pub(crate) fn wanted(&self) -> Option<ShellRecording> {
        let config = &self.0.as_ref()?.config;
        let required = match config.record {
            Record::Off => return None,
            Record::On => false,
            Record::Required => true,
        };
        Some(ShellRecording {
            required,
            input: config.input,
            wait_seconds: config.wait.as_secs(),
        })
    }

    /// Can a new recording of this user's begin?
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn ready(&self, holder: &Holder) -> Result<(), RecordingError> {
        let Some(shared) = self.0.clone() else {
            return Ok(());
        };
        Arc::clone(&shared).probe().await?;
        shared.folder.has_room(holder)
    }

    /// Begins the recording of a shell that was just opened. Its file is there from here on.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn begin(
        &self,
        facts: Facts,
        view: &ShellView,
        sessions: &Sessions,
    ) -> Result<(), RecordingError> {
        let Some(shared) = self.0.clone() else {
            return Ok(());
        };
        let size = TerminalSize {
            columns: view.columns,
            rows: view.rows,
        };
        let title = format!("{} shell of {} at {}", facts.kind, facts.user, facts.place);
        let header = CastHeader::new(size, facts.created.unix_timestamp(), title);
        let (making, about) = (Arc::clone(&shared), facts.clone());
        let made = blocking(move || {
            making.folder.enter(&about)?;
            let (path, most) = (
                making.folder.cast(&about.key()),
                making.config.most_bytes_of_one,
            );
            CastFile::create(&path, &header, most).inspect_err(|_| {
                making.folder.forget(&about.key());
            })
        });
        let made = made.await;
        shared.note(made.as_ref().err());
        shared.attend(facts, Some(made?), sessions);
        Ok(())
    }

    /// Goes on with the recordings that were not finished when the server before this one ended.
    pub(crate) fn resume(&self, sessions: &Sessions) {
        let Some(shared) = &self.0 else {
            return;
        };
        for facts in shared.folder.all(|facts| facts.finished.is_none()) {
            tracing::info!(cluster = %facts.cluster, id = %facts.id, "a recording goes on");
            shared.attend(facts, None, sessions);
        }
    }

    /// The wait for the end of a shell's recording; `None` where it is not recorded. A recording that nobody waits for writes its own
    /// audit event.
    pub(crate) fn ending(&self, key: &Key) -> Option<Ending> {
        let shared = self.0.as_ref()?;
        let active = shared
            .active()
            .get(key)
            .map(|active| active.finished.subscribe());
        active.map(Ending).or_else(|| {
            let finished = shared.folder.facts(key)?.finished?;
            Some(Ending(watch::channel(Some(finished)).1))
        })
    }

    /// Looks after the folder for as long as the server runs: removes what was kept for long enough, and finds out when a disk that was
    /// full has room again.
    pub(crate) async fn keep(self) {
        let Some(shared) = self.0 else {
            return std::future::pending().await;
        };
        loop {
            let pruning = Arc::clone(&shared);
            let pruned = blocking(move || {
                pruning
                    .folder
                    .prune(pruning.config.keep, OffsetDateTime::now_utc());
                Ok(())
            });
            // It fails when the server stops.
            let _ = pruned.await;
            for _ in 0..limits::RECORDINGS_PRUNE {
                sleep(limits::RECORDING_AGAIN).await;
                if shared.fails() {
                    let _ = Arc::clone(&shared).probe().await;
                }
            }
        }
    }

    /// A page of the cluster's recordings that fit, and the place of its last one where there are more.
    pub(crate) async fn list(
        &self,
        cluster: ClusterName,
        fits: impl Fn(&Facts) -> bool + Send + 'static,
        page: Page,
    ) -> (Vec<RecordingView>, Option<ListPlace>) {
        let Some(shared) = self.0.clone() else {
            return Default::default();
        };
        let listing = blocking(move || {
            let of_cluster = folder::of(&cluster);
            let fits = |facts: &Facts| of_cluster(facts) && fits(facts);
            let (listed, last) = shared.folder.page(fits, &page);
            let mut budget = limits::RECORDINGS_HASHED;
            let views = listed.iter().map(|facts| shared.view(facts, &mut budget));
            Ok((views.collect(), last))
        });
        listing.await.unwrap_or_default()
    }

    pub(crate) fn facts(&self, key: &Key) -> Option<Facts> {
        self.0.as_ref()?.folder.facts(key)
    }

    /// A recording's file, the whole lines of which have so many bytes.
    pub(crate) async fn file(&self, facts: Facts) -> io::Result<(File, u64)> {
        let shared = self.0.clone().ok_or(io::ErrorKind::NotFound)?;
        let opened = blocking(move || {
            let file = File::open(shared.folder.cast(&facts.key()))?;
            let progress = shared.progress(&facts);
            let bytes = match facts.finished {
                // All of it: a reader that knows the hash finds out what was changed.
                Some(_) => file.metadata()?.len(),
                None => progress.bytes,
            };
            Ok((file, bytes))
        });
        opened.await.map_err(|error| match error {
            RecordingError::Io(error) | RecordingError::Full(error) => error,
            error => io::Error::other(error),
        })
    }

    /// Removes a recording; false where it is being written.
    pub(crate) async fn remove(&self, key: Key) -> Result<bool, RecordingError> {
        let Some(shared) = self.0.clone() else {
            return Ok(false);
        };
        let is_finished = |shared: &Shared| {
            let facts = shared.folder.facts(&key);
            facts.is_some_and(|facts| facts.finished.is_some())
        };
        if !is_finished(&shared) {
            return Ok(false);
        }
        blocking(move || {
            shared.folder.remove(&key, Removal::Asked)?;
            Ok(true)
        })
        .await
    }

    /// Whether shells that must be recorded can be.
    pub(crate) fn are_writable(&self) -> bool {
        let Some(shared) = &self.0 else {
            return true;
        };
        shared.config.record != Record::Required || !shared.fails()
    }

    /// Sets the gauges.
    pub(crate) fn record(&self) {
        let Some(shared) = &self.0 else {
            return;
        };
        let number = |number: u64| u32::try_from(number).map_or(f64::MAX, f64::from);
        let writable = if shared.fails() { 0.0 } else { 1.0 };
        metrics::gauge!("underpass_recordings_writable").set(writable);
        let written = u64::try_from(shared.folder.written()).unwrap_or(u64::MAX);
        metrics::gauge!("underpass_recordings_open").set(number(written));
        let kib = shared.folder.bytes() / 1024;
        metrics::gauge!("underpass_recordings_bytes").set(number(kib) * 1024.0);
    }
}

impl Ending {
    /// Waits for the end.
    pub(crate) async fn finished(mut self) -> Option<Finished> {
        let finished = self.0.wait_for(Option::is_some).await;
        finished.ok().and_then(|finished| finished.clone())
    }
}

impl Shared {
    fn active(&self) -> MutexGuard<'_, HashMap<Key, Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fails(&self) -> bool {
        *self.fails.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes whether a write has failed.
    fn note(&self, error: Option<&RecordingError>) {
        if error.is_some_and(|error| !error.is_of_disk()) {
            return;
        }
        let failed = error.is_some();
        let before = {
            let mut fails = self.fails.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *fails, failed)
        };
        match error {
            Some(error) if !before || self.news.is_news() => {
                tracing::error!(
                    "recordings cannot be written: {}",
                    underpass_tunnel::chain(error)
                );
            }
            None if before => {
                tracing::info!("recordings can be written again");
            }
            _ => {}
        }
    }

    async fn probe(self: Arc<Self>) -> Result<(), RecordingError> {
        let shared = Arc::clone(&self);
        let probed = blocking(move || shared.folder.probe()).await;
        self.note(probed.as_ref().err());
        probed
    }

    fn attend(self: &Arc<Self>, facts: Facts, file: Option<CastFile>, sessions: &Sessions) {
        let active = Active {
            progress: watch::Sender::new(file.as_ref().map(CastFile::progress).unwrap_or_default()),
            finished: watch::Sender::new(None),
        };
        self.active().insert(facts.key(), active.clone());
        let recorder = Recorder::new(Arc::clone(self), facts, file, active, Arc::clone(sessions));
        tokio::spawn(recorder.run());
    }

    fn progress(&self, facts: &Facts) -> Progress {
        let active = self.active().get(&facts.key()).cloned();
        active
            .map(|active| *active.progress.borrow())
            .unwrap_or_default()
    }

    fn view(&self, facts: &Facts, budget: &mut u64) -> RecordingView {
        let state = self.folder.state(facts, budget);
        facts.view(self.progress(facts), state)
    }
}

/// Does what blocks elsewhere.
async fn blocking<T: Send + 'static>(
    what: impl FnOnce() -> Result<T, RecordingError> + Send + 'static,
) -> Result<T, RecordingError> {
    let done = tokio::task::spawn_blocking(what).await;
    done.unwrap_or_else(|gone| Err(RecordingError::Io(io::Error::other(gone))))
}

#[cfg(test)]
mod tests;
