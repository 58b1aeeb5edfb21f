//! The part of a shell that cannot be written: it is counted instead. A shell that has to be recorded ends by it, and another one goes on.

use tokio::time::{Instant, timeout_at};
use underpass_api::{RecorderWord, RecordingEvent, RecordingPlace, ShellEnd};

use super::error::RecordingError;
use super::recorder::{Parted, Recorder, begun, lock, say};
use super::told;
use crate::limits;

/// Bytes of a shell that the server has read and its file has not.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    /// From here, where the file ends, to there.
    heard: Option<(RecordingPlace, RecordingPlace)>,
    /// The shell's end, and when it was heard.
    end: Option<(ShellEnd, Instant)>,
    /// Whether the logs say that the recording does not go on.
    is_told: bool,
}

impl Unwritten {
    pub(super) fn take_end(&mut self) -> Option<ShellEnd> {
        self.end.take().map(|(end, _)| end)
    }

    fn missing(&self) -> u64 {
        self.heard.map_or(0, |(from, to)| between(from, to))
    }
}

/// Bytes of output and of input between two places.
pub(super) fn between(from: RecordingPlace, to: RecordingPlace) -> u64 {
    let output = to.output.saturating_sub(from.output);
    output.saturating_add(to.input.saturating_sub(from.input))
}

pub(super) fn note_missing(bytes: u64) {
    metrics::counter!("underpass_recording_missing_bytes_total").increment(bytes);
}

impl Recorder {
    /// Counts what comes while the file cannot be written. Gives the shell's end, where nothing more of it will be written, or nothing
    /// where it may be.
    ///
    /// A shell that has to be recorded is told to end, and the agent keeps what it has printed, for as long as it keeps a shell that has
    /// ended.
    pub(super) async fn count(
        &mut self,
        why: &RecordingError,
        seen: &mut Instant,
    ) -> Result<Option<ShellEnd>, Parted> {
        if let Some((end, heard)) = &self.unwritten.end {
            let is_over = !why.passes() || heard.elapsed() > limits::RECORDING_KEPT;
            return Ok(is_over.then(|| end.clone()));
        }
        if !std::mem::replace(&mut self.unwritten.is_told, true) {
            self.tell_stopped(why).await;
        }
        let outdated = self.shared.fault_of(&self.facts);
        let required = self.facts.recording.required || outdated.is_some();
        let had = match &self.file {
            Some(file) => lock(file).had(),
            None => RecordingPlace::default(),
        };
        let mut answer = self.ask(had).await?;
        *seen = Instant::now();
        let (at, _) = begun(&mut answer).await?;
        let from = match &self.file {
            Some(_) if between(at, had) == 0 => had,
            _ => at,
        };
        self.unwritten.heard = Some((from, at));
        let mut word = RecorderWord {
            had: at,
            end: required.then(|| why.fault()),
        };
        if required {
            // Nothing more is written down than before: the agent keeps it.
            word.had = had;
            say(&mut answer, word).await?;
        }
        let again = Instant::now() + limits::RECORDING_AGAIN;
        let mut heard = at;
        loop {
            let next = match why.passes() && !required {
                true => match timeout_at(again, answer.next()).await {
                    Ok(next) => next?,
                    Err(_) => return Ok(None),
                },
                false => answer.next().await?,
            };
            match next {
                Some(RecordingEvent::Output { data, .. }) => {
                    heard.output = heard.output.saturating_add(length(&data));
                }
                Some(RecordingEvent::Input { data, .. }) => {
                    heard.input = heard.input.saturating_add(length(&data));
                }
                Some(RecordingEvent::Ended { end, .. }) => {
                    self.unwritten.end = Some((end.clone(), Instant::now()));
                    let is_over = !why.passes();
                    return Ok(is_over.then_some(end));
                }
                Some(_) => {}
                None => return Err(Parted::Away("the agent has ended it".to_owned())),
            }
            self.unwritten.heard = Some((from, heard));
            *seen = Instant::now();
            if !required {
                // Its program waits for nothing that will not be written.
                let had = heard;
                say(&mut answer, RecorderWord { had, end: None }).await?;
            }
        }
    }

    /// Says that the recording does not go on: in it, in the log and in the audit log.
    async fn tell_stopped(&mut self, why: &RecordingError) {
        let id = &self.facts.id;
        tracing::warn!(%id, "the recording of a shell does not go on: {why}");
        told::stopped(&self.shared.audit, &self.facts, why);
        metrics::counter!("underpass_recording_gaps_total").increment(1);
        if why.passes() {
            return;
        }
        let label = format!("underpass: the recording ends here: {why}");
        if let Err(error) = self.write(move |file| file.label(label)).await {
            tracing::debug!("a recording has no label about its end: {error}");
        }
    }

    /// Names in the file what is missing at its end, and gives the number of bytes that are missing in all.
    pub(super) async fn end_file(&mut self) -> u64 {
        let missing = self.unwritten.missing();
        let Some((_, to)) = self.unwritten.heard.filter(|_| missing > 0) else {
            return 0;
        };
        note_missing(missing);
        let before = match &self.file {
            Some(file) => lock(file).progress().missing,
            None => 0,
        };
        if let Err(error) = self.write(move |file| file.end_at(to)).await {
            tracing::debug!("a recording does not name what is missing at its end: {error}");
        }
        before.saturating_add(missing)
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
