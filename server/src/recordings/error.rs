//! Why something is not recorded.

use std::io;

use rustix::io::Errno;
use thiserror::Error;
use underpass_api::RecordingFault;

/// Why something is not recorded. The text is for callers, and names no file.
#[derive(Debug, Error)]
pub(crate) enum RecordingError {
    #[error("the disk of the recordings is full: make room on it, or lower --recordings-size")]
    Full(#[source] io::Error),
    #[error("the recordings cannot be written; the server's log says why")]
    Io(#[source] io::Error),
    #[error("recordings that are being written fill the {0} bytes of --recordings-size")]
    NoRoom(u64),
    #[error(
        "recordings of this user that are being written fill the user's share of --recordings-size: end another shell first"
    )]
    Share,
    #[error("the recording has the {0} bytes of --recording-size")]
    TooLarge(u64),
    #[error("there is a recording of a shell of this id already")]
    Exists,
    #[error("the recording's file was changed by another program")]
    Unreadable,
    #[error("the agent has less of the shell than was recorded of it")]
    AnotherShell,
    #[error("the user's identity cannot be kept beside the recording")]
    Identity,
}

impl From<io::Error> for RecordingError {
    fn from(error: io::Error) -> Self {
        let full = [Errno::NOSPC, Errno::DQUOT].map(Errno::raw_os_error);
        match error.raw_os_error() {
            Some(code) if full.contains(&code) => Self::Full(error),
            _ if error.kind() == io::ErrorKind::AlreadyExists => Self::Exists,
            _ => Self::Io(error),
        }
    }
}

impl RecordingError {
    /// Why a shell ends that has to be recorded.
    pub(super) fn fault(&self) -> RecordingFault {
        match self {
            Self::Full(_) | Self::NoRoom(_) | Self::Share => RecordingFault::Full,
            Self::TooLarge(_) => RecordingFault::TooLarge,
            _ => RecordingFault::Unwritable,
        }
    }

    /// May it pass by itself, or once there is room?
    pub(super) fn passes(&self) -> bool {
        self.is_of_disk() || matches!(self, Self::NoRoom(_) | Self::Share)
    }

    /// Does it say that nothing can be recorded? Others are about one recording, or one user.
    pub(super) fn is_of_disk(&self) -> bool {
        matches!(self, Self::Full(_) | Self::Io(_))
    }
}
