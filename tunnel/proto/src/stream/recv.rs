//! The receiving direction: received bytes, and the credit for more.

use std::time::{Duration, Instant};

use super::OffsetError;
use crate::code::ResetCode;
use crate::limits;

/// One direction of a stream, at the side that receives it.
///
/// The window grows where it limits the peer, which shows once the peer has used up a whole one soon:
/// counted from a grant on, so that it was all used since, and over however many grants lie between, as on a
/// long path there are many within one round trip. [`Pace`] defines soon.
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
    /// `received`, as the peer was told last.
    told: u64,
    limit: u64,
    window: u64,
    /// Since when, and from which byte on, it is measured how long the peer takes for a window.
    measured: Option<(Instant, u64)>,
    /// Something was granted since the last measurement ended: the next one may begin.
    granted: bool,
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

/// How large a window is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// The path's round trip, and hardly more: keystrokes wait behind all bytes queued on the path. The
    /// window stays between one and two and a half times the bytes that the path carries in a round trip.
    Latency(Duration),
    /// Two to four times that, and twice [`limits::WINDOW_TIME`] at the least: on a short path larger windows
    /// spare grants, of which each wakes both sides.
    Throughput(Duration),
}

impl Pace {
    /// The new size of a window that the peer has used up in `time`; it grows by `spare` at the most.
    fn resize(self, window: u64, time: Duration, spare: u64) -> u64 {
        match self {
            // Without a measure of the path nothing grows.
            Self::Throughput(Duration::ZERO) => window,
            Self::Throughput(round_trip) if time < 2 * round_trip.max(limits::WINDOW_TIME) => {
                window + window.min(spare)
            }
            // It takes longer than a round trip where something is queued. One step adds a quarter of the window:
            // no more than that can queue.
            Self::Latency(round_trip) if time < round_trip + round_trip / 4 => {
                window + (window / 4).min(spare)
            }
            Self::Latency(round_trip) if time > 2 * round_trip + round_trip / 2 => {
                (window / 2).max(limits::STREAM_CREDIT)
            }
            Self::Latency(_) | Self::Throughput(_) => window,
        }
        .min(limits::STREAM_CREDIT_MAX)
    }
}

/// How soon the peer should hear of arrived bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// At once: it waits, or is about to.
    Now,
    /// With the next batch: it can forget kept bytes.
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
            measured: None,
            granted: true,
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
        match self.measured {
            Some((since, from)) if self.received - from >= self.window => {
                let time = now.saturating_duration_since(since);
                self.window = pace.resize(self.window, time, spare);
                self.measured = None;
                self.granted = false;
            }
            None if self.granted => self.measured = Some((now, self.received)),
            _ => {}
        }
        Ok(if self.limit - self.received > self.window / 2 {
            Due::Soon
        } else {
            Due::Now
        })
    }

    /// The first bytes were an open header of `len` bytes, for which the credit is extra.
    pub fn allow_header(&mut self, len: u64) {
        self.limit = self.limit.max(len + limits::STREAM_CREDIT);
    }

    /// The credit for the peer: bytes that arrived, and how many may in all.
    pub fn credit(&mut self) -> (u64, u64) {
        self.limit = self.limit.max(self.received + self.window);
        self.told = self.received;
        self.granted = true;
        (self.received, self.limit)
    }

    /// The peer may not know what it was told.
    pub fn say_again(&mut self) {
        self.told = 0;
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

    /// The peer sends its whole credit at once; the reader reads it, and nothing is granted before that.
    #[test]
    fn what_lay_there_says_nothing_of_the_peer() {
        let mut receiver = Receiver::new(WINDOW);
        let mut now = Instant::now();
        let spare = limits::STREAM_CREDIT_MAX;
        for _ in 0..10 {
            for _ in 0..8 {
                receiver.take(WINDOW / 8, now, PACE, spare).unwrap();
            }
            receiver.credit();
            now += 10 * ROUND_TRIP;
        }
        assert_eq!(receiver.window, WINDOW);
    }

    /// The window after a second and more, where so many bytes come in a round trip, and the sender gets
    /// credit every 5 ms.
    fn window_at(rate: u64, round_trip: Duration, pace: Pace, spare: u64) -> u64 {
        let mut receiver = Receiver::new(WINDOW);
        read(&mut receiver, rate, round_trip, pace, spare);
        receiver.window
    }

    fn read(receiver: &mut Receiver, rate: u64, round_trip: Duration, pace: Pace, spare: u64) {
        let (mut now, step) = (Instant::now(), round_trip / 64);
        let mut told = now;
        for _ in 0..64 * 200 {
            // A window limits the peer to itself in a round trip.
            let len = rate.min(receiver.window) / 64;
            if receiver.take(len, now, pace, spare).unwrap() == Due::Now
                || now - told >= limits::ACK_DELAY
            {
                receiver.credit();
                told = now;
            }
            now += step;
        }
    }

    #[test]
    fn the_window_grows_to_what_the_path_carries_however_often_it_is_granted() {
        let max = limits::STREAM_CREDIT_MAX;
        for round_trip in [ROUND_TRIP / 20, ROUND_TRIP, 5 * ROUND_TRIP] {
            for rate in [WINDOW / 10, WINDOW, 3 * WINDOW, 20 * WINDOW, 100 * WINDOW] {
                let latency = window_at(rate, round_trip, Pace::Latency(round_trip), max);
                let bounds = rate.clamp(WINDOW, max)..=(rate / 2 * 5).clamp(WINDOW, max);
                assert!(bounds.contains(&latency), "{latency} for {rate}");
                let throughput = window_at(rate, round_trip, Pace::Throughput(round_trip), max);
                let bounds = (rate / 4 * 7).clamp(WINDOW, max)..=(rate * 4).clamp(WINDOW, max);
                assert!(bounds.contains(&throughput), "{throughput} for {rate}");
            }
            let pace = Pace::Throughput(round_trip);
            assert_eq!(
                window_at(100 * WINDOW, round_trip, pace, 0),
                WINDOW,
                "no spare"
            );
        }
    }

    #[test]
    fn on_a_short_path_windows_are_worth_some_time_unless_somebody_types() {
        let (short, max) = (limits::WINDOW_TIME / 20, limits::STREAM_CREDIT_MAX);
        // A window in two thirds of the time that one is to last.
        let (rate, time) = (WINDOW, limits::WINDOW_TIME * 4 / 3);
        let mut receiver = Receiver::new(WINDOW);
        read(
            &mut receiver,
            rate,
            time,
            Pace::Throughput(Duration::ZERO),
            max,
        );
        assert_eq!(receiver.grown(), 0, "not measured");
        read(&mut receiver, rate, time, Pace::Latency(short), max);
        assert_eq!(receiver.grown(), 0);
        read(&mut receiver, rate, time, Pace::Throughput(short), max);
        assert_eq!(receiver.grown(), WINDOW);
        read(&mut receiver, rate, time, Pace::Latency(short), max);
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
