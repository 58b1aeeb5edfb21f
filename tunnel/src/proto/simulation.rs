//! Two sessions on a simulated network: one virtual clock, and every choice from one source.
//!
//! A test draws the choices from a seed, a fuzzer from its input. Streams travel beside the control
//! streams, as they do on real transports, with delays of their own.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::code::CloseCode;
use super::frame::{Control, GoAway, Ping};
use super::limits;
use super::session::{Agreed, Ending, Event, OpenRefused, Session};
use super::stream_id::{Role, StreamId};

/// Where the choices come from.
pub(crate) trait Choices {
    /// A number below `n`, or `None` once the source is exhausted.
    fn pick(&mut self, n: u32) -> Option<u32>;

    /// A number below `n`; 0 once the source is exhausted.
    fn below(&mut self, n: u32) -> u32 {
        self.pick(n).unwrap_or(0)
    }
}

/// The longest that anything is under way: well below the time for an answer.
const DELAY_MAX: u32 = 2000;

const INTERVAL: Duration = Duration::from_secs(5);
const STREAMS: [u32; 2] = [5, 9];

struct End {
    role: Role,
    session: Session,
    /// Streams that this end opened and has not released.
    local: Vec<StreamId>,
    /// Streams that this end took and has not released.
    remote: Vec<StreamId>,
    ids: HashSet<StreamId>,
    ending: Option<Ending>,
    go_aways: u32,
    /// It gave its peer up.
    was_lost: bool,
    /// When this end stopped sending and listening.
    vanished: Option<Duration>,
}

impl End {
    fn new(role: Role, agreed: &Agreed, now: Instant) -> Self {
        Self {
            role,
            session: Session::new(role, agreed, now),
            local: Vec::new(),
            remote: Vec::new(),
            ids: HashSet::new(),
            ending: None,
            go_aways: 0,
            was_lost: false,
            vanished: None,
        }
    }

    fn check(&self, most: u32) {
        let open = self.local.len() + self.remote.len();
        assert_eq!(
            self.session.open_streams(),
            open,
            "every stream is counted once"
        );
        assert!(self.local.len() <= most as usize, "the peer's limit holds");
        if self.ending.is_some() {
            assert!(!self.session.is_open(), "an ended session opens nothing");
            assert_eq!(self.session.poll_timeout(), None, "and waits for nothing");
        }
    }
}

/// Something under way to one end.
enum Parcel {
    Control(Bytes),
    Stream(StreamId),
}

pub(crate) struct World<'a> {
    choices: &'a mut dyn Choices,
    start: Instant,
    now: Duration,
    ends: [End; 2],
    /// What is under way to each end: in order on the control stream, in any order beside it.
    control: [VecDeque<(Duration, Bytes)>; 2],
    streams: [Vec<(Duration, StreamId)>; 2],
    /// Bytes were injected that no honest peer sends.
    poisoned: bool,
}

impl<'a> World<'a> {
    pub(crate) fn new(choices: &'a mut dyn Choices) -> Self {
        let start = Instant::now();
        let agreed = |local: usize, remote: usize| Agreed {
            local_streams: STREAMS[local],
            remote_streams: STREAMS[remote],
            keepalive: INTERVAL,
        };
        Self {
            choices,
            start,
            now: Duration::ZERO,
            ends: [
                End::new(Role::Connector, &agreed(0, 1), start),
                End::new(Role::Acceptor, &agreed(1, 0), start),
            ],
            control: Default::default(),
            streams: Default::default(),
            poisoned: false,
        }
    }

    /// Does what the choices say until they run out or `steps` are done, then lets time pass.
    pub(crate) fn run(mut self, steps: u32) {
        for _ in 0..steps {
            let (Some(end), Some(deed)) = (self.choices.pick(2), self.choices.pick(40)) else {
                break;
            };
            self.step(end as usize, deed);
            self.settle();
        }
        self.pass(Duration::from_secs(60));
        self.judge();
    }

    fn instant(&self) -> Instant {
        self.start + self.now
    }

