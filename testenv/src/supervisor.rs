//! The other end of `testenv/supervise`, the program that owns a cluster's processes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::ClusterError;

/// How to run one process.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Start {
    pub(crate) name: &'static str,
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) dir: PathBuf,
    pub(crate) log: PathBuf,
    /// The time between SIGTERM and SIGKILL at the end; 0 kills the process at once.
    pub(crate) grace_ms: u64,
    /// Whether it has descendants that may outlive it.
    pub(crate) has_children: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Request<'a> {
    Start(&'a Start),
    Stop { name: &'a str, grace_ms: u64 },
}

#[derive(Debug, Deserialize)]
struct Report {
    name: String,
    event: Event,
    #[serde(default)]
    detail: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    Started,
    Failed,
    Exited,
}

/// The state of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Starting,
    Running,
    /// It ended, or never started; the text says how.
    Ended(String),
}

#[derive(Debug, Default)]
struct Shared {
    states: Mutex<States>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct States {
    by_name: HashMap<String, State>,
    gone: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, States> {
        // A panic elsewhere leaves the map as it was, and Drop must work during one.
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, report: Report) {
        let state = match report.event {
            Event::Started => State::Running,
            Event::Failed | Event::Exited => State::Ended(report.detail),
        };
        self.lock().by_name.insert(report.name, state);
        self.changed.notify_all();
    }
}

/// A running supervisor. Dropping it ends all of its processes and removes the folder that it was given.
#[derive(Debug)]
pub(crate) struct Supervisor {
    child: Child,
    dir: PathBuf,
    /// Its end is what tells the supervisor that it is over, so it is held even while nothing is said.
    requests: Mutex<Option<ChildStdin>>,
    shared: Arc<Shared>,
}

impl Supervisor {
    /// Starts a supervisor that removes `dir` at its end.
    pub(crate) fn spawn(program: &Path, dir: &Path, log: File) -> io::Result<Self> {
        let mut child = Command::new(program)
            .arg("-remove")
            .arg(dir)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C in a terminal is for the tests; the cluster ends because they do.
            .process_group(0)
            .spawn()?;
        let shared = Arc::new(Shared::default());
        let requests = Mutex::new(child.stdin.take());
        if let Some(stdout) = child.stdout.take() {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("testenv-reports".into())
                .spawn(move || read_reports(stdout, &shared))?;
        }
        Ok(Self {
            child,
            dir: dir.to_owned(),
            requests,
            shared,
        })
    }

    /// Starts a process and waits until it runs.
    pub(crate) fn start(&self, start: &Start) -> Result<(), ClusterError> {
        self.shared
            .lock()
            .by_name
            .insert(start.name.to_owned(), State::Starting);
        self.send(&Request::Start(start))?;
        match self.wait_until(start.name, Duration::MAX, |s| *s != State::Starting)? {
            Some(State::Ended(status)) => Err(ended(start, status)),
            _ => Ok(()),
        }
    }

    /// Asks a process to end, insists after `grace`, and waits until it has.
    pub(crate) fn stop(&self, name: &str, grace: Duration) -> Result<(), ClusterError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.send(&Request::Stop { name, grace_ms })?;
        self.wait_until(name, Duration::MAX, |s| matches!(s, State::Ended(_)))?;
        Ok(())
    }

    /// Fails if the process has ended; waits up to `pause` for that to happen.
    pub(crate) fn check(&self, start: &Start, pause: Duration) -> Result<(), ClusterError> {
        match self.wait_until(start.name, pause, |s| matches!(s, State::Ended(_)))? {
            Some(State::Ended(status)) => Err(ended(start, status)),
            _ => Ok(()),
        }
    }

    /// Waits for a state, and returns nothing if it was not reached in time.
    fn wait_until(
        &self,
        name: &str,
        timeout: Duration,
        reached: impl Fn(&State) -> bool,
    ) -> Result<Option<State>, ClusterError> {
        let deadline = Instant::now().checked_add(timeout);
        let mut states = self.shared.lock();
        loop {
            if states.gone {
                return Err(ClusterError::SupervisorGone);
            }
            match states.by_name.get(name) {
                Some(state) if reached(state) => return Ok(Some(state.clone())),
                _ => {}
            }
            let left = deadline.map_or(Duration::from_secs(3600), |d| {
                d.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return Ok(None);
            }
            states = self
                .shared
                .changed
                .wait_timeout(states, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn send(&self, request: &Request<'_>) -> Result<(), ClusterError> {
        let mut line = serde_json::to_vec(request)
            .map_err(|e| ClusterError::io("encode a command")(e.into()))?;
        line.push(b'\n');
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let pipe = requests.as_mut().ok_or(ClusterError::SupervisorGone)?;
        pipe.write_all(&line)
            .map_err(|_| ClusterError::SupervisorGone)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(
            self.requests
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        // It ends within its processes' grace periods. If it cannot be waited for it is not our child any more.
        let _ = self.child.wait();
        // It has removed the folder, unless it was killed itself; then this is the last chance to.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn read_reports(stdout: ChildStdout, shared: &Shared) {
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { break };
        if let Ok(report) = serde_json::from_str(&line) {
            shared.update(report);
        }
    }
    shared.lock().gone = true;
    shared.changed.notify_all();
}

fn ended(start: &Start, status: String) -> ClusterError {
    ClusterError::ComponentEnded {
        name: start.name,
        status,
        log: tail(&start.log),
    }
}

/// The last lines of a log, for an error message.
pub(crate) fn tail(log: &Path) -> String {
    const LINES: usize = 30;
    let text = match std::fs::read(log) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("({}: {error})", log.display()),
    };
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(LINES);
    lines.get(from..).unwrap_or_default().join("\n")
}
