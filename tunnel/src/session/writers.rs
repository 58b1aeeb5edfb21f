//! The wake-ups of a stream's sending half.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use futures_util::task::AtomicWaker;

/// The wakers of a stream's sending half. Transports hold these, and not the stream, which holds
/// the transport's half.
#[derive(Default)]
pub(super) struct Writers {
    pub(super) application: AtomicWaker,
    /// Tasks that hand over earlier bytes after a move: several where moves follow fast.
    pumps: Mutex<Vec<Waker>>,
}

impl Writers {
    pub(super) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    pub(super) fn register_pump(&self, waker: &Waker) {
        let mut pumps = self.pumps();
        if !pumps.iter().any(|pump| pump.will_wake(waker)) {
            pumps.push(waker.clone());
        }
    }

    /// Wakes the application and the pumps.
    pub(super) fn wake_all(&self) {
        self.application.wake();
        let pumps = std::mem::take(&mut *self.pumps());
        for pump in pumps {
            pump.wake();
        }
    }

    fn pumps(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.pumps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Writers {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}
