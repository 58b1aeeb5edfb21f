//! The streams of one connection.

use std::collections::HashMap;

use super::Key;
use super::number::Number;
use super::stream::Stream;

/// Streams by key, and by the number that they have on the wire.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Option<Stream>>,
    free: Vec<Key>,
    numbers: HashMap<Number, Key>,
}

impl Table {
    pub(super) fn insert(&mut self, stream: Stream) -> Key {
        let number = stream.number;
        let key = match self.free.pop() {
            Some(key) => {
                if let Some(slot) = self.slots.get_mut(key.index()) {
                    *slot = Some(stream);
                }
                key
            }
            None => {
                // Memory ends before the keys do.
                let key = Key(u32::try_from(self.slots.len()).unwrap_or(u32::MAX));
                if self.slots.is_empty() {
                    // An idle connection has its control stream and no other.
                    self.slots.reserve_exact(1);
                }
                self.slots.push(Some(stream));
                key
            }
        };
        if let Some(number) = number {
            self.numbers.insert(number, key);
        }
        key
    }

    /// The peer learns of a stream that this side opened.
    pub(super) fn set_number(&mut self, key: Key, number: Number) {
        if let Some(stream) = self.get(key) {
            stream.number = Some(number);
            self.numbers.insert(number, key);
        }
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Stream> {
        let stream = self.slots.get_mut(key.index())?.take()?;
        if let Some(number) = stream.number {
            self.numbers.remove(&number);
        }
        self.free.push(key);
        Some(stream)
    }

    pub(super) fn get(&mut self, key: Key) -> Option<&mut Stream> {
        self.slots.get_mut(key.index())?.as_mut()
    }

    pub(super) fn find(&self, number: Number) -> Option<Key> {
        self.numbers.get(&number).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
