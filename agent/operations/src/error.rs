//! Errors, for callers and for the agent's log.

use std::io;
use std::path::PathBuf;

use thiserror::Error;
use underpass_agent_policy::ArgumentError;
use underpass_api::{OperationId, OperationProblem, OperationRefusal};

use crate::limits;

/// Why the records cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory cannot be made, read or written.
    #[error("cannot use the state directory {}", .directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another process has it.
    #[error("the state directory {} is another agent's: give each agent one of its own", .0.display())]
    InUse(PathBuf),
    /// Other users can write there.
    #[error(
        "the state directory {} is not this agent's alone: have it and the directory around it owned by the agent's user, and writable \
         by no other", .0.display()
    )]
    Shared(PathBuf),
}

/// Why an operation does not run. The text is a sentence for the caller, and the source for the log.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// An argument does not fit.
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    /// The arguments are too large altogether.
    #[error("the arguments have {0} bytes, and may have {most}", most = limits::ARGUMENTS_BYTES)]
    TooLarge(usize),
    /// The id is taken.
    #[error(
        "the id {0} is that of another run, with another operation, other arguments or another user: choose another id"
    )]
    Conflict(OperationId),
    /// It runs already, or processes of a run that has ended are left.
    #[error(
        "the operation `{operation}` runs already, as {id}, and its policy allows one run at a time"
    )]
    Busy {
        /// The operation.
        operation: String,
        /// The run.
        id: OperationId,
    },
    /// There are too many runs.
    #[error(
        "the node runs {most} operations, or has processes left of them, which are all that it may: try again later",
        most = limits::RUNNING
    )]
    Overloaded,
    /// The agent stops.
    #[error("the agent is stopping: try again later")]
    Stopping,
    /// The program is missing or no program.
    #[error("the command {} of the operation `{operation}` cannot be run on this node: {source}", .command.display())]
    Command {
        /// The operation.
        operation: String,
        /// The program.
        command: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The working directory is missing.
    #[error("the directory {} of the operation `{operation}` cannot be entered on this node: {source}", .directory.display())]
    Directory {
        /// The operation.
        operation: String,
        /// The directory.
        directory: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The system has no such user.
    #[error(
        "the operation `{operation}` runs as `{user}`, and this node's /etc/passwd has no such user"
    )]
    NoUser {
        /// The operation.
        operation: String,
        /// The user.
        user: String,
    },
    /// The users of the system cannot be read.
    #[error("the operation `{operation}` runs as `{user}`, and this node's users cannot be read")]
    Users {
        /// The operation.
        operation: String,
        /// The user.
        user: String,
        /// The reason.
        source: io::Error,
    },
    /// The agent is not root.
    #[error(
        "the operation `{operation}` runs as `{user}`, and the agent may not switch users: only an agent that runs as root can"
    )]
    CannotSwitch {
        /// The operation.
        operation: String,
        /// The user.
        user: String,
    },
    /// The agent could not keep its promise of one run at a time.
    #[error(
        "the operation `{operation}` is exclusive and runs as `{user}`, whose processes the agent cannot look at: it needs CAP_SYS_PTRACE"
    )]
    CannotLook {
        /// The operation.
        operation: String,
        /// The user.
        user: String,
    },
    /// The disk is full.
    #[error(
        "the node's disk has {free} free bytes where operations are recorded, and a run of `{operation}` may need {needed}: nothing \
         was run"
    )]
    NoRoom {
        /// The operation.
        operation: String,
        /// Free bytes.
        free: u64,
        /// The output limit of the operation, what runs may still write, and what is left alone.
        needed: u64,
    },
    /// The disk fails.
    #[error("the agent cannot record the operation on its disk: {0}: nothing was run")]
    Record(#[source] io::Error),
}

impl RunError {
    fn reason(&self) -> OperationRefusal {
        match self {
            Self::Arguments(_) | Self::TooLarge(_) => OperationRefusal::WrongArguments,
            Self::Conflict(_) => OperationRefusal::Conflict,
            Self::Busy { .. } => OperationRefusal::Busy,
            Self::Overloaded | Self::Stopping => OperationRefusal::Overloaded,
            Self::Command { .. }
            | Self::Directory { .. }
            | Self::NoUser { .. }
            | Self::Users { .. }
            | Self::CannotSwitch { .. }
            | Self::CannotLook { .. } => OperationRefusal::Unusable,
            Self::NoRoom { .. } | Self::Record(_) => OperationRefusal::Storage,
        }
    }
}

impl From<&RunError> for OperationProblem {
    fn from(error: &RunError) -> Self {
        let parameter = match error {
            RunError::Arguments(error) => Some(error.parameter().to_owned()),
            _ => None,
        };
        Self {
            reason: error.reason(),
            detail: error.to_string(),
            parameter,
        }
    }
}

/// Why nothing can be said or done about a run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// There is none of this id.
    #[error("this node has no record of an operation {0}")]
    NotFound(OperationId),
    /// It has ended.
    #[error("the operation {0} has ended already")]
    Ended(OperationId),
    /// Its output cannot be read.
    #[error("the output of the operation {id} cannot be read from the node's disk")]
    Output {
        /// The run.
        id: OperationId,
        /// The reason.
        source: io::Error,
    },
}

impl From<&RecordError> for OperationProblem {
    fn from(error: &RecordError) -> Self {
        let reason = match error {
            RecordError::NotFound(_) => OperationRefusal::NotFound,
            RecordError::Ended(_) => OperationRefusal::Ended,
            RecordError::Output { .. } => OperationRefusal::Storage,
        };
        Self {
            reason,
            detail: error.to_string(),
            parameter: None,
        }
    }
}
