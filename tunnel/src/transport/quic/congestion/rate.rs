//! A path's delivery rate: measured for each acknowledgement over the round trip before it.
//!
//! The measurement is that of draft-ietf-ccwg-bbr, "Delivery Rate Samples": bytes acknowledged since a packet left,
//! over the longer of the time in which they were sent and the time in which they were acknowledged. The longer of both,
//! since acknowledgements can come closer together than the packets they acknowledge.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Points of the past that are kept for each round trip: packets sent closer together share one.
const POINTS: u32 = 64;

/// For how many round trips they are kept. A packet acknowledged later gives no sample.
const ROUND_TRIPS: u32 = 4;

/// Room that is kept for them while nothing is in flight: an idle connection has it, too.
const POINTS_IDLE: usize = 4;

/// Bounds what a path of strange timing can make this keep.
const POINTS_MAX: usize = 1024;

/// Measured from one batch of acknowledgements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    /// Bytes per second.
    pub(super) rate: u64,
    /// From sending the newest of the acknowledged packets until now, the peer's delay included.
    pub(super) round_trip: Duration,
    /// Bytes delivered when that was sent.
    pub(super) delivered_before: u64,
    /// The sender had less to send than it could have sent: the path may carry more.
    pub(super) limited: bool,
}

/// How things stood when something was sent.
#[derive(Debug, Clone, Copy)]
struct Point {
    at: Instant,
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    limited: bool,
}

/// Counts sent and acknowledged bytes.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    /// Bytes acknowledged.
    delivered: u64,
    delivered_at: Instant,
    /// When the packet acknowledged last had been sent.
    first_sent: Instant,
    /// Nothing is in flight.
    idle: bool,
    /// Until so much is delivered, acknowledged packets were sent while there was no more to send.
    limited_until: u64,
    /// When the newest packet of this batch of acknowledgements was sent.
    newest: Option<Instant>,
    round_trip: Duration,
    past: VecDeque<Point>,
}

impl Delivery {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            delivered: 0,
            delivered_at: now,
            first_sent: now,
            idle: true,
            limited_until: 0,
            newest: None,
            // No round trip is known: as RFC 9002 assumes (section 6.2.2).
            round_trip: Duration::from_millis(333),
            past: VecDeque::new(),
        }
    }

    /// Bytes acknowledged so far.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    pub(super) fn on_sent(&mut self, now: Instant) {
        if self.idle {
            self.idle = false;
            self.first_sent = now;
            self.delivered_at = now;
        }
        let grain = self.round_trip / POINTS;
        if let Some(last) = self.past.back()
            && now < last.at + grain
        {
            return;
        }
        self.forget(now);
        self.past.push_back(Point {
            at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent: self.first_sent,
            limited: self.delivered < self.limited_until,
        });
    }

    fn forget(&mut self, now: Instant) {
        let kept = self.round_trip * ROUND_TRIPS;
        while let Some(oldest) = self.past.front()
            && (oldest.at + kept < now || self.past.len() >= POINTS_MAX)
        {
            self.past.pop_front();
        }
    }

    /// `bytes` that were sent at `sent` are acknowledged.
    pub(super) fn on_ack(&mut self, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.newest = self.newest.max(Some(sent));
    }

    /// That was all of one batch; `in_flight` bytes are still under way, and where `limited`, the sender has no more.
    pub(super) fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        limited: bool,
    ) -> Option<Sample> {
        if limited {
            self.limited_until = self.delivered + in_flight.max(1);
        }
        self.idle = in_flight == 0;
        let newest = self.newest.take()?;
        self.delivered_at = now;
        self.first_sent = self.first_sent.max(newest);
        self.round_trip = now.saturating_duration_since(newest);
        let after = self.past.partition_point(|point| point.at <= newest);
        let point = *self.past.get(after.checked_sub(1)?)?;
        if self.idle {
            self.past.clear();
            self.past.shrink_to(POINTS_IDLE);
        }
        let sending = newest.saturating_duration_since(point.first_sent);
        let acknowledging = now.saturating_duration_since(point.delivered_at);
        Some(Sample {
            rate: per_second(self.delivered - point.delivered, sending.max(acknowledging))?,
            round_trip: self.round_trip,
            delivered_before: point.delivered,
            limited: point.limited,
        })
    }
}

