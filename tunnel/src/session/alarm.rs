//! A timer that is set often and rings seldom.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// How much too early an alarm may ring, rather than be set anew.
const EARLY: Duration = Duration::from_secs(1);

/// Rings at the time it was set to, or up to a second before where it had been set to an earlier one. To set
/// the runtime's timer to an earlier time takes a lock, and mostly a system call that wakes the thread that waits
/// for timers: acknowledgements would do so with each stream.
pub(super) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    /// When it rings next, if it will.
    at: Option<Instant>,
}

impl Alarm {
    pub(super) fn new() -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            at: None,
        }
    }

    /// Sets it to `at`; where that is `None`, a ring that comes all the same means nothing.
    pub(super) fn set(&mut self, at: Option<Instant>) {
        let Some(at) = at else { return };
        let soon_enough = |armed: Instant| armed <= at && at <= armed + EARLY;
        if !self.at.is_some_and(soon_enough) {
            self.sleep.as_mut().reset(at.into());
            self.at = Some(at);
        }
    }

    /// Ready once it rings. It is to be set again then.
    pub(super) fn poll_ring(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.at.is_none() {
            return Poll::Pending;
        }
        ready!(self.sleep.as_mut().poll(cx));
        self.at = None;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::Instant;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn rings_after(alarm: &mut Alarm) -> Duration {
        let begun = Instant::now();
        poll_fn(|cx| alarm.poll_ring(cx)).await;
        begun.elapsed()
    }

    fn at(after: Duration) -> Option<std::time::Instant> {
        Some((Instant::now() + after).into_std())
    }

    #[tokio::test(start_paused = true)]
    async fn it_rings_never_late() {
        let mut alarm = Alarm::new();
        alarm.set(at(10 * SECOND));
        alarm.set(at(3 * SECOND));
        assert_eq!(rings_after(&mut alarm).await, 3 * SECOND);
        alarm.set(at(SECOND));
        alarm.set(None);
        alarm.set(at(SECOND / 2));
        assert_eq!(rings_after(&mut alarm).await, SECOND / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn it_rings_a_second_early_at_the_most() {
        let mut alarm = Alarm::new();
        alarm.set(at(SECOND));
        alarm.set(at(2 * SECOND));
        assert_eq!(rings_after(&mut alarm).await, SECOND);
        alarm.set(at(SECOND));
        alarm.set(at(3 * SECOND));
        assert_eq!(rings_after(&mut alarm).await, 3 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_rung_is_silent() {
        let mut alarm = Alarm::new();
        let silent = |alarm: &mut Alarm| {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            alarm.poll_ring(&mut cx).is_pending()
        };
        assert!(silent(&mut alarm));
        alarm.set(at(SECOND));
        rings_after(&mut alarm).await;
        assert!(silent(&mut alarm));
    }
}
