//! The newest output of a shell, by its place in all of it.

use std::collections::VecDeque;

use crate::limits;

/// The last [`limits::OUTPUT_BYTES`] of some output. Places count from the output's first byte.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    bytes: VecDeque<u8>,
    /// The place of the first byte that is kept.
    start: u64,
}

impl Ring {
    /// The place of the first byte that is kept.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// The place behind the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.start.saturating_add(length(self.bytes.len()))
    }

    /// Adds output. The oldest goes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let surplus = self.bytes.len().saturating_sub(limits::OUTPUT_BYTES);
        self.bytes.drain(..surplus);
        self.start = self.start.saturating_add(length(surplus));
    }

    /// Bytes from a place on, and before another one: so many at the most. None where the place is not kept.
    pub(crate) fn read(&self, from: u64, before: u64, most: usize) -> Vec<u8> {
        let skipped = from.checked_sub(self.start);
        let skipped = skipped.and_then(|skipped| usize::try_from(skipped).ok());
        let wanted = usize::try_from(before.saturating_sub(from)).unwrap_or(usize::MAX);
        let wanted = wanted.min(most);
        match skipped.filter(|skipped| *skipped <= self.bytes.len()) {
            Some(skipped) => {
                let end = self.bytes.len().min(skipped.saturating_add(wanted));
                self.bytes.range(skipped..end).copied().collect()
            }
            None => Vec::new(),
        }
    }
}

pub(crate) fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_19_the_newest_output_is_kept_and_no_more() {
        let mut ring = Ring::default();
        ring.push(b"begin");
        for _ in 0..limits::OUTPUT_BYTES / limits::PIECE_BYTES {
            ring.push(&[b'x'; limits::PIECE_BYTES]);
        }
        ring.push(b"end");
        let all = length(limits::OUTPUT_BYTES) + 8;
        assert_eq!((ring.start(), ring.end()), (8, all));
        assert_eq!(ring.bytes.len(), limits::OUTPUT_BYTES);
        let read = |from, before| ring.read(from, before, limits::PIECE_BYTES);
        assert_eq!(read(all - 3, u64::MAX), b"end");
        assert_eq!(read(all - 3, all - 1), b"en");
        assert_eq!(read(8, u64::MAX).len(), limits::PIECE_BYTES);
        assert_eq!(read(7, u64::MAX), b"");
        assert_eq!(read(all, u64::MAX), b"");
        assert_eq!(read(all + 1, u64::MAX), b"");
    }
}
