//! Errors, for callers and for the agent's log.

use std::io;
use std::path::PathBuf;

use thiserror::Error;
use underpass_agent_policy::{ShellKind, ShellUids};

use crate::limits;
use crate::protection::Lack;

/// Why a shell is not opened. The text is a sentence for the caller, and the source for the log.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The user has as many as they may.
    #[error(
        "you have {most} {kind} shells on this node, which are all that its policy allows: end one of them"
    )]
    TooManyOfUser {
        /// The kind.
        kind: ShellKind,
        /// The policy's number.
        most: usize,
    },
    /// All users together have as many as they may.
    #[error(
        "the node has {most} {kind} shells, which are all that its policy allows: try again later"
    )]
    TooManyOfNode {
        /// The kind.
        kind: ShellKind,
        /// The policy's number.
        most: usize,
    },
    /// A protection that the policy asks for is missing.
    #[error(
        "the node's agent cannot give a {kind} shell these protections, without which its policy does not allow one: {}",
        texts(.missing)
    )]
    Unprotected {
        /// The kind.
        kind: ShellKind,
        /// Those that are missing, each with the reason.
        missing: Vec<Lack>,
    },
    /// Each uid of the policy's range is a shell's, a user's, or a process's.
    #[error(
        "the node has no uid left for a shell: each of {uids}, which its policy names (`shells.uids`), belongs to a shell, a user or a \
         process"
    )]
    NoUid {
        /// The range.
        uids: ShellUids,
    },
    /// There can be no home for it.
    #[error("the node's agent cannot make a home for the shell in {}: {source}", .base.display())]
    Home {
        /// The folder of all homes.
        base: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A variable or a file that the caller gives is not one that a shell can have.
    #[error("the shell cannot have this: {0}")]
    Given(String),
    /// The name of the terminal's kind has other characters than such names have.
    #[error(
        "the kind of a terminal (TERM) has 1 to {} letters, digits, '-', '+', '_' and '.'",
        limits::TERM_BYTES
    )]
    Term,
    /// The node has no terminal left.
    #[error("the node has no terminal left: {0}")]
    NoTerminal(#[source] io::Error),
    /// The program is missing or cannot be run.
    #[error("the program {} of the shell cannot be run on this node: {source}", .program.display())]
    Program {
        /// The program.
        program: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The working directory is missing.
    #[error("the directory {} of the shell cannot be entered on this node: {source}", .directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The process that becomes the program cannot be made, or fails.
    #[error("the node's agent cannot start the shell: {0}")]
    Helper(#[source] io::Error),
    /// It took too long.
    #[error("the shell did not start within {} s", limits::START_TIME.as_secs())]
    Slow,
    /// The agent stops.
    #[error("the agent is stopping: try again later")]
    Stopping,
}

fn texts(missing: &[Lack]) -> String {
    let texts: Vec<_> = missing.iter().map(Lack::to_string).collect();
    texts.join(", ")
}

/// There is no such shell, or it is another user's: the caller does not learn which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("you have no shell of this id on this node")]
pub struct UnknownShell;

/// Why a viewer cannot attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AttachError {
    /// There is no such shell.
    #[error(transparent)]
    Unknown(#[from] UnknownShell),
    /// It has as many viewers as it may.
    #[error(
        "the shell has {} viewers, which are all that it may have: close one of them",
        limits::VIEWERS
    )]
    TooManyViewers,
    /// The model of its screen was given up.
    #[error("the agent is stopping: try again later")]
    Stopping,
}

/// Why input does not reach a shell.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InputError {
    /// Another viewer writes.
    #[error("this viewer does not write to the shell: it has to take over first")]
    NotWriter,
    /// The viewer is no viewer any more.
    #[error("this viewer is detached from the shell")]
    Detached,
    /// The shell has ended.
    #[error("the shell has ended")]
    Ended,
    /// The terminal fails.
    #[error("the shell's terminal fails: {0}")]
    Terminal(#[source] io::Error),
}
