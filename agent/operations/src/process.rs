//! Processes: a command as its operation says, in a process group of its own.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, geteuid, kill_process_group};
use tokio::process::Command;
use underpass_agent_policy::Operation;
use underpass_api::OperationId;

use crate::account::{self, Account};
use crate::error::RunError;
use crate::remains::{self, Remains};

/// The variable with the id of the run.
const ID: &str = "UNDERPASS_OPERATION_ID";

/// Where programs are, for a command that looks for others: the agent's own PATH is not passed by itself.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The command of an operation, once it is known that this node has all that it needs. Blocks.
///
/// The command gets no standard input, no variables but those of its operation, and no descriptors: all of the agent's are closed on
/// `exec`. A user that is switched to has the primary group alone: the standard library removes supplementary groups where root
/// switches, to itself too.
pub(crate) fn prepare(
    operation: &Operation,
    argv: &[String],
    id: &OperationId,
    remains: &Remains,
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
    command.env(ID, id.as_str());
    command.env(remains::MARK, remains.mark(id));
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
    let is_exclusive = operation.is_exclusive();
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
    let is_other = account.uid != own;
    if is_other && own != 0 {
        return Err(RunError::CannotSwitch {
            operation: operation(),
            user: user_name(),
        });
    }
    if is_other && is_exclusive && !underpass_agent_processes::sees_all() {
        return Err(RunError::CannotLook {
            operation: operation(),
            user: user_name(),
        });
    }
    Ok((Some(account), own == 0))
}

/// Sends a signal to all of a command's process group. Call it while the command is not reaped: until then the number is its own.
pub(crate) fn signal(group: Pid, signal: Signal) {
    // A group of zombies has no one to signal.
    if let Err(error) = kill_process_group(group, signal) {
        tracing::debug!("no signal for a process group: {error}");
    }
}
