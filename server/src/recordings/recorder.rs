//! The recorder of one shell: it hears what the shell's agent sends, writes it into the file, and says so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt as _;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout};
use underpass_api::{RecorderWord, RecordingEvent, RecordingPlace, ShellEnd, ShellQuestion};
use underpass_core::Target;
use underpass_tunnel::chain;

use super::error::RecordingError;
use super::facts::{Facts, Finished};
use super::file::{CastFile, hash};
use super::unwritten::{Unwritten, between, note_missing};
use super::{Active, Shared, blocking, told};
use crate::api::Sessions;
use crate::limits;
use crate::questions::{Answer, AskError, ask};

/// The recorder of a shell.
pub(super) struct Recorder {
    pub(super) shared: Arc<Shared>,
    pub(super) facts: Facts,
    /// `None` until the file of an earlier server is read.
    pub(super) file: Option<Arc<Mutex<CastFile>>>,
    active: Active,
    sessions: Sessions,
    /// Bytes of the shell that the server has read and its file has not.
    pub(super) unwritten: Unwritten,
}

/// Why a recorder is not at its shell.
pub(super) enum Parted {
    /// The agent is away, or does not answer.
    Away(String),
    /// The agent has no such shell any more.
    NoShell,
    Unwritten(RecordingError),
}

impl From<AskError> for Parted {
    fn from(error: AskError) -> Self {
        Self::Away(chain(&error).to_string())
    }
}

impl From<RecordingError> for Parted {
    fn from(error: RecordingError) -> Self {
        Self::Unwritten(error)
    }
}

impl Recorder {
    pub(super) fn new(
        shared: Arc<Shared>,
        facts: Facts,
        file: Option<CastFile>,
        active: Active,
        sessions: Sessions,
    ) -> Self {
        Self {
            file: file.map(|file| Arc::new(Mutex::new(file))),
            shared,
            facts,
            active,
            sessions,
            unwritten: Unwritten::default(),
        }
    }

    /// Records until the shell has ended.
    pub(super) async fn run(mut self) {
        let end = self.record().await;
        self.finish(end).await;
    }

    /// Attends the shell, again and again, until it has ended. Gives its end, where the agent tells it.
    async fn record(&mut self) -> Option<ShellEnd> {
        let mut seen = Instant::now();
        loop {
            let attended = self.attend(&mut seen).await;
            let counted = match attended {
                Err(Parted::Unwritten(error)) => self.count(&error, &mut seen).await,
                attended => attended.map(Some),
            };
            let id = &self.facts.id;
            match counted {
                Ok(Some(end)) => return Some(end),
                Ok(None) => {}
                Err(Parted::NoShell) => return self.unwritten.take_end(),
                Err(Parted::Unwritten(error)) => {
                    tracing::debug!(%id, "a shell is not recorded: {error}");
                }
                Err(Parted::Away(why)) => {
                    tracing::debug!(%id, "the recorder of a shell is away: {why}");
                    if seen.elapsed() > limits::SHELL_AWAY {
                        return None;
                    }
                }
            }
            sleep(limits::SHELL_AGAIN).await;
        }
    }

    /// Writes what comes behind the file, until the shell has ended.
    async fn attend(&mut self, seen: &mut Instant) -> Result<ShellEnd, Parted> {
        if self.shared.fails() {
            Arc::clone(&self.shared).probe().await?;
        }
        let had = self.write(|file| Ok(file.had())).await?;
        let mut answer = self.ask(had).await?;
        *seen = Instant::now();
        let (at, ms) = begun(&mut answer).await?;
        self.write(move |file| file.go_on_at(at, ms)).await?;
        self.unwritten = Unwritten::default();
        if at != had {
            metrics::counter!("underpass_recording_gaps_total").increment(1);
            note_missing(between(had, at));
            tracing::warn!(id = %self.facts.id, "a part of a shell was not recorded");
        }
        loop {
            self.acknowledge(&mut answer).await?;
            let (events, end) = self.next(&mut answer).await?;
            if !events.is_empty() {
                self.write(move |file| file.add(&events)).await?;
            }
            if let Some(end) = end {
                self.write(CastFile::settle).await?;
                self.acknowledge(&mut answer).await?;
                return Ok(end);
            }
            *seen = Instant::now();
        }
    }

