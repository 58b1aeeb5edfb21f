//! The facts about a shell that callers see.

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use time::OffsetDateTime;
use underpass_agent_policy::{Protection, ShellKind};
pub use underpass_core::{BadShellId, ShellId};

use crate::audience::Recording;
use crate::protection::Lack;
use crate::size::Size;

/// The user of a shell. No other one sees that there is the shell.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Their name.
    pub user: String,
    /// Their uid, where there is one.
    pub uid: Option<String>,
}

/// The way in which a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited, with this status.
    Status(i32),
    /// This signal ended it.
    Signal(i32),
    /// The system did not say.
    Unknown,
}

impl Exit {
    pub(crate) fn of(status: ExitStatus) -> Self {
        let code = status.code().map(Self::Status);
        let exit = code.or_else(|| status.signal().map(Self::Signal));
        exit.unwrap_or(Self::Unknown)
    }
}

/// The reason that a shell ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Its program ended by itself.
    Program,
    /// Its owner had it end.
    Owner,
    /// The owner's access ended, or the policy's permission.
    Revoked,
    /// There was neither input nor output for as long as its rule allows.
    Idle,
    /// No viewer came back for as long as its rule allows.
    Detached,
    /// The agent stops.
    Stopping,
    /// Its recording, which is required, did not go on for too long.
    Unrecorded,
    /// Its recorder had it end.
    Unrecordable(Fault),
}

/// Why a recorder has a shell end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// There is no room for more of the recording.
    Full,
    /// The recording has the size that one may have.
    TooLarge,
    /// The shell was opened before recordings were required.
    NotRequired,
    /// The recording cannot be written.
    Unwritable,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => {
                "its recording, which is required, cannot go on: the server has no room for more of it"
            }
            Self::TooLarge => {
                "its recording, which is required, has the size that one may have: open another shell"
            }
            Self::NotRequired => {
                "shells have to be recorded from their beginning now, and it was opened before: open another one"
            }
            Self::Unwritable => {
                "its recording, which is required, cannot be written by the server"
            }
        })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Unrecordable(fault) = self {
            return fault.fmt(f);
        }
        f.write_str(match self {
            Self::Program => "its program ended",
            Self::Owner => "its owner had it end",
            Self::Revoked => "the permission for it was taken back",
            Self::Idle => "it was idle for too long",
            Self::Detached => "no viewer attached to it for too long",
            Self::Stopping => "the agent stopped",
            Self::Unrecorded | Self::Unrecordable(_) => {
                "its recording, which is required, did not go on"
            }
        })
    }
}

/// The end of a shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// How its program ended.
    pub exit: Exit,
    /// Why.
    pub cause: Cause,
}

/// A shell as it is at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShellRecord {
    /// Its id.
    pub id: ShellId,
    /// Its kind.
    pub kind: ShellKind,
    /// Its user.
    pub owner: Owner,
    /// When it was opened.
    pub created: OffsetDateTime,
    /// The size of its terminal.
    pub size: Size,
    /// Bytes that its program has written.
    pub output: u64,
    /// Viewers.
    pub viewers: usize,
    /// Protections that shells of its kind should have, and that this one does not: its rule allows that.
    pub missing: Vec<Protection>,
    /// The same, each with the reason.
    pub lacks: Vec<Lack>,
    /// The uid of its own, where its kind has one.
    pub uid: Option<u32>,
    /// How it is recorded, where it is.
    pub recording: Option<Recording>,
    /// `None` while it runs.
    pub end: Option<End>,
}
