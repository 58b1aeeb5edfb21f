//! Answers on their way to a client.
//!
//! hyper takes an answer faster than a slow client reads it. The bytes taken and not sent cost memory, and keep the answer's
//! seat in its user's and its cluster's budgets (security rule 23). A client that reads nothing of an answer for
//! [`limits::ANSWER_STALL`] is gone, as for kube-apiserver, whose requests have 60 s altogether. Its HTTP/2 stream is reset: the
//! informers of one program share a connection. An answer that h2 has as a whole stays there, and keeps its seat. The connection ends
//! where that stands still as long again, unless a load balancer carries others' requests on it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::future::AbortHandle;
use tokio::time::Instant;
use underpass_core::{body::tied, limits};
use underpass_http::scheduling::in_task;

/// The answers of one connection that must not stand still.
#[derive(Debug, Default)]
pub(crate) struct Sendings {
    all: Mutex<Vec<Weak<Sending>>>,
    /// Other users' requests may be on the connection.
    shared: bool,
}

/// An answer that is being sent.
pub(crate) struct Sending {
    progress: Mutex<Progress>,
    /// The task that sends it, on HTTP/2.
    task: Option<AbortHandle>,
    _kept: Box<dyn Send + Sync>,
}

#[derive(Debug)]
struct Progress {
    /// Pieces that hyper has and has not sent.
    unsent: usize,
    /// When one was last sent, or the first was taken.
    since: Instant,
    /// The next piece waits for one to be sent.
    waker: Option<Waker>,
}

/// Exists while hyper has the piece.
struct Piece(Arc<Sending>);

impl Sendings {
    pub(crate) fn new(shared: bool) -> Self {
        let all = Mutex::default();
        Self { all, shared }
    }

    /// An answer begins that keeps `kept` until all of it is sent, or its connection ends.
    pub(crate) fn begin(&self, kept: impl Send + Sync + 'static) -> Arc<Sending> {
        let sending = Sending::new(kept);
        let mut all = self.lock();
        if all.len() == all.capacity() {
            all.retain(|sending| sending.strong_count() > 0);
        }
        all.push(Arc::downgrade(&sending));
        sending
    }

    /// Ends those that have stood still for too long. Waits until the connection has to end for that.
    pub(crate) async fn stalled(&self) {
        loop {
            tokio::time::sleep(limits::ANSWER_STALL / 2).await;
            let now = Instant::now();
            let mut all = self.lock();
            all.retain(|sending| sending.strong_count() > 0);
            let sendings = all.iter().filter_map(Weak::upgrade);
            for stalled in sendings.filter(|sending| sending.is_stalled(now)) {
                let spares_others = self.shared && stalled.task.is_some();
                if !stalled.reset(now) && !spares_others {
                    return;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Sending>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sending {
    /// The same of an answer that may stand still: a watch, or a log in somebody's pager.
    pub(crate) fn new(kept: impl Send + Sync + 'static) -> Arc<Self> {
        let progress = Progress {
            unsent: 0,
            since: Instant::now(),
            waker: None,
        };
        Arc::new(Self {
            progress: Mutex::new(progress),
            task: in_task::current(),
            _kept: Box::new(kept),
        })
    }

    /// A piece for hyper.
    pub(crate) fn piece(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        let mut progress = self.lock();
        if progress.unsent == 0 {
            progress.since = Instant::now();
        }
        progress.unsent = progress.unsent.saturating_add(1);
        drop(progress);
        tied(bytes, Piece(Arc::clone(self)))
    }

    /// Pending while hyper and h2 have as many pieces as they may.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut progress = self.lock();
        if progress.unsent < limits::ANSWER_PIECES {
            return Poll::Ready(());
        }
        progress.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether hyper or h2 has pieces of it.
    pub(crate) fn is_unsent(&self) -> bool {
        self.lock().unsent > 0
    }

    /// Ends its stream, once. False: it has none, or pieces of it are left all the same.
    fn reset(&self, now: Instant) -> bool {
        let Some(task) = self.task.as_ref().filter(|task| !task.is_aborted()) else {
            return false;
        };
        self.lock().since = now;
        tracing::debug!("the client does not read an answer");
        metrics::counter!("underpass_stalled_answers_total").increment(1);
        task.abort();
        true
    }

    fn is_stalled(&self, now: Instant) -> bool {
        let progress = self.lock();
        let stands = now.saturating_duration_since(progress.since);
        progress.unsent > 0 && stands >= limits::ANSWER_STALL
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut progress = self.0.lock();
        progress.unsent = progress.unsent.saturating_sub(1);
        progress.since = Instant::now();
        // Not for each piece.
        let has_room = progress.unsent <= limits::ANSWER_PIECES / 2;
        let waker = has_room.then(|| progress.waker.take()).flatten();
        drop(progress);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl std::fmt::Debug for Sending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sending").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
