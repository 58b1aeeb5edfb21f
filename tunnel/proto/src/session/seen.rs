//! Which of the peer's stream ids were used.

use std::collections::BTreeMap;

use crate::limits;
use crate::stream_id::StreamId;

/// Ids that the peer has used. It uses them in order, and they arrive almost so: all below a
/// number, but for some gaps.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// No id from this one on was seen. Ids are counted per side: 0, 1, 2…
    next: u64,
    /// Runs below `next` that were not seen: first to last and one.
    gaps: BTreeMap<u64, u64>,
}

/// The peer leaves more gaps than streams can be open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooManyGaps;

impl Seen {
    #[cfg(test)]
    fn contains(&self, id: StreamId) -> bool {
        let index = id.index();
        index < self.next && self.gap_of(index).is_none()
    }

    /// Notes that `id` is used. Gives whether it is the first time.
    pub(super) fn insert(&mut self, id: StreamId) -> Result<bool, TooManyGaps> {
        let index = id.index();
        if index >= self.next {
            if index > self.next {
                self.gaps.insert(self.next, index);
            }
            self.next = index + 1;
        } else {
            let Some((first, end)) = self.gap_of(index) else {
                return Ok(false);
            };
            self.gaps.remove(&first);
            if first < index {
                self.gaps.insert(first, index);
            }
            if index + 1 < end {
                self.gaps.insert(index + 1, end);
            }
        }
        if self.gaps.len() > limits::STREAM_ID_GAPS {
            return Err(TooManyGaps);
        }
        Ok(true)
    }

    fn gap_of(&self, index: u64) -> Option<(u64, u64)> {
        let (first, end) = self.gaps.range(..=index).next_back()?;
        (index < *end).then_some((*first, *end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream_id::Role;

    fn id(index: u64) -> StreamId {
        let mut id = StreamId::first(Role::Acceptor);
        for _ in 0..index {
            id = id.next().unwrap();
        }
        id
    }

    proptest::proptest! {
        #[test]
        fn it_is_a_set(indices in proptest::collection::vec(0u64..40, 0..80)) {
            let mut seen = Seen::default();
            let mut model = std::collections::HashSet::new();
            for index in indices {
                proptest::prop_assert_eq!(seen.insert(id(index)), Ok(model.insert(index)));
                for other in 0..42 {
                    proptest::prop_assert_eq!(seen.contains(id(other)), model.contains(&other));
                }
            }
        }
    }

    #[test]
    fn gaps_are_bounded() {
        let mut seen = Seen::default();
        let mut index = 1;
        while seen.insert(StreamId::from_index(Role::Connector, index)) == Ok(true) {
            index += 2;
        }
        assert_eq!(seen.gaps.len(), limits::STREAM_ID_GAPS + 1);
    }
}
