//! Says what a command does now, how long that takes, and what comes next.

use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often long work says that it goes on.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// Announces a step. `now` names its usual duration; `next` is empty for the last one.
pub fn step(now: &str, next: &str) {
    let next = if next.is_empty() {
        String::new()
    } else {
        format!("\n    next: {next}")
    };
    if std::io::stderr().is_terminal() {
        eprintln!("\x1b[1m==> {now}\x1b[0m{next}");
    } else {
        eprintln!("==> {now}{next}");
    }
}

/// Runs a command whose output matters only if it fails. Reports the elapsed time and the command's last line every few
/// seconds: the same on a terminal and in a log, where cargo itself draws no progress bar.
///
/// # Errors
/// The command cannot be run, or fails; its output is on standard error then.
pub fn watch(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let begin = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let stderr = child.stderr.take().context("standard error is piped")?;
    let (said, heard) = channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if said.send(line).is_err() {
                return;
            }
        }
    });
    let mut lines: Vec<String> = Vec::new();
    let mut report = begin + REPORT_EVERY;
    loop {
        match heard.recv_timeout(report.saturating_duration_since(Instant::now())) {
            Ok(line) => lines.push(line),
            // Its output has ended, so the command has.
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                report += REPORT_EVERY;
                let last = lines.last().map_or("no output yet", |line| line.trim());
                eprintln!("    {} s so far: {last}", begin.elapsed().as_secs());
            }
        }
    }
    let _ = reader.join();
    let status = child.wait()?;
    if !status.success() {
        eprintln!("{}", lines.join("\n"));
        bail!("{name} ended with {status}");
    }
    eprintln!("    done in {} s", begin.elapsed().as_secs());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watched_command_that_fails_is_an_error() {
        let mut shell = Command::new("sh");
        let error = watch(shell.args(["-c", "echo broken >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("sh ended with"), "{error}");
    }

    #[test]
    fn a_watched_command_that_ends_well_is_not() {
        watch(Command::new("sh").args(["-c", "echo fine >&2"])).unwrap();
    }
}
