//! The multiplexer inside a WebSocket: many streams in one byte stream (PROTOCOL.md, "Streams over
//! underpass.v1").
//!
//! It has no windows: the session's credit bounds the bytes in flight, the same over every
//! transport. This only refuses a peer that ignores the credit, gives each stream its turn, and
//! lets a writer wait while its own bytes do.

mod chunks;
mod error;
mod frame;
mod number;
mod receive;
mod schedule;
#[cfg(any(test, feature = "fuzzing"))]
#[allow(
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::panic,
    reason = "a simulation for tests: a panic is its finding"
)]
pub(super) mod simulation;
mod stream;
mod table;

pub use self::chunks::Chunks;
pub use self::error::{Ended, Violation};
pub use self::number::Number;

use bytes::Bytes;

use self::frame::{HEADER_MAX, HeaderReader};
use self::receive::Payload;
use self::schedule::{Rank, Schedule};
use self::stream::Stream;
use self::table::Table;
use crate::code::ResetCode;
use crate::frame::Class;
use crate::limits;
use crate::stream_id::Role;

#[cfg(test)]
pub(crate) use self::frame::FRAMES;

/// Slices of a batch below this size are copied together.
const COPY_SENT: usize = 1024;

/// Which stream, at this end. It names the same stream until both of its halves are
/// [released](Mux::release_send), and may name another one then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(u32);

impl Key {
    /// A small number: keys are used again.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// An event that a task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The peer opened a stream: [`Mux::accept`] gives it.
    Opened,
    /// A reader that found nothing should look again.
    Readable(Key),
    /// A writer that found no room should try again.
    Writable(Key),
}

/// One end of a multiplexed connection, without input or output.
///
/// # Driving it
/// - Pass arrived bytes to [`receive`](Self::receive), cut anywhere.
/// - Take output from [`transmit`](Self::transmit), whenever the connection can take
///   something and [`has_frames`](Self::has_frames) says so.
/// - After each of these, and after each call about a stream, wake the tasks of
///   [`poll_event`](Self::poll_event)'s events.
/// - A [`Violation`] is final: the connection is to be closed with its code.
/// - Each key that [`open`](Self::open) and [`accept`](Self::accept) give has two halves, each of
///   which has to be released once.
#[derive(Debug)]
pub struct Mux {
    role: Role,
    table: Table,
    schedule: Schedule,
    events: Vec<Event>,
    /// Streams that the peer opened and this side has not accepted.
    incoming: std::collections::VecDeque<Key>,
    /// Of the next stream of this side that sends its first frame.
    next_number: Number,
    /// Whether this side has opened a stream.
    has_opened: bool,
    /// The highest number of the peer's that was seen.
    seen: Option<Number>,
    /// Streams that the peer opened.
    remote: usize,
    /// Whether the peer is authenticated.
    trusted: bool,
    reader: HeaderReader,
    payload: Option<Payload>,
    /// Bytes held for readers, of all streams.
    held: usize,
}

impl Mux {
    /// An end of `role`. The connector's peer has shown its certificate; the acceptor's gets
    /// little before [`authenticated`](Self::authenticated).
    pub fn new(role: Role) -> Self {
        Self {
            role,
            table: Table::default(),
            schedule: Schedule::default(),
            events: Vec::new(),
            incoming: std::collections::VecDeque::new(),
            next_number: Number::first(role),
            has_opened: false,
            seen: None,
            remote: 0,
            trusted: role == Role::Connector,
            reader: HeaderReader::default(),
            payload: None,
            held: 0,
        }
    }

    /// The peer is authenticated.
    pub fn authenticated(&mut self) {
        self.trusted = true;
    }

    /// Opens a stream, which the peer hears of with its first frame; `None` once this side has used
    /// up its numbers. The connector's first one is the control stream.
    pub fn open(&mut self) -> Option<Key> {
        if !self.next_number.is_usable() {
            return None;
        }
        let control = self.role == Role::Connector && !self.has_opened;
        self.has_opened = true;
        let rank = if control {
            Rank::Control
        } else {
            Class::default().into()
        };
        Some(self.table.insert(Stream::new(None, rank)))
    }

    /// Takes a stream that the peer opened.
    pub fn accept(&mut self) -> Option<Key> {
        self.incoming.pop_front()
    }

    /// The next event; wake its task.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    /// Whether [`transmit`](Self::transmit) has something to give.
    pub fn has_frames(&self) -> bool {
        !self.schedule.is_empty()
    }

    /// Appends frames to `batch`, up to `max` bytes in it, each stream in its turn.
    pub fn transmit(&mut self, max: usize, batch: &mut Chunks) {
        // A frame without payload, or with hardly any, is not worth its header.
        while batch.len() + 2 * HEADER_MAX <= max {
            let Some(key) = self.schedule.next() else {
                return;
            };
            self.send_frame(key, max, batch);
        }
    }

