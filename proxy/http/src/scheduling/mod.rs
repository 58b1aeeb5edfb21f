//! Divides work among tasks, to save wake-ups.
//!
//! hyper spawns a task for each request, and wakes a connection's task for each of their frames. On the way of a call that is a
//! tenth of the processor time (docs/PERFORMANCE.md). Here they take turns in one task.

pub mod bell;
pub mod in_task;
#[cfg(test)]
mod model;
pub mod on_wake;

/// The parts of the bell. `model.rs` puts those of loom in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU8, Ordering};

    pub(super) use futures_util::task::AtomicWaker;
}
