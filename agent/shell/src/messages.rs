//! The agent's side of the talk with a helper.

use std::io;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::error::OpenError;
use crate::limits;
use crate::protection::Lacks;
use crate::record::Exit;
use crate::talk::{Outcome, Plan, Program, Step, Told};

/// A helper that talks. It ends where this is dropped.
#[derive(Debug)]
pub(crate) struct Messages {
    talk: BufReader<UnixStream>,
    line: Vec<u8>,
}

/// The way in which a program has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// The helper has become it.
    Itself,
    /// The helper waits for it.
    Child,
}

/// There is no program.
#[derive(Debug)]
pub(crate) enum NoStart {
    Step(Step, io::Error),
    Talk(io::Error),
}

impl From<io::Error> for NoStart {
    fn from(error: io::Error) -> Self {
        Self::Talk(error)
    }
}

impl Messages {
    pub(crate) fn new(talk: UnixStream) -> Self {
        Self {
            talk: BufReader::new(talk),
            line: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, plan: &Plan) -> io::Result<()> {
        let mut line = serde_json::to_vec(plan)?;
        line.push(b'\n');
        // One that does not read it has ended, and tells why.
        let _ = self.talk.get_mut().write_all(&line).await;
        Ok(())
    }

    /// Waits for the program's start, and notes the protections that are missing.
    pub(crate) async fn start(&mut self, lacks: &mut Lacks) -> Result<Start, NoStart> {
        let mut is_ready = false;
        loop {
            match self.next().await? {
                Some(Told::Lacks { protection, why }) => lacks.add(protection.0, why),
                Some(Told::Failed { step, error }) => {
                    let unknown = || io::Error::other("unknown");
                    let error = error.map_or_else(unknown, io::Error::from_raw_os_error);
                    return Err(NoStart::Step(step, error));
                }
                Some(Told::Ready) => is_ready = true,
                Some(Told::Started) if is_ready => return Ok(Start::Child),
                // Its end of the talk is closed by execve(2).
                None if is_ready => return Ok(Start::Itself),
                Some(Told::Started | Told::Ended { .. }) | None => {
                    let ended = "the process that should become the program ended before that";
                    return Err(io::Error::other(ended).into());
                }
            }
        }
    }

    /// Waits for the program's end: `None` where nothing was told before the helper's own.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn end(&mut self) -> Option<Exit> {
        loop {
            match self.next().await {
                Ok(Some(Told::Ended { exit })) => {
                    return Some(match exit {
                        Outcome::Status(status) => Exit::Status(status),
                        Outcome::Signal(signal) => Exit::Signal(signal),
                    });
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// The next message; `None` behind the last one.
    async fn next(&mut self) -> io::Result<Option<Told>> {
        // The line has the bytes that were read before a future was dropped.
        let left = limits::MESSAGE_BYTES.saturating_sub(self.line.len());
        let left = u64::try_from(left).unwrap_or_default();
        let mut talk = (&mut self.talk).take(left);
        talk.read_until(b'\n', &mut self.line).await?;
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return Ok(None);
        }
        let none = |_| {
            io::Error::other("the program that should become the shell's is no helper of shells")
        };
        serde_json::from_slice(&line).map(Some).map_err(none)
    }
}

impl NoStart {
    /// A failure of the program or the directory names it.
    pub(crate) fn named(self, program: Option<&Program>) -> OpenError {
        match (self, program) {
            (Self::Step(Step::Program, source), Some(program)) => OpenError::Program {
                program: program.path.clone(),
                source,
            },
            (Self::Step(Step::Directory, source), Some(program)) => OpenError::Directory {
                directory: program.directory.clone(),
                source,
            },
            (Self::Step(step, error), _) => {
                OpenError::Helper(io::Error::other(Failed { step, error }))
            }
            (Self::Talk(error), _) => OpenError::Helper(error),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{step:?}: {error}")]
struct Failed {
    step: Step,
    error: io::Error,
}
