//! Futures beside something that moves all the time.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// A future that is only polled when it was woken, and not whenever its owner is: each piece of a body asks whether the body is
/// still allowed, which costs more than to pass it on.
pub struct OnWake<F> {
    future: F,
    woken: Arc<Woken>,
}

/// Some condition.
pub type Condition<T> = OnWake<Pin<Box<dyn Future<Output = T> + Send>>>;

struct Woken {
    woken: AtomicBool,
    owner: AtomicWaker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.owner.wake();
    }
}

impl<T> Condition<T> {
    /// A condition of any future.
    pub fn boxed(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self::new(Box::pin(future))
    }
}

impl<F> OnWake<F> {
    /// The future is polled the first time its owner is.
    pub fn new(future: F) -> Self {
        Self {
            future,
            woken: Arc::new(Woken {
                woken: AtomicBool::new(true),
                owner: AtomicWaker::new(),
            }),
        }
    }

    /// The future.
    pub fn get(&self) -> &F {
        &self.future
    }

    /// The future, to be changed: it is polled next time as if it had been woken.
    pub fn get_mut(&mut self) -> &mut F {
        self.woken.woken.store(true, Ordering::SeqCst);
        &mut self.future
    }
}

impl<F: Future + Unpin> OnWake<F> {
    /// As of a future, which must not be polled once it was ready.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        // Before it looks: a wake-up from here on wakes its owner.
        self.woken.owner.register(cx.waker());
        if !self.woken.woken.swap(false, Ordering::SeqCst) {
            return Poll::Pending;
        }
        let waker = Waker::from(Arc::clone(&self.woken));
        Pin::new(&mut self.future).poll(&mut Context::from_waker(&waker))
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize};

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn it_is_polled_when_it_was_woken() {
        let (says, said) = oneshot::channel::<u8>();
        let polls = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&polls);
        let mut said = Box::pin(said);
        let mut condition = OnWake::new(poll_fn(move |cx| {
            count.fetch_add(1, Ordering::Relaxed);
            said.as_mut().poll(cx)
        }));
        for _ in 0..3 {
            assert!(futures_util::poll!(poll_fn(|cx| condition.poll(cx))).is_pending());
        }
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        let waits = tokio::spawn(async move { poll_fn(|cx| condition.poll(cx)).await });
        tokio::task::yield_now().await;
        says.send(7).unwrap();
        assert_eq!(waits.await.unwrap(), Ok(7), "another task has it now");
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }
}
