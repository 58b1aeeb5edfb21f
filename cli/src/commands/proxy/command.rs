//! A command that runs with the kubeconfig.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, getpgrp, kill_process};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::signals::Signals;
use crate::status::{CommandStatus, SIGNALLED};

/// Runs the command to its end, and passes signals on. Its status is the error's, where it is none of success.
pub(super) async fn run(
    program: &OsStr,
    arguments: &[OsString],
    kubeconfig: &Path,
    signals: &mut Signals,
) -> Result<()> {
    let mut quit = signal(SignalKind::quit()).context("cannot wait for signals")?;
    let child = Command::new(program)
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .kill_on_drop(true)
        .spawn();
    let mut child = child.with_context(|| format!("cannot run {}", program.display()))?;
    let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let pass_on = |signal| {
        // A terminal sends the signals of its keys to the command as well.
        let is_key = matches!(signal, Signal::INT | Signal::QUIT);
        if let Some(id) = id.filter(|_| !is_key || !is_in_foreground()) {
            // It may have ended already.
            let _ = kill_process(id, signal);
        }
    };
    loop {
        tokio::select! {
            biased;
            ended = child.wait() => {
                return status(ended.context("cannot wait for the command")?);
            }
            signal = signals.next() => pass_on(signal),
            _ = quit.recv() => pass_on(Signal::QUIT),
        }
    }
}

fn is_in_foreground() -> bool {
    let foreground = rustix::termios::tcgetpgrp(std::io::stdin());
    foreground.is_ok_and(|group| group == getpgrp())
}

fn status(ended: ExitStatus) -> Result<()> {
    if ended.success() {
        return Ok(());
    }
    let code = ended.code().and_then(|code| u8::try_from(code).ok());
    let signal = ended.signal().and_then(|signal| u8::try_from(signal).ok());
    let status = code.or(signal.map(|signal| SIGNALLED.saturating_add(signal)));
    Err(CommandStatus(status.unwrap_or(1)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ended_with(script: &str) -> Option<u8> {
        let arguments = ["-c", script].map(OsString::from);
        let mut signals = Signals::listen().unwrap();
        let run = run(
            "sh".as_ref(),
            &arguments,
            Path::new("/some/config"),
            &mut signals,
        );
        let ended = run.await;
        let error = ended.err()?;
        error.downcast_ref().map(|CommandStatus(status)| *status)
    }

    #[tokio::test]
    async fn a_commands_end_is_the_proxys() {
        assert_eq!(ended_with("exit 0").await, None);
        assert_eq!(ended_with("exit 7").await, Some(7));
        assert_eq!(ended_with("kill -TERM $$").await, Some(143));
        assert_eq!(
            ended_with(r#"test "$KUBECONFIG" = /some/config"#).await,
            None
        );
        let mut signals = Signals::listen().unwrap();
        let none = run(
            "/no/such/program".as_ref(),
            &[],
            Path::new("/x"),
            &mut signals,
        )
        .await;
        assert!(none.unwrap_err().to_string().contains("/no/such/program"));
    }
}
