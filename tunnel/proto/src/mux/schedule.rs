//! Which stream sends next.

use std::collections::VecDeque;

use super::Key;
use crate::frame::Class;

/// Bytes that streams of higher ranks may send, while one of a lower rank waits, before that one
/// has a turn. With frames of 64 KiB a class that waits gets at least an eighth of the connection,
/// and the others hardly notice: keystrokes are fewer bytes.
pub(super) const PATIENCE: usize = 256 * 1024;

/// How soon a stream's frames leave. The first is the soonest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Rank {
    /// The session's own frames.
    Control,
    Interactive,
    Default,
    Bulk,
}

impl From<Class> for Rank {
    fn from(class: Class) -> Self {
        match class {
            Class::Interactive => Self::Interactive,
            Class::Default => Self::Default,
            Class::Bulk => Self::Bulk,
        }
    }
}

/// Streams of one rank that have something to send, each once.
#[derive(Debug, Default)]
struct Turns {
    streams: VecDeque<Key>,
    /// Bytes of higher ranks that were sent since these began to wait, or had a turn.
    waited: usize,
}

/// The streams that have something to send.
///
/// A higher rank goes first. Within a rank each stream sends one frame in turn. A rank that has
/// waited for [`PATIENCE`] bytes of higher ones sends one frame before them, so that none starves.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    control: Turns,
    interactive: Turns,
    default: Turns,
    bulk: Turns,
}

impl Schedule {
    /// Puts a stream at its rank's end. It must not stand in the schedule.
    pub(super) fn push(&mut self, rank: Rank, key: Key) {
        self.turns(rank).streams.push_back(key);
    }

    /// Takes a stream out of its rank.
    pub(super) fn remove(&mut self, rank: Rank, key: Key) {
        self.turns(rank).streams.retain(|queued| *queued != key);
    }

    /// Takes out the stream whose frame is next.
    pub(super) fn next(&mut self) -> Option<Key> {
        // The lowest first: where two have waited long enough, it has waited for both.
        let starved = self
            .all()
            .into_iter()
            .rev()
            .find(|turns| turns.waited >= PATIENCE && !turns.streams.is_empty());
        if let Some(turns) = starved {
            turns.waited = 0;
            return turns.streams.pop_front();
        }
        let turns = self
            .all()
            .into_iter()
            .find(|turns| !turns.streams.is_empty())?;
        turns.waited = 0;
        turns.streams.pop_front()
    }

    /// A stream of `rank` sent a frame of so many bytes.
    pub(super) fn sent(&mut self, rank: Rank, bytes: usize) {
        for (turns, of) in self.all().into_iter().zip(RANKS) {
            if of <= rank {
                continue;
            }
            if turns.streams.is_empty() {
                turns.waited = 0;
            } else {
                turns.waited = turns.waited.saturating_add(bytes);
            }
        }
    }

    /// Whether no stream has anything to send.
    pub(super) fn is_empty(&self) -> bool {
        let all = [&self.control, &self.interactive, &self.default, &self.bulk];
        all.into_iter().all(|turns| turns.streams.is_empty())
    }

    fn turns(&mut self, rank: Rank) -> &mut Turns {
        match rank {
            Rank::Control => &mut self.control,
            Rank::Interactive => &mut self.interactive,
            Rank::Default => &mut self.default,
            Rank::Bulk => &mut self.bulk,
        }
    }

    fn all(&mut self) -> [&mut Turns; 4] {
        [
            &mut self.control,
            &mut self.interactive,
            &mut self.default,
            &mut self.bulk,
        ]
    }
}

/// In the order of [`Schedule::all`].
const RANKS: [Rank; 4] = [Rank::Control, Rank::Interactive, Rank::Default, Rank::Bulk];

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: usize = 64 * 1024;

    /// The order in which streams send that always have something to send.
    fn order(streams: &[(Rank, u32)], frames: usize) -> Vec<u32> {
        let mut schedule = Schedule::default();
        for (rank, key) in streams {
            schedule.push(*rank, Key(*key));
        }
        let mut order = Vec::new();
        for _ in 0..frames {
            let key = schedule.next().unwrap();
            let rank = streams.iter().find(|stream| stream.1 == key.0).unwrap().0;
            schedule.push(rank, key);
            schedule.sent(rank, FRAME);
            order.push(key.0);
        }
        order
    }

    #[test]
    fn streams_of_one_class_take_turns() {
        let streams = [(Rank::Bulk, 1), (Rank::Bulk, 2), (Rank::Bulk, 3)];
        assert_eq!(order(&streams, 7), [1, 2, 3, 1, 2, 3, 1]);
    }

    #[test]
    fn a_class_that_waits_is_served_now_and_then() {
        let streams = [(Rank::Bulk, 3), (Rank::Interactive, 1)];
        assert_eq!(order(&streams, 11), [1, 1, 1, 1, 3, 1, 1, 1, 1, 3, 1]);
        let all = [
            (Rank::Bulk, 3),
            (Rank::Default, 2),
            (Rank::Interactive, 1),
            (Rank::Control, 0),
        ];
        let order = order(&all, 1000);
        for key in 0..4 {
            let turns = order.iter().filter(|served| **served == key).count();
            assert!(turns >= 1000 / 8, "{key} was served {turns} times");
        }
    }

    #[test]
    fn a_keystroke_waits_for_one_frame_at_the_most() {
        let mut schedule = Schedule::default();
        schedule.push(Rank::Bulk, Key(3));
        // A flood of keystrokes that makes bulk wait.
        schedule.sent(Rank::Interactive, PATIENCE);
        schedule.push(Rank::Interactive, Key(1));
        assert_eq!(schedule.next(), Some(Key(3)));
        schedule.push(Rank::Bulk, Key(3));
        schedule.sent(Rank::Bulk, FRAME);
        assert_eq!(schedule.next(), Some(Key(1)));
    }

    #[test]
    fn who_has_not_waited_has_no_claim() {
        let mut schedule = Schedule::default();
        schedule.sent(Rank::Interactive, PATIENCE);
        schedule.push(Rank::Bulk, Key(3));
        schedule.push(Rank::Interactive, Key(1));
        assert_eq!(schedule.next(), Some(Key(1)));
        schedule.remove(Rank::Bulk, Key(3));
        assert_eq!(schedule.next(), None);
    }
}
