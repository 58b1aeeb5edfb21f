//! The sending direction: bytes are kept until the peer has them.

use std::collections::VecDeque;

use bytes::Bytes;

use super::OffsetError;
use crate::code::ResetCode;

/// The bytes of one direction of a stream, at the side that sends them.
///
/// ```text
///   forgotten |     kept, handed over      |   kept, not handed over  |  may be written
///  -----------+----------------------------+--------------------------+----------------- - -
///        acknowledged                     next                       end             limit
/// ```
/// `next` goes back to `acknowledged` when the stream moves to another transport. Bytes are
/// reference-counted: the stream and the transport share the same memory.
///
/// ```text
///          finish                      done
///   Open ----------> Finished ----------------------.
///    |                   |                           v
///    |  reset, stop      |  reset, stop             Over
///    `-------------------`------------------------->
/// ```
#[derive(Debug)]
pub struct SendBuffer {
    unacked: VecDeque<Bytes>,
    acknowledged: u64,
    next: u64,
    /// Where `next` is: a chunk of `unacked`, and bytes of it that are before.
    cursor: (usize, usize),
    /// Where the last offered chunk begins.
    offered: u64,
    /// The most that was ever offered to a transport.
    sent: u64,
    end: u64,
    limit: u64,
    /// Bytes not handed over wait for more to go with them.
    waits: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Finished { handed_over: bool, ever: bool },
    Over(SendEnd),
}

/// How a sending direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendEnd {
    /// The peer has everything.
    Done,
    /// This side gave it up.
    Reset(ResetCode),
    /// The peer reads no more.
    Stopped(ResetCode),
}

/// The next chunk for the transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// These bytes; say how many of them were taken with [`SendBuffer::advance`].
    Data(Bytes),
    /// The clean end; say that it was taken with [`SendBuffer::fin_handed_over`].
    Fin,
    /// Nothing now.
    Nothing,
}

