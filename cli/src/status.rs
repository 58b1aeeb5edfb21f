//! The exit status of this program where it is another program's.

use rustix::process::Signal;
use thiserror::Error;

/// As shells have it, beside the signal's number.
pub(crate) const SIGNALLED: u8 = 128;

/// The end of a command that did not succeed. It has been said already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the command ended with the status {0}")]
pub(crate) struct CommandStatus(pub(crate) u8);

impl CommandStatus {
    /// The command did not end by itself: this signal ended it, or what was to run it.
    pub(crate) fn of(signal: Signal) -> Self {
        let number = u8::try_from(signal.as_raw()).unwrap_or_default();
        Self(SIGNALLED.saturating_add(number))
    }
}