    /// Sends the frames of `key`'s turn: a STOP if there is one, and one other frame.
    fn send_frame(&mut self, key: Key, max: usize, batch: &mut Chunks) {
        let Some(stream) = self.table.get(key) else {
            return;
        };
        let rank = stream.scheduled.take().unwrap_or(stream.rank);
        let number = match stream.number {
            Some(number) => number,
            None => {
                let number = self.next_number;
                self.next_number = number.next();
                self.table.set_number(key, number);
                number
            }
        };
        let Some(stream) = self.table.get(key) else {
            return;
        };
        let before = batch.len();
        if let Some(stop) = stream.recv.take_stop() {
            batch.encode(|out| stop.encode(number, out));
        }
        let space = max.saturating_sub(batch.len());
        let space = space.saturating_sub(frame::data_header_len(number, space));
        if let Some(header) = stream.send.next_frame(space.min(limits::MUX_DATA)) {
            batch.encode(|out| header.encode(number, out));
            if let frame::Header::Data { len, .. } = header {
                let mut left = len;
                while let Some(bytes) = stream.send.take(left).filter(|bytes| !bytes.is_empty()) {
                    left -= bytes.len();
                    batch.push(bytes, COPY_SENT);
                    if left == 0 {
                        break;
                    }
                }
            }
        }
        if stream.send.waiting && stream.send.has_room_again() {
            stream.send.waiting = false;
            self.events.push(Event::Writable(key));
        }
        self.schedule.sent(rank, batch.len() - before);
        self.reschedule(key);
    }

    /// How many bytes [`write`](Self::write) takes now; the writer hears of it where there is none.
    ///
    /// # Errors
    /// Where the stream takes no more.
    pub fn poll_writable(&mut self, key: Key) -> Result<usize, Ended> {
        let stream = self.table.get(key).ok_or(Ended::Finished)?;
        let writable = stream.send.writable()?;
        stream.send.waiting = writable == 0;
        Ok(writable)
    }

    /// Hands bytes over to be sent, no more than [`poll_writable`](Self::poll_writable) said.
    pub fn write(&mut self, key: Key, bytes: Bytes) {
        if let Some(stream) = self.table.get(key)
            && stream.send.writable().is_ok()
        {
            stream.send.push(bytes);
            self.reschedule(key);
        }
    }

    /// Ends the writing direction behind the written bytes.
    ///
    /// # Errors
    /// Where it was reset.
    pub fn finish(&mut self, key: Key) -> Result<(), Ended> {
        let stream = self.table.get(key).ok_or(Ended::Finished)?;
        stream.send.finish()?;
        self.reschedule(key);
        Ok(())
    }

    /// Whether [`finish`](Self::finish) has been called, to some effect.
    pub fn is_finished(&mut self, key: Key) -> bool {
        self.table
            .get(key)
            .is_none_or(|stream| stream.send.is_finished())
    }

    /// Ends the writing direction at once, unless it has ended.
    pub fn reset(&mut self, key: Key, code: ResetCode) {
        if let Some(stream) = self.table.get(key) {
            stream.send.reset(code);
            self.reschedule(key);
        }
    }

    /// The stream's next bytes, `max` at the most; `None` where none have come, and the reader then
    /// hears of the next ones.
    ///
    /// # Errors
    /// The direction's end: a clean one is `Err(Ok(()))`.
    pub fn poll_read(&mut self, key: Key, max: usize) -> Result<Option<Bytes>, Result<(), Ended>> {
        let stream = self.table.get(key).ok_or(Ok(()))?;
        let read = stream.recv.read(max)?;
        stream.recv.waiting = read.is_none();
        self.held -= read.as_ref().map_or(0, Bytes::len);
        Ok(read)
    }

    /// Reads no more of the stream.
    pub fn stop(&mut self, key: Key, code: ResetCode) {
        if let Some(stream) = self.table.get(key) {
            self.held -= stream.recv.stop(code);
            self.reschedule(key);
        }
    }

    /// How soon the stream's frames leave. The control stream's stay the first.
    pub fn prioritize(&mut self, key: Key, class: Class) {
        let Some(stream) = self.table.get(key) else {
            return;
        };
        if stream.rank == Rank::Control {
            return;
        }
        stream.rank = class.into();
        if let Some(rank) = stream.scheduled.take() {
            self.schedule.remove(rank, key);
        }
        self.reschedule(key);
    }

    /// Its writing half is gone: unless it was finished, it is reset.
    pub fn release_send(&mut self, key: Key) {
        if let Some(stream) = self.table.get(key) {
            stream.send.reset(ResetCode::Cancelled);
            stream.send.released = true;
            self.reschedule(key);
        }
    }

    /// Its reading half is gone: unless the peer has ended it, it is stopped.
    pub fn release_recv(&mut self, key: Key) {
        if let Some(stream) = self.table.get(key) {
            if !stream.recv.is_discarding() {
                self.held -= stream.recv.stop(ResetCode::Cancelled);
            }
            stream.recv.released = true;
            self.reschedule(key);
        }
    }

    /// Streams that this end keeps, ending ones included.
    pub fn streams(&self) -> usize {
        self.table.len()
    }

    /// Bytes that are held for readers.
    pub const fn held(&self) -> usize {
        self.held
    }

    /// Puts a stream into the schedule where it has something to send; forgets a released one that has
    /// nothing.
    fn reschedule(&mut self, key: Key) {
        let Some(stream) = self.table.get(key) else {
            return;
        };
        let silent = !stream.has_frames() || stream.is_unknown_to_the_peer();
        if stream.is_released() && silent {
            if let Some(rank) = stream.scheduled {
                self.schedule.remove(rank, key);
            }
            let removed = self.table.remove(key);
            if let Some(number) = removed.and_then(|stream| stream.number)
                && number.opener() != self.role
            {
                self.remote -= 1;
            }
        } else if stream.has_frames() && stream.scheduled.is_none() {
            stream.scheduled = Some(stream.rank);
            self.schedule.push(stream.rank, key);
        }
    }
}
