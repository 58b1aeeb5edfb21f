//! The model of the path, and the window that follows from it.

use std::time::{Duration, Instant};

use super::filter::Largest;
use super::rate::{Delivery, Sample};

/// The least that is ever under way, in datagrams: two for each acknowledgement, twice.
const DATAGRAMS_MIN: u64 = 4;

/// How much may queue at the narrowest link, beside the bytes in flight. Acknowledgements come late by about so much
/// where both ends are busy, and without a queue the link would stand still meanwhile.
const SLACK: Duration = Duration::from_millis(1);

/// How long the shortest round trip is believed without one that comes near it.
const SHORTEST_FOR: Duration = Duration::from_secs(10);

/// How long little is sent for to measure it again (draft-ietf-ccwg-bbr, `ProbeRTTDuration`).
const MEASURE: Duration = Duration::from_millis(200);

/// Rounds without a quarter more after which the path carries no more (draft-ietf-ccwg-bbr, `full_bw`).
const PLATEAU: u8 = 3;

/// Round trips measured in a round before their shortest says that a queue has begun (RFC 9406, `N_RTT_SAMPLE`).
const ENOUGH: u32 = 8;

/// How much more is tried, in percent. A quarter, as BBR has it, is as much more that waits at the narrowest link.
const MORE: u64 = 12;

/// How much less lets a queue go that came of it, and of the slack.
const LESS: u64 = 20;

/// More is under way for two: in the first it is sent, in the second its acknowledgements come.
const UP: u8 = 2;

/// Cycles in a row in which the queue was never empty, after which it is taken for others'.
const CROWDED: u8 = 3;

/// Loss that counts: of 25 datagrams one, and not by accident.
const LOSS_ONE_OF: u64 = 25;
const LOSS_DATAGRAMS: u64 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Twice as much with each round, until the path carries no more, its queue grows or it loses.
    Startup { best: u64, rounds: u8 },
    /// Startup's queue drains.
    Drain { rounds: u8 },
    /// As much under way as the path holds.
    Cruise { left: u64 },
    /// An eighth more, to see whether more arrives then than `before`, and again for as long as it does.
    Up { rounds: u8, before: u64 },
    /// A fifth less, so that a queue of our own is gone and the shortest round trip can be seen.
    Down { rounds: u8 },
    /// Half, for a moment.
    Measure {
        until: Option<Instant>,
        shortest: Option<Duration>,
    },
}

/// The counts of one round trip.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    acked: u64,
    lost: u64,
    /// Loss was answered.
    answered: bool,
    /// Some of it was sent while the sender had no more to send.
    limited: bool,
    shortest: Option<Duration>,
    samples: u32,
}

/// Acknowledged beyond what the rate explains: acknowledgements that come in clumps (draft-ietf-ccwg-bbr,
/// `BBRUpdateACKAggregation`).
#[derive(Debug, Clone)]
struct Clumps {
    since: Instant,
    acked: u64,
    largest: Largest,
}

impl Clumps {
    fn add(&mut self, now: Instant, acked: u64, rate: u64) {
        let mut explained = in_time(rate, now.saturating_duration_since(self.since));
        if self.acked <= explained {
            self.since = now;
            self.acked = 0;
            explained = 0;
        }
        self.acked += acked;
        self.largest.add(self.acked.saturating_sub(explained));
    }
}

/// A path as seen from the sender.
#[derive(Debug, Clone)]
pub(super) struct Model {
    delivery: Delivery,
    rate: Largest,
    clumps: Clumps,
    /// The shortest round trip, and when one was last near it.
    shortest: Option<(Duration, Instant)>,
    phase: Phase,
    round: Round,
    round_before: Round,
    /// The round is over when a packet sent now is acknowledged: when so many bytes had been delivered.
    round_end: u64,
    /// The shortest round trip since the last [`Phase::Down`].
    cycle: Option<Duration>,
    /// Cycles in a row in which the queue was never empty.
    crowded: u8,
    /// The path lost too much above this.
    ceiling: Option<u64>,
    datagram: u64,
    /// Acknowledged in this batch.
    batch: u64,
    window: u64,
}

impl Model {
    pub(super) fn new(now: Instant, datagram: u16) -> Self {
        let datagram = u64::from(datagram);
        Self {
            delivery: Delivery::new(now),
            rate: Largest::default(),
            clumps: Clumps {
                since: now,
                acked: 0,
                largest: Largest::default(),
            },
            shortest: None,
            phase: Phase::Startup { best: 0, rounds: 0 },
            round: Round::default(),
            round_before: Round::default(),
            round_end: 0,
            cycle: None,
            crowded: 0,
            ceiling: None,
            datagram,
            batch: 0,
            window: Self::initial(datagram),
        }
    }

