//! A run: the command's process, from its start to its end.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use underpass_api::{OperationState, OutputBytes, OutputStream, ProgramExit};

use crate::limits;
use crate::output::Writer;
use crate::process;

/// The end that others ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// None.
    Nothing,
    /// A caller cancels the run.
    Cancel { by: String },
    /// The agent stops.
    Stop,
}

/// The end of a run.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) state: OperationState,
    pub(crate) exit: Option<ProgramExit>,
    pub(crate) reason: Option<String>,
    pub(crate) output: OutputBytes,
    /// Bytes of its files.
    pub(crate) on_disk: u64,
}

/// Why a command is killed before its end.
enum Killed {
    TimedOut,
    Asked(Asked),
}

/// Why there is no process.
#[derive(Debug, Error)]
pub(crate) enum SpawnError {
    #[error("the command cannot be started: {0}")]
    NotStarted(#[source] io::Error),
    #[error(
        "the agent could not follow the command, and killed it: whether it has done its work is not known: {0}"
    )]
    Killed(#[source] io::Error),
}

impl SpawnError {
    pub(crate) fn state(&self) -> OperationState {
        match self {
            Self::NotStarted(_) => OperationState::Failed,
            Self::Killed(_) => OperationState::Interrupted,
        }
    }
}

/// A command that runs.
pub(crate) struct Process {
    child: Child,
    group: Pid,
    /// Readable once the command has ended.
    ended: AsyncFd<std::os::fd::OwnedFd>,
}

impl Process {
    /// Starts a command, whose process group is its own.
    pub(crate) async fn spawn(command: &mut Command) -> Result<Self, SpawnError> {
        let mut child = command.spawn().map_err(SpawnError::NotStarted)?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let group = id.and_then(Pid::from_raw);
        let ended = match group {
            Some(group) => watch_end(group).map(|ended| (group, ended)),
            None => Err(io::Error::other("the command has no process id")),
        };
        match ended {
            Ok((group, ended)) => Ok(Self {
                child,
                group,
                ended,
            }),
            Err(error) => {
                if let Some(group) = group {
                    process::signal(group, Signal::KILL);
                }
                let killed = child.kill().await;
                Err(SpawnError::Killed(killed.err().unwrap_or(error)))
            }
        }
    }

    /// Waits for the command's end, which comes at its time limit or when it is asked for at the latest, and keeps its output.
    /// `publish` hears of output that can be read. A disk that hangs holds up the output alone.
    pub(crate) async fn run(
        mut self,
        output: Writer,
        limit: Duration,
        mut asked: watch::Receiver<Asked>,
        publish: impl Fn((OutputBytes, u64)),
    ) -> End {
        let mut stdout = Pipe::new(self.child.stdout.take(), OutputStream::Stdout);
        let mut stderr = Pipe::new(self.child.stderr.take(), OutputStream::Stderr);
        let mut output = Output::Idle(output);
        let deadline = Instant::now() + limit;
        let mut killed = None;
        let mut kill_at: Option<Instant> = None;
        let mut rest_until: Option<Instant> = None;
        while !(rest_until.is_some() && stdout.is_over() && stderr.is_over()) {
            tokio::select! {
                piece = stdout.next(), if !output.is_writing() && !stdout.is_over() => output.append(piece),
                piece = stderr.next(), if !output.is_writing() && !stderr.is_over() => output.append(piece),
                bytes = output.written(), if output.is_writing() => publish(bytes),
                _ = self.ended.readable(), if rest_until.is_none() => {
                    // Nothing of it outlives it. It is not reaped yet, so that the group's number is still its own.
                    process::signal(self.group, Signal::KILL);
                    rest_until = Some(Instant::now() + limits::REST_TIME);
                }
                () = at(rest_until) => break,
                () = sleep_until(deadline), if killed.is_none() && rest_until.is_none() => {
                    killed = Some(Killed::TimedOut);
                    kill_at = Some(self.terminate());
                }
                asked = end_asked(&mut asked), if killed.is_none() && rest_until.is_none() => {
                    killed = Some(Killed::Asked(asked));
                    kill_at = Some(self.terminate());
                }
                () = at(kill_at), if rest_until.is_none() => {
                    process::signal(self.group, Signal::KILL);
                    kill_at = None;
                }
            }
        }
        let status = self.child.wait().await;
        end(status, killed, limit, output.finish().await)
    }

    /// Asks the command to end, and says when it is made to.
    fn terminate(&self) -> Instant {
        process::signal(self.group, Signal::TERM);
        Instant::now() + limits::GRACE
    }
}

/// Waits until an end is asked for.
async fn end_asked(asked: &mut watch::Receiver<Asked>) -> Asked {
    let wanted = asked.wait_for(|asked| *asked != Asked::Nothing).await;
    let wanted = wanted.map(|asked| asked.clone());
    match wanted {
        Ok(asked) => asked,
        Err(_) => std::future::pending().await,
    }
}

