//! The commands.

use underpass_terminal::say;

pub(crate) mod ca_pin;
pub(crate) mod directory;
pub(crate) mod serve;

/// The last words of a command that failed.
pub(crate) fn complain(error: &anyhow::Error) {
    say!("underpass-server: {error:#}");
}