fn per_second(bytes: u64, time: Duration) -> Option<u64> {
    let nanos = time.as_nanos();
    let rate = (u128::from(bytes) * 1_000_000_000).checked_div(nanos)?;
    u64::try_from(rate).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn end(delivery: &mut Delivery, now: Instant) -> Sample {
        let sample = delivery.on_end_acks(now, 1000, false);
        sample.expect("it was sent lately")
    }

    #[test]
    fn what_was_sent_in_a_burst_is_delivered_at_the_rate_of_its_acknowledgements() {
        let start = Instant::now();
        let mut delivery = Delivery::new(start);
        delivery.on_sent(start);
        // 1,000 bytes for each ms, after a round trip of 10.
        for ms in 10..20 {
            delivery.on_ack(start, 1000);
            let sample = end(&mut delivery, start + ms * MS);
            assert_eq!(sample.round_trip, ms * MS);
            assert_eq!(
                sample.rate,
                u64::from(ms - 9) * 1000 * 1000 / u64::from(ms),
                "over the time since it was sent"
            );
        }
    }

    #[test]
    fn acknowledgements_together_tell_no_more_than_was_sent_in_that_time() {
        let start = Instant::now();
        let mut delivery = Delivery::new(start);
        let sent: Vec<Instant> = (0..20).map(|ms| start + ms * MS).collect();
        for &at in &sent {
            delivery.on_sent(at);
        }
        delivery.on_ack(sent[0], 1000);
        end(&mut delivery, start + 20 * MS);
        for &at in &sent[1..] {
            delivery.on_ack(at, 1000);
        }
        let sample = end(&mut delivery, start + 20 * MS);
        assert!(sample.rate <= 1_000_000, "{sample:?}");
    }

    #[test]
    fn a_pause_is_not_the_paths() {
        let start = Instant::now();
        let mut delivery = Delivery::new(start);
        delivery.on_sent(start);
        delivery.on_ack(start, 1000);
        assert!(
            delivery.on_end_acks(start + 10 * MS, 0, true).is_some(),
            "it is a sample"
        );
        let later = start + 1000 * MS;
        delivery.on_sent(later);
        delivery.on_ack(later, 1000);
        let sample = end(&mut delivery, later + 10 * MS);
        assert_eq!(sample.rate, 100_000);
        assert_eq!(sample.delivered_before, 1000);
    }

    #[test]
    fn who_has_no_more_to_send_is_marked_until_that_is_delivered() {
        let start = Instant::now();
        let mut delivery = Delivery::new(start);
        let mut at = start;
        let mut limited = Vec::new();
        for round in 0..4 {
            delivery.on_sent(at);
            delivery.on_ack(at, 1000);
            at += 10 * MS;
            let sample = delivery.on_end_acks(at, 1000, round == 0);
            limited.push(sample.expect("it was sent lately").limited);
        }
        assert_eq!(limited, [false, true, false, false]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let start = Instant::now();
        let mut delivery = Delivery::new(start);
        for us in 0..1_000_000 {
            delivery.on_sent(start + Duration::from_micros(us));
        }
        let points = usize::try_from(POINTS * ROUND_TRIPS).expect("small");
        assert!(delivery.past.len() <= points + 1, "{}", delivery.past.len());
        let last = start + Duration::from_micros(999_999);
        delivery.on_ack(last, 1000);
        assert!(delivery.on_end_acks(last + MS, 0, true).is_some());
        assert!(
            delivery.past.capacity() <= 2 * POINTS_IDLE,
            "{}",
            delivery.past.capacity()
        );
    }

    #[test]
    fn who_is_acknowledged_very_late_gives_no_sample() {
        let start = Instant::now();
        let mut delivery = Delivery::new(start);
        delivery.on_sent(start);
        delivery.on_sent(start + 10_000 * MS);
        delivery.on_ack(start, 1000);
        assert_eq!(delivery.on_end_acks(start + 10_001 * MS, 0, false), None);
        assert_eq!(delivery.delivered(), 1000);
    }
}
