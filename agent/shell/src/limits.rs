//! Every bound of this crate, each with its reason. The policy bounds how many shells there are, and how long each lives.

use std::time::Duration;

/// Output of a shell that is kept. A viewer may be so far behind before the program waits, or come back so much later and go on at
/// its byte: a second of a fast program over a slow path, and some screens of text.
pub const OUTPUT_BYTES: usize = 256 * 1024;

/// Bytes of output that are read and handed on at once: the kernel's terminal has 4 KiB to 64 KiB.
pub const PIECE_BYTES: usize = 16 * 1024;

/// Columns, and rows, of a terminal. More are a mistake, or a trial.
pub const SIDE: u16 = 1000;

/// Cells of a terminal, each of which takes 16 bytes on each of two screens. A 4K display with letters of 6 x 11 pixels has 125,000.
/// A terminal that would have more gets fewer rows.
pub const CELLS: u32 = 128 * 1024;

/// The size of a terminal that does not know its own.
pub const USUAL_SIZE: (u16, u16) = (80, 24);

/// Viewers of one shell at once: all of them are its owner's.
pub const VIEWERS: usize = 16;

/// Changes of the size that viewers have yet to hear of. Later ones take the place of the newest.
pub const SIZES: usize = 256;

/// Times of output that are kept for a recorder, each for what came within [`MARK_STEP`]: while it is away, fewer of them are kept for longer.
pub const MARKS: usize = 4096;

/// The exactness of the times in a recording. An eye sees no less than some ten milliseconds.
pub const MARK_STEP: Duration = Duration::from_millis(5);

/// Input that is kept for a recorder. Where its recording is required, more input waits.
pub const INPUT_BYTES: usize = 64 * 1024;

/// How long a shell waits at the most for a recording that is required.
pub const RECORDER_WAIT_MOST: Duration = Duration::from_secs(60 * 60);

/// How often it is looked whether a shell has waited for too long.
pub const RECORDER_LOOK: Duration = Duration::from_secs(1);

/// How long a viewer may keep the program waiting without taking a byte. The tunnel's sessions resume for as long by default, so that
/// a path that comes back in time costs the viewer nothing.
pub const STALLED: Duration = Duration::from_secs(60);

/// The time between SIGHUP and SIGKILL. An editor writes its swap file in less.
pub const HANGUP_GRACE: Duration = Duration::from_secs(5);

/// The same where the permission for the shell was taken back: everything of it is gone within a second.
pub const REVOKED_GRACE: Duration = Duration::from_millis(300);

/// How often processes are looked for meanwhile: a node may have thousands.
pub const HANGUP_AGAIN: Duration = Duration::from_millis(100);

/// The wait between two attempts to kill what is left.
pub const SEARCH_AGAIN: Duration = Duration::from_millis(20);

/// How often processes are killed until none is left, since they may make others: a second in all.
pub const SEARCHES: usize = 50;

/// The wait for further output once the program has ended. Only a process that was not found holds the terminal longer.
pub const REST_TIME: Duration = Duration::from_millis(200);

/// The time for a shell's helper to become its program.
pub const START_TIME: Duration = Duration::from_secs(10);

/// The plan of a program, which is the policy's: a thousand arguments of 4 KiB, escaped.
pub const PLAN_BYTES: u64 = 16 * 1024 * 1024;

/// One message of a helper: a protection, and the reason that it is missing.
pub const MESSAGE_BYTES: usize = 16 * 1024;

/// The time for a PID namespace to end once its last other process has, or has been killed.
pub const INIT_TIME: Duration = Duration::from_secs(1);

/// The time for the processes of a cgroup to die once they are killed.
pub const GROUP_END: Duration = Duration::from_secs(5);

/// Cgroups that a shell of root's made below its own, and that are removed with it.
pub const GROUPS: usize = 4096;

/// Processes of the agent's in a shell's cgroup: that which waits for the namespace, and the first of the namespace.
pub const KEEPERS: u64 = 2;

/// Files, folders and links of a shell's own, in memory: a few large repositories. Each takes a KiB of the kernel's.
pub const INODES: u32 = 100_000;

/// Open files of a process, and the number to which it may raise that: select(2) breaks beyond the first.
pub const FILES: u64 = 1024;

/// See [`FILES`].
pub const FILES_MOST: u64 = 16 * 1024;

/// Memory that a process of a shell may lock, as Linux has it for users.
pub const LOCKED_BYTES: u64 = 8 * 1024 * 1024;

/// POSIX message queues of a shell, as Linux has it for users.
pub const QUEUE_BYTES: u64 = 819_200;

/// Signals that wait for processes of a shell.
pub const SIGNALS: u64 = 4096;

/// The stack of a process, as Linux has it for users, and the size to which it may raise that.
pub const STACK_BYTES: u64 = 8 * 1024 * 1024;

/// See [`STACK_BYTES`].
pub const STACK_BYTES_MOST: u64 = 64 * 1024 * 1024;

/// How much sooner than another program the kernel ends a shell where the node has no memory left (`oom_score_adj`): half of all
/// memory weighs as much.
pub const VICTIM: i32 = 500;

/// Files that a caller gives a shell, variables, and lines for its viewers.
pub const GIVEN: usize = 64;

/// The bytes of all of them together: a kubeconfig with its certificates has some ten KiB.
pub const GIVEN_BYTES: usize = 1024 * 1024;

/// The name of a terminal's kind, as in `xterm-256color`.
pub const TERM_BYTES: usize = 64;

/// Shells that have ended and can still be asked about, each with its output and its screen.
pub const ENDED: usize = 32;

/// Those of one user: no user displaces all of another's.
pub const ENDED_OF_USER: usize = 8;

/// How long they can be asked about: a viewer whose path was cut hears the exit status when it comes back.
pub const ENDED_AGE: Duration = Duration::from_secs(5 * 60);

/// Processor time of the screen's model, for one piece of output, that does not count. Ordinary output takes less than a millisecond; there
/// are sequences of a few bytes that scroll a thousand lines.
pub const SCREEN_TIME: Duration = Duration::from_millis(10);

/// Bytes that the model is fed at once. There are sequences of nine bytes that print 65,535 characters: some of them in a row take a
/// second.
pub const SCREEN_PIECE_BYTES: usize = 128;

/// Processor time after which the model lets others have its screen.
pub const SCREEN_TURN: Duration = Duration::from_millis(100);

/// A model that has taken longer waits so many times as long before the next piece: a program has the agent spend a quarter of a
/// processor on its screen at the most.
pub const SCREEN_PAUSE: u32 = 3;
