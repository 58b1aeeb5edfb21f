//! A run: the command's process, from its start to its end.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use underpass_api::{OperationExit, OperationState, OutputBytes, OutputStream};

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
    pub(crate) exit: Option<OperationExit>,
    pub(crate) reason: Option<String>,
    pub(crate) output: OutputBytes,
}

/// Why a command is killed before its end.
enum Killed {
    TimedOut,
    Asked(Asked),
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
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        let mut child = command.spawn()?;
        let followed = || {
            let id = child.id().and_then(|id| i32::try_from(id).ok());
            let group = id.and_then(Pid::from_raw);
            let group = group.ok_or_else(|| io::Error::other("the command has no process id"))?;
            Ok((group, watch_end(group)?))
        };
        match followed() {
            Ok((group, ended)) => Ok(Self {
                child,
                group,
                ended,
            }),
            Err(error) => {
                // Nobody could tell its end.
                child.start_kill()?;
                Err(error)
            }
        }
    }

    /// Waits for the command's end, which comes at its time limit or when it is asked for at the latest, and keeps its output.
    /// `publish` hears of output that can be read.
    pub(crate) async fn run(
        mut self,
        output: Writer,
        limit: Duration,
        mut asked: watch::Receiver<Asked>,
        publish: impl Fn(OutputBytes, u64),
    ) -> End {
        let mut stdout = Pipe::new(self.child.stdout.take(), OutputStream::Stdout);
        let mut stderr = Pipe::new(self.child.stderr.take(), OutputStream::Stderr);
        let mut output = Output(Some(output));
        let deadline = Instant::now() + limit;
        let mut killed = None;
        let mut kill_at: Option<Instant> = None;
        let mut rest_until: Option<Instant> = None;
        while !(rest_until.is_some() && stdout.is_over() && stderr.is_over()) {
            tokio::select! {
                piece = stdout.next(), if !stdout.is_over() => output.append(piece, &publish).await,
                piece = stderr.next(), if !stderr.is_over() => output.append(piece, &publish).await,
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
    output: OutputBytes,
) -> End {
    let exit = status.as_ref().ok().and_then(|status| {
        let code = status.code().map(OperationExit::Status);
        code.or_else(|| status.signal().map(OperationExit::Signal))
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

/// The file of the output; `None` after a thread that wrote into it was given up.
struct Output(Option<Writer>);

impl Output {
    async fn append(
        &mut self,
        (stream, data): (OutputStream, Vec<u8>),
        publish: &impl Fn(OutputBytes, u64),
    ) {
        if data.is_empty() {
            return;
        }
        let Some(mut writer) = self.0.take() else {
            return;
        };
        let written = tokio::task::spawn_blocking(move || {
            writer.append(stream, &data);
            writer
        });
        if let Ok(writer) = written.await {
            let (bytes, length) = writer.bytes();
            publish(bytes, length);
            self.0 = Some(writer);
        }
    }

    async fn finish(self) -> OutputBytes {
        let Some(mut writer) = self.0 else {
            return OutputBytes::default();
        };
        let (bytes, _) = writer.bytes();
        let finished = tokio::task::spawn_blocking(move || writer.finish()).await;
        match finished {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!("the output of an operation is not synced: {error}"),
            Err(error) => tracing::error!("the output of an operation is not synced: {error}"),
        }
        bytes
    }
}
