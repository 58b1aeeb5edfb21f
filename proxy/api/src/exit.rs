//! The ends of programs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a program ended: its exit status, or the signal that killed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum ProgramExit {
    /// The exit status.
    Status(i32),
    /// The signal's number.
    Signal(i32),
}

impl ProgramExit {
    /// The status that a shell would give: 128 and the signal's number where a signal ended it.
    pub fn status(self) -> i32 {
        match self {
            Self::Status(status) => status,
            Self::Signal(signal) => signal.saturating_add(128),
        }
    }
}

impl fmt::Display for ProgramExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exit status {status}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}
