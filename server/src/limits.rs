//! What a client can cost the listener before the proxy or the tunnel, whose own bounds then hold,
//! know of it. Each with its reason.

use std::time::Duration;

/// Time for a client's TLS handshake: two round trips, no human.
pub(crate) const TLS_TIME: Duration = Duration::from_secs(10);

/// TLS handshakes at once, of some 50 KiB each. Beyond it clients wait in the kernel's queue.
pub(crate) const TLS_HANDSHAKES: usize = 1024;

/// Wait after `accept` failed for lack of resources (file descriptors, memory): trying again at
/// once would only spin.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
