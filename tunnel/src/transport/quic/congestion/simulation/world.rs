//! Senders that share one narrow link, in simulated time.
//!
//! The controller's surroundings are quinn's: a pacer of 1.25 windows for each round trip in batches of ten
//! datagrams, loss after three later datagrams or 9/8 of a round trip (RFC 9002, section 6.1), probes, and a receiver that
//! acknowledges every second datagram.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::super::model::Model;

const ACK_DELAY: Duration = Duration::from_millis(25);
const BATCH: f64 = 10.0;
const TICK: Duration = Duration::from_millis(1);

/// Decides about a window.
pub(super) trait Window {
    fn on_sent(&mut self, now: Instant);
    fn on_ack(&mut self, sent: Instant, bytes: u64);
    fn on_end_acks(&mut self, now: Instant, in_flight: u64, limited: bool);
    fn on_congestion(&mut self, now: Instant, sent: Instant, bytes: u64);
    fn window(&self) -> u64;
}

impl Window for Model {
    fn on_sent(&mut self, now: Instant) {
        self.on_sent(now);
    }

    fn on_ack(&mut self, sent: Instant, bytes: u64) {
        self.on_ack(sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, limited: bool) {
        self.on_end_acks(now, in_flight, limited);
    }

    fn on_congestion(&mut self, now: Instant, _sent: Instant, bytes: u64) {
        self.on_congestion(now, false, bytes);
    }

    fn window(&self) -> u64 {
        self.window()
    }
}

/// Halves at each loss and grows by a datagram for each round trip (RFC 9002, appendix B), as others' senders do.
pub(super) struct Reno {
    window: u64,
    threshold: u64,
    recovery: Option<Instant>,
    datagram: u64,
}

impl Reno {
    pub(super) fn new(datagram: u64) -> Self {
        Self {
            window: 10 * datagram,
            threshold: u64::MAX,
            recovery: None,
            datagram,
        }
    }
}

impl Window for Reno {
    fn on_sent(&mut self, _now: Instant) {}

    fn on_ack(&mut self, sent: Instant, bytes: u64) {
        if self.recovery.is_some_and(|since| sent <= since) {
            return;
        }
        self.window += if self.window < self.threshold {
            bytes
        } else {
            (self.datagram * bytes / self.window).max(1)
        };
    }

    fn on_end_acks(&mut self, _now: Instant, _in_flight: u64, _limited: bool) {}

    fn on_congestion(&mut self, now: Instant, sent: Instant, _bytes: u64) {
        if self.recovery.is_some_and(|since| sent <= since) {
            return;
        }
        self.recovery = Some(now);
        self.window = (self.window / 2).max(2 * self.datagram);
        self.threshold = self.window;
    }

    fn window(&self) -> u64 {
        self.window
    }
}

/// The narrowest link of a path, and the path around it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    /// Bits per second.
    pub(super) rate: f64,
    /// There and back, without a queue.
    pub(super) round_trip: Duration,
    /// The queue's capacity, in time at `rate`.
    pub(super) queue: Duration,
    /// Of datagrams behind the queue.
    pub(super) loss: f64,
    /// Acknowledgements wait for the next multiple of this, as on radio links.
    pub(super) clump: Duration,
}

impl Link {
    fn bytes_in(&self, time: Duration) -> f64 {
        self.rate / 8.0 * time.as_secs_f64()
    }

    fn time_of(&self, bytes: f64) -> Duration {
        Duration::from_secs_f64(bytes * 8.0 / self.rate)
    }
}

/// A sender's load.
#[derive(Debug, Clone, Copy)]
pub(super) enum Load {
    Bulk,
    /// So many datagrams, and so many again after the time.
    Trickle(u64, Duration),
}

impl Load {
    fn at_first(self) -> u64 {
        match self {
            Self::Bulk => u64::MAX,
            Self::Trickle(..) => 0,
        }
    }
}

struct Flow {
    controller: Box<dyn Window>,
    load: Load,
    left: u64,
    starts: Instant,
    next: u64,
    under_way: BTreeMap<u64, Instant>,
    largest_acked: Option<u64>,
    acked_at: Instant,
    round_trip: Option<Duration>,
    tokens: f64,
    refilled: Instant,
    received: Vec<u64>,
    /// Acknowledged.
    delivered: u64,
    lost: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Send(usize),
    Load(usize),
    Arrive(usize, u64),
    AckTimer(usize, u64),
    Ack(usize, Vec<u64>),
    Tick,
}

