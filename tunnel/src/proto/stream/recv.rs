//! The receiving direction: what arrived, and what may follow.

use std::time::{Duration, Instant};

use super::OffsetError;
use crate::proto::code::ResetCode;
use crate::proto::limits;

/// One direction of a stream, at the side that receives it.
///
/// The window grows where it is what limits the peer: half of it was used up in less than a round
/// trip, so that the whole is less than four times the bandwidth-delay product. Who types beside it
/// waits for what is under way: see [`Pace`].
///
/// ```text
///          clean end
///   Open -------------> Ended
///    |     reset
///    |----------------> Reset(code)
///    |     refused
///    |----------------> Refused(code, reason)
///    |     own stop
///    `----------------> Stopped
/// ```
#[derive(Debug)]
pub struct Receiver {
    received: u64,
    /// What the peer was told of `received`.
    told: u64,
    limit: u64,
    window: u64,
    granted: Option<Instant>,
    /// More is to be granted.
    due: bool,
    end: Option<RecvEnd>,
}

/// How a receiving direction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecvEnd {
    /// Cleanly: every byte arrived.
    Ended,
    /// The peer gave it up.
    Reset(ResetCode),
    /// The peer did not take the stream.
    Refused(ResetCode, String),
    /// This side reads no more.
    Stopped,
}

/// What a window is to be large enough for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// The path's round trip, and no more: somebody types. A window that has become larger than that
    /// shrinks again.
    Latency(Duration),
    /// The path's round trip, and [`limits::WINDOW_TIME`] at the least: on a short path larger windows
    /// spare grants, of which each wakes both sides.
    Throughput(Duration),
}

impl Pace {
    /// Whether a window whose half lasted for `time` should be larger.
    fn is_exceeded(self, time: Duration) -> bool {
        match self {
            Self::Latency(round_trip) => time < round_trip,
            // Without a measure of the path nothing grows.
            Self::Throughput(Duration::ZERO) => false,
            Self::Throughput(round_trip) => time < round_trip.max(limits::WINDOW_TIME),
        }
    }

    /// Whether it should be smaller: what doubled it would not do so again by far.
    fn is_undercut(self, time: Duration) -> bool {
        match self {
            Self::Latency(round_trip) => time > 4 * round_trip,
            Self::Throughput(_) => false,
        }
    }
}

/// How soon the peer should hear what arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// At once: it waits, or is about to.
    Now,
    /// With the next batch: it can forget what it keeps.
    Soon,
}

impl Receiver {
    /// Nothing arrived yet; `limit` bytes may.
    pub fn new(limit: u64) -> Self {
        Self {
            received: 0,
            told: 0,
            limit,
            window: limits::STREAM_CREDIT,
            granted: None,
            due: false,
            end: None,
        }
    }

    /// Bytes that arrived.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// How it ended, if it did.
    pub fn ended(&self) -> Option<&RecvEnd> {
        self.end.as_ref()
    }

    /// Bytes of window beyond the first.
    pub fn grown(&self) -> u64 {
        self.window.saturating_sub(limits::STREAM_CREDIT)
    }

    /// `len` bytes arrived. The window grows by `spare` bytes at the most. Says when to tell the
    /// peer.
    ///
    /// # Errors
    /// Where the peer was not allowed to send them.
    pub fn take(
        &mut self,
        len: u64,
        now: Instant,
        pace: Pace,
        spare: u64,
    ) -> Result<Due, OffsetError> {
        self.received += len;
        if self.received > self.limit {
            return Err(OffsetError::Overrun {
                received: self.received,
                limit: self.limit,
            });
        }
        let first = self.granted.is_none();
        let granted = *self.granted.get_or_insert(now);
        if self.limit - self.received > self.window / 2 {
            return Ok(Due::Soon);
        }
        // Once for each grant: what was granted last tells how fast the peer is, and what follows
        // until the next one says nothing.
        if !self.due {
            self.due = true;
            self.granted = Some(now);
            let time = now.saturating_duration_since(granted);
            if !first && pace.is_exceeded(time) {
                let more = self.window.min(spare);
                self.window = (self.window + more).min(limits::STREAM_CREDIT_MAX);
            } else if !first && pace.is_undercut(time) {
                self.window = (self.window / 2).max(limits::STREAM_CREDIT);
            }
        }
        Ok(Due::Now)
    }

    /// The first bytes were an open header of `len` bytes, for which the credit is extra.
    pub fn allow_header(&mut self, len: u64) {
        self.limit = self.limit.max(len + limits::STREAM_CREDIT);
    }

    /// What the peer may be told: bytes that arrived, and how many may in all.
    pub fn credit(&mut self) -> (u64, u64) {
        self.limit = self.limit.max(self.received + self.window);
        self.told = self.received;
        self.due = false;
        (self.received, self.limit)
    }

