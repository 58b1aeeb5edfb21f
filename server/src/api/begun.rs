//! A request that its client may take back until it is known whose it is (rules 15, 23): nobody checks a stranger's password
//! for a client that is gone, and what has begun ends, and is written down.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::AbortHandle;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Asked,
    Begun,
    TakenBack,
}

/// How far a request is.
#[derive(Debug, Clone, Default)]
pub(super) struct Begun(Arc<Mutex<Phase>>);

impl Begun {
    /// From now on the request cannot be taken back. False: it was.
    pub(super) fn begin(&self) -> bool {
        self.leave_asked(Phase::Begun) == Phase::Begun
    }

    /// A guard whose drop takes the request back, where it has not begun.
    pub(super) fn or_abort(self, task: AbortHandle) -> OrAbort {
        OrAbort { begun: self, task }
    }

    fn leave_asked(&self, next: Phase) -> Phase {
        let mut phase = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *phase == Phase::Asked {
            *phase = next;
        }
        *phase
    }
}

/// The client's interest in a request.
pub(super) struct OrAbort {
    begun: Begun,
    task: AbortHandle,
}

impl Drop for OrAbort {
    fn drop(&mut self) {
        if self.begun.leave_asked(Phase::TakenBack) == Phase::TakenBack {
            self.task.abort();
        }
    }
}
