//! A connection's read buffer.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::limits;

/// Bytes read at once from a connection on which little happens: thousands of those are idle.
const SIZE_MIN: usize = 4 * 1024;

/// Blocks that were filled and may be filled again once their slices are gone, of one connection: as much as
/// the readers of a fast one hold. Memory that the allocator gave back to the system and gets again costs a
/// page fault for each 4 KiB.
const SPARES: usize = 32;

/// A read buffer that gives out slices of itself, and fills the same blocks again where these are gone by
/// then.
#[derive(Debug)]
pub(crate) struct ReadBuffer {
    /// Bytes read and not given out, with room behind them.
    pub(crate) bytes: BytesMut,
    /// How much to read at once: grows while that is filled, and shrinks again.
    size: usize,
    /// Whether the current block is of the largest size.
    whole: bool,
    /// Full blocks of that size, the oldest first.
    spares: VecDeque<BytesMut>,
}

impl ReadBuffer {
    pub(crate) fn new(received: Bytes) -> Self {
        Self {
            bytes: received.into(),
            size: SIZE_MIN,
            whole: false,
            spares: VecDeque::new(),
        }
    }

    /// Makes room behind bytes not given out.
    pub(crate) fn make_room(&mut self) {
        if self.bytes.is_empty() && self.bytes.capacity() > 2 * self.size {
            self.bytes = BytesMut::new();
            self.whole = false;
        }
        if self.bytes.capacity() - self.bytes.len() < self.size / 2 {
            if self.size < limits::MUX_READ_BUFFER {
                self.whole = false;
                self.bytes.reserve(self.size);
            } else if !self.bytes.try_reclaim(self.size) {
                let block = self.block();
                let full = std::mem::replace(&mut self.bytes, block);
                self.bytes.extend_from_slice(&full);
                if std::mem::replace(&mut self.whole, true) {
                    self.spares.push_back(full);
                }
            }
        }
    }

    /// There is nothing to read: frees the memory, as thousands of connections may be idle. The next read
    /// allocates again.
    pub(crate) fn rest(&mut self) {
        if self.bytes.is_empty() && self.size == SIZE_MIN {
            self.bytes = BytesMut::new();
            self.whole = false;
        }
    }

    /// The oldest block, if no slice of it is held any more, or a new one.
    fn block(&mut self) -> BytesMut {
        if let Some(mut oldest) = self.spares.pop_front() {
            oldest.clear();
            if oldest.try_reclaim(self.size) {
                return oldest;
            }
            if self.spares.len() + 1 < SPARES {
                self.spares.push_front(oldest);
            }
        }
        BytesMut::with_capacity(self.size)
    }

    /// So much was read.
    pub(crate) fn filled(&mut self, read: usize) {
        if self.bytes.len() == self.bytes.capacity() {
            self.size = (4 * self.size).min(limits::MUX_READ_BUFFER);
        } else if read < self.size / 8 {
            self.size = (self.size / 2).max(SIZE_MIN);
            self.spares.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Reads as much as there is room for, and gives all of it out.
    fn read(buffer: &mut ReadBuffer) -> Bytes {
        buffer.make_room();
        let len = buffer.bytes.capacity() - buffer.bytes.len();
        buffer.bytes.resize(buffer.bytes.len() + len, 7);
        buffer.filled(len);
        buffer.bytes.split().freeze()
    }

    fn busy() -> ReadBuffer {
        let mut buffer = ReadBuffer::new(Bytes::new());
        while buffer.size < limits::MUX_READ_BUFFER {
            read(&mut buffer);
        }
        buffer
    }

    #[test]
    fn slices_that_are_gone_make_room() {
        let mut buffer = busy();
        read(&mut buffer);
        let places: HashSet<_> = (0..10).map(|_| read(&mut buffer).as_ptr()).collect();
        assert_eq!(places.len(), 1, "the same one again");
    }

    #[test]
    fn what_is_held_is_not_overwritten() {
        let mut buffer = busy();
        let held: Vec<_> = (0..10).map(|_| read(&mut buffer)).collect();
        let places: HashSet<_> = held.iter().map(|bytes| bytes.as_ptr()).collect();
        assert_eq!(places.len(), held.len());
    }

    /// A reader that is always three blocks behind causes no allocation.
    #[test]
    fn blocks_that_are_let_go_are_filled_again() {
        let mut buffer = busy();
        let mut held: VecDeque<_> = (0..3).map(|_| read(&mut buffer)).collect();
        let mut places = HashSet::new();
        for _ in 0..20 {
            let bytes = read(&mut buffer);
            assert!(held.iter().all(|held| held.as_ptr() != bytes.as_ptr()));
            places.insert(bytes.as_ptr());
            held.push_back(bytes);
            held.pop_front();
        }
        assert!(places.len() <= 5, "{} blocks for three", places.len());
    }

    #[test]
    fn an_idle_connection_keeps_little() {
        let mut buffer = busy();
        let held: Vec<_> = (0..2 * SPARES).map(|_| read(&mut buffer)).collect();
        assert!(buffer.spares.len() <= SPARES);
        drop(held);
        for _ in 0..8 {
            buffer.make_room();
            buffer.bytes.extend_from_slice(b"ping");
            buffer.filled(4);
            let _ = buffer.bytes.split();
        }
        buffer.make_room();
        assert!(buffer.bytes.capacity() <= 2 * SIZE_MIN);
        assert!(buffer.spares.is_empty());
        buffer.rest();
        assert_eq!(buffer.bytes.capacity(), 0, "while it waits");
    }

    #[test]
    fn what_was_not_given_out_outlasts_a_rest() {
        let mut buffer = ReadBuffer::new(Bytes::from_static(b"half a header"));
        buffer.rest();
        assert_eq!(buffer.bytes[..], *b"half a header");
    }

    #[test]
    fn the_beginning_of_a_header_moves_along() {
        let mut buffer = busy();
        let first = read(&mut buffer);
        buffer.make_room();
        let len = buffer.bytes.capacity();
        buffer.bytes.resize(len, 1);
        let second = buffer.bytes.split_to(len - 3);
        buffer.make_room();
        assert_eq!(buffer.bytes[..], [1; 3]);
        drop((first, second));
    }
}
