//! Paths that die without a word: how long a byte waits.

use std::time::Duration;

use super::World;
use crate::choices::Choices;
use crate::session::LinkRole;
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
        let primary = world.ends[0].session.primary().expect("a link");
        world
            .transports
            .get_mut(&primary)
            .expect("it is known")
            .mute = match dies {
            Dies::BothWays => [true, true],
            Dies::ToTheConnector => [true, false],
            Dies::ToTheAcceptor => [false, true],
        };
        let dead = world.now;
        match waits {
            Waits::Keystroke => world.say(1, stream),
            Waits::Event => world.say(0, stream),
            Waits::Request => {
                world.request();
            }
        }
        world.now - dead
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
            let silent = session.primary().is_none_or(|link| session.is_silent(link));
            if silent && self.handshakes.is_empty() {
                self.dial(LinkRole::Main);
            }
        }
    }
}