    /// RFC 9002, section 7.2.
    fn initial(datagram: u64) -> u64 {
        let initial = (10 * datagram).min(14_720.max(2 * datagram));
        initial.max(DATAGRAMS_MIN * datagram)
    }

    /// Bytes that may be under way.
    pub(super) fn window(&self) -> u64 {
        self.window
    }

    pub(super) fn initial_window(&self) -> u64 {
        Self::initial(self.datagram)
    }

    pub(super) fn set_datagram(&mut self, bytes: u16) {
        self.datagram = u64::from(bytes);
        self.window = self.window.max(self.least());
    }

    pub(super) fn on_sent(&mut self, now: Instant) {
        self.delivery.on_sent(now);
    }

    pub(super) fn on_ack(&mut self, sent: Instant, bytes: u64) {
        self.batch += bytes;
        self.delivery.on_ack(sent, bytes);
    }

    pub(super) fn on_end_acks(&mut self, now: Instant, in_flight: u64, limited: bool) {
        let acked = std::mem::take(&mut self.batch);
        self.round.acked += acked;
        let Some(sample) = self.delivery.on_end_acks(now, in_flight, limited) else {
            return;
        };
        self.learn(now, acked, sample);
        if sample.delivered_before >= self.round_end {
            self.end_round(now);
        }
        self.within_round(now, in_flight);
        self.set_window(acked, limited);
    }

    /// Datagrams of `bytes` were lost; 0 is a mark of congestion (ECN).
    pub(super) fn on_congestion(&mut self, now: Instant, persistent: bool, bytes: u64) {
        if persistent {
            // No measurement holds any more (RFC 9002, section 7.6.2).
            let datagram = u16::try_from(self.datagram).unwrap_or(u16::MAX);
            *self = Self::new(now, datagram);
            self.window = self.least();
            return;
        }
        self.round.lost += bytes;
        if self.round.answered || !(bytes == 0 || self.loses_too_much()) {
            return;
        }
        self.round.answered = true;
        let ceiling = (self.window / 20 * 17)
            .max(self.held() / 10 * 7)
            .max(self.least());
        self.ceiling = Some(ceiling);
        self.phase = match self.phase {
            Phase::Startup { .. } => Phase::Drain { rounds: 0 },
            Phase::Up { .. } => Phase::Down { rounds: 0 },
            other => other,
        };
        self.window = self.window.min(ceiling);
    }

    /// In this round and the one before, which together are enough to tell an unreliable path from a full one.
    fn loses_too_much(&self) -> bool {
        let lost = self.round.lost + self.round_before.lost;
        let all = lost + self.round.acked + self.round_before.acked;
        lost >= LOSS_DATAGRAMS * self.datagram && lost > all / LOSS_ONE_OF
    }

    fn learn(&mut self, now: Instant, acked: u64, sample: Sample) {
        self.round.limited |= sample.limited;
        self.round.samples += 1;
        let round_trip = sample.round_trip;
        for shortest in [&mut self.round.shortest, &mut self.cycle] {
            *shortest = Some(shortest.map_or(round_trip, |so_far| so_far.min(round_trip)));
        }
        match &mut self.shortest {
            Some((shortest, at)) => {
                if round_trip <= *shortest + SLACK + *shortest / 16 {
                    *at = now;
                }
                *shortest = round_trip.min(*shortest);
            }
            None => self.shortest = Some((round_trip, now)),
        }
        if !sample.limited || sample.rate >= self.rate.get() {
            self.rate.add(sample.rate);
        }
        self.clumps.add(now, acked, self.rate.get());
    }

    fn end_round(&mut self, now: Instant) {
        self.round_end = self.delivery.delivered();
        self.round_before = std::mem::take(&mut self.round);
        let limited = self.round_before.limited;
        if !limited {
            self.rate.next_round();
            self.clumps.largest.next_round();
        }
        self.phase = match self.phase {
            Phase::Startup { best, rounds } => self.after_startup_round(best, rounds, limited),
            Phase::Drain { rounds } => Phase::Drain { rounds: rounds + 1 },
            // A sender without more to send learns nothing from a larger window.
            Phase::Cruise { left: 0 } if limited => Phase::Cruise { left: 0 },
            Phase::Cruise { left: 0 } => Phase::Up {
                rounds: 0,
                before: self.rate.get(),
            },
            Phase::Cruise { left } => Phase::Cruise { left: left - 1 },
            Phase::Up { rounds, before } if rounds + 1 < UP => Phase::Up {
                rounds: rounds + 1,
                before,
            },
            Phase::Up { before, .. } => self.after_up(before),
            Phase::Down { rounds } => Phase::Down { rounds: rounds + 1 },
            measuring @ Phase::Measure { .. } => measuring,
        };
        let believed = self.shortest.is_none_or(|(_, at)| now < at + SHORTEST_FOR);
        if !believed && !matches!(self.phase, Phase::Startup { .. } | Phase::Measure { .. }) {
            self.phase = Phase::Measure {
                until: None,
                shortest: None,
            };
        }
    }

