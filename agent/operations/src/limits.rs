//! Every bound of this crate, each with its reason.

use std::time::Duration;

/// Runs at once. An installer runs one or two; more would take the node's processors from its pods.
pub const RUNNING: usize = 8;

/// All names and values of a run's arguments: they stand in its record, in the audit logs, and in the list of all records.
pub const ARGUMENTS_BYTES: usize = 8 * 1024;

/// Bytes of output that are read, written and carried at once: a pipe has 64 KiB, and a line of the answer too.
pub const PIECE_BYTES: usize = 16 * 1024;

/// The time that a command has after SIGTERM to end by itself.
pub const GRACE: Duration = Duration::from_secs(5);

/// The time for the rest of the output once the command has ended and its process group is killed. Only a process that has left the
/// group holds the pipes longer.
pub const REST_TIME: Duration = Duration::from_secs(1);

/// Records that are kept, and so ids remembered: a year of a daily backup, and a hundred attempts of an installer.
pub const RECORDS: usize = 1000;

/// The time that the output of a run is kept after its end. Its record stays: a clock that was set must not forget an id.
pub const OUTPUT_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Output of all records together, on a disk that has the node's images and logs as well.
pub const OUTPUT_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// A record's file, which has [`ARGUMENTS_BYTES`] and a reason, escaped.
pub const RECORD_BYTES: u64 = 64 * 1024;

/// Threads that read output at once. The runtime has 512 for everything; a disk that hangs gets no more than these.
pub const READERS: usize = 16;

/// Room on the disk that is left alone: a run begins only where its output and this fit.
pub const ROOM: u64 = 16 * 1024 * 1024;

/// `/etc/passwd`: ten thousand users take a tenth of it.
pub const PASSWD_BYTES: u64 = 8 * 1024 * 1024;

/// How often processes of a run that has ended are searched for, since they may make others meanwhile, and the wait in between: a
/// second in all.
pub const SEARCHES: usize = 50;

/// The wait.
pub const SEARCH_AGAIN: Duration = Duration::from_millis(20);

/// The wait until processes are searched for again that did not end at once: they wait for a disk or a device.
pub const SEARCH_LATER: Duration = Duration::from_secs(1);
