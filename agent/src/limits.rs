//! Bounds on what a server or a file can cost the agent before the tunnel, whose own bounds then hold, knows of it. Each with its
//! reason.

use std::time::Duration;

/// A key file: the key has 52 bytes, and an editor may have added a line's end.
pub(crate) const KEY_FILE_BYTES: u64 = 1024;

/// A file with a join token, which has 53 bytes.
pub(crate) const JOIN_TOKEN_FILE_BYTES: u64 = 1024;

/// The wait after a first join that did not reach the server, or that it was too busy for. Doubled by each further one.
pub(crate) const JOIN_AGAIN: Duration = Duration::from_secs(1);

/// The longest of these waits, half of it at the least: a thousand nodes whose server is away ask it twenty times a second.
pub(crate) const JOIN_AGAIN_MOST: Duration = Duration::from_secs(60);

/// The wait after a join that the server refused, unless the token's file changes before: no refusal goes away by itself, except
/// where the server's directory was put back.
pub(crate) const JOIN_REFUSED: Duration = Duration::from_secs(10 * 60);

/// How often a join token's file is looked at meanwhile.
pub(crate) const JOIN_TOKEN_FILE_AGE: Duration = Duration::from_secs(2);

/// The longest wait before an agent joins whose key the server does not know (any more): a server that has lost its directory hears
/// of all agents in the same moment.
pub(crate) const JOIN_SPREAD: Duration = Duration::from_secs(1);

/// Attempts to put a key into a Secret that other agents change: each of them wins once.
pub(crate) const KEY_SECRET_ATTEMPTS: usize = 8;

/// The wait after an API server that did not answer, or was too busy to. Doubled by each further one.
pub(crate) const KEY_SECRET_AGAIN: Duration = Duration::from_secs(1);

/// The longest.
pub(crate) const KEY_SECRET_AGAIN_MOST: Duration = Duration::from_secs(30);
