//! Wakes a task only from outside: the task sees its own work without another turn.

use std::{
    sync::Arc,
    task::{Wake, Waker},
};

use super::sync::{AtomicU8, AtomicWaker, Ordering};

/// The task is at work.
const AT_WORK: u8 = 1;

/// The bell has rung since the task listened.
const RUNG: u8 = 2;

/// Wakes the task that waits, unless it is at work already and will look again.
///
/// Each step reads and writes the state at once, so that all steps have one order, and each sees the memory of those before: a
/// ring either finds the task at rest, or the task finds the ring and all writes before it. `model.rs` checks this.
#[derive(Default)]
pub struct TurnWaker {
    task: AtomicWaker,
    state: AtomicU8,
}

impl Wake for TurnWaker {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

impl TurnWaker {
    /// The task `waker` begins to work.
    pub fn begin(&self, waker: &Waker) {
        self.task.register(waker);
        self.state.fetch_or(AT_WORK, Ordering::AcqRel);
    }

    /// [`Self::rest`] hears every ring from here on.
    pub fn listen(&self) {
        self.state.swap(AT_WORK, Ordering::AcqRel);
    }

    /// Says whether the task may rest. If not, the bell has rung, and it is still at work.
    pub fn rest(&self) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        let rests = self.state.compare_exchange(AT_WORK, 0, success, failure);
        rests.is_ok()
    }

    /// The task stops, and comes again by itself if there is need.
    pub fn end(&self) {
        self.state.swap(0, Ordering::AcqRel);
    }

    /// Wakes the task.
    pub fn ring(&self) {
        if self.state.fetch_or(RUNG, Ordering::AcqRel) & AT_WORK == 0 {
            self.task.wake();
        }
    }
}

/// Helpers for tests of tasks that wake each other.
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
#[allow(clippy::unwrap_used, reason = "it states expectations, as tests do")]
pub mod testing {
    use std::{
        future::poll_fn,
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use tokio::{
        runtime::{Builder, Runtime},
        sync::{
            mpsc::{UnboundedSender, unbounded_channel},
            oneshot,
        },
    };

    /// Counts its polls.
    pub async fn counted<T>(polls: &AtomicUsize, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|cx| {
            polls.fetch_add(1, Ordering::Relaxed);
            work.as_mut().poll(cx)
        })
        .await
    }

    /// A runtime in which questions are answered at any moment, from a thread of its own.
    pub fn answering() -> (Runtime, UnboundedSender<oneshot::Sender<()>>) {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .unwrap();
        let (question, mut questions) = unbounded_channel::<oneshot::Sender<()>>();
        runtime.spawn(async move {
            while let Some(answer) = questions.recv().await {
                let _ = answer.send(());
            }
        });
        (runtime, question)
    }
}