pub(super) struct World {
    pub(super) link: Link,
    datagram: u64,
    now: Instant,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    sequence: u64,
    flows: Vec<Flow>,
    free_at: Instant,
    random: SmallRng,
    queues: Vec<Duration>,
}

/// Measurements over some time.
#[derive(Debug)]
pub(super) struct Seen {
    /// Bits per second that were acknowledged, of each flow.
    pub(super) rates: Vec<f64>,
    /// Of datagrams sent, of all flows.
    pub(super) lost: f64,
    /// How long a datagram waits for the link, in the median.
    pub(super) queue: Duration,
    pub(super) queue_p99: Duration,
}

impl World {
    pub(super) fn new(link: Link, datagram: u64, seed: u64) -> Self {
        let now = Instant::now();
        let mut world = Self {
            link,
            datagram,
            now,
            events: BinaryHeap::new(),
            sequence: 0,
            flows: Vec::new(),
            free_at: now,
            random: SmallRng::seed_from_u64(seed),
            queues: Vec::new(),
        };
        world.at(now, Event::Tick);
        world
    }

    pub(super) fn now(&self) -> Instant {
        self.now
    }

    /// A sender that begins after `after`.
    pub(super) fn add(&mut self, controller: Box<dyn Window>, load: Load, after: Duration) {
        let starts = self.now + after;
        self.flows.push(Flow {
            controller,
            load,
            left: load.at_first(),
            starts,
            next: 0,
            under_way: BTreeMap::new(),
            largest_acked: None,
            acked_at: starts,
            round_trip: None,
            tokens: 0.0,
            refilled: starts,
            received: Vec::new(),
            delivered: 0,
            lost: 0,
        });
        let flow = self.flows.len() - 1;
        if let Load::Trickle(..) = load {
            self.at(starts, Event::Load(flow));
        }
        self.at(starts, Event::Send(flow));
    }

    /// From now on the sender has this to send.
    pub(super) fn set_load(&mut self, flow: usize, load: Load) {
        self.flows[flow].load = load;
        self.flows[flow].left = load.at_first();
        if let Load::Trickle(..) = load {
            self.at(self.now, Event::Load(flow));
        }
        self.at(self.now, Event::Send(flow));
    }

    pub(super) fn window(&self, flow: usize) -> u64 {
        self.flows[flow].controller.window()
    }

