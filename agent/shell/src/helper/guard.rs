//! A stage of a helper: its plan, and its talk with the stage before it.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout, stderr};
use underpass_agent_policy::Protection;

use crate::limits;
use crate::talk::{Named, Plan, Stage, Step, Told};

/// A step that failed, after which there is no program.
#[derive(Debug)]
pub(super) struct Failure {
    step: Step,
    error: io::Error,
}

impl Failure {
    pub(super) fn new(step: Step, error: impl Into<io::Error>) -> Self {
        Self {
            step,
            error: error.into(),
        }
    }

    /// For `map_err`.
    pub(super) fn at<E: Into<io::Error>>(step: Step) -> impl Fn(E) -> Self {
        move |error| Self::new(step, error)
    }
}

/// A refusal of the system, with what was asked of it.
#[derive(Debug)]
pub(super) struct Refused {
    what: String,
    error: io::Error,
}

impl Refused {
    /// For `map_err`.
    pub(super) fn to<E: Into<io::Error>>(what: impl fmt::Display) -> impl Fn(E) -> Self {
        move |error| Self {
            what: what.to_string(),
            error: error.into(),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.error)
    }
}

/// A stage of a helper.
pub(super) struct Guard {
    pub(super) plan: Plan,
    pub(super) talk: File,
}

impl Guard {
    pub(super) fn of_standard_error() -> io::Result<Self> {
        let talk = File::from(fcntl_dupfd_cloexec(stderr(), 3)?);
        let plan = Plan {
            stage: Stage::Outer,
            program: None,
            wants: Vec::new(),
            is_refused: true,
            uid: None,
            home: None,
            hide: Vec::new(),
            memory: 0,
            processes: 0,
        };
        Ok(Self { plan, talk })
    }

    pub(super) fn read_plan(&mut self) -> Result<(), Failure> {
        let failed = Failure::at(Step::Plan);
        let mut line = Vec::new();
        // Nothing follows the line.
        let mut reader = BufReader::new((&self.talk).take(limits::PLAN_BYTES));
        reader.read_until(b'\n', &mut line).map_err(&failed)?;
        self.plan = serde_json::from_slice(&line).map_err(|error| failed(error.into()))?;
        Ok(())
    }

    pub(super) fn wants(&self, protection: Protection) -> bool {
        let mut wants = self.plan.wants.iter();
        wants.any(|want| want.protection.0 == protection)
    }

    /// A protection is missing. The stage goes on, so that the agent hears of each.
    pub(super) fn lacks(&mut self, protection: Protection, why: impl fmt::Display) {
        let mut wants = self.plan.wants.iter();
        let is_required = |want: &&_| -> bool {
            let want: &crate::talk::Want = want;
            want.protection.0 == protection && want.is_required
        };
        self.plan.is_refused |= wants.any(|want| is_required(&want));
        self.tell(&Told::Lacks {
            protection: Named(protection),
            why: why.to_string(),
        });
    }

    pub(super) fn tell(&mut self, told: &Told) {
        if let Ok(mut line) = serde_json::to_vec(told) {
            line.push(b'\n');
            // The agent may have gone away.
            let _ = self.talk.write_all(&line);
        }
    }

    pub(super) fn tell_failure(&mut self, failure: &Failure) {
        self.tell(&Told::Failed {
            step: failure.step,
            error: failure.error.raw_os_error(),
        });
    }

    /// Starts the next stage, with the same terminal.
    pub(super) fn next(&self, stage: Stage) -> Result<(Child, UnixStream), Failure> {
        let failed = Failure::at(Step::Init);
        let (mut ours, theirs) = UnixStream::pair().map_err(&failed)?;
        let child = Command::new("/proc/self/exe")
            .args(std::env::args_os().skip(1))
            .stderr(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .map_err(&failed)?;
        let plan = Plan {
            stage,
            ..self.plan.clone()
        };
        let mut line = serde_json::to_vec(&plan).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        // One that does not read it has ended, and its talk says why.
        let _ = ours.write_all(&line);
        Ok((child, ours))
    }

    /// Lets go of the terminal, which would not end otherwise, and of the folder.
    pub(super) fn let_go(&self) -> Result<(), Failure> {
        let failed = Failure::at::<Errno>(Step::Init);
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let null = open("/dev/null", flags, Mode::empty()).map_err(&failed)?;
        dup2_stdin(null.as_fd()).map_err(&failed)?;
        dup2_stdout(null.as_fd()).map_err(&failed)?;
        dup2_stderr(null.as_fd()).map_err(&failed)?;
        rustix::process::chdir("/").map_err(&failed)
    }
}
