//! The session's streams: operations of the application and the transports.

use std::time::Instant;

use bytes::Bytes;

use super::{LinkId, OpenRefused, Phase, Session, Violation};
use crate::code::ResetCode;
use crate::frame::{
    self, Class, Credit, Done, Lasting, Leg, Open, Refuse, ResetStream, StopSending,
};
use crate::limits;
use crate::session::Event;
use crate::stream::{Chunk, Due, OffsetError, Receiver, RecvEnd, SendBuffer, SendEnd};
use crate::stream_id::StreamId;

#[derive(Debug)]
pub(super) struct StreamState {
    pub(super) send: SendBuffer,
    pub(super) recv: Receiver,
    /// How urgent it is, once its OPEN is known.
    class: Option<Class>,
    /// The link that carries it; `None` while none does.
    pub(super) link: Option<LinkId>,
    /// The leg of its way that comes next.
    pub(super) next_leg: Leg,
    /// Its OPEN was passed on.
    pub(super) opened: bool,
    /// It is not released yet.
    pub(super) held: bool,
    /// Whether a CREDIT is on its way out, and how soon.
    news: Option<Due>,
    /// Its writer found no room.
    waiting: bool,
}

impl StreamState {
    fn new(send_limit: u64, recv_limit: u64) -> Self {
        Self {
            send: SendBuffer::new(send_limit),
            recv: Receiver::new(recv_limit),
            class: None,
            link: None,
            next_leg: Leg::FIRST,
            opened: false,
            held: false,
            news: None,
            waiting: false,
        }
    }

    pub(super) fn class(&self) -> Option<Class> {
        self.class
    }

    /// Notes how urgent it is; says whether that was not known before.
    pub(super) fn classify(&mut self, class: Class) -> bool {
        let unknown = self.class.is_none();
        self.class.get_or_insert(class);
        unknown
    }

    /// Notes that a CREDIT is due; says whether none so early was on its way.
    pub(super) fn is_news(&mut self, due: Due) -> bool {
        let known = matches!(
            (due, self.news),
            (_, Some(Due::Now)) | (Due::Soon, Some(Due::Soon))
        );
        if !known {
            self.news = Some(due);
        }
        !known
    }

    /// Whether a CREDIT that was to go out soon still has something to say; else there is none on its way.
    pub(super) fn still_has_news(&mut self) -> bool {
        self.news = self.news.filter(|_| self.recv.has_news());
        self.news.is_some()
    }

    /// Bytes that may be written, where the session may keep `of_session` more.
    fn writable(&mut self, of_session: u64) -> Result<usize, WriteEnd> {
        if let Some(end) = self.send.ended() {
            return Err(WriteEnd::Over(end));
        }
        if !self.send.is_open() {
            return Err(WriteEnd::Finished);
        }
        if self.send.pieces() >= limits::STREAM_PIECES {
            self.waiting = true;
            return Ok(0);
        }
        let at_least = limits::STREAM_UNACKED_MIN.saturating_sub(self.send.unacked());
        let writable = self.send.writable().min(of_session.max(at_least));
        self.waiting |= writable == 0;
        Ok(usize::try_from(writable).unwrap_or(usize::MAX))
    }

    /// Whether both directions are.
    pub(super) fn is_over(&self) -> bool {
        self.send.ended().is_some() && self.recv.ended().is_some()
    }
}

/// Streams by class. One whose OPEN is not known yet is of none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Classes {
    /// Shells, attaches.
    pub interactive: u32,
    /// Requests and watches.
    pub default: u32,
    /// Copies.
    pub bulk: u32,
}

impl Classes {
    pub(super) fn of(&mut self, class: Class) -> &mut u32 {
        match class {
            Class::Interactive => &mut self.interactive,
            Class::Default => &mut self.default,
            Class::Bulk => &mut self.bulk,
        }
    }
}

/// Why nothing more can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteEnd {
    /// This side has finished.
    Finished,
    /// The direction is over.
    Over(SendEnd),
    /// The stream, or its session, is no more.
    Gone,
}

/// The next action of a stream's writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteAction {
    /// Hand this to the transport: it was written before.
    HandOver(Chunk),
    /// Write so many bytes at the most. 0: wait for [`Event::Writable`].
    Write(usize),
}

