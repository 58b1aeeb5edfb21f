//! Every bound of this crate, each with its reason.

use std::time::Duration;

/// The policy's file. Ten thousand addresses take a quarter of it; a larger file is not what it should be.
pub const POLICY_BYTES: usize = 1024 * 1024;

/// Rules of one kind, and entries of one list: each stream is held against all of them.
pub const ENTRIES: usize = 1000;

/// A rule's name: it stands in refusals, which have 512 bytes, and in log lines.
pub const RULE_NAME_BYTES: usize = 63;

/// The path of a Unix socket: `sun_path` of Linux, without the zero at its end.
pub const SOCKET_PATH_BYTES: usize = 107;

/// An argument of an operation's command, with its placeholders: a path, or a few flags in one.
pub const ARGUMENT_BYTES: usize = 4096;

/// The longest value of a parameter, which records, audit events and the API show.
pub const VALUE_BYTES: usize = 1024;

/// The longest value where a parameter says nothing.
pub const VALUE_BYTES_DEFAULT: usize = 256;

/// A compiled pattern: the engine takes linear time in any case.
pub const PATTERN_BYTES: usize = 256 * 1024;

/// A user of the system: the longest that useradd takes.
pub const USER_BYTES: usize = 32;

/// The longest time limit of an operation. Beyond a week a command is a service, which systemd keeps better.
pub const TIME_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The most output of one run that is kept on the node's disk.
pub const OUTPUT_BYTES: u64 = 1024 * 1024 * 1024;

/// The same where an operation says nothing: a long build's log.
pub const OUTPUT_BYTES_DEFAULT: u64 = 16 * 1024 * 1024;
