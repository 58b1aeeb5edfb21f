//! Paths that die without a word: how long a byte waits.

use std::time::Duration;

use super::World;
use crate::choices::Choices;
use crate::session::{LinkId, LinkRole};
use crate::stream_id::StreamId;

/// The longest that anything is under way, in milliseconds.
const DELAY: u32 = 5;

/// The step in which the application looks for bytes.
const STEP: Duration = Duration::from_millis(5);

/// The bytes that wait when the path dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    /// A few bytes of the acceptor on a stream that it opened before: a keystroke.
    Keystroke,
    /// A stream that the acceptor opens: a request.
    Request,
    /// A few bytes of the connector on the acceptor's stream: an event of a watch.
    Event,
}

/// Which bytes do not arrive any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dies {
    BothWays,
    ToTheConnector,
    ToTheAcceptor,
}

impl World<'_> {
    /// How long something waits whose path has died; the connector dials where it sees no link that answers.
    pub(crate) fn dead_path(
        choices: &mut dyn Choices,
        links: usize,
        dies: Dies,
        waits: Waits,
    ) -> Duration {
        let mut world = World::with_delays(choices, DELAY);
        world.work(Duration::from_millis(50));
        if links > 1 {
            world.dial(LinkRole::Standby);
            world.work(Duration::from_millis(100));
            assert!(world.ends.iter().all(|end| end.session.standby().is_some()));
        }
        let stream = world.request();
        let calm = Duration::from_millis(u64::from(world.choices.below(400)));
        world.work(calm);
        world.silence(0, dies);
        world.wait_for(waits, stream)
    }

    /// The longest wait while the path in use dies and comes back in turns, after a while each time; the connector returns to it.
    pub(crate) fn failing_path(
        choices: &mut dyn Choices,
        dies: Dies,
        waits: Waits,
        rounds: usize,
    ) -> Duration {
        let mut world = World::with_delays(choices, DELAY);
        world.work(Duration::from_millis(50));
        world.dial(LinkRole::Standby);
        world.work(Duration::from_millis(100));
        let stream = world.request();
        let first = world.ends[0].session.primary().expect("a link");
        let mut longest = Duration::ZERO;
        for _ in 0..rounds {
            world.work(Duration::from_millis(200));
            world.silence(0, dies);
            longest = longest.max(world.wait_for(waits, stream));
            let dead = Duration::from_millis(u64::from(world.choices.below(3000)));
            world.work(dead);
            world.transports.get_mut(&first).expect("it is kept").mute = [false; 2];
            world.work(Duration::from_millis(50));
            let now = world.instant();
            world.ends[0].session.prefer_once_it_answers(first, now);
            world.work(Duration::from_millis(100));
            for end in &world.ends {
                assert_eq!(end.session.primary(), Some(first), "it has returned");
            }
        }
        longest
    }

    /// How long something waits where both links have died at once.
    pub(crate) fn dead_paths(choices: &mut dyn Choices, waits: Waits) -> Duration {
        let mut world = World::with_delays(choices, DELAY);
        world.work(Duration::from_millis(50));
        world.dial(LinkRole::Standby);
        world.work(Duration::from_millis(100));
        let stream = world.request();
        let calm = Duration::from_millis(u64::from(world.choices.below(2000)));
        world.work(calm);
        world.silence(0, Dies::BothWays);
        world.silence(1, Dies::BothWays);
        world.wait_for(waits, stream)
    }

    /// The session's primary link dies, or (1) the one that stands by.
    fn silence(&mut self, which: usize, dies: Dies) {
        let session = &self.ends[0].session;
        let link = match which {
            0 => session.primary(),
            _ => session.standby(),
        };
        let transport = link.and_then(|link| self.transports.get_mut(&link));
        transport.expect("there is one").mute = match dies {
            Dies::BothWays => [true, true],
            Dies::ToTheConnector => [true, false],
            Dies::ToTheAcceptor => [false, true],
        };
    }

    fn wait_for(&mut self, waits: Waits, stream: StreamId) -> Duration {
        let begun = self.now;
        match waits {
            Waits::Keystroke => self.say(1, stream),
            Waits::Event => self.say(0, stream),
            Waits::Request => {
                self.request();
            }
        }
        self.now - begun
    }

    /// The acceptor opens a stream, and the connector reads its first bytes.
    fn request(&mut self) -> StreamId {
        let before: Vec<_> = self.ends[1].streams.keys().copied().collect();
        self.open(1);
        self.settle();
        let opened = self.ends[1].streams.keys().find(|id| !before.contains(id));
        let stream = *opened.expect("it may be opened");
        self.say(1, stream);
        stream
    }

    /// One end writes, and the other reads it.
    fn say(&mut self, from: usize, stream: StreamId) {
        let read = |world: &Self| {
            let there = world.ends[1 - from].streams.get(&stream);
            there.map_or(0, |stream| stream.read)
        };
        let until = read(self) + 7;
        self.ends[from].write(stream, 7, None);
        self.settle();
        for _ in 0..20_000 {
            if read(self) == until {
                return;
            }
            self.work(STEP);
        }
        panic!("{stream} stands still");
    }

    /// Lets time pass while the applications read, and the connector keeps its links.
    fn work(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.pass(STEP.min(until - self.now));
            for end in 0..2 {
                let ids: Vec<_> = self.ends[end].streams.keys().copied().collect();
                for id in ids {
                    while self.read_one(end, id) {}
                }
            }
            self.settle();
            let session = &self.ends[0].session;
            let answers = |link: Option<LinkId>| link.is_some_and(|link| !session.is_silent(link));
            let silent = !answers(session.primary()) && !answers(session.standby());
            if silent && self.handshakes.is_empty() {
                self.dial(LinkRole::Main);
            }
        }
    }
}