    /// Asks the shell's agent to send what comes behind a place.
    pub(super) async fn ask(&self, had: RecordingPlace) -> Result<Answer<RecordingEvent>, Parted> {
        let target = Target::Shells(self.facts.kind);
        let identity = Bytes::from(self.facts.identity.clone());
        let question = ShellQuestion::Record {
            id: self.facts.id.clone(),
            had,
        };
        let mut failed = Parted::Away("its agent is not connected".to_owned());
        for session in self.sessions.of_agent(&self.facts.agent) {
            let asking = ask(&session, &target, &identity, &question);
            match timeout(limits::NODE_TIME, asking).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => failed = error.into(),
                Err(_) => failed = Parted::Away("the agent does not answer".to_owned()),
            }
        }
        Err(failed)
    }

    /// The next events, of which there is one at the least where the shell has not ended, and its end.
    async fn next(
        &self,
        answer: &mut Answer<RecordingEvent>,
    ) -> Result<(Vec<RecordingEvent>, Option<ShellEnd>), Parted> {
        let first = match self.is_unsettled() {
            true => match timeout(limits::RECORDING_SETTLE, answer.next()).await {
                Ok(first) => first?,
                Err(_) => {
                    self.write_open(CastFile::settle).await?;
                    return Ok((Vec::new(), None));
                }
            },
            false => answer.next().await?,
        };
        let (mut events, mut bytes) = (Vec::new(), 0_usize);
        let mut next = Some(first);
        while let Some(event) = next.take() {
            match event {
                Some(RecordingEvent::Ended { end, .. }) => return Ok((events, Some(end))),
                Some(event) => {
                    if let RecordingEvent::Output { data, .. } = &event {
                        bytes = bytes.saturating_add(data.len());
                    }
                    events.push(event);
                }
                None => return Err(Parted::Away("the agent has ended it".to_owned())),
            }
            if bytes < limits::RECORDING_BATCH
                && events.len() < limits::RECORDING_EVENTS
                && let Some(ready) = answer.next().now_or_never()
            {
                // Where it fails, these events are sent again: nobody has said that they are written.
                next = Some(ready?);
            }
        }
        Ok((events, None))
    }

    /// Tells the agent how far the file is: it keeps what lies behind.
    async fn acknowledge(&self, answer: &mut Answer<RecordingEvent>) -> Result<(), Parted> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let (had, progress) = {
            let file = lock(file);
            (file.had(), file.progress())
        };
        self.active.progress.send_replace(progress);
        let end = self.shared.fault_of(&self.facts);
        say(answer, RecorderWord { had, end }).await
    }

    fn is_unsettled(&self) -> bool {
        let file = self.file.as_ref();
        file.is_some_and(|file| lock(file).is_unsettled())
    }

    /// Does something with the file, which is read first where an earlier server has left it.
    pub(super) async fn write<T: Send + 'static>(
        &mut self,
        what: impl FnOnce(&mut CastFile) -> Result<T, RecordingError> + Send + 'static,
    ) -> Result<T, RecordingError> {
        if self.file.is_none() {
            let (shared, key) = (Arc::clone(&self.shared), self.facts.key());
            let opened = blocking(move || {
                CastFile::reopen(&shared.folder.cast(&key), shared.config.most_bytes_of_one)
            });
            self.file = Some(Arc::new(Mutex::new(opened.await?)));
        }
        self.write_open(what).await
    }

    async fn write_open<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut CastFile) -> Result<T, RecordingError> + Send + 'static,
    ) -> Result<T, RecordingError> {
        let Some(file) = self.file.clone() else {
            return Err(RecordingError::Unreadable);
        };
        let (shared, key) = (Arc::clone(&self.shared), self.facts.key());
        let written = blocking(move || {
            let mut file = lock(&file);
            let before = file.progress().bytes;
            shared
                .folder
                .make_room(&key, before, limits::RECORDING_ROOM)?;
            what(&mut file)
        });
        let written = written.await;
        if let Err(error) = &written {
            self.shared.note(Some(error));
        }
        written
    }

    /// Finishes the file: from here on it does not change, and its hash says so.
    async fn finish(mut self, end: Option<ShellEnd>) {
        let missing = self.end_file().await;
        let settled = self.write(CastFile::settle).await;
        if let Err(error) = settled {
            tracing::error!(id = %self.facts.id, "a recording may lack its end: {error}");
        }
        let progress = match &self.file {
            Some(file) => lock(file).progress(),
            None => Default::default(),
        };
        let path = self.shared.folder.cast(&self.facts.key());
        let hashed = blocking(move || Ok(hash(&path)?)).await;
        let (sha256, bytes) = hashed.unwrap_or_else(|error| {
            tracing::error!(id = %self.facts.id, "a recording cannot be read: {error}");
            Default::default()
        });
        let finished = Finished {
            at: OffsetDateTime::now_utc(),
            bytes,
            milliseconds: progress.milliseconds,
            sha256,
            missing: progress.missing.max(missing),
            end,
        };
        let Self {
            shared,
            facts,
            active,
            ..
        } = self;
        // Its facts come first: the keeper that waits for the end may read them.
        let (noting, key, noted) = (Arc::clone(&shared), facts.key(), finished.clone());
        let written = blocking(move || noting.folder.finish(&key, noted)).await;
        shared.active().remove(&facts.key());
        if active.finished.send(Some(finished.clone())).is_err() {
            told::ended(&shared.audit, &facts, &finished);
        }
        let Err(mut error) = written else {
            return;
        };
        // The disk may be full. Until this is written, a restart would go on with a recording that has ended.
        loop {
            tracing::debug!(id = %facts.id, "the facts about a recording are not written yet: {error}");
            shared.note(Some(&error));
            sleep(limits::RECORDING_AGAIN).await;
            let (noting, key, noted) = (Arc::clone(&shared), facts.key(), finished.clone());
            match blocking(move || noting.folder.finish(&key, noted)).await {
                Ok(()) => return,
                Err(again) => error = again,
            }
        }
    }
}

/// Tells the agent something.
pub(super) async fn say(
    answer: &mut Answer<RecordingEvent>,
    word: RecorderWord,
) -> Result<(), Parted> {
    let told = timeout(limits::NODE_TIME, answer.tell(&word)).await;
    let told = told.map_err(|_| Parted::Away("the agent reads nothing".to_owned()))?;
    Ok(told?)
}

/// The place at which the agent goes on, and the shell's age there.
pub(super) async fn begun(
    answer: &mut Answer<RecordingEvent>,
) -> Result<(RecordingPlace, u64), Parted> {
    let first = timeout(limits::NODE_TIME, answer.next()).await;
    let first = first.map_err(|_| Parted::Away("the agent does not answer".to_owned()))??;
    match first {
        Some(RecordingEvent::Begun { at, ms }) => Ok((at, ms)),
        Some(RecordingEvent::Refused(_)) => Err(Parted::NoShell),
        _ => Err(AskError::Unreadable.into()),
    }
}

pub(super) fn lock(file: &Mutex<CastFile>) -> MutexGuard<'_, CastFile> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}
