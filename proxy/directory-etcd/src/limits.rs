//! Every bound on what etcd can cost, and on what etcd is asked for, each with its reason.

use std::time::Duration;

/// Writes of one transaction. etcd takes 128 operations unless it is told otherwise, and one is the revision.
pub(crate) const TXN_WRITES: usize = 120;

/// Bytes of one transaction's writes: keys, values and some for what goes around each. etcd takes requests of 1.5 MiB unless it is
/// told otherwise.
pub(crate) const TXN_BYTES: usize = 1024 * 1024;

/// Bytes of a write beside its key and its value, at most.
pub(crate) const WRITE_OVERHEAD: usize = 64;

/// Parts of one large change: each is an operand of the transaction that makes it count. So a change has 120 MiB at the most.
pub(crate) const PARTS: usize = TXN_WRITES;

/// Objects of the first page of a reading. Pages grow while they are small.
pub(crate) const PAGE: i64 = 64;

/// Objects of one page, at most: etcd makes the whole answer in its memory.
pub(crate) const PAGE_MOST: i64 = 1024;

/// A page of fewer bytes is followed by one of twice as many objects.
pub(crate) const PAGE_BYTES: usize = 1024 * 1024;

/// One answer of etcd. A page that is larger is asked for again, of fewer objects.
pub(crate) const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// How often a reading begins anew, for revisions that were compacted meanwhile and pages that were too large.
pub(crate) const READINGS: usize = 16;

/// Time for TCP and TLS with one endpoint: some round trips.
pub(crate) const CONNECT: Duration = Duration::from_millis(1500);

/// Time for one endpoint to answer, before another one is asked: a commit of etcd's takes some milliseconds, and a member that was
/// stopped answers nothing.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(2);

/// Time for one call at all endpoints together: an election takes a second or two.
pub(crate) const CALL: Duration = Duration::from_secs(8);

/// The same for a page, which may be large.
pub(crate) const PAGE_ATTEMPT: Duration = Duration::from_secs(10);

/// The same at all endpoints together.
pub(crate) const PAGE_CALL: Duration = Duration::from_secs(30);

/// Time in which etcd has to say that it could write. Readiness waits for it.
pub(crate) const CHECK: Duration = Duration::from_secs(3);

/// Wait between two attempts of one call.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// How often the revision is read while a watch says nothing: a watch that was lost without a word hides a revocation for no longer.
/// Such a reading writes nothing, at no member.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// How often a silent connection with a call on it is asked whether it lives. etcd closes those that ask more often than each 5 s.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(10);

/// Time for the answer.
pub(crate) const KEEPALIVE_ANSWER: Duration = Duration::from_secs(5);

/// Receive windows of a stream and of a connection: a page comes in few round trips.
pub(crate) const STREAM_WINDOW: u32 = 1024 * 1024;

/// See [`STREAM_WINDOW`].
pub(crate) const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// Bytes of the prefix: each key repeats it.
pub(crate) const PREFIX_BYTES: usize = 256;

/// Bytes of the file with the password.
pub(crate) const PASSWORD_BYTES: u64 = 4096;