impl SendBuffer {
    /// Nothing was written yet; the peer allows `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self {
            unacked: VecDeque::new(),
            acknowledged: 0,
            next: 0,
            cursor: (0, 0),
            offered: 0,
            sent: 0,
            end: 0,
            limit,
            waits: false,
            state: State::Open,
        }
    }

    /// Whether bytes may be written.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// How it ended, if it did.
    pub fn ended(&self) -> Option<SendEnd> {
        match self.state {
            State::Over(end) => Some(end),
            State::Open | State::Finished { .. } => None,
        }
    }

    /// Whether anything was ever offered to a transport: else the peer cannot know the stream.
    pub fn was_sent(&self) -> bool {
        self.sent > 0
    }

    /// Bytes that may be written now as far as the peer is concerned.
    pub fn writable(&self) -> u64 {
        if self.is_open() {
            self.limit.saturating_sub(self.end)
        } else {
            0
        }
    }

    /// Bytes that the peer has yet to acknowledge.
    pub fn unacked(&self) -> u64 {
        self.end - self.acknowledged
    }

    /// Whether the clean end was offered to a transport, and the peer has yet to acknowledge it.
    pub fn end_is_unacked(&self) -> bool {
        matches!(self.state, State::Finished { ever: true, .. })
    }

    /// Pieces that the kept bytes are in.
    pub fn pieces(&self) -> usize {
        self.unacked.len()
    }

    /// Takes bytes, [`writable`](Self::writable) at the most; nothing once it is finished or over.
    pub fn write(&mut self, bytes: Bytes) {
        if !self.is_open() || bytes.is_empty() {
            return;
        }
        self.end += bytes.len() as u64;
        self.unacked.push_back(bytes);
        self.waits = false;
    }

    /// As [`write`](Self::write). Where nothing else is left to hand over, the bytes wait for more, for the end,
    /// for another transport, or until they are [flushed](Self::flush).
    pub fn write_coalesced(&mut self, bytes: Bytes) {
        let alone = self.unacked.get(self.cursor.0).is_none();
        self.write(bytes);
        self.waits = alone;
    }

    /// Ends the wait for more bytes. Gives whether any waited.
    pub fn flush(&mut self) -> bool {
        std::mem::take(&mut self.waits) && self.ended().is_none()
    }

    /// No bytes follow.
    pub fn finish(&mut self) {
        if self.is_open() {
            self.waits = false;
            self.state = State::Finished {
                handed_over: false,
                ever: false,
            };
        }
    }

    /// The next chunk to hand over. From now on the peer may have it: its acknowledgement can come before
    /// [`advance`](Self::advance) says that the transport has taken it.
    pub fn offer(&mut self) -> Chunk {
        let (index, offset) = self.cursor;
        self.offered = self.next;
        match (&mut self.state, self.unacked.get(index)) {
            (State::Over(_), _) => Chunk::Nothing,
            _ if self.waits => Chunk::Nothing,
            (_, Some(chunk)) => {
                let bytes = chunk.slice(offset..);
                self.sent = self.sent.max(self.next + bytes.len() as u64);
                Chunk::Data(bytes)
            }
            (State::Finished { handed_over, ever }, None) if !*handed_over => {
                *ever = true;
                Chunk::Fin
            }
            (State::Open | State::Finished { .. }, None) => Chunk::Nothing,
        }
    }

    /// `taken` of the bytes that [`offer`](Self::offer) gave are the transport's. Some of them may
    /// be acknowledged, and forgotten, already.
    pub fn advance(&mut self, taken: usize) {
        let mut left = (self.offered + taken as u64).saturating_sub(self.next);
        self.next += left;
        while let (index, offset) = self.cursor
            && let Some(chunk) = self.unacked.get(index)
        {
            let rest = (chunk.len() - offset) as u64;
            if left < rest {
                self.cursor = (index, offset + usize::try_from(left).unwrap_or(usize::MAX));
                return;
            }
            left -= rest;
            self.cursor = (index + 1, 0);
        }
    }

    /// The clean end is the transport's.
    pub fn fin_handed_over(&mut self) {
        if let State::Finished { handed_over, .. } = &mut self.state {
            *handed_over = true;
        }
    }

    /// The peer has `received` bytes and allows `limit`. Gives how many bytes were forgotten.
    ///
    /// # Errors
    /// Where the peer cannot have them.
    pub fn credit(&mut self, received: u64, limit: u64) -> Result<u64, OffsetError> {
        if received > self.sent {
            return Err(OffsetError::NeverSent {
                received,
                sent: self.sent,
            });
        }
        // Frames of two transports may overtake each other: older ones change nothing.
        self.limit = self.limit.max(limit);
        Ok(self.forget(received))
    }

    /// The stream moves to another transport, whose peer has `received` bytes and allows `limit`.
    /// Gives how many bytes were forgotten.
    ///
    /// # Errors
    /// Where the peer cannot have them, or wants bytes again that it has acknowledged.
    pub fn rewind(&mut self, received: u64, limit: u64) -> Result<u64, OffsetError> {
        if self.ended().is_some() {
            return Ok(0);
        }
        if received < self.acknowledged {
            return Err(OffsetError::Forgotten {
                received,
                acknowledged: self.acknowledged,
            });
        }
        let forgotten = self.credit(received, limit)?;
        self.next = self.acknowledged;
        self.offered = self.next;
        self.cursor = (0, 0);
        self.waits = false;
        if let State::Finished { handed_over, .. } = &mut self.state {
            *handed_over = false;
        }
        Ok(forgotten)
    }

    fn forget(&mut self, received: u64) -> u64 {
        if self.ended().is_some() {
            return 0;
        }
        let mut left = received.saturating_sub(self.acknowledged);
        let forgotten = left;
        self.acknowledged += left;
        while let Some(chunk) = self.unacked.front_mut() {
            let len = chunk.len() as u64;
            if left < len {
                let cut = usize::try_from(left).unwrap_or(usize::MAX);
                let _ = chunk.split_to(cut);
                if let (0, offset) = self.cursor {
                    self.cursor = (0, offset.saturating_sub(cut));
                }
                break;
            }
            left -= len;
            self.unacked.pop_front();
            self.cursor = match self.cursor {
                (0, _) => (0, 0),
                (index, offset) => (index - 1, offset),
            };
        }
        self.next = self.next.max(self.acknowledged);
        forgotten
    }

    /// The peer has everything, the clean end included. Gives how many bytes were forgotten.
    ///
    /// # Errors
    /// Where it cannot have.
    pub fn done(&mut self) -> Result<u64, OffsetError> {
        match self.state {
            State::Finished { ever: true, .. } => Ok(self.over(SendEnd::Done)),
            State::Over(_) => Ok(0),
            State::Open | State::Finished { .. } => Err(OffsetError::NotFinished),
        }
    }

    /// Gives up and forgets the kept bytes. Gives how many those were. Nothing changes once
    /// it is over.
    pub fn abandon(&mut self, end: SendEnd) -> u64 {
        if self.ended().is_some() {
            return 0;
        }
        self.over(end)
    }

    fn over(&mut self, end: SendEnd) -> u64 {
        let forgotten = self.unacked();
        self.state = State::Over(end);
        self.acknowledged = self.end;
        self.next = self.end;
        self.unacked = VecDeque::new();
        self.cursor = (0, 0);
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pieces: &[&'static str]) -> SendBuffer {
        let mut send = SendBuffer::new(100);
        for piece in pieces {
            send.write(Bytes::from_static(piece.as_bytes()));
        }
        send
    }

    /// Hands over all there is, `most` bytes at a time.
    fn drain(send: &mut SendBuffer, most: usize) -> String {
        let mut out = String::new();
        loop {
            match send.offer() {
                Chunk::Data(bytes) => {
                    let taken = bytes.len().min(most);
                    out.push_str(std::str::from_utf8(&bytes[..taken]).unwrap());
                    send.advance(taken);
                }
                Chunk::Fin => {
                    out.push('.');
                    send.fin_handed_over();
                }
                Chunk::Nothing => return out,
            }
        }
    }

    #[test]
    fn bytes_are_handed_over_once_in_any_pieces() {
        for most in 1..12 {
            let mut send = written(&["one", "", "three", "2"]);
            send.finish();
            assert_eq!(drain(&mut send, most), "onethree2.");
            assert_eq!(send.offer(), Chunk::Nothing);
        }
    }

    #[test]
    fn a_move_repeats_what_the_peer_does_not_have() {
        for received in 0..=9 {
            for most in 1..10 {
                let mut send = written(&["one", "three", "2"]);
                send.finish();
                drain(&mut send, most);
                send.rewind(received, 100).unwrap();
                let rest = &"onethree2."[usize::try_from(received).unwrap()..];
                assert_eq!(drain(&mut send, most), rest, "from {received}");
            }
        }
    }

    #[test]
    fn what_is_acknowledged_is_forgotten() {
        let mut send = written(&["one", "three"]);
        drain(&mut send, 2);
        assert_eq!(send.credit(4, 200), Ok(4));
        assert_eq!((send.unacked(), send.pieces()), (4, 1));
        assert_eq!(send.writable(), 192);
        send.write(Bytes::from_static(b"more"));
        assert_eq!(drain(&mut send, 100), "more");
        assert_eq!(send.credit(3, 100), Ok(0), "older news change nothing");
        assert_eq!(send.writable(), 188);
    }

    #[test]
    fn an_acknowledgement_may_come_while_bytes_are_handed_over() {
        let mut send = written(&["one", "three"]);
        assert_eq!(send.offer(), Chunk::Data(Bytes::from_static(b"one")));
        assert_eq!(send.credit(3, 100), Ok(3), "before it is said to be taken");
        send.advance(3);
        assert_eq!(send.offer(), Chunk::Data(Bytes::from_static(b"three")));
        assert_eq!(send.credit(5, 100), Ok(2));
        send.advance(3);
        assert_eq!(drain(&mut send, 100), "ee");
    }

    #[test]
    fn offsets_that_lie_are_named() {
        let mut send = written(&["one"]);
        assert_eq!(
            send.credit(1, 100),
            Err(OffsetError::NeverSent {
                received: 1,
                sent: 0
            })
        );
        drain(&mut send, 9);
        send.credit(3, 100).unwrap();
        assert_eq!(
            send.rewind(2, 100),
            Err(OffsetError::Forgotten {
                received: 2,
                acknowledged: 3
            })
        );
        send.finish();
        assert_eq!(send.done(), Err(OffsetError::NotFinished));
        drain(&mut send, 9);
        assert_eq!(send.done(), Ok(0));
        assert_eq!(send.ended(), Some(SendEnd::Done));
    }

    /// Every transition of the type's diagram; all others change nothing.
    #[test]
    fn an_end_is_final() {
        let ends = [
            SendEnd::Reset(ResetCode::Cancelled),
            SendEnd::Stopped(ResetCode::TargetFailed),
        ];
        for end in ends {
            for finished in [false, true] {
                let mut send = written(&["one"]);
                if finished {
                    send.finish();
                }
                assert_eq!(send.abandon(end), 3);
                send.write(Bytes::from_static(b"two"));
                send.finish();
                assert_eq!(send.abandon(SendEnd::Reset(ResetCode::Internal)), 0);
                assert_eq!(send.done(), Ok(0));
                assert_eq!(send.rewind(0, 100), Ok(0));
                assert_eq!(send.ended(), Some(end));
                assert_eq!((send.offer(), send.unacked()), (Chunk::Nothing, 0));
                assert_eq!((send.writable(), send.is_open()), (0, false));
            }
        }
    }

    #[test]
    fn a_finished_direction_takes_no_more() {
        let mut send = written(&["one"]);
        send.finish();
        send.write(Bytes::from_static(b"two"));
        assert_eq!(
            (send.writable(), drain(&mut send, 100).as_str()),
            (0, "one.")
        );
    }
}
