//! When the peer was last heard.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::session::now;

/// When bytes last came from the peer.
#[derive(Debug, Clone)]
pub(super) struct LastHeard {
    start: Instant,
    /// Milliseconds after `start`.
    at: Arc<AtomicU64>,
}

impl LastHeard {
    pub(super) fn new() -> Self {
        Self {
            start: now(),
            at: Arc::default(),
        }
    }

    pub(super) fn get(&self) -> Instant {
        self.start + Duration::from_millis(self.at.load(Ordering::Relaxed))
    }

    /// Bytes have come.
    pub(super) fn touch(&self) {
        let passed = u64::try_from(now().saturating_duration_since(self.start).as_millis())
            .unwrap_or(u64::MAX);
        self.at.store(passed, Ordering::Relaxed);
    }
}
