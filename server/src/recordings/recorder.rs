//! The recorder of one shell: it hears what the shell's agent sends, writes it into the file, and says so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Method, StatusCode};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout};
use underpass_api::{RecordingEvent, ShellEnd, ShellQuestion};
use underpass_audit::{OwnCall, OwnCaller};
use underpass_core::Target;
use underpass_tunnel::chain;

use super::error::RecordingError;
use super::facts::{Facts, Finished};
use super::file::{CastFile, hash};
use super::{Active, Shared, blocking};
use crate::api::Sessions;
use crate::limits;
use crate::questions::{Answer, AskError, ask};

/// The recorder of a shell.
pub(super) struct Recorder {
    shared: Arc<Shared>,
    facts: Facts,
    /// `None` until the file of an earlier server is read.
    file: Option<Arc<Mutex<CastFile>>>,
    active: Active,
    sessions: Sessions,
}

/// Why a recorder is not at its shell.
enum Parted {
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
            let parted = self.attend(&mut seen).await;
            let id = &self.facts.id;
            match parted {
                Ok(end) => return Some(end),
                Err(Parted::NoShell) => return None,
                Err(Parted::Unwritten(error)) if error.passes() => {
                    tracing::debug!(%id, "a shell is not recorded: {error}");
                }
                Err(Parted::Unwritten(error)) => {
                    tracing::warn!(%id, "the recording of a shell ends before the shell: {error}");
                    self.label(&error).await;
                    return None;
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

    async fn attend(&mut self, seen: &mut Instant) -> Result<ShellEnd, Parted> {
        if self.shared.fails() {
            Arc::clone(&self.shared).probe().await?;
        }
        let had = self.write(|file| Ok(file.had())).await?;
        let mut answer = self.ask(had).await?;
        *seen = Instant::now();
        let first = timeout(limits::NODE_TIME, answer.next()).await;
        let first = first.map_err(|_| Parted::Away("the agent does not answer".to_owned()))??;
        match first {
            Some(RecordingEvent::Begun { at, ms }) => {
                self.write(move |file| file.go_on_at(at, ms)).await?;
                if at != had {
                    metrics::counter!("underpass_recording_gaps_total").increment(1);
                    tracing::warn!(id = %self.facts.id, "a part of a shell was not recorded");
                }
            }
            Some(RecordingEvent::Refused(_)) => return Err(Parted::NoShell),
            _ => return Err(AskError::Unreadable.into()),
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
    async fn ask(
        &self,
        had: underpass_api::RecordingPlace,
    ) -> Result<Answer<RecordingEvent>, Parted> {
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
        let told = timeout(limits::NODE_TIME, answer.tell(&had)).await;
        let told = told.map_err(|_| Parted::Away("the agent reads nothing".to_owned()))?;
        Ok(told?)
    }

    fn is_unsettled(&self) -> bool {
        let file = self.file.as_ref();
        file.is_some_and(|file| lock(file).is_unsettled())
    }

    /// Does something with the file, which is read first where an earlier server has left it.
    async fn write<T: Send + 'static>(
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

    /// Leaves the reason in a recording that ends before its shell.
    async fn label(&mut self, why: &RecordingError) {
        let label = format!("underpass: the recording ends here: {why}");
        if let Err(error) = self.write(move |file| file.label(label)).await {
            tracing::debug!("a recording has no label about its end: {error}");
        }
    }

    /// Finishes the file: from here on it does not change, and its hash says so.
    async fn finish(mut self, end: Option<ShellEnd>) {
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
            missing: progress.missing,
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
            tell(&shared, &facts, &finished);
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

impl Finished {
    /// For the audit log.
    pub(crate) fn details(&self) -> Vec<(std::borrow::Cow<'static, str>, String)> {
        let mut details = vec![
            ("underpass.dev/recording-sha256".into(), self.sha256.clone()),
            (
                "underpass.dev/recording-bytes".into(),
                self.bytes.to_string(),
            ),
        ];
        if self.missing > 0 {
            let missing = self.missing.to_string();
            details.push(("underpass.dev/recording-missing".into(), missing));
        }
        details
    }
}

/// Writes the event of a recording that ended when nobody else waited for its shell's end.
fn tell(shared: &Shared, facts: &Facts, finished: &Finished) {
    let mut details = vec![
        (
            "underpass.dev/object".into(),
            format!("recording/{}", facts.id),
        ),
        ("underpass.dev/subject".into(), facts.place.clone()),
        ("underpass.dev/recorded-user".into(), facts.user.clone()),
    ];
    details.extend(finished.details());
    let path = format!("/v1/clusters/{}/recordings/{}", facts.cluster, facts.id);
    shared.audit.own_call(&OwnCall {
        caller: OwnCaller::Known("underpass:recorder"),
        client: None,
        method: &Method::POST,
        path: &path,
        user_agent: "",
        received: facts.created,
        code: StatusCode::OK.as_u16(),
        details: &details,
    });
}

fn lock(file: &Mutex<CastFile>) -> MutexGuard<'_, CastFile> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}
