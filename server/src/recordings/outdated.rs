//! Shells that were opened before recordings were required: each ends at its agent, and its user reads why. One that was recorded as far as
//! that could be done has a recorder, which says so at its first word. One without a recording is found when a viewer attaches to it.

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use underpass_api::{
    RecorderWord, RecordingEvent, RecordingFault, RecordingPlace, ShellQuestion, ShellView,
};
use underpass_core::Target;

use super::facts::{Facts, Key};
use super::options::Record;
use super::recorder::{Parted, begun, say};
use super::{Recordings, Shared};
use crate::api::Sessions;
use crate::limits;
use crate::questions::ask;

impl Shared {
    /// Why a recorder has a shell end that it could record.
    pub(super) fn fault_of(&self, facts: &Facts) -> Option<RecordingFault> {
        let is_outdated = self.config.record == Record::Required && !facts.recording.required;
        is_outdated.then_some(RecordingFault::NotRequired)
    }
}

impl Recordings {
    /// Does this shell go on without a recording that is required now, and without a recorder that ends it? A shell that another server
    /// records says so.
    pub(crate) fn is_outdated(&self, key: &Key, view: &ShellView) -> bool {
        let is_recorded = view.recording.is_some_and(|how| how.required);
        let is_required = self.wanted().is_some_and(|wanted| wanted.required);
        // A recorder whose agent was away for too long is none any more.
        let has_recorder = self
            .facts(key)
            .is_some_and(|facts| facts.finished.is_none());
        is_required && !is_recorded && view.end.is_none() && !has_recorder
    }

    /// Has the agent end such a shell of the user whose encoded identity this is, and tries again for as long as it is polled.
    ///
    /// # Cancel safety
    /// The shell may go on.
    pub(crate) async fn end_outdated(
        &self,
        (view, agent): (&ShellView, &str),
        identity: &Bytes,
        sessions: &Sessions,
    ) {
        tracing::info!(id = %view.id, "a shell that is not recorded has to end: recordings are required");
        loop {
            let ended = timeout(limits::RECORDING_END, end(view, agent, identity, sessions)).await;
            match ended {
                Ok(Ok(())) | Ok(Err(Parted::NoShell)) => return,
                Ok(Err(Parted::Away(why))) => {
                    tracing::debug!(id = %view.id, "a shell does not end yet: {why}");
                }
                Ok(Err(Parted::Unwritten(_))) | Err(_) => {}
            }
            sleep(limits::SHELL_AGAIN).await;
        }
    }
}

/// Has a shell end, and waits for that: the agent may not have read the word before.
async fn end(
    view: &ShellView,
    agent: &str,
    identity: &Bytes,
    sessions: &Sessions,
) -> Result<(), Parted> {
    let question = ShellQuestion::Record {
        id: view.id.clone(),
        had: RecordingPlace::default(),
    };
    let session = sessions.of_agent(agent).into_iter().next();
    let session = session.ok_or_else(|| Parted::Away("its agent is not connected".to_owned()))?;
    let target = Target::Shells(view.kind);
    let asking = ask(&session, &target, identity, &question);
    let asked = timeout(limits::NODE_TIME, asking).await;
    let mut answer = asked.map_err(|_| Parted::Away("the agent does not answer".to_owned()))??;
    let (mut had, _) = begun(&mut answer).await?;
    loop {
        let end = Some(RecordingFault::NotRequired);
        say(&mut answer, RecorderWord { had, end }).await?;
        match answer.next().await? {
            Some(RecordingEvent::Output { data, .. }) => {
                had.output = had.output.saturating_add(length(&data));
            }
            Some(RecordingEvent::Input { data, .. }) => {
                had.input = had.input.saturating_add(length(&data));
            }
            Some(RecordingEvent::Ended { .. }) => return Ok(()),
            Some(_) => {}
            None => return Err(Parted::Away("the agent has ended it".to_owned())),
        }
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
