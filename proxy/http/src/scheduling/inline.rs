//! Moves an exchange's bytes in the task that waits for its answer.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::turn_waker::TurnWaker;
use underpass_core::limits;

/// A connection's work, until it is done.
type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection that works while a caller waits for its result. With a task of its own, each piece of an answer would pass
/// through one more, and on several threads wake another one.
#[derive(Clone)]
pub(crate) struct Inline(Arc<Inner>);

struct Inner {
    /// `None` once it is done, or was dropped.
    work: Mutex<Option<Work>>,
    turn: Arc<TurnWaker>,
}

impl Inline {
    pub(crate) fn new(work: impl Future<Output = ()> + Send + 'static) -> Self {
        let work = Mutex::new(Some(Box::pin(work) as Work));
        let turn = Arc::default();
        Self(Arc::new(Inner { work, turn }))
    }

    /// Polls `wanted`, and lets the connection work until it can do no more.
    pub(crate) fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        mut wanted: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let turn = &self.0.turn;
        turn.begin_turn(cx.waker());
        let waker = Waker::from(Arc::clone(turn));
        let inner = &mut Context::from_waker(&waker);
        loop {
            turn.clear();
            let polled = wanted(inner);
            if polled.is_ready() {
                // A reader that got bytes polls again.
                turn.end_turn();
                return polled;
            }
            self.work(inner);
            if turn.try_rest() {
                return Poll::Pending;
            }
        }
    }

    fn work(&self, cx: &mut Context<'_>) {
        let mut work = self.lock();
        if let Some(working) = work.as_mut()
            && working.as_mut().poll(cx).is_ready()
        {
            *work = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Work>> {
        self.0.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the connection close by itself, within a grace period, and keeps `kept` until then.
    pub(crate) fn finish(&self, kept: impl Send + 'static) {
        // Mostly it has nothing to wait for.
        self.work(&mut Context::from_waker(Waker::noop()));
        let work = self.lock().take();
        if let Some(work) = work {
            tokio::spawn(async move {
                let _kept = kept;
                tokio::time::timeout(limits::SHUTDOWN_GRACE, work).await
            });
        }
    }

    /// Drops the connection.
    pub(crate) fn abort(&self) {
        // Not under the lock.
        let work = self.lock().take();
        drop(work);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::scheduling::testing::answering;

    #[tokio::test]
    async fn work_and_its_caller_wake_each_other_without_their_task() {
        let (question, mut questions) = mpsc::channel::<u32>(1);
        let (answer, mut answers) = mpsc::channel(1);
        let inline = Inline::new(async move {
            while let Some(number) = questions.recv().await {
                answer.send(number + 1).await.unwrap();
            }
        });
        let polls = AtomicUsize::new(0);
        for number in 0..10 {
            question.send(number).await.unwrap();
            let answered = poll_fn(|cx| {
                polls.fetch_add(1, Ordering::Relaxed);
                inline.poll(cx, |cx| answers.poll_recv(cx))
            });
            assert_eq!(answered.await, Some(number + 1));
        }
        assert_eq!(polls.into_inner(), 10);
    }

    #[tokio::test]
    async fn a_waiting_task_is_woken_from_outside() {
        let (outside, came) = oneshot::channel();
        let (answer, mut answered) = oneshot::channel();
        let inline = Inline::new(async move {
            let _ = answer.send(came.await.unwrap());
        });
        let waiting = tokio::spawn(async move {
            poll_fn(|cx| inline.poll(cx, |cx| Pin::new(&mut answered).poll(cx))).await
        });
        tokio::task::yield_now().await;
        outside.send(7).unwrap();
        assert_eq!(waiting.await.unwrap(), Ok(7));
    }

    #[test]
    fn no_wake_is_missed() {
        let (runtime, question) = answering();
        let asking = runtime.spawn(async move {
            for _ in 0..20_000 {
                let (answer, answered) = oneshot::channel();
                let (done, mut is_done) = oneshot::channel();
                let inline = Inline::new(async move {
                    let _ = done.send(answered.await);
                });
                question.send(answer).unwrap();
                let wanted = poll_fn(|cx| inline.poll(cx, |cx| Pin::new(&mut is_done).poll(cx)));
                assert_eq!(wanted.await, Ok(Ok(())));
            }
        });
        runtime.block_on(asking).unwrap();
    }

    #[tokio::test]
    async fn work_that_was_aborted_is_gone() {
        let (held, gone) = oneshot::channel::<()>();
        let inline = Inline::new(async move {
            let _held = held;
            std::future::pending().await
        });
        inline.abort();
        assert!(gone.await.is_err(), "its end was dropped");
    }
}
