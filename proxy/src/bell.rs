//! Wakes a task only from outside: what it works on itself is seen without another turn.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// Wakes the task that waits, unless it is at work already and will look again.
#[derive(Default)]
pub(crate) struct Bell {
    task: AtomicWaker,
    rung: AtomicBool,
    at_work: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

impl Bell {
    /// The task `waker` begins to work.
    pub(crate) fn begin(&self, waker: &Waker) {
        self.task.register(waker);
        self.at_work.store(true, Ordering::SeqCst);
    }

    /// Whoever rings from here on is heard by [`Self::rest`].
    pub(crate) fn listen(&self) {
        self.rung.store(false, Ordering::SeqCst);
    }

    /// Says whether the task may rest. If not, someone has rung, and it is still at work.
    pub(crate) fn rest(&self) -> bool {
        // In this order, as `ring` has it in the other.
        if self.rung.load(Ordering::SeqCst) {
            return false;
        }
        self.end();
        if !self.rung.load(Ordering::SeqCst) {
            return true;
        }
        self.at_work.store(true, Ordering::SeqCst);
        false
    }

    /// The task stops, and comes again by itself if there is need.
    pub(crate) fn end(&self) {
        self.at_work.store(false, Ordering::SeqCst);
    }

    /// Wakes the task.
    pub(crate) fn ring(&self) {
        self.rung.store(true, Ordering::SeqCst);
        if !self.at_work.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}