impl Session {
    /// Opens a stream: its OPEN is the first thing to send.
    ///
    /// # Errors
    /// Where no stream may be opened now.
    pub fn open_stream(
        &mut self,
        open: impl FnOnce(StreamId) -> Open,
    ) -> Result<StreamId, OpenRefused> {
        match self.phase {
            Phase::Open => {}
            Phase::Draining => return Err(OpenRefused::Draining),
            Phase::Closed(_) => return Err(OpenRefused::Closed),
        }
        // A peer that is away hears of none of them, and must hear of all when it is back.
        if self.streams.is_full(self.role) || self.outbox.len() >= limits::LASTING_FRAMES / 2 {
            return Err(OpenRefused::Limit(self.streams.local_max()));
        }
        let id = self.next_id.ok_or(OpenRefused::Draining)?;
        self.next_id = id.next();
        let open = open(id);
        let header = frame::to_bytes(&open);
        let limit = header.len() as u64 + limits::STREAM_CREDIT;
        let mut stream = StreamState::new(limit, limits::STREAM_CREDIT);
        stream.opened = true;
        stream.held = true;
        stream.send.write(header);
        stream.classify(open.class);
        self.streams.insert(id, stream);
        self.await_answer();
        Ok(id)
    }

    /// The stream's OPEN is known, and says how urgent it is.
    pub fn classify(&mut self, id: StreamId, class: Class) {
        self.streams.classify(id, class);
    }

    /// How urgent the stream is; `None` where its OPEN is not known, or it is no more.
    pub fn class(&self, id: StreamId) -> Option<Class> {
        self.streams.get(id)?.class
    }

    /// Streams open now, of both sides, by class.
    pub fn classes(&self) -> Classes {
        self.streams.classes()
    }

    pub(super) fn see(&mut self, id: StreamId) -> Result<bool, Violation> {
        self.seen.insert(id).map_err(|_| Violation::StreamIdGaps)
    }

    /// Makes room for a new stream of the peer, or refuses it.
    pub(super) fn admit(&mut self, id: StreamId) -> bool {
        if self.streams.is_full(id.initiator()) {
            self.refuse_unseen(id, ResetCode::Overloaded);
            return false;
        }
        let stream = StreamState::new(limits::STREAM_CREDIT, limits::STREAM_CREDIT);
        self.streams.insert(id, stream);
        true
    }

    pub(super) fn refuse_unseen(&mut self, stream: StreamId, code: ResetCode) {
        self.say_now(&Lasting::Refuse(Refuse {
            stream,
            code,
            reason: "no stream is taken now".to_owned(),
        }));
    }

    /// Does not take a stream of the peer: both its directions are over.
    pub fn refuse(&mut self, id: StreamId, code: ResetCode, reason: &str) {
        let refused = self.streams.update(id, |stream| {
            stream.send.abandon(SendEnd::Reset(code));
            stream.recv.end(RecvEnd::Stopped);
        });
        if refused.is_some() {
            self.say_now(&Lasting::Refuse(Refuse {
                stream: id,
                code,
                reason: reason.to_owned(),
            }));
        }
        self.release(id);
    }

    /// Whether there is that stream.
    pub fn has(&self, id: StreamId) -> bool {
        self.streams.contains(id)
    }

    /// Bytes that may be written now: 0 until [`Event::Writable`].
    ///
    /// # Errors
    /// Where nothing more can be written.
    pub fn writable(&mut self, id: StreamId) -> Result<usize, WriteEnd> {
        let of_session = limits::SESSION_UNACKED.saturating_sub(self.streams.unacked());
        let writable = self
            .streams
            .update(id, |stream| stream.writable(of_session));
        writable.unwrap_or(Err(WriteEnd::Gone))
    }

    /// The next action of the writer of a stream that has a transport.
    ///
    /// # Errors
    /// Where nothing more can be written.
    pub fn write_action(&mut self, id: StreamId) -> Result<WriteAction, WriteEnd> {
        match self.next_chunk(id) {
            Chunk::Nothing => self.writable(id).map(WriteAction::Write),
            chunk => Ok(WriteAction::HandOver(chunk)),
        }
    }

    /// Takes bytes to send, [`writable`](Self::writable) at the most.
    pub fn write(&mut self, id: StreamId, bytes: Bytes) {
        self.streams.update(id, |stream| stream.send.write(bytes));
        self.await_answer();
    }

