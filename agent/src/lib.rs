//! The Underpass agent as a library: parse, build, run, drain. Its program is [`main`]; [`serve()`] is one agent among others of a
//! process.

mod cli;
mod cluster;
mod connection;
mod descriptors;
mod files;
mod join;
mod keeping;
mod key;
mod kube_api;
mod limits;
mod policy;
mod rbac;
mod register;
mod rotation;
mod run;
mod serve;
mod targets;
mod telemetry;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio_util::task::AbortOnDropHandle;
use underpass_agent_shell::{Helper, helper};
use underpass_core::process;
use underpass_terminal::{start_log, tell};

use crate::cli::{Cli, LogFormat, Task};
use crate::policy::PolicyCommand;
use crate::rbac::Rbac;
use crate::run::run_until_stopped;

/// The first argument of a process that becomes a shell's program. No flag and no command of the agent's is like it.
const SHELL_HELPER: &str = "__shell-helper";

/// The program: reads the command line, and does what it says.
pub fn main() -> ExitCode {
    descriptors::close_inherited();
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == SHELL_HELPER)
    {
        return helper::run();
    }
    let task = Task::parse();
    let (filter, format) = match &task {
        Task::Serve(cli) => (cli.log.as_str(), cli.log_format),
        Task::Rbac(_) | Task::Policy(_) => (cli::LOG, LogFormat::Text),
    };
    let _log = match start_log(filter, format.into()) {
        Ok(log) => log,
        Err(error) => {
            tell(format_args!("cannot start threads: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let done = match task {
        Task::Serve(cli) => run(*cli).map(|()| ExitCode::SUCCESS),
        Task::Rbac(options) => print_manifests(options).map(|()| ExitCode::SUCCESS),
        Task::Policy(command) => answer(&command),
    };
    match done {
        Ok(status) => status,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs an agent with these arguments, the program's name among them, until a signal asks the process to stop. It starts neither
/// threads nor a log, which a process has once for all of its agents.
///
/// # Errors
/// The arguments are wrong or ask for something else than to serve, or a file that they name cannot be used.
///
/// # Cancel safety
/// Dropping the future stops dialling. A session that stands goes on until its server, or this process, ends it.
pub async fn serve(arguments: impl IntoIterator<Item = OsString>) -> Result<()> {
    match Task::try_parse_from(arguments)? {
        // The process's program is another one, which becomes no shell.
        Task::Serve(cli) => run_until_stopped(*cli, None).await,
        Task::Rbac(_) | Task::Policy(_) => anyhow::bail!("the arguments ask for no agent"),
    }
}

fn print_manifests(options: Rbac) -> Result<()> {
    print(&rbac::manifests(options)?)
}

fn answer(command: &PolicyCommand) -> Result<ExitCode> {
    let answer = command.run()?;
    print(&answer.text)?;
    Ok(match answer.yes {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn print(text: &str) -> Result<()> {
    // The reader of the pipe may have closed it.
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot print"),
    }
}

fn run(cli: Cli) -> Result<()> {
    process::can_have_threads().context("cannot start threads")?;
    let mut runtime = match cli.threads.get() {
        // Its tasks run in the order in which they were woken: the one that moves bytes on finds those of many others.
        1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            runtime.worker_threads(threads);
            runtime
        }
    };
    let runtime = runtime
        .enable_all()
        .thread_keep_alive(process::BLOCKING_THREAD_IDLE)
        .build()
        .context("cannot start threads")?;
    let ended = runtime.block_on(async {
        let _keeping = AbortOnDropHandle::new(tokio::spawn(process::keep_blocking_thread()));
        let helper = Helper::of_this_program([SHELL_HELPER]);
        run_until_stopped(cli, Some(helper)).await
    });
    // A file system that hangs, or a pipe in the place of a file, keeps no process.
    runtime.shutdown_timeout(process::LAST_TASKS);
    ended
}
