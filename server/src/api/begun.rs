//! Requests that can be taken back until something has begun that must end, and be written down (rules 15, 23). A client takes
//! its login back by going away, until it is known whose it is: no password is checked for a client that is gone. The API's time
//! takes a change back, until it is being written.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::AbortHandle;

use super::did::Did;

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

    /// Takes the request back: it does not begin any more. False: it has begun.
    pub(super) fn take_back(&self) -> bool {
        self.leave_asked(Phase::TakenBack) == Phase::TakenBack
    }

    /// A guard whose drop takes the request back, where it has not begun, and says so. A guard that is
    /// [answered](OrAbort::answered) does neither.
    pub(super) fn or_abort<F: FnOnce()>(self, task: AbortHandle, abandoned: F) -> OrAbort<F> {
        let waiting = Some(abandoned);
        OrAbort {
            begun: self,
            task,
            waiting,
        }
    }

    fn has_begun(&self) -> bool {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) == Phase::Begun
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
pub(super) struct OrAbort<F: FnOnce()> {
    begun: Begun,
    task: AbortHandle,
    /// To be called where the client goes away.
    waiting: Option<F>,
}

impl<F: FnOnce()> OrAbort<F> {
    /// The client has waited for the answer.
    pub(super) fn answered(mut self) {
        self.waiting = None;
    }
}

impl<F: FnOnce()> Drop for OrAbort<F> {
    fn drop(&mut self) {
        if let Some(abandoned) = self.waiting.take()
            && self.begun.take_back()
        {
            self.task.abort();
            abandoned();
        }
    }
}

/// The change that a request makes: it has begun once it is being written.
#[derive(Debug, Clone, Default)]
pub(super) struct Commit {
    begun: Begun,
    to_be: Arc<Mutex<Option<Did>>>,
}

impl Commit {
    /// As [`Begun::begin`].
    pub(super) fn begin(&self) -> bool {
        self.begun.begin()
    }

    /// As [`Begun::take_back`].
    pub(super) fn take_back(&self) -> bool {
        self.begun.take_back()
    }

    /// Keeps the effect that the change is to have: a store that fails may have written it, and its answer says nothing of it.
    pub(super) fn is_to(&self, did: Did) {
        *self.to_be.lock().unwrap_or_else(PoisonError::into_inner) = Some(did);
    }

    /// The effect that a change was to have which has begun.
    pub(super) fn was_to(&self) -> Option<Did> {
        if !self.begun.has_begun() {
            return None;
        }
        let to_be = self.to_be.lock().unwrap_or_else(PoisonError::into_inner);
        to_be.clone()
    }
}
