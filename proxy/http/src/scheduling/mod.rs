//! Divides work among tasks, to save wake-ups.
//!
//! hyper spawns a task for each request, and wakes a connection's task for each of their frames. On the way of a call that is a
//! tenth of the processor time (docs/PERFORMANCE.md). Here they take turns in one task (`in_task`), an exchange on a
//! connection of its own moves that connection (`inline`), a future is polled when it was woken (`on_wake`), and the frames of
//! a turn are written at its end (`deferred_flush`).

pub mod deferred_flush;
pub mod in_task;
pub(crate) mod inline;
#[cfg(test)]
mod model;
pub mod on_wake;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
#[allow(clippy::unwrap_used, reason = "it states expectations, as tests do")]
pub mod testing;
mod turn_waker;

/// The parts of the turn waker. `model.rs` puts those of loom in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU8, Ordering};

    pub(super) use futures_util::task::AtomicWaker;
}
