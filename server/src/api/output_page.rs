//! The pieces of a run's output in one answer. The agent that sends them may be captured: each brings output, follows the one before, and
//! costs what its bytes cost.

use underpass_api::OutputPiece;

use crate::limits;
use crate::questions::AskError;

/// Pieces from a byte on, those of one stream joined.
#[derive(Debug)]
pub(super) struct Pieces {
    pieces: Vec<OutputPiece>,
    bytes: usize,
    next: u64,
}

impl Pieces {
    /// None yet; the first one begins at this byte.
    pub(super) fn from(byte: u64) -> Self {
        Self {
            pieces: Vec::new(),
            bytes: 0,
            next: byte,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Does the answer end here?
    pub(super) fn are_enough(&self) -> bool {
        self.bytes >= limits::OUTPUT_PAGE || self.pieces.len() >= limits::OUTPUT_PIECES
    }

    /// One more.
    ///
    /// # Errors
    /// It is empty, too long, or not the next one.
    pub(super) fn add(&mut self, piece: OutputPiece) -> Result<(), AskError> {
        let length = piece.data.len();
        let is_next = piece.offset == self.next && (1..=limits::OUTPUT_PIECE).contains(&length);
        let behind = u64::try_from(length).ok();
        let behind = behind.and_then(|length| self.next.checked_add(length));
        let (Some(behind), true) = (behind, is_next) else {
            return Err(AskError::Unreadable);
        };
        self.next = behind;
        self.bytes = self.bytes.saturating_add(length);
        match self.pieces.last_mut() {
            Some(last) if last.stream == piece.stream => last.data.extend(piece.data),
            _ => self.pieces.push(piece),
        }
        Ok(())
    }

    /// The pieces, and the byte behind them.
    pub(super) fn into_parts(self) -> (Vec<OutputPiece>, u64) {
        (self.pieces, self.next)
    }
}

#[cfg(test)]
mod tests {
    use underpass_api::OutputStream::{self, Stderr, Stdout};

    use super::*;

    fn piece(stream: OutputStream, offset: u64, data: &[u8]) -> OutputPiece {
        OutputPiece {
            stream,
            offset,
            data: data.to_vec(),
        }
    }

    #[test]
    fn rule_20_each_piece_of_output_brings_some_and_is_the_next() {
        let long = vec![0; limits::OUTPUT_PIECE + 1];
        for (offset, data) in [
            (4, &b""[..]),
            (3, b"a"),
            (5, b"a"),
            (4, &long),
            (u64::MAX, b"a"),
        ] {
            let mut pieces = Pieces::from(4);
            assert!(pieces.add(piece(Stdout, offset, data)).is_err(), "{offset}");
            assert_eq!(pieces.into_parts(), (vec![], 4));
        }
        let mut last = Pieces::from(u64::MAX);
        assert!(last.add(piece(Stdout, u64::MAX, b"a")).is_err());
        let mut pieces = Pieces::from(4);
        for (stream, offset, data) in [(Stdout, 4, "ab"), (Stdout, 6, "c"), (Stderr, 7, "d")] {
            pieces.add(piece(stream, offset, data.as_bytes())).unwrap();
        }
        pieces.add(piece(Stdout, 8, &long[1..])).unwrap();
        let (pieces, next) = pieces.into_parts();
        let joined = [
            piece(Stdout, 4, b"abc"),
            piece(Stderr, 7, b"d"),
            piece(Stdout, 8, &long[1..]),
        ];
        assert_eq!((&pieces[..], next), (&joined[..], 8 + 16 * 1024));
    }
}