    /// Whether the peer knows less than there is to know.
    pub fn has_news(&self) -> bool {
        self.end.is_none() && self.told < self.received
    }

    /// Ends it; only the first end counts. Gives whether this was it.
    pub fn end(&mut self, end: RecvEnd) -> bool {
        let first = self.end.is_none();
        self.end.get_or_insert(end);
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(40);
    const PACE: Pace = Pace::Latency(ROUND_TRIP);
    const WINDOW: u64 = limits::STREAM_CREDIT;

    #[test]
    fn more_than_was_allowed_is_an_error() {
        let mut receiver = Receiver::new(WINDOW);
        let now = Instant::now();
        receiver.take(WINDOW, now, PACE, 0).unwrap();
        let error = receiver.take(1, now, PACE, 0).unwrap_err();
        assert_eq!(
            error,
            OffsetError::Overrun {
                received: WINDOW + 1,
                limit: WINDOW
            }
        );
    }

    #[test]
    fn credit_follows_before_it_runs_out() {
        let mut receiver = Receiver::new(WINDOW);
        let now = Instant::now();
        assert_eq!(receiver.take(1, now, PACE, 0), Ok(Due::Soon));
        let due = receiver.take(WINDOW / 2, now, PACE, 0);
        assert_eq!(due, Ok(Due::Now));
        assert!(receiver.has_news());
        assert_eq!(receiver.credit(), (WINDOW / 2 + 1, WINDOW / 2 + 1 + WINDOW));
        assert!(!receiver.has_news());
    }

    #[test]
    fn the_window_grows_once_for_each_grant() {
        let mut receiver = Receiver::new(WINDOW);
        let now = Instant::now();
        let spare = limits::STREAM_CREDIT_MAX;
        receiver.take(1, now, PACE, spare).unwrap();
        for _ in 0..10 {
            let due = receiver.take(WINDOW / 20, now, PACE, spare).unwrap();
            assert_eq!(due == Due::Now, receiver.received() >= WINDOW / 2);
        }
        for _ in 0..5 {
            let due = receiver.take(1, now, PACE, spare).unwrap();
            assert_eq!(due, Due::Now, "the grant is late");
        }
        assert_eq!(receiver.window, 2 * WINDOW);
    }

    /// Reads half a window every `time` and gives the window after a while.
    fn window_at(time: Duration, pace: Pace, spare: u64) -> u64 {
        let mut receiver = Receiver::new(WINDOW);
        read_halves(&mut receiver, time, pace, spare);
        receiver.window
    }

    fn read_halves(receiver: &mut Receiver, time: Duration, pace: Pace, spare: u64) {
        let mut now = Instant::now();
        for _ in 0..20 {
            let half = receiver.window / 2;
            if receiver.take(half, now, pace, spare).unwrap() == Due::Now {
                receiver.credit();
            }
            now += time;
        }
    }

    #[test]
    fn the_window_grows_only_where_it_limits() {
        let max = limits::STREAM_CREDIT_MAX;
        for pace in [PACE, Pace::Throughput(ROUND_TRIP)] {
            assert_eq!(window_at(ROUND_TRIP * 2, pace, max), WINDOW);
            assert_eq!(window_at(ROUND_TRIP / 2, pace, max), max);
            assert_eq!(window_at(ROUND_TRIP / 2, pace, 0), WINDOW, "no spare");
        }
    }

    #[test]
    fn on_a_short_path_windows_are_worth_some_time_unless_somebody_types() {
        let short = limits::WINDOW_TIME / 20;
        let (time, max) = (limits::WINDOW_TIME / 2, limits::STREAM_CREDIT_MAX);
        assert_eq!(window_at(time, Pace::Throughput(short), max), max);
        assert_eq!(window_at(time, Pace::Latency(short), max), WINDOW);
        let unmeasured = Pace::Throughput(Duration::ZERO);
        assert_eq!(window_at(time, unmeasured, max), WINDOW);
        let mut receiver = Receiver::new(WINDOW);
        read_halves(&mut receiver, time, Pace::Throughput(short), max);
        assert_eq!(receiver.grown(), max - WINDOW);
        read_halves(&mut receiver, time, Pace::Latency(short), max);
        assert_eq!(receiver.grown(), 0, "somebody has begun to type");
    }

    #[test]
    fn the_first_end_counts() {
        let mut receiver = Receiver::new(WINDOW);
        assert!(receiver.end(RecvEnd::Reset(ResetCode::TargetFailed)));
        assert!(!receiver.end(RecvEnd::Ended));
        assert_eq!(
            receiver.ended(),
            Some(&RecvEnd::Reset(ResetCode::TargetFailed))
        );
    }
}
