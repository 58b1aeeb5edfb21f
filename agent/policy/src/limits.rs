//! Every bound of this crate, each with its reason.

use std::ops::RangeInclusive;
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

/// The memory of a shell where its rule says nothing: kubectl with a large list, and an editor.
pub const SHELL_MEMORY: u64 = 512 * 1024 * 1024;

/// The memory that a rule may give a shell. With less than 16 MiB no shell starts.
pub const SHELL_MEMORY_RANGE: RangeInclusive<u64> = 16 * 1024 * 1024..=1024 * 1024 * 1024 * 1024;

/// Processes and threads of a shell where its rule says nothing: a few pipelines of kubectl, each of which has a dozen threads.
pub const SHELL_PROCESSES: u32 = 256;

/// The processes that a rule may give a shell. A shell that pipes one program into another has three.
pub const SHELL_PROCESSES_RANGE: RangeInclusive<u32> = 4..=100_000;

/// Processor time of a shell where its rule says nothing: one processor.
pub const SHELL_CPU_MILLIS: u32 = 1000;

/// The processor time that a rule may give a shell: Linux takes no less than a hundredth of a processor.
pub const SHELL_CPU_RANGE: RangeInclusive<u32> = 10..=1_024_000;

/// The time without input and output after which a shell ends, where its rule says nothing: a meeting, and no night.
pub const SHELL_IDLE: Duration = Duration::from_secs(3600);

/// The life of a shell without a viewer, where its rule says nothing: a laptop that is carried from one place to another.
pub const SHELL_DETACHED: Duration = Duration::from_secs(15 * 60);

/// The times that a rule may give a shell. Less than a second is a mistake, and a week is long enough to come back.
pub const SHELL_TIME_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=TIME_LIMIT;

/// Shells of one kind that a user may have, where the rule says nothing: some terminals, and one that was forgotten.
pub const SHELLS_OF_USER: usize = 4;

/// Shells of one kind on a node, where the rule says nothing.
pub const SHELLS_OF_NODE: usize = 16;

/// The most that a rule may give either: each takes some MiB of the agent's memory.
pub const SHELLS: usize = 64;

/// The uids of shells where the policy says nothing. No distribution gives these to users, and neither do systemd (which stays below
/// 1,879,048,192), container runtimes, or directories of users that follow them; programs that keep a uid in a signed number can.
pub const SHELL_UIDS: RangeInclusive<u32> = 2_000_000_000..=2_000_000_063;

/// The uids that a policy may name. Those below belong to the system's own users, and the last one is no uid.
pub const SHELL_UIDS_RANGE: RangeInclusive<u32> = 1000..=u32::MAX - 1;

/// Uids of one policy: each is looked for among the processes of the node before it is given.
pub const SHELL_UIDS_MOST: u32 = 4096;
