//! What a client can cost the listener before the proxy or the tunnel, whose own bounds then hold,
//! know of it. Each with its reason.

use std::time::Duration;

/// Time for a client's TLS handshake: two round trips, no human.
pub(crate) const TLS_TIME: Duration = Duration::from_secs(10);

/// TLS handshakes at once, of some 50 KiB each. Beyond it clients wait in the kernel's queue.
pub(crate) const TLS_HANDSHAKES: usize = 1024;

/// TCP connections at once, of users, of agents on WebSocket and of whoever says nothing at all: room
/// for ten thousand agents, twice while they come back, and as many connections of users. One that is
/// idle costs some 60 KiB with its TLS and HTTP, 2 GiB in all, and one that has never sent a request is
/// ended by the proxy after three minutes at the most. Beyond it clients wait in the kernel's queue.
pub(crate) const CONNECTIONS: usize = 32_768;

/// Wait after `accept` failed for lack of resources (file descriptors, memory): trying again at
/// once would only spin.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a gauge is shown after it was last set, which each request for metrics does: those of agents
/// that are gone go.
pub(crate) const METRICS_IDLE: Duration = Duration::from_secs(1);

/// Connections for metrics at once: whoever watches has one or two. More wait in the kernel's queue.
pub(crate) const METRICS_CONNECTIONS: usize = 16;

/// Time for a request's head there, and between two requests: Prometheus asks every 15 s to a minute.
pub(crate) const METRICS_TIME: Duration = Duration::from_secs(120);

/// How often the log says that connections are refused for their number, or for want of a PROXY protocol header:
/// whoever floods the server must not fill its disk as well.
pub(crate) const SAME_NEWS: Duration = Duration::from_secs(1);

/// Time to write what is left of the audit log when the server stops: a disk that takes longer is stuck.
pub(crate) const AUDIT_FLUSH: Duration = Duration::from_secs(5);

/// The audit log of callers without an identity is put aside when it has so many bytes, and so many files of it are
/// kept: 40 MiB in all, a week of one busy scanner. Anybody can rotate it away.
pub(crate) const STRANGERS_LOG_BYTES: u64 = 10 * 1024 * 1024;
pub(crate) const STRANGERS_LOG_FILES: usize = 3;

/// The body of a request to the API: an object of the directory, and its wrapping.
pub(crate) const API_BODY: usize = 1024 * 1024;

/// From an API request's head to its answer, its body included (*unauthenticated*: a login has one).
pub(crate) const API_TIME: Duration = Duration::from_secs(30);

/// An answer of the API that a subcommand reads: a page of the largest objects would be cut.
pub(crate) const API_ANSWER: usize = 64 * 1024 * 1024;

/// Objects in a page of a list, unless the client says otherwise, and at the most.
pub(crate) const API_PAGE: usize = 500;
pub(crate) const API_PAGE_MOST: usize = 1000;

/// What somebody calls a token.
pub(crate) const DESCRIPTION_CHARS: usize = 256;

/// How long a token counts that a login gives: a working day.
pub(crate) const LOGIN_TOKEN: Duration = Duration::from_secs(12 * 60 * 60);

/// How long it can be renewed, for users of the directory, whose groups and state are looked at each time it is used.
pub(crate) const LOGIN: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How long the first administrator's token counts: until they have made better ones.
pub(crate) const FIRST_TOKEN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What an authenticator may take, unless the authentication file says otherwise: a little more than one question to
/// a provider.
pub(crate) const AUTHENTICATION: Duration = Duration::from_secs(12);
