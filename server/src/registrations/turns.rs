//! The streams of one session about its cluster's credential.
//!
//! An agent that changes its mind resets its stream and opens another one. The server may have read the first one's line already, so
//! that the later stream's word counts, also where it is decided on first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::limits;

/// Which stream's turn it is.
pub(crate) struct Turns {
    places: Arc<Semaphore>,
    next: AtomicU64,
    /// The latest stream whose line was decided on.
    decided: Mutex<u64>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(limits::REGISTRATION_STREAMS)),
            next: AtomicU64::new(1),
            decided: Mutex::default(),
        }
    }
}

/// A stream's place.
pub(super) struct Turn {
    turns: Arc<Turns>,
    number: u64,
    _place: OwnedSemaphorePermit,
}

impl Turns {
    /// The place of the session's next stream, where there is one. Called in the order of the streams.
    pub(super) fn next(self: &Arc<Self>) -> Option<Turn> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(Turn {
            turns: Arc::clone(self),
            number: self.next.fetch_add(1, Ordering::Relaxed),
            _place: place,
        })
    }
}

impl Turn {
    /// Waits until nothing else of the session is being decided on. `None` where a later stream was decided on already.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub(super) async fn decide(&self) -> Option<MutexGuard<'_, u64>> {
        let mut decided = self.turns.decided.lock().await;
        if *decided > self.number {
            return None;
        }
        *decided = self.number;
        Some(decided)
    }
}