    fn after_startup_round(&self, best: u64, rounds: u8, limited: bool) -> Phase {
        let rate = self.rate.get();
        let (best, rounds) = if rate >= best + best / 4 {
            (rate, 0)
        } else {
            (best, rounds + u8::from(!limited))
        };
        if rounds == PLATEAU || !limited && self.queue_begins() {
            Phase::Drain { rounds: 0 }
        } else {
            Phase::Startup { best, rounds }
        }
    }

    /// As in RFC 9406, section 4.2.
    fn queue_begins(&self) -> bool {
        let round = &self.round_before;
        let (Some(now), Some((shortest, _))) = (round.shortest, self.shortest) else {
            return false;
        };
        let longer = (shortest / 8).clamp(Duration::from_millis(4), Duration::from_millis(16));
        round.samples >= ENOUGH && now >= shortest + longer
    }

    fn after_up(&mut self, before: u64) -> Phase {
        if !self.round_before.answered {
            self.ceiling = self
                .ceiling
                .map(|ceiling| ceiling + ceiling / 4)
                .filter(|ceiling| *ceiling / 2 < self.target());
        }
        let rate = self.rate.get();
        if rate < before + before / 20 {
            Phase::Down { rounds: 0 }
        } else {
            Phase::Up {
                rounds: 0,
                before: rate,
            }
        }
    }

    fn within_round(&mut self, now: Instant, in_flight: u64) {
        match self.phase {
            Phase::Drain { rounds } if rounds >= 3 || in_flight <= self.target() => {
                self.phase = self.cruise();
            }
            Phase::Down { rounds } if rounds >= 2 || rounds == 1 && in_flight <= self.target() => {
                self.end_cycle();
                self.phase = self.cruise();
            }
            Phase::Measure { until, shortest } => self.measure(now, in_flight, until, shortest),
            _ => {}
        }
    }

    fn measure(
        &mut self,
        now: Instant,
        in_flight: u64,
        until: Option<Instant>,
        shortest: Option<Duration>,
    ) {
        let Some(end) = until else {
            if in_flight <= self.target() {
                let round_trip = self.shortest.map_or(MEASURE, |(shortest, _)| shortest);
                self.phase = Phase::Measure {
                    until: Some(now + MEASURE + round_trip),
                    shortest: None,
                };
                self.round.shortest = None;
            }
            return;
        };
        let shortest = match (shortest, self.round.shortest) {
            (Some(before), Some(now)) => Some(before.min(now)),
            (before, now) => before.or(now),
        };
        if now < end {
            self.phase = Phase::Measure { until, shortest };
            return;
        }
        self.shortest = shortest.map(|shortest| (shortest, now)).or(self.shortest);
        self.cycle = None;
        self.crowded = 0;
        self.phase = self.cruise();
    }

    fn end_cycle(&mut self) {
        let (Some(cycle), Some((shortest, _))) = (self.cycle.take(), self.shortest) else {
            return;
        };
        let empty = shortest + (shortest / 4).max(SLACK * 5);
        self.crowded = if cycle > empty {
            self.crowded.saturating_add(1)
        } else {
            0
        };
    }

    /// Senders on one path that all ask for more at once learn nothing: not always the same number of rounds.
    fn cruise(&self) -> Phase {
        Phase::Cruise {
            left: 4 + self.delivery.delivered() / self.datagram % 3,
        }
    }

    fn set_window(&mut self, acked: u64, limited: bool) {
        let wanted = match self.phase {
            Phase::Startup { .. } if limited => self.window,
            Phase::Startup { .. } => self.window + acked,
            _ => self.target().min(self.window + acked),
        };
        self.window = wanted
            .min(self.ceiling.unwrap_or(u64::MAX))
            .max(self.least());
    }

