//! Readings off the runtime, which a file system that hangs does not stop.

use std::{sync::Arc, time::Duration};

use thiserror::Error;
use tokio::{sync::Semaphore, task::JoinHandle, time::Instant};

use crate::limits;

/// A reading has no result, and what was read before goes on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Stuck {
    /// It goes on.
    #[error("reading the files takes longer than {0:?}: does a file system hang?")]
    Slow(Duration),
    /// The runtime ends.
    #[error("reading the files was given up")]
    Task(#[source] tokio::task::JoinError),
}

/// Readings of the same files, one at a time, by threads for blocking work.
///
/// A reading that takes longer than [`limits::FILE_TIME`] is waited for in the background. After [`limits::FILE_GIVEN_UP`] another one
/// begins in its place: the path may lead to another file system by then. Of those that hang there are at most
/// [`limits::STUCK_READINGS`], since no thread can be taken back from a file system.
#[derive(Debug)]
pub struct Readings<T> {
    now: Option<Reading<T>>,
    threads: Arc<Semaphore>,
}

#[derive(Debug)]
struct Reading<T> {
    began: Instant,
    work: JoinHandle<T>,
    /// A caller has waited for it in vain.
    slow: bool,
}

impl<T> Default for Readings<T> {
    fn default() -> Self {
        Self {
            now: None,
            threads: Arc::new(Semaphore::new(limits::STUCK_READINGS)),
        }
    }
}

impl<T: Send + 'static> Readings<T> {
    /// The result of `work`, or of the work of a call before, where that one has not ended.
    ///
    /// # Errors
    /// There is none in time.
    ///
    /// # Cancel safety
    /// May be dropped: the next call goes on with the same work.
    pub async fn next(&mut self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Stuck> {
        let reading = self.reading(work)?;
        let wait = match reading.slow {
            // It may have ended since.
            true => Duration::ZERO,
            false => limits::FILE_TIME,
        };
        let Ok(done) = tokio::time::timeout(wait, &mut reading.work).await else {
            reading.slow = true;
            return Err(Stuck::Slow(limits::FILE_TIME));
        };
        self.now = None;
        done.map_err(Stuck::Task)
    }

    fn reading(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<&mut Reading<T>, Stuck> {
        let hangs = |reading: &Reading<T>| {
            reading.began.elapsed() >= limits::FILE_GIVEN_UP && !reading.work.is_finished()
        };
        if self.now.as_ref().is_some_and(hangs) && self.threads.available_permits() > 0 {
            self.now = None;
        }
        if self.now.is_none() {
            let thread = Arc::clone(&self.threads).try_acquire_owned();
            let thread = thread.map_err(|_| Stuck::Slow(limits::FILE_TIME))?;
            self.now = Some(Reading {
                began: Instant::now(),
                work: tokio::task::spawn_blocking(move || {
                    let read = work();
                    drop(thread);
                    read
                }),
                slow: false,
            });
        }
        self.now.as_mut().ok_or(Stuck::Slow(limits::FILE_TIME))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Work that hangs until the sender is used or dropped.
    fn hanging() -> (mpsc::Sender<()>, impl FnOnce() -> u8 + Send + 'static) {
        let (go, going) = mpsc::channel();
        let work = move || {
            let _ = going.recv();
            1
        };
        (go, work)
    }

    /// A clock that stands still would wait for threads for ever.
    async fn pass(time: Duration) {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    }

    async fn late(readings: &mut Readings<u8>, work: impl FnOnce() -> u8 + Send + 'static) {
        let waiting = async {
            tokio::task::yield_now().await;
            pass(limits::FILE_TIME).await;
        };
        let (read, ()) = tokio::join!(readings.next(work), waiting);
        assert!(matches!(read, Err(Stuck::Slow(_))), "{read:?}");
    }

    #[tokio::test]
    async fn rule_23_a_reading_that_hangs_is_waited_for_once_and_goes_on() {
        let mut readings = Readings::default();
        assert_eq!(readings.next(|| 0).await.unwrap(), 0);
        let (go, work) = hanging();
        late(&mut readings, work).await;
        // At once.
        let again = readings.next(|| 2).await;
        assert!(matches!(again, Err(Stuck::Slow(_))), "{again:?}");
        go.send(()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let read = loop {
            match readings.next(|| 2).await {
                Err(_) if Instant::now() < deadline => tokio::task::yield_now().await,
                read => break read.unwrap(),
            }
        };
        assert_eq!(read, 1, "its own result");
        assert_eq!(readings.next(|| 2).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn rule_23_a_reading_that_hangs_is_given_up_and_so_many_threads_hang() {
        let mut readings = Readings::default();
        let mut hanging_ones = Vec::new();
        for _ in 0..limits::STUCK_READINGS {
            let (go, work) = hanging();
            hanging_ones.push(go);
            late(&mut readings, work).await;
            pass(limits::FILE_GIVEN_UP).await;
        }
        let full = readings.next(|| 2).await;
        assert!(matches!(full, Err(Stuck::Slow(_))), "{full:?}");
        // One that was given up ends.
        drop(hanging_ones.remove(0));
        let deadline = Instant::now() + Duration::from_secs(20);
        let read = loop {
            match readings.next(|| 2).await {
                Err(_) if Instant::now() < deadline => tokio::task::yield_now().await,
                read => break read.unwrap(),
            }
        };
        assert_eq!(read, 2);
    }
}