/// Readable once the process has ended. It is not reaped by that.
#[expect(
    deprecated,
    reason = "unsound for types that let go of their descriptor, which an OwnedFd does not; what follows it needs `unsafe`"
)]
fn watch_end(process: Pid) -> io::Result<AsyncFd<std::os::fd::OwnedFd>> {
    AsyncFd::new(pidfd_open(process, PidfdFlags::NONBLOCK)?)
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn end(
    status: io::Result<ExitStatus>,
    killed: Option<Killed>,
    limit: Duration,
    (output, on_disk): (OutputBytes, u64),
) -> End {
    let exit = status.as_ref().ok().and_then(|status| {
        let code = status.code().map(ProgramExit::Status);
        code.or_else(|| status.signal().map(ProgramExit::Signal))
    });
    let (state, reason) = match (killed, &status) {
        (Some(Killed::TimedOut), _) => (
            OperationState::TimedOut,
            Some(format!("it was killed after its time limit of {limit:?}")),
        ),
        (Some(Killed::Asked(Asked::Cancel { by })), _) => (
            OperationState::Cancelled,
            Some(format!("{by} cancelled it")),
        ),
        (Some(Killed::Asked(Asked::Stop | Asked::Nothing)), _) => (
            OperationState::Interrupted,
            Some("the agent stopped, and killed it".to_owned()),
        ),
        (None, Ok(status)) if status.success() => (OperationState::Succeeded, None),
        (None, Ok(status)) => (
            OperationState::Failed,
            status
                .signal()
                .map(|signal| format!("the signal {signal} ended it")),
        ),
        (None, Err(error)) => (
            OperationState::Failed,
            Some(format!("its end is not known: {error}")),
        ),
    };
    End {
        state,
        exit,
        reason,
        output,
        on_disk,
    }
}

/// One of a command's streams.
struct Pipe<R> {
    pipe: Option<R>,
    stream: OutputStream,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Pipe<R> {
    fn new(pipe: Option<R>, stream: OutputStream) -> Self {
        Self {
            pipe,
            stream,
            buffer: vec![0; limits::PIECE_BYTES],
        }
    }

    fn is_over(&self) -> bool {
        self.pipe.is_none()
    }

    /// Some bytes; none at its end.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    async fn next(&mut self) -> (OutputStream, Vec<u8>) {
        let Some(pipe) = &mut self.pipe else {
            return std::future::pending().await;
        };
        let read = pipe.read(&mut self.buffer).await;
        let data = read.ok().and_then(|read| self.buffer.get(..read));
        let data = data.unwrap_or_default().to_vec();
        if data.is_empty() {
            self.pipe = None;
        }
        (self.stream, data)
    }
}

/// The files of the output, which one thread at a time writes into.
enum Output {
    Idle(Writer),
    Writing(JoinHandle<Writer>),
    /// A thread that wrote was given up.
    Gone,
}

impl Output {
    fn is_writing(&self) -> bool {
        matches!(self, Self::Writing(_))
    }

    /// Has a thread write it. Call it while none does.
    fn append(&mut self, (stream, data): (OutputStream, Vec<u8>)) {
        if data.is_empty() {
            return;
        }
        *self = match std::mem::replace(self, Self::Gone) {
            Self::Idle(mut writer) => Self::Writing(tokio::task::spawn_blocking(move || {
                writer.append(stream, &data);
                writer
            })),
            other => other,
        };
    }

    /// Waits until it is written, and gives the output so far.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    async fn written(&mut self) -> (OutputBytes, u64) {
        if let Self::Writing(writing) = self {
            *self = match writing.await {
                Ok(writer) => Self::Idle(writer),
                Err(error) => {
                    tracing::error!("the output of an operation is given up: {error}");
                    Self::Gone
                }
            };
        }
        match self {
            Self::Idle(writer) => writer.bytes(),
            Self::Writing(_) | Self::Gone => <_>::default(),
        }
    }

    async fn finish(mut self) -> (OutputBytes, u64) {
        let bytes = self.written().await;
        let Self::Idle(mut writer) = self else {
            return bytes;
        };
        let finished = tokio::task::spawn_blocking(move || writer.finish()).await;
        if let Err(error) | Ok(Err(error)) = finished.map_err(io::Error::other) {
            tracing::error!("the output of an operation is not synced: {error}");
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::OwnedFd;
    use std::process::Stdio;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        command
    }

    #[tokio::test]
    async fn rule_19_a_disk_that_hangs_disarms_no_time_limit() {
        let process = Process::spawn(&mut shell("exec yes")).await.unwrap();
        let ended = watch_end(process.group).unwrap();
        // A full pipe is a disk that takes nothing more.
        let (mut end, disk) = io::pipe().unwrap();
        let places = tempfile::tempfile().unwrap();
        let writer = Writer::new(OwnedFd::from(disk).into(), places, u64::MAX);
        let (_asks, asked) = watch::channel(Asked::Nothing);
        let limit = Duration::from_millis(100);
        let running = tokio::spawn(process.run(writer, limit, asked, |_| {}));
        let killed = tokio::time::timeout(Duration::from_secs(30), ended.readable());
        drop(killed.await.unwrap().unwrap());
        assert!(!running.is_finished(), "its output is not written yet");
        let reading = std::thread::spawn(move || end.read_to_end(&mut Vec::new()));
        let end = running.await.unwrap();
        assert_eq!(end.state, OperationState::TimedOut);
        reading.join().unwrap().unwrap();
    }
}
