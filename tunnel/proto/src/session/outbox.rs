//! Lasting control frames: kept until the peer has them, on any transport.

use std::collections::VecDeque;

use bytes::Bytes;

/// Lasting frames, numbered from 0 in the order in which they were said (PROTOCOL.md, "Lasting
/// frames").
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// The number of the first frame in `kept`.
    first: u64,
    kept: VecDeque<Bytes>,
}

/// The peer acknowledges frames that were not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfRange;

impl Outbox {
    pub(super) fn push(&mut self, frame: Bytes) {
        self.kept.push_back(frame);
    }

    /// The frame of that number, if it was said.
    pub(super) fn get(&self, number: u64) -> Option<&Bytes> {
        let index = number.checked_sub(self.first)?;
        self.kept.get(usize::try_from(index).ok()?)
    }

    /// How many frames are kept.
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// The peer has the first `count` of all frames. Older news change nothing.
    pub(super) fn acknowledge(&mut self, count: u64) -> Result<(), OutOfRange> {
        if count > self.first + self.kept.len() as u64 {
            return Err(OutOfRange);
        }
        while self.first < count {
            self.kept.pop_front();
            self.first += 1;
        }
        Ok(())
    }

    /// The number of the first frame that is kept.
    pub(super) fn first(&self) -> u64 {
        self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_stay_until_they_are_acknowledged() {
        let mut outbox = Outbox::default();
        for frame in ["a", "b", "c"] {
            outbox.push(Bytes::from_static(frame.as_bytes()));
        }
        assert_eq!(outbox.acknowledge(4), Err(OutOfRange));
        assert_eq!(outbox.acknowledge(2), Ok(()));
        assert_eq!(outbox.get(1), None);
        assert_eq!(outbox.get(2), Some(&Bytes::from_static(b"c")));
        assert_eq!(outbox.get(3), None);
        assert_eq!(outbox.acknowledge(1), Ok(()), "older news");
        assert_eq!((outbox.first(), outbox.len()), (2, 1));
    }
}