    /// As [`write`](Self::write), and gives the [`next_chunk`](Self::next_chunk).
    pub fn write_and_next(&mut self, id: StreamId, bytes: Bytes) -> Chunk {
        let chunk = self.streams.update(id, |stream| {
            stream.send.write(bytes);
            stream.send.offer()
        });
        self.await_answer();
        chunk.unwrap_or(Chunk::Nothing)
    }

    /// No more bytes will be written to the stream.
    pub fn finish(&mut self, id: StreamId) {
        self.streams.update(id, |stream| stream.send.finish());
        self.await_answer();
    }

    /// The next output for the stream's transport.
    pub fn next_chunk(&mut self, id: StreamId) -> Chunk {
        let chunk = self.streams.update(id, |stream| stream.send.offer());
        chunk.unwrap_or(Chunk::Nothing)
    }

    /// The transport took `len` of these bytes.
    pub fn sent(&mut self, id: StreamId, len: usize) {
        self.streams.update(id, |stream| stream.send.advance(len));
    }

    /// As [`sent`](Self::sent), and gives the [`next_chunk`](Self::next_chunk).
    pub fn sent_and_next(&mut self, id: StreamId, len: usize) -> Chunk {
        let chunk = self.streams.update(id, |stream| {
            stream.send.advance(len);
            stream.send.offer()
        });
        chunk.unwrap_or(Chunk::Nothing)
    }

    /// The transport took the clean end.
    pub fn fin_sent(&mut self, id: StreamId) {
        self.streams
            .update(id, |stream| stream.send.fin_handed_over());
    }

    /// How the stream's sending direction ended, if it did; `None` also once it is no more.
    pub fn send_end(&self, id: StreamId) -> Option<SendEnd> {
        self.streams.get(id)?.send.ended()
    }

    /// Ends the sending direction early.
    pub fn reset(&mut self, id: StreamId, code: ResetCode) {
        let goes_on = self
            .streams
            .get(id)
            .is_some_and(|stream| stream.send.ended().is_none());
        if goes_on {
            self.streams
                .update(id, |stream| stream.send.abandon(SendEnd::Reset(code)));
            self.say_now(&Lasting::ResetStream(ResetStream { stream: id, code }));
        }
        self.forget_if_over(id);
    }

    /// Reads no more of the stream.
    pub fn stop(&mut self, id: StreamId, code: ResetCode, now: Instant) {
        let stopped = self.streams.update(id, |stream| {
            let ends = stream.recv.end(RecvEnd::Stopped);
            ends.then(|| stream.send.is_open())
        });
        if let Some(Some(writing)) = stopped {
            let stop = Lasting::StopSending(StopSending { stream: id, code });
            if writing {
                self.say_now(&stop);
            } else {
                // A peer that has its answer has hardly anything more to send.
                self.say(&stop);
                self.flush_later(now);
            }
        }
        self.forget_if_over(id);
    }

    /// `len` bytes of the stream arrived.
    ///
    /// # Errors
    /// Where the peer was not allowed to send them.
    pub fn received(&mut self, id: StreamId, len: u64, now: Instant) -> Result<(), Violation> {
        let link = self.streams.get(id).and_then(|stream| stream.link);
        let pace = self.pace(link);
        let spare = self.streams.growth_left();
        let taken = self.streams.update(id, |stream| {
            let due = stream.recv.take(len, now, pace, spare)?;
            Ok::<_, OffsetError>(stream.is_news(due).then_some(due))
        });
        match taken.transpose() {
            Err(error) => return Err(Violation::Offset(id, error)),
            Ok(Some(Some(Due::Now))) => self.credit_due(id),
            Ok(Some(Some(Due::Soon))) => self.credit_soon(id, now),
            Ok(Some(None) | None) => {}
        }
        Ok(())
    }

    /// The stream's clean end arrived, behind every byte.
    pub fn fin_received(&mut self, id: StreamId, now: Instant) {
        let ended = self
            .streams
            .update(id, |stream| stream.recv.end(RecvEnd::Ended));
        if ended == Some(true) {
            self.say(&Lasting::Done(Done(id)));
            self.flush_later(now);
        }
        self.forget_if_over(id);
    }

    /// How the stream's receiving direction ended, if it did; `None` also once it is no more.
    pub fn recv_end(&self, id: StreamId) -> Option<RecvEnd> {
        self.streams.get(id)?.recv.ended().cloned()
    }

