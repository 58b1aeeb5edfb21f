//! The processes between the agent and a shell's program: they enter the shell's protections, make the session, take the terminal, and the
//! last of them becomes the program.
//!
//! Between fork and exec a process of several threads may do next to nothing, and Rust calls it `unsafe` for that reason. So the agent
//! starts **itself** again, with arguments that lead to [`run`], and that process is an ordinary one of one thread.
//!
//! A program that embeds this crate has a hidden command for it, which calls [`run`] before all else, and names the arguments to
//! [`Helper::of_this_program`].
//!
//! ```text
//! agent ── outer ── program                    no PID namespace: the outer process becomes the program
//! agent ── outer ═╤═ init ── program           with one: a process enters it by its birth alone, and the first that is born there
//!                 └ PID namespace              reaps all others, and ends them with itself
//! ```
//!
//! Each stage reads a plan from the socket that is its standard error, tells there what is refused, and passes on what the stages behind it
//! tell. The order is: namespaces, mounts, the session and its terminal, resource limits, uid, capabilities, `no_new_privs`, program.
//! The agent itself has put the outer process into the shell's cgroup before it sends the plan.

mod files;
mod guard;
mod init;
mod inside;
mod keeper;
mod mounts;
mod privileges;
mod program;
mod resources;
mod signals;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use rustix::fs::{FileType, fstat};
use rustix::stdio::stderr;

use self::guard::{Failure, Guard};
use crate::talk::{Stage, Step};

/// The way to start the process that becomes a shell's program.
#[derive(Clone, Debug)]
pub struct Helper {
    program: PathBuf,
    arguments: Vec<OsString>,
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
            .current_dir("/")
            .stdin(Stdio::from(terminal))
            .stdout(Stdio::from(output))
            .stderr(Stdio::from(talk));
        Ok(command)
    }
}

/// The helper's own part: becomes the program of the plan that it gets. Call it first, while the process has one thread and has
/// opened nothing: every descriptor behind standard error is closed. It returns where there is no program, with the process's exit status.
pub fn run() -> ExitCode {
    match fstat(stderr()) {
        Ok(about) if FileType::from_raw_mode(about.st_mode) == FileType::Socket => {}
        // A person has run the command: an agent gives a socket.
        _ => return ExitCode::from(2),
    }
    let closed = close_inherited();
    let Ok(mut guard) = Guard::of_standard_error() else {
        return ExitCode::FAILURE;
    };
    let ran = closed
        .map_err(|error| Failure::new(Step::Descriptors, error))
        .and_then(|()| guard.read_plan())
        .and_then(|()| match guard.plan.stage {
            Stage::Outer => keeper::run(&mut guard),
            Stage::Init => init::run(&mut guard),
            Stage::Program => program::run(&mut guard),
        });
    match ran {
        Ok(code) => code,
        Err(failure) => {
            guard.tell_failure(&failure);
            ExitCode::FAILURE
        }
    }
}

/// Closes all that the agent, or the process that started the agent, has let through.
fn close_inherited() -> io::Result<()> {
    let mut numbers: Vec<i32> = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // The folder that was read is closed already.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}