    fn at(&mut self, time: Instant, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time, self.sequence, event)));
    }

    /// Lets `time` pass and tells of it.
    pub(super) fn run(&mut self, time: Duration) -> Seen {
        let end = self.now + time;
        let before: Vec<(u64, u64)> = self.flows.iter().map(|f| (f.delivered, f.lost)).collect();
        self.queues.clear();
        while let Some(Reverse((at, ..))) = self.events.peek()
            && *at <= end
        {
            let Some(Reverse((at, _, event))) = self.events.pop() else {
                break;
            };
            self.now = at;
            self.on(event);
        }
        self.now = end;
        self.queues.sort_unstable();
        let quantile =
            |of: usize| self.queues[(self.queues.len() * of / 100).min(self.queues.len() - 1)];
        let gone: Vec<(u64, u64)> = self
            .flows
            .iter()
            .zip(before)
            .map(|(flow, (delivered, lost))| (flow.delivered - delivered, flow.lost - lost))
            .collect();
        let (delivered, lost) = gone.iter().fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
        Seen {
            rates: gone
                .iter()
                .map(|(delivered, _)| *delivered as f64 * 8.0 / time.as_secs_f64())
                .collect(),
            lost: lost as f64 / (delivered + lost).max(1) as f64,
            queue: quantile(50),
            queue_p99: quantile(99),
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Send(flow) => self.send(flow),
            Event::Load(flow) => {
                if let Load::Trickle(datagrams, again) = self.flows[flow].load {
                    self.flows[flow].left = datagrams;
                    self.at(self.now + again, Event::Load(flow));
                    self.send(flow);
                }
            }
            Event::Arrive(flow, number) => self.arrive(flow, number),
            Event::AckTimer(flow, number) => {
                if self.flows[flow].received.contains(&number) {
                    self.acknowledge(flow);
                }
            }
            Event::Ack(flow, numbers) => self.acked(flow, &numbers),
            Event::Tick => {
                self.queues
                    .push(self.free_at.saturating_duration_since(self.now));
                self.at(self.now + TICK, Event::Tick);
                for flow in 0..self.flows.len() {
                    self.probe(flow);
                }
            }
        }
    }

    /// RFC 9002, section 6.2: a probe where bytes in flight are not acknowledged.
    fn probe(&mut self, flow: usize) {
        let state = &mut self.flows[flow];
        let patience = 3 * state.round_trip.unwrap_or(Duration::from_millis(333)) + ACK_DELAY;
        if !state.under_way.is_empty() && self.now > state.acked_at + patience {
            state.acked_at = self.now;
            self.transmit(flow);
        }
    }

    fn send(&mut self, flow: usize) {
        let datagram = self.datagram as f64;
        loop {
            let state = &mut self.flows[flow];
            let in_flight = state.under_way.len() as u64 * self.datagram;
            let window = state.controller.window();
            if self.now < state.starts || state.left == 0 || in_flight + self.datagram > window {
                return;
            }
            let round_trip = state.round_trip.unwrap_or(Duration::from_millis(333));
            let per_second = 1.25 * window as f64 / round_trip.as_secs_f64();
            let most = (BATCH * datagram).max(per_second * 0.002);
            let elapsed = self.now.saturating_duration_since(state.refilled);
            state.tokens = (state.tokens + per_second * elapsed.as_secs_f64()).min(most);
            state.refilled = self.now;
            if state.round_trip.is_some() && state.tokens < datagram {
                let wait = Duration::from_secs_f64((most / 2.0).max(datagram) / per_second);
                self.at(
                    self.now + wait.max(Duration::from_nanos(1)),
                    Event::Send(flow),
                );
                return;
            }
            state.tokens -= datagram;
            state.left -= 1;
            self.transmit(flow);
        }
    }

    fn transmit(&mut self, flow: usize) {
        let state = &mut self.flows[flow];
        let number = state.next;
        state.next += 1;
        state.under_way.insert(number, self.now);
        state.controller.on_sent(self.now);
        let waits = self.free_at.saturating_duration_since(self.now);
        let size = self.datagram as f64;
        if self.link.bytes_in(waits) + size > self.link.bytes_in(self.link.queue).max(size) {
            return;
        }
        self.free_at = self.now + waits + self.link.time_of(size);
        if self.random.random_bool(self.link.loss) {
            return;
        }
        let arrives = self.free_at + self.link.round_trip / 2;
        self.at(arrives, Event::Arrive(flow, number));
    }

    fn arrive(&mut self, flow: usize, number: u64) {
        self.flows[flow].received.push(number);
        if self.flows[flow].received.len() >= 2 {
            self.acknowledge(flow);
        } else {
            self.at(self.now + ACK_DELAY, Event::AckTimer(flow, number));
        }
    }

    fn acknowledge(&mut self, flow: usize) {
        let numbers = std::mem::take(&mut self.flows[flow].received);
        let mut at = self.now + self.link.round_trip / 2;
        if !self.link.clump.is_zero() {
            let since = at
                .saturating_duration_since(self.flows[0].starts)
                .as_nanos();
            let over = since % self.link.clump.as_nanos();
            let wait = self.link.clump.as_nanos() - over;
            at += Duration::from_nanos(u64::try_from(wait).unwrap_or_default());
        }
        self.at(at, Event::Ack(flow, numbers));
    }

    fn acked(&mut self, flow: usize, numbers: &[u64]) {
        let now = self.now;
        let state = &mut self.flows[flow];
        let mut newest = None;
        for number in numbers {
            let Some(sent) = state.under_way.remove(number) else {
                continue;
            };
            state.delivered += self.datagram;
            state.controller.on_ack(sent, self.datagram);
            newest = newest.max(Some(sent));
            state.largest_acked = state.largest_acked.max(Some(*number));
        }
        let Some(newest) = newest else { return };
        state.acked_at = now;
        let in_flight = state.under_way.len() as u64 * self.datagram;
        state
            .controller
            .on_end_acks(now, in_flight, state.left == 0);
        let latest = now - newest;
        let smoothed = state
            .round_trip
            .map_or(latest, |old| (7 * old + latest) / 8);
        state.round_trip = Some(smoothed);
        let late = smoothed.max(latest) * 9 / 8;
        let largest = state.largest_acked.unwrap_or_default();
        let lost: Vec<(u64, Instant)> = state
            .under_way
            .range(..largest)
            .take_while(|(number, sent)| largest - *number >= 3 || now - **sent >= late)
            .map(|(number, sent)| (*number, *sent))
            .collect();
        if let Some((_, last)) = lost.last() {
            for (number, _) in &lost {
                state.under_way.remove(number);
            }
            // Lost datagrams are sent again.
            state.left = state.left.saturating_add(lost.len() as u64);
            let bytes = lost.len() as u64 * self.datagram;
            state.lost += bytes;
            state.controller.on_congestion(now, *last, bytes);
        }
        self.send(flow);
    }
}
