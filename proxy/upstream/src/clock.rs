//! Ages and ends by two clocks.
//!
//! The monotonic clock stands still while the machine sleeps (`CLOCK_MONOTONIC` on Linux), and the wall clock may be set. A credential,
//! or a connection, is as old as the clock says that went further: one that is replaced too early costs a run or a handshake, one
//! that is kept too long costs a request. client-go judges the end of a plugin's credential by the wall clock.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// A point in time by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    monotonic: Instant,
    wall: SystemTime,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: wall(),
        }
    }

    /// The time since then.
    pub(super) fn elapsed(&self) -> Duration {
        let wall = wall().duration_since(self.wall);
        // The error is a wall clock that was set back.
        self.monotonic.elapsed().max(wall.unwrap_or_default())
    }

    /// `None` is later than any clock can say.
    pub(super) fn checked_add(&self, time: Duration) -> Option<Self> {
        Some(Self {
            monotonic: self.monotonic.checked_add(time)?,
            wall: self.wall.checked_add(time)?,
        })
    }

    /// Either clock has reached it.
    pub(super) fn has_come(&self) -> bool {
        Instant::now() >= self.monotonic || wall() >= self.wall
    }
}

#[cfg(not(test))]
pub(super) fn wall() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
pub(super) use testing::wall;

#[cfg(test)]
pub(super) mod testing {
    use std::{
        cell::Cell,
        time::{Duration, SystemTime},
    };

    thread_local! {
        static SLEPT: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// The machine, as this thread sees it, sleeps: the monotonic clock stands still.
    pub(crate) fn sleep(time: Duration) {
        SLEPT.set(SLEPT.get() + time);
    }

    pub(crate) fn wall() -> SystemTime {
        SystemTime::now() + SLEPT.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pass;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn the_clock_that_went_further_counts() {
        let (now, then) = (Moment::now(), Moment::now().checked_add(HOUR).unwrap());
        assert!(now.elapsed() < HOUR && !then.has_come());
        testing::sleep(HOUR);
        assert!(now.elapsed() >= HOUR && then.has_come());

        let (now, then) = (Moment::now(), Moment::now().checked_add(HOUR).unwrap());
        pass(HOUR).await;
        assert!(now.elapsed() >= HOUR && then.has_come());
        assert_eq!(now.checked_add(Duration::MAX), None);
    }

    #[test]
    fn a_wall_clock_that_is_set_back_makes_nothing_younger() {
        let mut now = Moment::now();
        now.wall += HOUR;
        assert!(now.elapsed() < HOUR);
        now.monotonic = now.monotonic.checked_sub(HOUR).unwrap_or(now.monotonic);
        assert!(now.has_come());
    }
}
