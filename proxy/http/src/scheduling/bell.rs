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
pub struct Bell {
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
    pub fn begin(&self, waker: &Waker) {
        self.task.register(waker);
        self.at_work.store(true, Ordering::SeqCst);
    }

    /// [`Self::rest`] hears every ring from here on.
    pub fn listen(&self) {
        self.rung.store(false, Ordering::SeqCst);
    }

    /// Says whether the task may rest. If not, someone has rung, and it is still at work.
    pub fn rest(&self) -> bool {
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
    pub fn end(&self) {
        self.at_work.store(false, Ordering::SeqCst);
    }

    /// Wakes the task.
    pub fn ring(&self) {
        self.rung.store(true, Ordering::SeqCst);
        if !self.at_work.load(Ordering::SeqCst) {
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
