//! One run of a credential plugin.

use std::{io, process::Stdio};

use tokio::{
    io::AsyncReadExt,
    process::{Child, ChildStdout, Command},
};
use zeroize::Zeroizing;

use super::{
    ExecError,
    answer::{Issued, understand},
    program::{ChosenBy, Program},
};
use underpass_core::limits;

/// Runs it once. No shell reads any of its input.
///
/// # Cancel safety
/// Dropping the future ends the program and what it has started.
pub(super) async fn run(program: &Program) -> Result<Issued, ExecError> {
    let mut command = Command::new(&program.command);
    command.args(program.args.iter().map(|arg| arg.as_str()));
    if program.chosen_by == ChosenBy::Directory {
        let kept = ["PATH", "HOME"].into_iter();
        let kept = kept.filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.env_clear().envs(kept);
    }
    let env = program.env.iter();
    let mut child = command
        // The agent's own credential is none of a plugin's business.
        .env_remove("UNDERPASS_JOIN_TOKEN")
        .envs(env.map(|(name, value)| (name, value.as_str())))
        .env("KUBERNETES_EXEC_INFO", &program.info)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // It may hold anything, a token included.
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .process_group(0)
        .spawn()
        .map_err(|error| not_started(program, error))?;
    let group = Group::of(&child);
    let output = child.stdout.take();
    let ended = async {
        let printed = read(output).await?;
        let status = child.wait().await.map_err(ExecError::Lost)?;
        Ok((printed, status))
    };
    let ended = tokio::time::timeout(limits::EXEC_TIME, ended).await;
    let (printed, status) = ended.map_err(|_| ExecError::TooSlow)??;
    group.ended();
    if !status.success() {
        return Err(ExecError::Failed(status));
    }
    understand(&printed, program.forms)
}

fn not_started(program: &Program, error: io::Error) -> ExecError {
    if error.kind() == io::ErrorKind::NotFound {
        return ExecError::Missing {
            command: program.command.clone(),
            hint: program.hint.clone(),
        };
    }
    ExecError::Start(error)
}

async fn read(output: Option<ChildStdout>) -> Result<Zeroizing<Vec<u8>>, ExecError> {
    let mut printed = Zeroizing::new(Vec::new());
    if let Some(output) = output {
        let most = limits::EXEC_OUTPUT_BYTES + 1;
        let mut output = output.take(most);
        let read = output.read_to_end(&mut printed).await;
        read.map_err(ExecError::Lost)?;
    }
    if printed.len() as u64 > limits::EXEC_OUTPUT_BYTES {
        return Err(ExecError::TooMuch);
    }
    Ok(printed)
}

/// The plugin's processes: dropping it ends all of them, those that it has started included.
struct Group(Option<rustix::process::Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        Self(pid.and_then(rustix::process::Pid::from_raw))
    }

    /// The plugin has ended by itself, and the number may be another's.
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}
