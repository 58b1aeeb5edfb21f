//! A shell that is opened, and its recording with it.

use bytes::Bytes;
use http::StatusCode;
use underpass_api::{ShellProblem, ShellQuestion, ShellRecording, ShellRefusal, ShellRequest};
use underpass_core::{Permission, ShellId, ShellKind};

use super::Sessions;
use super::problem::Problem;
use crate::recordings::{Facts, Holder, RecordingError, Recordings};
use crate::shells::{Agents, Opened, ShellError};

/// The agents that may open a shell for a caller, and how it is recorded.
pub(super) struct Opening<'a> {
    pub(super) agents: &'a Agents,
    pub(super) kind: ShellKind,
    pub(super) identity: &'a Bytes,
    /// The permissions of the shell at the API server.
    pub(super) api: &'a [Permission],
    pub(super) recordings: &'a Recordings,
    /// The user in whose share the recording counts.
    pub(super) holder: Holder,
}

impl Opening<'_> {
    /// Can a shell be recorded that has to be?
    pub(super) async fn check(&self) -> Result<(), Problem> {
        let wanted = self.recordings.wanted();
        if wanted.is_some_and(|wanted| wanted.required) {
            self.recordings.ready(&self.holder).await?;
        }
        Ok(())
    }

    /// Opens a shell, and begins its recording. Gives it, and for the audit log whether it is recorded.
    pub(super) async fn open(
        &self,
        wanted: ShellRequest,
        facts: impl FnOnce(&Opened, ShellRecording) -> Option<Facts>,
        sessions: &Sessions,
    ) -> Result<(Opened, String), Problem> {
        let Some(recording) = self.recordings.wanted() else {
            let opened = self.ask(&self.question(wanted, None)).await?;
            return Ok((opened, String::new()));
        };
        let question = self.question(wanted.clone(), Some(recording));
        let opened = match self.ask(&question).await {
            Ok(opened) => opened,
            Err(error) if is_malformed(&error) && self.is_too_old().await => {
                if recording.required {
                    let detail = "shells have to be recorded here, and the agent is too old for that: upgrade it";
                    return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, detail));
                }
                let opened = self.ask(&self.question(wanted, None)).await?;
                return Ok((opened, ", not recorded: its agent is too old".to_owned()));
            }
            Err(error) => return Err(error.into()),
        };
        let begun = match facts(&opened, recording) {
            Some(facts) => self.recordings.begin(facts, &opened.view, sessions).await,
            None => Err(RecordingError::Identity),
        };
        match begun {
            Ok(()) if recording.input => Ok((opened, ", recorded with its input".to_owned())),
            Ok(()) => Ok((opened, ", recorded".to_owned())),
            Err(error) if recording.required => {
                // Nothing of it was shown to anybody.
                opened.revoke();
                Err(error.into())
            }
            Err(error) => {
                tracing::error!(id = %opened.view.id, "a shell is not recorded: {error}");
                Ok((opened, format!(", not recorded: {error}")))
            }
        }
    }

    fn question(&self, shell: ShellRequest, recording: Option<ShellRecording>) -> ShellQuestion {
        ShellQuestion::Open {
            shell,
            api: self.api.to_vec(),
            recording,
        }
    }

    async fn ask(&self, question: &ShellQuestion) -> Result<Opened, ShellError> {
        self.agents.open(self.kind, self.identity, question).await
    }

    /// Does the agent know of no recordings? One that does has no shell of this id.
    async fn is_too_old(&self) -> bool {
        let question = ShellQuestion::Record {
            id: ShellId::random(),
            had: Default::default(),
        };
        let asked = self.agents.about(self.kind, self.identity, &question).await;
        asked.is_err_and(|error| is_malformed(&error))
    }
}

fn is_malformed(error: &ShellError) -> bool {
    let malformed = ShellRefusal::Malformed;
    matches!(error, ShellError::Refused(ShellProblem { reason, .. }) if *reason == malformed)
}
