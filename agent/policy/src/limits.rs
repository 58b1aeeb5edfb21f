//! Every bound of this crate, each with its reason.

/// The policy's file. Ten thousand addresses take a quarter of it; a larger file is not what it should be.
pub const POLICY_BYTES: usize = 1024 * 1024;

/// Rules of one kind, and entries of one list: each stream is held against all of them.
pub const ENTRIES: usize = 1000;

/// A rule's name: it stands in refusals, which have 512 bytes, and in log lines.
pub const RULE_NAME_BYTES: usize = 63;

/// The path of a Unix socket: `sun_path` of Linux, without the zero at its end.
pub const SOCKET_PATH_BYTES: usize = 107;
