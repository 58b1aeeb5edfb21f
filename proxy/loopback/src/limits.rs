//! Bounds, each with its reason.

use std::time::Duration;

/// Connections at a time: programs of one user. Others of the machine may connect as well, get no further than TLS, and make room.
pub(crate) const CONNECTIONS: usize = 1024;

/// Time for TLS.
pub(crate) const TLS_TIME: Duration = Duration::from_secs(10);

/// The pause after an error of the listener: no file is free, for example.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The time for a connection's first request that has the token. kubectl sends one at once.
pub(crate) const TOKEN_TIME: Duration = Duration::from_secs(10);

/// The time for a connection that has to make room to be gone: its task has to run once.
pub(crate) const ROOM_TIME: Duration = Duration::from_secs(1);
