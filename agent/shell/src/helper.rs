//! The process between the agent and a shell's program: it makes the session, takes the terminal, and becomes the program.
//!
//! Between fork and exec a process of several threads may do next to nothing, and Rust calls it `unsafe` for that reason. So the agent
//! starts **itself** again, with arguments that lead to [`run`], and that process is an ordinary one of one thread.
//!
//! A program that embeds this crate has a hidden command for it, which calls [`run`] before all else, and names the arguments to
//! [`Helper::of_this_program`].

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use rustix::fs::{FileType, fstat};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{ioctl_tiocsctty, setsid};
use rustix::stdio::{dup2_stderr, stderr, stdin, stdout};
use serde::{Deserialize, Serialize};

use crate::limits;

/// The way to start the process that becomes a shell's program.
#[derive(Clone, Debug)]
pub struct Helper {
    program: PathBuf,
    arguments: Vec<OsString>,
}

/// The program that a helper becomes. Its environment is the helper's own.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) directory: PathBuf,
}

/// A step that failed, in a helper's report. No report is success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    Plan,
    Session,
    Terminal,
    Directory,
    Program,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) step: Step,
    /// errno(3).
    pub(crate) error: Option<i32>,
}

impl Helper {
    /// This very program, also where its file has been replaced since, with arguments by which it calls [`run`].
    pub fn of_this_program(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self::new("/proc/self/exe", arguments)
    }

    /// Another program that calls [`run`].
    pub fn new(
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        Self {
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
        }
    }

    /// A command that has the terminal, and nothing of the agent's: it gets its plan by standard error, and reports there.
    pub(crate) fn command(&self, terminal: OwnedFd, talk: OwnedFd) -> io::Result<Command> {
        let mut command = Command::new(&self.program);
        let output = terminal.try_clone()?;
        command
            .args(&self.arguments)
            .env_clear()
            .stdin(Stdio::from(terminal))
            .stdout(Stdio::from(output))
            .stderr(Stdio::from(talk));
        Ok(command)
    }
}

/// The helper's own part: becomes the program of the plan that it gets. Call it first, while the process has one thread and has
/// opened nothing. It returns where there is no program, with the process's exit status.
pub fn run() -> ExitCode {
    let talk = match fstat(stderr()) {
        Ok(about) if FileType::from_raw_mode(about.st_mode) == FileType::Socket => {
            fcntl_dupfd_cloexec(stderr(), 3)
        }
        // A person has run the command: an agent gives a socket.
        _ => return ExitCode::from(2),
    };
    let Ok(talk) = talk else {
        return ExitCode::FAILURE;
    };
    let mut talk = File::from(talk);
    let (step, error) = match become_program(&mut talk) {
        Ok(never) => match never {},
        Err(failed) => failed,
    };
    let report = Report {
        step,
        error: error.raw_os_error(),
    };
    if let Ok(report) = serde_json::to_vec(&report) {
        // The agent may have gone away.
        let _ = talk.write_all(&report);
    }
    ExitCode::FAILURE
}

fn become_program(talk: &mut File) -> Result<std::convert::Infallible, (Step, io::Error)> {
    let at = |step: Step| move |error: io::Error| (step, error);
    let at_errno = |step: Step| move |error: rustix::io::Errno| (step, io::Error::from(error));
    let mut plan = Vec::new();
    let read = talk.take(limits::PLAN_BYTES).read_to_end(&mut plan);
    read.map_err(at(Step::Plan))?;
    let plan: Plan =
        serde_json::from_slice(&plan).map_err(|error| (Step::Plan, io::Error::from(error)))?;
    setsid().map_err(at_errno(Step::Session))?;
    ioctl_tiocsctty(stdin()).map_err(at_errno(Step::Terminal))?;
    dup2_stderr(stdout().as_fd()).map_err(at_errno(Step::Terminal))?;
    // The protections come here: see the module `protection`.
    std::env::set_current_dir(&plan.directory).map_err(at(Step::Directory))?;
    let error = Command::new(&plan.program).args(&plan.arguments).exec();
    Err((Step::Program, error))
}