    /// Bytes that the path holds without a queue.
    fn held(&self) -> u64 {
        let shortest = self
            .shortest
            .map_or(Duration::ZERO, |(shortest, _)| shortest);
        in_time(self.rate.get(), shortest)
    }

    fn target(&self) -> u64 {
        let held = self.held();
        // Others fill the queue: a flow that stays out would get nothing. As much as BBR has (`cwnd_gain`).
        let cruise = if self.crowded >= CROWDED { 200 } else { 100 };
        let slack = in_time(self.rate.get(), SLACK).max(self.least());
        let slack_and_clumps = slack.max(self.clumps.largest.get().min(held / 2));
        let (percent, slack) = match self.phase {
            Phase::Startup { .. } | Phase::Cruise { .. } => (cruise, slack_and_clumps),
            Phase::Up { .. } => (cruise + MORE, slack_and_clumps),
            Phase::Drain { .. } => (100, slack),
            Phase::Down { .. } => (100 - LESS, slack),
            Phase::Measure { .. } => (50, slack),
        };
        (held.saturating_mul(percent) / 100).saturating_add(slack)
    }

    fn least(&self) -> u64 {
        DATAGRAMS_MIN * self.datagram
    }
}

/// Bytes that `rate` bytes per second make in `time`.
fn in_time(rate: u64, time: Duration) -> u64 {
    let bytes = u128::from(rate) * time.as_nanos() / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATAGRAM: u16 = 1200;
    const MS: Duration = Duration::from_millis(1);

    /// After `rounds` of 10 ms in which all of a window was sent and acknowledged.
    fn after(rounds: u32) -> (Model, Instant) {
        let mut now = Instant::now();
        let mut model = Model::new(now, DATAGRAM);
        for _ in 0..rounds {
            model.on_sent(now);
            let bytes = model.window();
            model.on_ack(now, bytes);
            now += 10 * MS;
            model.on_end_acks(now, 0, false);
        }
        (model, now)
    }

    #[test]
    fn it_begins_with_ten_datagrams_and_doubles() {
        let (model, _) = after(0);
        assert_eq!(model.window(), 12_000);
        assert_eq!(Model::new(Instant::now(), 1500).window(), 14_720);
        let (model, _) = after(3);
        assert_eq!(model.window(), 8 * 12_000);
    }

    #[test]
    fn a_datagram_lost_now_and_then_changes_nothing() {
        let (mut model, now) = after(3);
        let window = model.window();
        for _ in 1..LOSS_DATAGRAMS {
            model.on_congestion(now, false, DATAGRAM.into());
        }
        assert_eq!(model.window(), window);
    }

    #[test]
    fn much_loss_and_marks_are_answered_once_in_a_round() {
        for bytes in [0, LOSS_DATAGRAMS * u64::from(DATAGRAM)] {
            let (mut model, now) = after(3);
            let window = model.window();
            model.on_congestion(now, false, bytes);
            let less = model.window();
            assert!(
                (window / 2..window * 9 / 10).contains(&less),
                "{less} of {window}"
            );
            model.on_congestion(now, false, bytes);
            assert_eq!(model.window(), less);
        }
    }

    #[test]
    fn persistent_congestion_leaves_the_least() {
        let (mut model, now) = after(5);
        model.on_congestion(now, true, DATAGRAM.into());
        assert_eq!(model.window(), DATAGRAMS_MIN * u64::from(DATAGRAM));
    }

    #[test]
    fn larger_datagrams_raise_the_least() {
        let (mut model, now) = after(0);
        model.on_congestion(now, true, DATAGRAM.into());
        model.set_datagram(6550);
        assert_eq!(model.window(), DATAGRAMS_MIN * 6550);
    }

    #[test]
    fn times_and_sizes_of_any_kind_do_no_harm() {
        let mut now = Instant::now();
        let mut model = Model::new(now, u16::MAX);
        for step in 0..2000_u64 {
            let sent = now;
            if step % 7 != 0 {
                model.on_sent(now);
            }
            now += Duration::from_nanos(step % 5) * u32::try_from(step % 11).unwrap_or(1);
            model.on_ack(sent, u64::from(u32::MAX) * (step % 3));
            if step % 3 == 0 {
                // The clock of another processor.
                model.on_ack(now + MS, 1);
            }
            model.on_end_acks(now, step % 2 * u64::from(u32::MAX), step % 13 == 0);
            model.on_congestion(now, step % 500 == 499, u64::from(u32::MAX) * (step % 17));
            assert!(model.window() >= DATAGRAMS_MIN * u64::from(u16::MAX));
        }
    }
}
