//! Questions about shells, and the answers to them.

use std::io;
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use underpass_agent_shell::{OpenError, Recorder, Recording, ShellRecord, Size, Terminal};
use underpass_api::{
    RecordingPlace, ShellAnswer, ShellProblem, ShellQuestion, ShellRefusal, ShellRequest,
};
use underpass_core::{Identity, Permission, ShellId, ShellKind};
use underpass_tunnel::{ReadHalf, Stream, WriteHalf, chain};

use super::super::lines::{self, Unanswered, write};
use super::super::refusal::Refusal;
use super::{AgentShells, decide, given_up, owner, record, view};

/// The answers to one caller, about shells of one kind.
pub(super) struct Answers {
    pub(super) all: Arc<AgentShells>,
    pub(super) identity: Arc<Identity>,
    pub(super) kind: ShellKind,
}

impl Answers {
    /// Answers the one question of a stream.
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream.
    pub(super) async fn serve(&self, stream: Stream) -> Result<(), Unanswered> {
        let (mut from, mut to) = stream.into_split();
        match lines::question(&mut from).await? {
            Ok(ShellQuestion::Open {
                shell,
                api,
                recording,
            }) => {
                let recording = recording.map(record::of_recording);
                let opened = self.opened(shell, api, recording).await;
                return self.keep(opened, &mut from, to).await;
            }
            Ok(ShellQuestion::Record { id, had }) => {
                let recorder = self.recorder(&id, had);
                return record::serve(recorder, from, to).await;
            }
            Ok(ShellQuestion::Keep { id, api }) => {
                let found = self.find(&id);
                if let (Ok(_), Some(kubectl)) = (&found, self.all.kubectl(&id)) {
                    kubectl.narrow(&api);
                }
                return self.keep(found, &mut from, to).await;
            }
            Ok(ShellQuestion::List {}) => {
                let own = owner(&self.identity);
                let is_own = |record: &ShellRecord| record.owner == own && record.kind == self.kind;
                for record in self.all.shells.list(is_own) {
                    write(&mut to, &ShellAnswer::Shell(view::of_record(&record))).await?;
                }
            }
            Ok(ShellQuestion::Read { id }) => self.tell(self.find(&id), &mut to).await?,
            Ok(ShellQuestion::End { id }) => {
                let ended = self.find(&id).and_then(|_| self.end(&id));
                self.tell(ended, &mut to).await?;
            }
            Err(why) => {
                let detail = format!("the agent cannot read the question: {why}");
                let reason = ShellRefusal::Malformed;
                self.tell(Err(ShellProblem { reason, detail }), &mut to)
                    .await?;
            }
        }
        to.shutdown().await?;
        Ok(())
    }

    async fn tell(
        &self,
        found: Result<ShellRecord, ShellProblem>,
        to: &mut WriteHalf,
    ) -> Result<(), Unanswered> {
        let answer = match found {
            Ok(record) => ShellAnswer::Shell(view::of_record(&record)),
            Err(problem) => ShellAnswer::Refused(problem),
        };
        write(to, &answer).await
    }

    /// The caller's shell of this id, where it is of the kind that the stream is about.
    fn find(&self, id: &ShellId) -> Result<ShellRecord, ShellProblem> {
        let found = self.all.shells.read(id, &owner(&self.identity));
        let found = found.ok().filter(|record| record.kind == self.kind);
        found.ok_or_else(|| ShellProblem {
            reason: ShellRefusal::NotFound,
            detail: Refusal::NoShell.to_string(),
        })
    }

    /// A recorder of the caller's shell. The policy is not asked again: the output of a shell that it does not allow any more is recorded as well.
    fn recorder(&self, id: &ShellId, had: RecordingPlace) -> Result<Recorder, ShellProblem> {
        let had = record::of_place(had);
        let recorder = self.all.shells.record(id, &owner(&self.identity), had);
        recorder.map_err(|_unknown| ShellProblem {
            reason: ShellRefusal::NotFound,
            detail: Refusal::NoShell.to_string(),
        })
    }

    fn end(&self, id: &ShellId) -> Result<ShellRecord, ShellProblem> {
        let ended = self.all.shells.end(id, &owner(&self.identity));
        ended.map_err(|unknown| ShellProblem {
            reason: ShellRefusal::NotFound,
            detail: unknown.to_string(),
        })
    }

    /// Keeps the stream for as long as a shell lives: by it, the server takes the permission back, and hears of the shell's end. A stream
    /// that is lost ends no shell.
    async fn keep(
        &self,
        kept: Result<ShellRecord, ShellProblem>,
        from: &mut ReadHalf,
        mut to: WriteHalf,
    ) -> Result<(), Unanswered> {
        let record = match kept {
            Ok(record) => record,
            Err(problem) => {
                self.tell(Err(problem), &mut to).await?;
                to.shutdown().await?;
                return Ok(());
            }
        };
        let (id, own) = (record.id.clone(), owner(&self.identity));
        let kubectl = self.all.kubectl(&id);
        let _kept = kubectl.as_ref().map(|kubectl| kubectl.kept());
        if let Err(untold) = self.tell(Ok(record), &mut to).await {
            // Nobody knows of it, or its permission is gone.
            self.all.shells.revoke(|record| record.id == id);
            return Err(untold);
        }
        let ended = tokio::select! {
            ended = self.all.shells.ended(&id, &own) => ended,
            taken_back = given_up(from) => {
                if taken_back {
                    tracing::info!(%id, "the server takes the permission for a shell back");
                    self.all.shells.revoke(|record| record.id == id);
                }
                return Ok(());
            }
        };
        if let Ok(record) = ended {
            self.tell(Ok(record), &mut to).await?;
        }
        to.shutdown().await?;
        Ok(())
    }

    async fn opened(
        &self,
        request: ShellRequest,
        api: Vec<Permission>,
        recording: Option<Recording>,
    ) -> Result<ShellRecord, ShellProblem> {
        let ShellRequest {
            kind,
            columns,
            rows,
            term,
            command,
        } = request;
        if kind != self.kind {
            return Err(ShellProblem {
                reason: ShellRefusal::Malformed,
                detail: format!("a shell of the kind {kind} is another target"),
            });
        }
        ShellRequest::check_command(&command).map_err(|error| ShellProblem {
            reason: ShellRefusal::Malformed,
            detail: error.to_string(),
        })?;
        let decided = decide(&self.all.policies.current(), &self.identity, kind);
        let decided = decided.and_then(|rule| match command.is_empty() {
            true => Ok(rule),
            false => rule
                .with_command(&command)
                .map(Arc::new)
                .map_err(Refusal::Policy),
        });
        let rule = decided.map_err(|denied| {
            tracing::info!(
                target: "underpass::audit", user = self.identity.user(), %kind, reason = %denied, "a shell is refused"
            );
            ShellProblem {
                reason: ShellRefusal::Forbidden,
                detail: denied.to_string(),
            }
        })?;
        let terminal = Terminal {
            size: Size::fit(columns, rows),
            term,
        };
        let (all, caller) = (Arc::clone(&self.all), Arc::clone(&self.identity));
        // By itself, so that no shell is without its caller where the stream ends meanwhile.
        let opening =
            tokio::spawn(async move { all.open(&rule, caller, terminal, &api, recording).await });
        let gone = |gone| Err(OpenError::Helper(io::Error::other(gone)));
        opening.await.unwrap_or_else(gone).map_err(|error| {
            tracing::info!(
                target: "underpass::audit", user = self.identity.user(), %kind, reason = %chain(&error),
                "a shell is refused"
            );
            view::not_opened(&error)
        })
    }
}