    /// This side is done with the stream, except to deliver its written bytes.
    pub fn release(&mut self, id: StreamId) {
        self.streams.update(id, |stream| stream.held = false);
        self.forget_if_over(id);
    }

    /// A stream's next CREDIT, if it has news.
    pub(super) fn take_credit(&mut self, id: StreamId) -> Option<(u64, u64)> {
        self.streams.update(id, |stream| {
            stream.news = None;
            stream.recv.has_news().then(|| stream.recv.credit())
        })?
    }

    fn forget_if_over(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(id).filter(|stream| !stream.held) else {
            return;
        };
        let (Some(send), Some(recv)) = (stream.send.ended(), stream.recv.ended()) else {
            return;
        };
        let (send, recv) = (send, recv.clone());
        self.put(id, None);
        self.streams.remove(id);
        self.events.push_back(Event::Forgotten { id, send, recv });
        self.leave_behind();
    }

    /// Whether a frame of the peer's names a stream that there is. One that was never opened, by
    /// this side, cannot be named.
    fn known(&self, id: StreamId) -> Result<bool, Violation> {
        let opened = self.next_id.is_none_or(|next| id < next);
        if id.initiator() == self.role && !opened {
            return Err(Violation::UnknownStream(id));
        }
        Ok(self.streams.contains(id))
    }

    pub(super) fn on_credit(&mut self, credit: &Credit) -> Result<(), Violation> {
        let id = credit.stream;
        if !self.known(id)? {
            return Ok(());
        }
        let credited = self.streams.update(id, |stream| {
            stream.send.credit(credit.received, credit.limit)?;
            Ok::<_, OffsetError>(std::mem::take(&mut stream.waiting))
        });
        let credited = credited.transpose();
        // Most credit comes while the writer has room: it is not woken for nothing.
        if credited.map_err(|error| Violation::Offset(id, error))? == Some(true) {
            self.events.push_back(Event::Writable(id));
        }
        Ok(())
    }

    pub(super) fn on_refuse(&mut self, refuse: Refuse) -> Result<(), Violation> {
        let id = refuse.stream;
        if id.initiator() != self.role {
            return Err(Violation::WrongInitiator(id));
        }
        if self.known(id)? {
            self.streams.update(id, |stream| {
                stream.send.abandon(SendEnd::Stopped(refuse.code));
                stream
                    .recv
                    .end(RecvEnd::Refused(refuse.code, refuse.reason));
            });
            self.events.push_back(Event::Readable(id));
            self.events.push_back(Event::Writable(id));
            self.forget_if_over(id);
        }
        Ok(())
    }

    pub(super) fn on_reset(&mut self, reset: ResetStream) -> Result<(), Violation> {
        let id = reset.stream;
        let code = reset.code;
        let reset = self
            .streams
            .update(id, |stream| stream.recv.end(RecvEnd::Reset(code)));
        if reset.is_some() {
            self.events.push_back(Event::Readable(id));
            self.forget_if_over(id);
        } else if !self.known(id)? && id.initiator() != self.role && self.see(id)? {
            // Its OPEN was overtaken, or is lost: later frames of it are dropped.
            let code = ResetCode::Cancelled;
            self.say_now(&Lasting::ResetStream(ResetStream { stream: id, code }));
        }
        Ok(())
    }

    pub(super) fn on_stop(&mut self, stop: StopSending) -> Result<(), Violation> {
        let id = stop.stream;
        let unknown = !self.known(id)?;
        if unknown && (id.initiator() == self.role || !self.see(id)? || !self.admit(id)) {
            return Ok(());
        }
        if unknown && self.phase != Phase::Open {
            self.refuse(id, ResetCode::GoingAway, "no stream is taken now");
        } else {
            let end = SendEnd::Stopped(stop.code);
            self.streams.update(id, |stream| stream.send.abandon(end));
            self.events.push_back(Event::Writable(id));
        }
        self.forget_if_over(id);
        Ok(())
    }

