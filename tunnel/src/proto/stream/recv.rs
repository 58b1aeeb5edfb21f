//! The receiving direction: what arrived, and what may follow.

use std::time::{Duration, Instant};

use super::OffsetError;
use crate::proto::code::ResetCode;
use crate::proto::limits;

/// One direction of a stream, at the side that receives it.
///
/// The window grows where it is what limits the peer: half of it was used up in less than a round
/// trip, so that the whole is less than two times the bandwidth-delay product.
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
        round_trip: Duration,
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
            if !first && now.saturating_duration_since(granted) < round_trip {
                let more = self.window.min(spare);
                self.window = (self.window + more).min(limits::STREAM_CREDIT_MAX);
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
    const WINDOW: u64 = limits::STREAM_CREDIT;

    #[test]
    fn more_than_was_allowed_is_an_error() {
        let mut receiver = Receiver::new(WINDOW);
        let now = Instant::now();
        receiver.take(WINDOW, now, ROUND_TRIP, 0).unwrap();
        let error = receiver.take(1, now, ROUND_TRIP, 0).unwrap_err();
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
        assert_eq!(receiver.take(1, now, ROUND_TRIP, 0), Ok(Due::Soon));
        let due = receiver.take(WINDOW / 2, now, ROUND_TRIP, 0);
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
        receiver.take(1, now, ROUND_TRIP, spare).unwrap();
        for _ in 0..10 {
            let due = receiver.take(WINDOW / 20, now, ROUND_TRIP, spare).unwrap();
            assert_eq!(due == Due::Now, receiver.received() >= WINDOW / 2);
        }
        for _ in 0..5 {
            let due = receiver.take(1, now, ROUND_TRIP, spare).unwrap();
            assert_eq!(due, Due::Now, "the grant is late");
        }
        assert_eq!(receiver.window, 2 * WINDOW);
    }

    /// Reads half a window every `pace` and gives the window after a while.
    fn window_at(pace: Duration, spare: u64) -> u64 {
        let mut receiver = Receiver::new(WINDOW);
        let mut now = Instant::now();
        for _ in 0..20 {
            let half = receiver.window / 2;
            if receiver.take(half, now, ROUND_TRIP, spare).unwrap() == Due::Now {
                receiver.credit();
            }
            now += pace;
        }
        receiver.window
    }

    #[test]
    fn the_window_grows_only_where_it_limits() {
        let unlimited = limits::STREAM_CREDIT_MAX;
        assert_eq!(window_at(ROUND_TRIP * 2, unlimited), WINDOW);
        assert_eq!(
            window_at(ROUND_TRIP / 2, unlimited),
            limits::STREAM_CREDIT_MAX
        );
        assert_eq!(window_at(ROUND_TRIP / 2, 0), WINDOW, "nothing to spare");
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