    fn step(&mut self, end: usize, deed: u32) {
        let now = self.instant();
        let pick = self.choices.below(16) as usize;
        let session = &mut self.ends[end].session;
        match deed {
            0..=11 => self.open(end),
            12..=16 => self.release(end, pick, true),
            17..=21 => self.release(end, pick, false),
            22..=23 => session.ping(now),
            24 => session.suspect(now),
            25 => session.heard(now),
            26 if pick < 4 => session.go_away(GoAway {
                code: CloseCode::Shutdown,
                return_after_ms: 7,
                reason: "simulated".repeat(pick),
            }),
            27 if pick < 2 => session.close(CloseCode::Shutdown, "simulated"),
            28 if pick < 2 => {
                let now = self.now;
                self.ends[end].vanished.get_or_insert(now);
            }
            29 if pick < 3 => self.poison(end),
            30 if pick < 1 => session.abandon(),
            _ => {
                let millis = self.choices.below(3000);
                self.pass(Duration::from_millis(millis.into()));
            }
        }
    }

    fn open(&mut self, end: usize) {
        let opener = &mut self.ends[end];
        let was_open = opener.session.is_open();
        match opener.session.open_stream() {
            Ok(id) => {
                assert!(was_open, "only an open session opens");
                assert_eq!(id.initiator(), opener.role);
                assert!(opener.ids.insert(id), "{id} was used before");
                opener.local.push(id);
                if opener.vanished.is_none() {
                    let at = self.arrival();
                    self.streams[1 - end].push((at, id));
                }
            }
            Err(OpenRefused::Limit(limit)) => assert_eq!(opener.local.len(), limit as usize),
            Err(OpenRefused::Draining | OpenRefused::Closed) => assert!(!was_open),
        }
    }

    fn release(&mut self, end: usize, pick: usize, local: bool) {
        let end = &mut self.ends[end];
        let streams = if local {
            &mut end.local
        } else {
            &mut end.remote
        };
        if streams.is_empty() {
            return;
        }
        let id = streams.swap_remove(pick % streams.len());
        if local {
            end.session.release_local();
        } else {
            end.session.release_remote(id);
        }
    }

    /// Bytes of no honest peer, on the way to `end`: random ones, or too many good ones.
    fn poison(&mut self, end: usize) {
        let bytes = match self.choices.below(3) {
            0 => {
                let go_away = Control::GoAway(GoAway {
                    code: CloseCode::Overloaded,
                    return_after_ms: 1,
                    reason: String::new(),
                });
                go_away.encode().repeat(3)
            }
            1 => Control::Ping(Ping([9; 8]))
                .encode()
                .repeat(1 + self.choices.below(200) as usize),
            _ => (0..self.choices.below(64))
                .map(|_| u8::try_from(self.choices.below(256)).unwrap_or_default())
                .collect(),
        };
        self.poisoned = true;
        self.post(end, bytes.into());
    }

    fn arrival(&mut self) -> Duration {
        self.now + Duration::from_millis(self.choices.below(DELAY_MAX).into())
    }

    /// Takes what both sessions want sent and told.
    fn settle(&mut self) {
        for end in 0..2 {
            self.take_events(end);
            let mut sent = 0;
            while let Some(bytes) = self.ends[end].session.poll_transmit() {
                sent += 1;
                if self.ends[end].vanished.is_none() {
                    self.send(end, bytes);
                }
            }
            // PONGs, and one each of PING, GOAWAY and CLOSE.
            assert!(
                sent <= limits::CONTROL_QUEUE + 3,
                "{sent} frames were queued"
            );
        }
        for (end, most) in self.ends.iter().zip(STREAMS) {
            end.check(most);
        }
    }

    fn take_events(&mut self, which: usize) {
        let other = &self.ends[1 - which];
        // Garbage may be the beginning of a frame, whose rest then seems to be every answer.
        let answers =
            !self.poisoned && other.vanished.is_none() && other.session.poll_timeout().is_some();
        let end = &mut self.ends[which];
        while let Some(event) = end.session.poll_event() {
            assert!(end.ending.is_none(), "{event:?} after the end");
            match event {
                Event::GoAway(_) => end.go_aways += 1,
                Event::Closed(ending) => end.ending = Some(ending),
            }
        }
        assert!(end.go_aways <= 1, "one GOAWAY is enough");
        let lost = matches!(end.ending, Some(Ending::KeepaliveTimeout(_)));
        if lost && !std::mem::replace(&mut end.was_lost, true) && end.vanished.is_none() {
            assert!(!answers, "a live peer was given up");
        }
    }

