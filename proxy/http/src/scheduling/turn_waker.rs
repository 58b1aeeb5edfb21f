//! Wakes a task only from outside: the task sees its own work without another turn.

use std::{
    sync::Arc,
    task::{Wake, Waker},
};

use super::sync::{AtomicU8, AtomicWaker, Ordering};

/// The task is at work.
const AT_WORK: u8 = 1;

/// The task was woken since it last looked for work.
const WOKEN: u8 = 2;

/// Wakes the task that waits, unless it is at work already and will look again.
///
/// Each step reads and writes the state at once, so that all steps have one order, and each sees the memory of those before: a
/// wake-up either finds the task at rest, or the task finds the wake-up and all writes before it. `model.rs` checks this.
#[derive(Default)]
pub(super) struct TurnWaker {
    task: AtomicWaker,
    state: AtomicU8,
}

impl Wake for TurnWaker {
    fn wake(self: Arc<Self>) {
        self.wake_task();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_task();
    }
}

impl TurnWaker {
    /// The task of `waker` begins a turn.
    pub(super) fn begin_turn(&self, waker: &Waker) {
        self.task.register(waker);
        self.state.fetch_or(AT_WORK, Ordering::AcqRel);
    }

    /// Before the task looks for work: [`Self::try_rest`] sees every wake-up from here on.
    pub(super) fn clear(&self) {
        self.state.swap(AT_WORK, Ordering::AcqRel);
    }

    /// Ends the turn where there is no more work, and says so. Otherwise the task was woken, and is still at work.
    pub(super) fn try_rest(&self) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        let rests = self.state.compare_exchange(AT_WORK, 0, success, failure);
        rests.is_ok()
    }

    /// Ends the turn of a task that comes again by itself if there is need.
    pub(super) fn end_turn(&self) {
        self.state.swap(0, Ordering::AcqRel);
    }

    /// Wakes the task, or has it look again where it is at work.
    pub(super) fn wake_task(&self) {
        if self.state.fetch_or(WOKEN, Ordering::AcqRel) & AT_WORK == 0 {
            self.task.wake();
        }
    }
}
