//! Processes that end with the benchmark.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;

use crate::usage::{self, Usage};

/// How much of a process's last words an error repeats.
const LAST_LINES: usize = 8;

/// A process, its log, and the way to ask it something. Dropping it ends it and what it has started.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
    child: Child,
    questions: Option<ChildStdin>,
    answers: Option<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts `program`, whose log goes to `folder`.
    ///
    /// # Errors
    /// Where there is no such program.
    pub(crate) fn start(
        folder: &Path,
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Self> {
        let arguments: Vec<OsString> = arguments
            .into_iter()
            .map(|argument| argument.as_ref().to_owned())
            .collect();
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        // The kernel ends it with the thread that starts it here, should this process be killed. The
        // program takes setpriv's place, and its process id.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(&arguments)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file);
        let mut child = command
            .spawn()
            .context("cannot run setpriv, of Debian's util-linux")?;
        Ok(Self {
            name: name.to_owned(),
            program: program.to_owned(),
            arguments,
            log,
            questions: child.stdin.take(),
            answers: child.stdout.take().map(BufReader::new),
            child,
        })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Starts it once more, after its end, with the same arguments.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub(crate) fn again(&self, folder: &Path) -> Result<Self> {
        Self::start(folder, &self.name, &self.program, &self.arguments)
    }

    /// The usage of it and its children.
    ///
    /// # Errors
    /// Where it has ended; with its last words.
    pub(crate) fn usage(&self) -> Result<Usage> {
        Usage::of_tree(self.child.id()).map_err(|_| self.ended())
    }

    /// Fails where it has ended.
    ///
    /// # Errors
    /// Its last words.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(_)) | Err(_) => Err(self.ended()),
        }
    }

    /// Asks a process of ours something: a line, and a line of JSON that answers it. Blocks.
    ///
    /// # Errors
    /// Where it has ended, or answers something else.
    pub(crate) fn ask<T: DeserializeOwned>(&mut self, question: &str) -> Result<T> {
        let asked = self
            .questions
            .as_mut()
            .map(|questions| writeln!(questions, "{question}").and_then(|()| questions.flush()));
        let mut answer = String::new();
        match (asked, &mut self.answers) {
            (Some(Ok(())), Some(answers)) => answers.read_line(&mut answer)?,
            _ => return Err(self.ended()),
        };
        if answer.is_empty() {
            return Err(self.ended());
        }
        serde_json::from_str(&answer)
            .with_context(|| format!("{} answers {answer:?} to {question:?}", self.name))
    }

    /// Ends it and its children at once: nobody is told.
    pub(crate) fn kill(&mut self) {
        let children = descendants(self.child.id());
        let _ = self.child.kill();
        for child in children {
            let id = i32::try_from(child).ok().and_then(Pid::from_raw);
            if let Some(id) = id {
                let _ = kill_process(id, Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }

    fn ended(&self) -> anyhow::Error {
        anyhow!(
            "{} has ended; it said: {}",
            self.name,
            last_words(&self.log)
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn descendants(id: u32) -> Vec<u32> {
    let mut all = usage::children(id);
    let below: Vec<u32> = all.iter().flat_map(|&child| descendants(child)).collect();
    all.extend(below);
    all
}

fn last_words(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(LAST_LINES);
    let words = lines.get(from..).unwrap_or_default().join(" / ");
    if words.is_empty() {
        "nothing".to_owned()
    } else {
        words
    }
}

/// Runs a command to its end.
///
/// # Errors
/// Where it fails; with its last words.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = words.lines().collect();
        let from = lines.len().saturating_sub(LAST_LINES);
        let words = lines.get(from..).unwrap_or_default().join(" / ");
        bail!("{name} ended with {}: {words}", output.status);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_answers_and_ends_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let script = "sleep 1000 & read question; echo \"{\\\"said\\\": \\\"$question\\\"}\"; wait";
        let mut shell =
            Process::start(folder.path(), "shell", Path::new("sh"), ["-c", script]).unwrap();
        let answer: serde_json::Value = shell.ask("hello").unwrap();
        assert_eq!(answer, serde_json::json!({"said": "hello"}));
        shell.check().unwrap();
        let all = descendants(shell.child.id());
        assert_eq!(all.len(), 1, "{all:?}");
        drop(shell);
        let begun = std::time::Instant::now();
        let lives = |id: &u32| {
            // Its parent is gone; the process that adopted it may take a moment to reap it.
            let state = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            !state.is_empty() && !state.contains(") Z ")
        };
        while all.iter().any(lives) {
            assert!(begun.elapsed().as_secs() < 20, "a child lives on");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    #[test]
    fn an_error_has_the_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut shell = Process::start(
            folder.path(),
            "shell",
            Path::new("sh"),
            ["-c", "echo no such cipher >&2"],
        )
        .unwrap();
        let error = shell.ask::<serde_json::Value>("hello").unwrap_err();
        assert!(error.to_string().contains("no such cipher"), "{error}");
        let program = Path::new("there-is-no-such-program");
        let mut none =
            Process::start(folder.path(), "none", program, std::iter::empty::<&str>()).unwrap();
        let error = none.ask::<serde_json::Value>("hello").unwrap_err();
        assert!(
            error.to_string().contains("there-is-no-such-program"),
            "{error}"
        );
    }
}
