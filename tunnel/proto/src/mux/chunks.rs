//! A queue of bytes that were handed over in pieces.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem;

use bytes::{Buf, Bytes, BytesMut};

/// Small pieces are gathered up to here.
const TAIL: usize = 16 * 1024;

/// Bytes in order. Large pieces are kept as they are; small ones are copied together, so that
/// neither a slice of a few bytes keeps its whole buffer alive nor a flood of such pieces costs
/// more than its bytes.
#[derive(Debug, Default)]
pub struct Chunks {
    chunks: VecDeque<Bytes>,
    /// Small pieces, behind all of `chunks`.
    tail: BytesMut,
    len: usize,
}

impl Chunks {
    /// Bytes in it.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends `bytes`, a copy of them where there are fewer than `copy_below`.
    pub fn push(&mut self, bytes: Bytes, copy_below: usize) {
        self.len += bytes.len();
        if bytes.len() < copy_below {
            self.tail.extend_from_slice(&bytes);
            if self.tail.len() < TAIL {
                return;
            }
        }
        if !self.tail.is_empty() {
            // Taken whole, so that nothing of the allocation stays behind.
            self.chunks.push_back(mem::take(&mut self.tail).freeze());
        }
        if bytes.len() >= copy_below && !bytes.is_empty() {
            self.chunks.push_back(bytes);
        }
    }

    /// Appends `encode`'s output: a header, or another short thing.
    pub fn encode(&mut self, encode: impl FnOnce(&mut BytesMut)) {
        let before = self.tail.len();
        encode(&mut self.tail);
        self.len += self.tail.len() - before;
    }

    /// Puts `bytes` before everything else.
    pub fn prepend(&mut self, bytes: Bytes) {
        self.len += bytes.len();
        self.chunks.push_front(bytes);
    }

    /// Takes bytes from the front, `max` at the most; `None` where there are none.
    pub fn pop(&mut self, max: usize) -> Option<Bytes> {
        if self.chunks.is_empty() && !self.tail.is_empty() {
            self.chunks.push_back(mem::take(&mut self.tail).freeze());
        }
        let front = self.chunks.front_mut()?;
        let bytes = if front.len() <= max {
            self.chunks.pop_front()?
        } else {
            front.split_to(max)
        };
        self.len -= bytes.len();
        Some(bytes)
    }

    /// Drops everything and gives back how much it was.
    pub(super) fn clear(&mut self) -> usize {
        mem::take(self).len
    }
}

/// For vectored writes.
impl Buf for Chunks {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&self.tail[..], |front| front)
    }

    fn chunks_vectored<'a>(&'a self, dst: &mut [IoSlice<'a>]) -> usize {
        let tail = (!self.tail.is_empty()).then_some(&self.tail[..]);
        let slices = self.chunks.iter().map(|chunk| &chunk[..]).chain(tail);
        let mut filled = 0;
        for (dst, slice) in dst.iter_mut().zip(slices) {
            *dst = IoSlice::new(slice);
            filled += 1;
        }
        filled
    }

    /// Drops bytes from the front. There is nothing beyond the end to go to.
    fn advance(&mut self, mut count: usize) {
        self.len = self.len.saturating_sub(count);
        while let Some(front) = self.chunks.front_mut() {
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.chunks.pop_front();
        }
        self.tail.advance(count.min(self.tail.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pieces_are_not_copied_and_small_ones_pin_nothing() {
        let large = Bytes::from(vec![1; 100]);
        let mut chunks = Chunks::default();
        chunks.push(large.slice(..50), 10);
        assert_eq!(chunks.pop(100).unwrap().as_ptr(), large.as_ptr());
        chunks.push(large.slice(..5), 10);
        chunks.push(large.slice(..4), 10);
        let small = chunks.pop(100).unwrap();
        assert_eq!(small.len(), 9, "together");
        drop(small);
        drop(chunks);
        assert!(large.is_unique(), "nothing else holds it");
    }

    #[test]
    fn a_vectored_write_may_end_anywhere() {
        let whole = b"<head>large piece<next>small";
        for taken in 0..=whole.len() {
            let mut chunks = Chunks::default();
            chunks.push(Bytes::from_static(b"large piece"), 10);
            chunks.prepend(Bytes::from_static(b"<head>"));
            chunks.encode(|out| out.extend_from_slice(b"<next>"));
            chunks.push(Bytes::from_static(b"small"), 10);
            assert_eq!(chunks.len(), whole.len());
            chunks.advance(taken);
            let mut slices = [IoSlice::new(&[]); 8];
            let filled = chunks.chunks_vectored(&mut slices);
            let rest: Vec<u8> = slices[..filled]
                .iter()
                .flat_map(|slice| slice.to_vec())
                .collect();
            assert_eq!(rest, whole[taken..]);
            assert_eq!(chunks.remaining(), rest.len());
            assert!(rest.starts_with(chunks.chunk()) && chunks.has_remaining() != rest.is_empty());
        }
    }

    proptest::proptest! {
        #[test]
        fn bytes_come_out_in_order(
            pieces in proptest::collection::vec(0usize..60_000, 0..20),
            copy_below in 0usize..20_000,
            max in 1usize..40_000,
        ) {
            let mut chunks = Chunks::default();
            let mut expected = Vec::new();
            for (i, len) in pieces.iter().enumerate() {
                let piece = vec![u8::try_from(i).unwrap(); *len];
                expected.extend_from_slice(&piece);
                chunks.push(piece.into(), copy_below);
                proptest::prop_assert_eq!(chunks.len(), expected.len());
            }
            let mut got = Vec::new();
            while let Some(bytes) = chunks.pop(max) {
                proptest::prop_assert!(!bytes.is_empty() && bytes.len() <= max);
                got.extend_from_slice(&bytes);
                proptest::prop_assert_eq!(chunks.len(), expected.len() - got.len());
            }
            proptest::prop_assert!(chunks.is_empty());
            proptest::prop_assert_eq!(got, expected);
        }
    }
}
