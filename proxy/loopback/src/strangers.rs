//! Connections that have not shown the token.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::limits;

/// Those of one listener, the oldest first. Any user of the machine can make them: where there is no place left, the oldest one goes, so
/// that a newcomer, who may have the token, finds one.
#[derive(Debug, Default)]
pub(crate) struct Strangers(Mutex<VecDeque<Arc<Stranger>>>);

/// A connection, until it has shown the token and ever after.
#[derive(Debug, Default)]
pub(crate) struct Stranger {
    is_known: AtomicBool,
    displaced: CancellationToken,
}

impl Strangers {
    fn all(&self) -> MutexGuard<'_, VecDeque<Arc<Stranger>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that has just come.
    pub(crate) fn enter(&self) -> Arc<Stranger> {
        let stranger = Arc::<Stranger>::default();
        let mut all = self.all();
        // Those that are known, or gone, are none any more.
        all.retain(|other| !other.is_known() && Arc::strong_count(other) > 1);
        all.push_back(Arc::clone(&stranger));
        stranger
    }

    /// Has the oldest one go. False: there is none.
    pub(crate) fn displace(&self) -> bool {
        let mut all = self.all();
        while let Some(oldest) = all.pop_front() {
            if !oldest.is_known() && Arc::strong_count(&oldest) > 1 {
                oldest.displaced.cancel();
                return true;
            }
        }
        false
    }
}

impl Stranger {
    /// It has shown the token.
    pub(crate) fn is_a_friend(&self) {
        self.is_known.store(true, Ordering::Relaxed);
    }

    fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed)
    }

    /// Waits until it has been without the token for too long, or has to make room.
    pub(crate) async fn is_over(&self) {
        tokio::select! {
            () = self.displaced.cancelled() => {}
            () = sleep(limits::TOKEN_TIME) => {}
        }
        if self.is_known() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, timeout};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// Others of the machine would take every place of its user.
    #[tokio::test(start_paused = true)]
    async fn rule_23_a_connection_without_the_token_gives_its_place_back() {
        let (begun, stranger) = (Instant::now(), Stranger::default());
        stranger.is_over().await;
        assert_eq!(begun.elapsed(), limits::TOKEN_TIME);
        stranger.is_a_friend();
        let ended = timeout(DAY, stranger.is_over()).await;
        assert!(ended.is_err(), "a connection that has shown the token");
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_the_oldest_connection_without_the_token_makes_room() {
        let strangers = Strangers::default();
        assert!(!strangers.displace());
        let [gone, known, first, second] = [(); 4].map(|()| strangers.enter());
        drop(gone);
        known.is_a_friend();
        let begun = Instant::now();
        assert!(strangers.displace());
        first.is_over().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert!(
            timeout(limits::TOKEN_TIME / 2, second.is_over())
                .await
                .is_err()
        );
        assert!(strangers.displace() && !strangers.displace());
        assert!(timeout(DAY, known.is_over()).await.is_err());
    }
}
