//! The start of a shell's program.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Blocking;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use underpass_agent_policy::ShellRule;

use crate::error::OpenError;
use crate::helper::{Helper, Plan, Report, Step};
use crate::limits;
use crate::processes::{self, Processes};
use crate::record::ShellId;

/// Where programs are: the agent's own PATH is not passed by itself.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A shell's program that runs, or has ended and is not reaped.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) all: Processes,
    ended: AsyncFd<OwnedFd>,
}

impl Process {
    /// Waits until the program has ended. It is not reaped by that.
    pub(crate) async fn ended(&self) {
        if self.ended.readable().await.is_err() {
            // The runtime ends.
            std::future::pending::<()>().await;
        }
    }
}

/// The environment of a shell's program: the agent's own is none of it but the variables that the rule names.
pub(crate) fn environment(
    rule: &ShellRule,
    id: &ShellId,
    term: &str,
) -> BTreeMap<OsString, OsString> {
    let mut all: BTreeMap<OsString, OsString> = BTreeMap::new();
    all.insert("PATH".into(), PATH.into());
    all.insert("HOME".into(), rule.directory().into());
    all.insert("SHELL".into(), rule.program().into());
    for variable in rule.passed_variables() {
        if let Some(value) = std::env::var_os(variable) {
            all.insert(variable.into(), value);
        }
    }
    let set = rule.set_variables().iter();
    all.extend(set.map(|(variable, value)| (variable.into(), value.into())));
    all.insert("TERM".into(), term.into());
    all.insert(processes::MARK.into(), id.as_str().into());
    all
}

/// Starts the program of a rule at a terminal. Gives it once it runs.
///
/// # Cancel safety
/// Dropping the future kills the process.
pub(crate) async fn start(
    helper: &Helper,
    rule: &ShellRule,
    environment: BTreeMap<OsString, OsString>,
    id: &ShellId,
    terminal: OwnedFd,
) -> Result<Process, OpenError> {
    let (ours, theirs) = Blocking::pair().map_err(OpenError::Helper)?;
    ours.set_nonblocking(true).map_err(OpenError::Helper)?;
    let talk = UnixStream::from_std(ours).map_err(OpenError::Helper)?;
    let command = helper.command(terminal, theirs.into());
    let mut command = Command::from(command.map_err(OpenError::Helper)?);
    command.envs(environment).kill_on_drop(true);
    let mut child = command.spawn().map_err(OpenError::Helper)?;
    // It has the terminal, and the other end of the talk: neither would ever end.
    drop(command);
    let plan = Plan {
        program: rule.program().to_owned(),
        arguments: rule.arguments().to_vec(),
        directory: rule.directory().to_owned(),
    };
    let talked = timeout(limits::START_TIME, instruct(talk, &plan)).await;
    let started = match talked {
        Ok(Ok(report)) => held(&child, id, report),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(OpenError::Slow),
    };
    match started {
        Ok((all, ended)) => Ok(Process { child, all, ended }),
        Err(error) => {
            // It may have ended already.
            let _ = child.kill().await;
            Err(named(error, &plan))
        }
    }
}

/// Sends the plan, and reads the report. An empty one is the program's start: the helper's end of the talk is closed by that.
async fn instruct(mut talk: UnixStream, plan: &Plan) -> Result<Vec<u8>, OpenError> {
    let plan = serde_json::to_vec(plan).map_err(|error| OpenError::Helper(error.into()))?;
    // One that does not read it has ended, and reports why.
    if talk.write_all(&plan).await.is_ok() {
        talk.shutdown().await.map_err(OpenError::Helper)?;
    }
    let mut report = Vec::new();
    let read = talk
        .take(limits::REPORT_BYTES)
        .read_to_end(&mut report)
        .await;
    read.map_err(OpenError::Helper)?;
    Ok(report)
}

/// The program's process, by the number that stays its own.
fn held(
    child: &Child,
    id: &ShellId,
    report: Vec<u8>,
) -> Result<(Processes, AsyncFd<OwnedFd>), OpenError> {
    if !report.is_empty() {
        return Err(OpenError::Helper(failure(&report)));
    }
    let number = child.id().and_then(|number| i32::try_from(number).ok());
    let leader = number.and_then(Pid::from_raw);
    let leader =
        leader.ok_or_else(|| OpenError::Helper(io::Error::other("it has no process id")))?;
    let ended = watch_end(leader).map_err(OpenError::Helper)?;
    Ok((Processes::new(leader, id), ended))
}

/// A report of a helper as an error, with its step as the source where that matters.
fn failure(report: &[u8]) -> io::Error {
    match serde_json::from_slice::<Report>(report) {
        Ok(report) => io::Error::other(Failed(report)),
        Err(_) => {
            io::Error::other("the program that should become the shell's is no helper of shells")
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{:?}: {}", .0.step, system(.0.error))]
struct Failed(Report);

fn system(error: Option<i32>) -> io::Error {
    match error {
        Some(error) => io::Error::from_raw_os_error(error),
        None => io::Error::other("unknown"),
    }
}

/// A failure of the program or the directory names it.
fn named(error: OpenError, plan: &Plan) -> OpenError {
    let OpenError::Helper(source) = &error else {
        return error;
    };
    let failed = source
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Failed>());
    match failed {
        Some(Failed(Report {
            step: Step::Program,
            error,
        })) => OpenError::Program {
            program: plan.program.clone(),
            source: system(*error),
        },
        Some(Failed(Report {
            step: Step::Directory,
            error,
        })) => OpenError::Directory {
            directory: plan.directory.clone(),
            source: system(*error),
        },
        _ => error,
    }
}

/// Readable once the process has ended. It is not reaped by that.
#[expect(
    deprecated,
    reason = "unsound for types that let go of their descriptor, which an OwnedFd does not; what follows it needs `unsafe`"
)]
fn watch_end(process: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(pidfd_open(process, PidfdFlags::NONBLOCK)?)
}
