//! Helpers for tests of tasks that wake each other.

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
