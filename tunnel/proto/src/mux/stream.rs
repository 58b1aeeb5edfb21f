//! One stream's two directions at this end.
//!
//! ```text
//! sending:                                     receiving:
//!
//!        finish            FIN sent                   DATA with FIN
//!   Open ------> Finishing ---------> Finished   open ---------------> ended, once it is read
//!    | \  reset              RESET sent           | `--- RESET ------> ended with its code
//!    |  `------> Resetting(code) ----> Reset      |
//!    | STOP                                       | stop               STOP sent
//!    `---------> Stopped(code)                    `-----> discarding, ----------> discarding
//! ```

use bytes::Bytes;

use super::chunks::Chunks;
use super::error::{Ended, Violation};
use super::frame::Header;
use super::number::Number;
use super::schedule::Rank;
use crate::code::ResetCode;
use crate::limits;

/// A writer's pieces below this size are copied together: a slice costs about as much in each layer
/// below as some hundred bytes do.
const COPY_WRITTEN: usize = 1024;

/// Received pieces below this size are copied, so that they do not keep a read buffer alive that is
/// more than four times as large (see `limits::MUX_READ_BUFFER`).
const COPY_RECEIVED: usize = limits::MUX_READ_BUFFER / 4;

#[derive(Debug)]
pub(super) struct Stream {
    /// On the wire; none before the first frame of a stream that this side opens.
    pub(super) number: Option<Number>,
    pub(super) rank: Rank,
    /// Where it stands in the schedule, if it does.
    pub(super) scheduled: Option<Rank>,
    pub(super) send: Sending,
    pub(super) recv: Receiving,
}

impl Stream {
    pub(super) fn new(number: Option<Number>, rank: Rank) -> Self {
        Self {
            number,
            rank,
            scheduled: None,
            send: Sending::default(),
            recv: Receiving::default(),
        }
    }

    pub(super) fn has_frames(&self) -> bool {
        self.send.has_frame() || self.recv.stop == Stop::Asked
    }

    /// This side has released both halves.
    pub(super) const fn is_released(&self) -> bool {
        self.send.released && self.recv.released
    }

