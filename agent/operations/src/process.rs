//! Processes: a command as its operation says, in a process group of its own.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{
    Pid, PidfdFlags, Signal, geteuid, kill_process_group, pidfd_open, pidfd_send_signal,
};
use tokio::process::Command;
use underpass_agent_policy::Operation;
use underpass_api::OperationId;

use crate::account::{self, Account};
use crate::error::RunError;
use crate::limits;

/// The variable by which processes of a run are known, also after the agent has died.
pub(crate) const MARK: &str = "UNDERPASS_OPERATION_ID";

/// Where programs are, for a command that looks for others: the agent's own PATH is not passed by itself.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The command of an operation, once it is known that this node has all that it needs. Blocks.
///
/// The command gets no standard input, no variables but those of its operation, and no descriptors: all of the agent's are closed on
/// `exec`. A user that is switched to has the primary group alone: the standard library removes supplementary groups where root
/// switches.
pub(crate) fn prepare(
    operation: &Operation,
    argv: &[String],
    id: &OperationId,
) -> Result<Command, RunError> {
    can_run(operation.command()).map_err(|source| RunError::Command {
        operation: operation.name().to_string(),
        command: operation.command().to_owned(),
        source,
    })?;
    let entered = std::fs::read_dir(operation.directory()).map(drop);
    entered.map_err(|source| RunError::Directory {
        operation: operation.name().to_string(),
        directory: operation.directory().to_owned(),
        source,
    })?;
    let (account, switches) = account_of(operation)?;
    let mut command = Command::new(operation.command());
    command
        .args(argv)
        .current_dir(operation.directory())
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    if let Some(account) = account {
        command
            .env("HOME", &account.home)
            .env("USER", &account.name)
            .env("LOGNAME", &account.name);
        if switches {
            command.gid(account.gid).uid(account.uid);
        }
    }
    for variable in operation.passed_variables() {
        if let Some(value) = std::env::var_os(variable) {
            command.env(variable, value);
        }
    }
    command.envs(operation.set_variables());
    command.env(MARK, id.as_str());
    Ok(command)
}

fn can_run(program: &Path) -> io::Result<()> {
    let about = std::fs::metadata(program)?;
    match about.is_file() && about.permissions().mode() & 0o111 != 0 {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it is no executable file",
        )),
    }
}

/// The user that the command runs as, and whether the agent has to switch for it.
fn account_of(operation: &Operation) -> Result<(Option<Account>, bool), RunError> {
    let own = geteuid().as_raw();
    let Some(user) = operation.user() else {
        let users = account::all().unwrap_or_default();
        return Ok((account::find(&users, |account| account.uid == own), false));
    };
    let operation = || operation.name().to_string();
    let user_name = || user.to_owned();
    let users = account::all().map_err(|source| RunError::Users {
        operation: operation(),
        user: user_name(),
        source,
    })?;
    let account = account::find(&users, |account| account.name == user);
    let account = account.ok_or_else(|| RunError::NoUser {
        operation: operation(),
        user: user_name(),
    })?;
    let switches = account.uid != own;
    match switches && own != 0 {
        true => Err(RunError::CannotSwitch {
            operation: operation(),
            user: user_name(),
        }),
        false => Ok((Some(account), switches)),
    }
}

/// Sends a signal to all of a command's process group. Call it while the command is not reaped: until then the number is its own.
pub(crate) fn signal(group: Pid, signal: Signal) {
    // A group of zombies has no one to signal.
    if let Err(error) = kill_process_group(group, signal) {
        tracing::debug!("no signal for a process group: {error}");
    }
}

/// Kills every process of these runs, in any process group: the agent that started it has died. Blocks, for a second at
/// the most.
pub(crate) fn kill_remains(ids: &[OperationId]) {
    if ids.is_empty() {
        return;
    }
    let marks: Vec<_> = ids.iter().map(|id| format!("{MARK}={id}")).collect();
    for _ in 0..limits::SEARCHES {
        match kill_marked(&marks) {
            Ok(0) => return,
            Ok(killed) => tracing::warn!(killed, "processes of interrupted operations are killed"),
            Err(error) => {
                tracing::error!(
                    "processes of interrupted operations cannot be searched for: {error}"
                );
                return;
            }
        }
        std::thread::sleep(limits::SEARCH_AGAIN);
    }
    tracing::error!("processes of interrupted operations do not end");
}

fn kill_marked(marks: &[String]) -> io::Result<usize> {
    let mut killed: usize = 0;
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        let Some(pid) = number.and_then(Pid::from_raw) else {
            continue;
        };
        if !has_mark(&path, marks) {
            continue;
        }
        // Held, the number stands for this process: it is looked at again before it is killed.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        if has_mark(&path, marks) && pidfd_send_signal(&process, Signal::KILL).is_ok() {
            killed = killed.saturating_add(1);
        }
    }
    Ok(killed)
}

fn has_mark(process: &Path, marks: &[String]) -> bool {
    let mut environment = Vec::new();
    let file = File::open(process.join("environ"));
    let read = file.and_then(|file| {
        file.take(limits::ENVIRONMENT_BYTES)
            .read_to_end(&mut environment)
    });
    let is_mark = |variable: &[u8]| marks.iter().any(|mark| mark.as_bytes() == variable);
    read.is_ok() && environment.split(|byte| *byte == 0).any(is_mark)
}