    pub(super) fn on_done(&mut self, Done(id): Done) -> Result<(), Violation> {
        if self.known(id)? {
            let done = self.streams.update(id, |stream| stream.send.done());
            let done = done.transpose();
            done.map_err(|error| Violation::Offset(id, error))?;
            self.forget_if_over(id);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::code::CloseCode;
    use crate::session::fixture::{self, open};
    use crate::stream::Pace;
    use crate::stream_id::Role;

    /// Whether its writer is to be woken.
    fn became_writable(session: &mut Session, id: StreamId) -> bool {
        std::iter::from_fn(|| session.poll_event()).any(|event| event == Event::Writable(id))
    }

    /// Writes, and hands it over.
    fn write(session: &mut Session, id: StreamId, len: usize) {
        session.write(id, Bytes::from(vec![0; len]));
        while let Chunk::Data(bytes) = session.next_chunk(id) {
            session.sent(id, bytes.len());
        }
    }

    #[test]
    fn what_was_written_is_handed_over_before_more_is_written() {
        let (mut session, _) = fixture::session(Role::Acceptor);
        let id = open(&mut session, Class::Default);
        session.begin(LinkId::FIRST, id).unwrap();
        let Ok(WriteAction::HandOver(Chunk::Data(open))) = session.write_action(id) else {
            panic!("its OPEN");
        };
        assert_eq!(session.sent_and_next(id, open.len()), Chunk::Nothing);

        let writable = session.writable(id).unwrap();
        assert_eq!(session.write_action(id), Ok(WriteAction::Write(writable)));
        let bytes = Bytes::from_static(b"more");
        let rest = Chunk::Data(bytes.slice(1..));
        let chunk = session.write_and_next(id, bytes.clone());
        assert_eq!(chunk, Chunk::Data(bytes));
        assert_eq!(session.sent_and_next(id, 1), rest);
        assert_eq!(session.write_action(id), Ok(WriteAction::HandOver(rest)));
        assert_eq!(session.sent_and_next(id, 3), Chunk::Nothing);
        assert_eq!(
            session.write_action(id),
            Ok(WriteAction::Write(writable - 4))
        );

        session.reset(id, ResetCode::Cancelled);
        assert!(matches!(session.write_action(id), Err(WriteEnd::Over(_))));
    }

    #[test]
    fn windows_are_small_beside_who_types_unless_the_link_keeps_its_queue_short() {
        let long = limits::LONG_PATH;
        let short = long - Duration::from_millis(1);
        let (mut session, _) = fixture::session(Role::Acceptor);
        let link = Some(LinkId::FIRST);
        session.measured(LinkId::FIRST, long);
        assert_eq!(session.pace(link), Pace::Throughput(long));
        open(&mut session, Class::Interactive);
        assert_eq!(session.pace(link), Pace::Latency(long));
        session.queue_is_short(LinkId::FIRST);
        assert_eq!(session.pace(link), Pace::Throughput(long));
        assert_eq!(session.pace(None), Pace::Latency(long), "on a link to come");
        session.measured(LinkId::FIRST, short);
        assert_eq!(session.pace(link), Pace::Latency(short));
    }

    #[test]
    fn a_session_that_has_ended_counts_no_open_streams() {
        let (mut session, _) = fixture::session(Role::Acceptor);
        for class in [Class::Interactive, Class::Default, Class::Bulk] {
            open(&mut session, class);
        }
        assert_ne!(session.unacked(), 0, "the OPENs");
        session.close(CloseCode::Shutdown, "");
        assert_eq!(session.open_streams(), 0);
        assert_eq!(session.unacked(), 0);
        assert_eq!(session.classes(), Classes::default());
    }

    #[test]
    fn credit_wakes_who_found_no_room_and_nobody_else() {
        let (mut session, _) = fixture::session(Role::Acceptor);
        let id = open(&mut session, Class::Default);
        session.begin(LinkId::FIRST, id).unwrap();
        let credit = |received| Credit {
            stream: id,
            received,
            // The OPEN takes some of the first credit.
            limit: (received + 1) * 2 * limits::STREAM_CREDIT,
        };

        let writable = session.writable(id).unwrap();
        write(&mut session, id, writable);
        session.on_credit(&credit(1)).unwrap();
        assert!(!became_writable(&mut session, id), "nobody has asked");

        let writable = session.writable(id).unwrap();
        assert_ne!(writable, 0);
        write(&mut session, id, writable);
        assert_eq!(session.writable(id), Ok(0));
        session.on_credit(&credit(2)).unwrap();
        assert!(became_writable(&mut session, id));
        session.on_credit(&credit(3)).unwrap();
        assert!(!became_writable(&mut session, id), "it knows");
    }
}