    /// Nothing of it was, or need be, told to the peer.
    pub(super) const fn is_unknown_to_the_peer(&self) -> bool {
        self.number.is_none() && matches!(self.send.state, SendState::Resetting(_))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum SendState {
    #[default]
    Open,
    Finishing,
    Finished,
    Resetting(ResetCode),
    Reset(ResetCode),
    Stopped(ResetCode),
}

/// The direction that this side writes.
#[derive(Debug, Default)]
pub(super) struct Sending {
    state: SendState,
    queue: Chunks,
    /// A writer found no room.
    pub(super) waiting: bool,
    /// Its half was dropped.
    pub(super) released: bool,
}

impl Sending {
    /// How many bytes the writer may hand over now.
    pub(super) fn writable(&self) -> Result<usize, Ended> {
        match self.state {
            SendState::Open => Ok(limits::MUX_SEND_QUEUE.saturating_sub(self.queue.len())),
            SendState::Finishing | SendState::Finished => Err(Ended::Finished),
            SendState::Resetting(code) | SendState::Reset(code) => Err(Ended::Reset(code)),
            SendState::Stopped(code) => Err(Ended::Stopped(code)),
        }
    }

    /// Whether a writer that waited may go on: not for a few bytes at a time.
    pub(super) fn has_room_again(&self) -> bool {
        self.queue.len() <= limits::MUX_SEND_QUEUE / 2
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.queue.push(bytes, COPY_WRITTEN);
    }

    pub(super) fn finish(&mut self) -> Result<(), Ended> {
        self.waiting = false;
        match self.state {
            SendState::Open => self.state = SendState::Finishing,
            // A peer that stopped reading does not mind that nothing more comes.
            SendState::Finishing | SendState::Finished | SendState::Stopped(_) => {}
            SendState::Resetting(code) | SendState::Reset(code) => return Err(Ended::Reset(code)),
        }
        Ok(())
    }

    pub(super) const fn is_finished(&self) -> bool {
        matches!(self.state, SendState::Finishing | SendState::Finished)
    }

    pub(super) fn reset(&mut self, code: ResetCode) {
        self.waiting = false;
        if self.state == SendState::Open {
            self.state = SendState::Resetting(code);
            self.queue.clear();
        }
    }

    /// The peer reads no more.
    pub(super) fn stopped(&mut self, code: ResetCode) {
        if matches!(self.state, SendState::Open | SendState::Finishing) {
            self.state = SendState::Stopped(code);
            self.queue.clear();
        }
    }

    fn has_frame(&self) -> bool {
        match self.state {
            SendState::Open => !self.queue.is_empty(),
            SendState::Finishing | SendState::Resetting(_) => true,
            SendState::Finished | SendState::Reset(_) | SendState::Stopped(_) => false,
        }
    }

    /// The next frame's header. As many bytes as it says, `max` at the most, are then to be
    /// [taken](Self::take).
    pub(super) fn next_frame(&mut self, max: usize) -> Option<Header> {
        let len = self.queue.len().min(max);
        match self.state {
            SendState::Open if len > 0 => Some(Header::Data { len, fin: false }),
            SendState::Finishing => {
                let fin = len == self.queue.len();
                if fin {
                    self.state = SendState::Finished;
                }
                Some(Header::Data { len, fin })
            }
            SendState::Resetting(code) => {
                self.state = SendState::Reset(code);
                Some(Header::Reset(code))
            }
            _ => None,
        }
    }

    pub(super) fn take(&mut self, max: usize) -> Option<Bytes> {
        self.queue.pop(max)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stop {
    #[default]
    No,
    /// STOP has to be sent.
    Asked,
    /// STOP was sent, or need not be.
    Done,
}

/// The direction that the peer writes.
#[derive(Debug, Default)]
pub(super) struct Receiving {
    inbox: Chunks,
    /// How the peer ended it, once it has.
    end: Option<Result<(), ResetCode>>,
    stop: Stop,
    stop_code: Option<ResetCode>,
    /// The peer has sent a STOP, for the other direction.
    stopped_by_peer: bool,
    /// A reader found nothing.
    pub(super) waiting: bool,
    /// Its half was dropped.
    pub(super) released: bool,
}

impl Receiving {
    /// Bytes held for the reader.
    pub(super) fn held(&self) -> usize {
        self.inbox.len()
    }

    /// Whether arriving bytes are dropped.
    pub(super) fn is_discarding(&self) -> bool {
        self.stop_code.is_some()
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.inbox.push(bytes, COPY_RECEIVED);
    }

    /// A frame that goes on with, or ends, this direction.
    pub(super) fn check_open(&self, number: Number) -> Result<(), Violation> {
        match self.end {
            None => Ok(()),
            Some(_) => Err(Violation::AfterEnd(number)),
        }
    }

    pub(super) fn check_stop(&mut self, number: Number) -> Result<(), Violation> {
        if std::mem::replace(&mut self.stopped_by_peer, true) {
            return Err(Violation::StoppedTwice(number));
        }
        Ok(())
    }

    /// The peer ended it. Unread bytes are dropped with a reset; gives how many those were.
    pub(super) fn ended(&mut self, end: Result<(), ResetCode>) -> usize {
        self.end = Some(end);
        // There is nothing left to stop.
        if self.stop == Stop::Asked {
            self.stop = Stop::Done;
        }
        match end {
            Ok(()) => 0,
            Err(_) => self.inbox.clear(),
        }
    }

    /// The next bytes, `None` where there are none yet, or the end.
    pub(super) fn read(&mut self, max: usize) -> Result<Option<Bytes>, Result<(), Ended>> {
        if let Some(code) = self.stop_code {
            return Err(Err(Ended::Reset(code)));
        }
        match (self.inbox.pop(max), self.end) {
            (Some(bytes), _) => Ok(Some(bytes)),
            (None, None) => Ok(None),
            (None, Some(end)) => Err(end.map_err(Ended::Reset)),
        }
    }

    /// This side reads no more. Gives how many unread bytes were dropped.
    pub(super) fn stop(&mut self, code: ResetCode) -> usize {
        self.waiting = false;
        self.stop_code.get_or_insert(code);
        if self.stop == Stop::No {
            self.stop = match self.end {
                None => Stop::Asked,
                Some(_) => Stop::Done,
            };
        }
        self.inbox.clear()
    }

    /// The STOP that has to be sent, which it thereby is.
    pub(super) fn take_stop(&mut self) -> Option<Header> {
        if self.stop != Stop::Asked {
            return None;
        }
        self.stop = Stop::Done;
        self.stop_code.map(Header::Stop)
    }
}