    /// Cuts the bytes at random places; the pieces stay in order.
    fn send(&mut self, from: usize, bytes: Bytes) {
        let mut bytes = bytes;
        while !bytes.is_empty() {
            let most = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let piece = bytes.split_to(1 + self.choices.below(most) as usize);
            self.post(1 - from, piece);
        }
    }

    /// The control stream keeps its order, whatever the delays.
    fn post(&mut self, to: usize, bytes: Bytes) {
        let last = self.control[to].back().map(|(at, _)| *at);
        let at = self.arrival().max(last.unwrap_or_default());
        self.control[to].push_back((at, bytes));
    }

    /// Lets `time` pass: whatever is due happens, in order.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.next_event().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            for end in 0..2 {
                self.deliver(end);
                let now = self.instant();
                if self.ends[end].vanished.is_none() {
                    self.ends[end].session.handle_timeout(now);
                }
            }
            self.settle();
        }
        self.now = until;
    }

    fn next_event(&self) -> Option<Duration> {
        let arrivals = self.control.iter().flatten().map(|(at, _)| *at);
        let streams = self.streams.iter().flatten().map(|(at, _)| *at);
        let alive = self.ends.iter().filter(|end| end.vanished.is_none());
        let timeouts = alive.filter_map(|end| end.session.poll_timeout());
        let timeouts = timeouts.map(|at| at.saturating_duration_since(self.start));
        arrivals.chain(streams).chain(timeouts).min()
    }

    fn deliver(&mut self, end: usize) {
        while let Some(parcel) = self.next_parcel(end) {
            let now = self.instant();
            if self.ends[end].vanished.is_some() {
                continue;
            }
            match parcel {
                Parcel::Control(bytes) => self.ends[end].session.handle_bytes(&bytes, now),
                Parcel::Stream(id) => self.take_stream(end, id),
            }
            self.settle();
        }
    }

    fn next_parcel(&mut self, end: usize) -> Option<Parcel> {
        let due = |at: &Duration| *at <= self.now;
        if self.control[end].front().is_some_and(|(at, _)| due(at)) {
            return self.control[end]
                .pop_front()
                .map(|(_, bytes)| Parcel::Control(bytes));
        }
        let at = self.streams[end].iter().position(|(at, _)| due(at))?;
        Some(Parcel::Stream(self.streams[end].swap_remove(at).1))
    }

    fn take_stream(&mut self, end: usize, id: StreamId) {
        let other = STREAMS[1 - end] as usize;
        let end = &mut self.ends[end];
        let room = end.remote.len() < other && end.session.is_open();
        let taken = end.session.accept_stream(id).expect("an honest peer's id");
        assert_eq!(taken, room, "taken if, and only if, there is room");
        if taken {
            end.remote.push(id);
            assert!(
                end.session.accept_stream(id).is_err(),
                "twice is once too often"
            );
        }
    }

    /// After a quiet minute.
    fn judge(&self) {
        for (end, other) in [(0, 1), (1, 0)] {
            let (end, other) = (&self.ends[end], &self.ends[other]);
            let alive = end.session.poll_timeout().is_some();
            if end.vanished.is_none() && other.vanished.is_some() {
                assert!(!alive, "a peer that vanished is lost within a minute");
            }
            if let Some(Ending::Violation(violation)) = &end.ending {
                assert!(self.poisoned, "an honest peer was blamed for {violation:?}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names one seed to run, to replay a failure.
    const SEED: &str = "UNDERPASS_SEED";
    const SEEDS: u64 = 4000;

    struct Seeded(u64);

    impl Choices for Seeded {
        fn pick(&mut self, n: u32) -> Option<u32> {
            // SplitMix64: seeds next to each other give unrelated runs.
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            u32::try_from((mixed ^ (mixed >> 31)) % u64::from(n)).ok()
        }
    }

    /// Says how to run a failed seed again.
    struct Replay(u64);

    impl Drop for Replay {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let seed = self.0;
                eprintln!("replay: {SEED}={seed} cargo test -p underpass-tunnel simulation");
            }
        }
    }

    fn simulate(seed: u64) {
        let _replay = Replay(seed);
        World::new(&mut Seeded(seed)).run(300);
    }

    #[test]
    fn whatever_happens_the_session_keeps_its_promises() {
        match std::env::var(SEED) {
            Ok(seed) => simulate(seed.parse().expect("a number")),
            Err(_) => (0..SEEDS).for_each(simulate),
        }
    }
}
