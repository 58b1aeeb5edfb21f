//! The session's streams: what the application and the transports do to them.

use std::time::Instant;

use bytes::Bytes;

use super::{LinkId, OpenRefused, Phase, Session, Violation};
use crate::proto::code::ResetCode;
use crate::proto::frame::{
    self, Attach, Attached, Class, Credit, Done, Lasting, Open, Refuse, ResetStream, StopSending,
};
use crate::proto::limits;
use crate::proto::session::Event;
use crate::proto::stream::{Chunk, Due, OffsetError, Receiver, RecvEnd, SendBuffer, SendEnd};
use crate::proto::stream_id::StreamId;

/// Streams of one side.
#[derive(Debug)]
pub(super) struct Count {
    open: u32,
    max: u32,
}

impl Count {
    pub(super) fn new(max: u32) -> Self {
        Self { open: 0, max }
    }

    fn is_full(&self) -> bool {
        self.open >= self.max
    }
}

#[derive(Debug)]
pub(super) struct StreamState {
    send: SendBuffer,
    recv: Receiver,
    /// How urgent it is, once its OPEN is known.
    class: Option<Class>,
    /// The link that carries it, or carried it last.
    link: Option<LinkId>,
    /// Its OPEN was passed on.
    opened: bool,
    /// Somebody has not let go of it yet.
    held: bool,
    /// Whether a CREDIT is on its way out, and how soon.
    news: Option<Due>,
}

impl StreamState {
    fn new(send_limit: u64, recv_limit: u64) -> Self {
        Self {
            send: SendBuffer::new(send_limit),
            recv: Receiver::new(recv_limit),
            class: None,
            link: None,
            opened: false,
            held: false,
            news: None,
        }
    }
}

/// Streams by class. One whose OPEN is not known yet is of none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Classes {
    /// Somebody types.
    pub interactive: u32,
    /// Requests and watches.
    pub default: u32,
    /// Copies.
    pub bulk: u32,
}

impl Classes {
    fn of(&mut self, class: Class) -> &mut u32 {
        match class {
            Class::Interactive => &mut self.interactive,
            Class::Default => &mut self.default,
            Class::Bulk => &mut self.bulk,
        }
    }
}

/// What becomes of a transport stream that names a stream of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It is that stream's, which is new: pass it on.
    New,
    /// It is that stream's, which goes on.
    Known,
    /// It is nobody's: drop it. Why, the peer has been told, or knows.
    Nobodys,
}

/// What a transport stream of this side begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// The stream's own bytes, whose first are its OPEN: the peer cannot know it yet.
    Open,
    /// ATTACH; the stream's bytes follow after the answer.
    Attach(Attach),
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
            Phase::Closed => return Err(OpenRefused::Closed),
        }
        // A peer that is away hears of none of them, and must hear of all when it is back.
        if self.local.is_full() || self.outbox.len() >= limits::LASTING_FRAMES / 2 {
            return Err(OpenRefused::Limit(self.local.max));
        }
        let id = self.next_id.ok_or(OpenRefused::Draining)?;
        self.next_id = id.next();
        self.local.open += 1;
        let open = open(id);
        let header = frame::to_bytes(&open);
        let limit = header.len() as u64 + limits::STREAM_CREDIT;
        let mut stream = StreamState::new(limit, limits::STREAM_CREDIT);
        stream.opened = true;
        stream.held = true;
        self.kept += header.len() as u64;
        stream.send.write(header);
        self.streams.insert(id, stream);
        self.classify(id, open.class);
        Ok(id)
    }

    /// The stream's OPEN is known, and says how urgent it is.
    pub fn classify(&mut self, id: StreamId, class: Class) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.class.is_none()
        {
            stream.class = Some(class);
            *self.classes.of(class) += 1;
        }
    }

    /// How urgent the stream is; `None` where its OPEN is not known, or it is no more.
    pub fn class(&self, id: StreamId) -> Option<Class> {
        self.streams.get(&id)?.class
    }

    /// Streams open now, of both sides, by class.
    pub fn classes(&self) -> Classes {
        self.classes
    }

    /// A transport stream of `link` began with the OPEN of stream `id`, a frame of `header` bytes;
    /// `taken` bytes were read from it.
    ///
    /// # Errors
    /// Where the peer may not use that id.
    pub fn take_open(
        &mut self,
        link: LinkId,
        id: StreamId,
        header: u64,
        taken: u64,
        now: Instant,
    ) -> Result<Taken, Violation> {
        match self.meet(link, id)? {
            Taken::Nobodys => return Ok(Taken::Nobodys),
            Taken::Known if self.streams.get(&id).is_some_and(|stream| stream.opened) => {
                return Err(Violation::DuplicateStream(id));
            }
            Taken::New | Taken::Known => {}
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.link = Some(link);
            stream.held = true;
            stream.opened = true;
            stream.recv.allow_header(header);
        }
        self.received(id, taken, now)?;
        Ok(Taken::New)
    }

    /// A transport stream of `link` began with ATTACH. Where it is somebody's, answer with
    /// [`attached`](Self::attached).
    ///
    /// # Errors
    /// Where the peer may not use that id.
    pub fn take_attach(&mut self, link: LinkId, id: StreamId) -> Result<Taken, Violation> {
        let mut taken = self.meet(link, id)?;
        if let Some(stream) = self.streams.get_mut(&id)
            && taken != Taken::Nobodys
        {
            stream.link = Some(link);
            if !std::mem::replace(&mut stream.opened, true) {
                stream.held = true;
                // How long its OPEN is will be seen.
                stream.recv.allow_header(limits::OPEN_FRAME_WHOLE as u64);
                taken = Taken::New;
            }
            self.leave_behind();
        }
        Ok(taken)
    }

    /// Whose a transport stream is; makes room for a stream that is new.
    fn meet(&mut self, link: LinkId, id: StreamId) -> Result<Taken, Violation> {
        if id.initiator() == self.role {
            return Err(Violation::WrongInitiator(id));
        }
        if let Some(stream) = self.streams.get(&id) {
            // A later link has taken it from this one.
            let late = stream.link.is_some_and(|current| link < current);
            return Ok(if late { Taken::Nobodys } else { Taken::Known });
        }
        if !self.see(id)? {
            return Ok(Taken::Nobodys);
        }
        if self.phase != Phase::Open {
            self.refuse_unseen(id, ResetCode::GoingAway);
            return Ok(Taken::Nobodys);
        }
        Ok(if self.admit(id) {
            Taken::New
        } else {
            Taken::Nobodys
        })
    }

    fn see(&mut self, id: StreamId) -> Result<bool, Violation> {
        self.seen.insert(id).map_err(|_| Violation::StreamIdGaps)
    }

    /// Makes room for a new stream of the peer, or refuses it.
    fn admit(&mut self, id: StreamId) -> bool {
        if self.remote.is_full() {
            self.refuse_unseen(id, ResetCode::Overloaded);
            return false;
        }
        self.remote.open += 1;
        let stream = StreamState::new(limits::STREAM_CREDIT, limits::STREAM_CREDIT);
        self.streams.insert(id, stream);
        true
    }

    fn refuse_unseen(&mut self, stream: StreamId, code: ResetCode) {
        self.say_now(&Lasting::Refuse(Refuse {
            stream,
            code,
            reason: "no stream is taken now".to_owned(),
        }));
    }

    /// Does not take a stream of the peer: both its directions are over.
    pub fn refuse(&mut self, id: StreamId, code: ResetCode, reason: &str) {
        if let Some(stream) = self.streams.get_mut(&id) {
            self.kept -= stream.send.abandon(SendEnd::Reset(code));
            stream.recv.end(RecvEnd::Stopped);
            self.say_now(&Lasting::Refuse(Refuse {
                stream: id,
                code,
                reason: reason.to_owned(),
            }));
        }
        self.release(id);
    }

    /// This side's streams that need a transport stream on a new link, the oldest first.
    pub fn own_streams(&self) -> Vec<StreamId> {
        let own = self.streams.iter().filter(|(id, stream)| {
            let over = stream.send.ended().is_some() && stream.recv.ended().is_some();
            id.initiator() == self.role && !over
        });
        let mut own: Vec<_> = own.map(|(id, _)| *id).collect();
        own.sort_unstable();
        own
    }

    /// What a stream of this side begins with on a link. `None` where it is no more, or a later link
    /// has it.
    pub fn begin(&mut self, link: LinkId, id: StreamId) -> Option<Beginning> {
        let stream = self.streams.get_mut(&id)?;
        if stream.link.is_some_and(|current| link <= current) {
            return None;
        }
        stream.link = Some(link);
        let beginning = if !stream.send.was_sent() && stream.send.ended().is_none() {
            Beginning::Open
        } else {
            let (received, limit) = stream.recv.credit();
            Beginning::Attach(Attach {
                stream: id,
                received,
                limit,
            })
        };
        self.leave_behind();
        Some(beginning)
    }

    /// Whether there is that stream.
    pub fn has(&self, id: StreamId) -> bool {
        self.streams.contains_key(&id)
    }

    /// Whether the link is the latest that the stream went to.
    pub fn is_on(&self, link: LinkId, id: StreamId) -> bool {
        self.streams
            .get(&id)
            .is_some_and(|stream| stream.link == Some(link))
    }

    /// Whether a link still carries streams.
    pub(super) fn carries(&self, link: LinkId) -> bool {
        self.streams
            .values()
            .any(|stream| stream.link == Some(link))
    }

    /// The answer to the peer's ATTACH, which said what it has; sends again from there. `None` where
    /// a later link has the stream.
    ///
    /// # Errors
    /// Where the peer cannot have that.
    pub fn attached(
        &mut self,
        link: LinkId,
        attach: Attach,
    ) -> Result<Option<Attached>, Violation> {
        if !self.rewind(link, attach.stream, attach.received, attach.limit)? {
            return Ok(None);
        }
        let stream = self.streams.get_mut(&attach.stream);
        Ok(stream.map(|stream| {
            let (received, limit) = stream.recv.credit();
            Attached { received, limit }
        }))
    }

    /// The peer's answer to ATTACH: sends again from what it has. Gives `false` where a later link
    /// has the stream.
    ///
    /// # Errors
    /// Where the peer cannot have that.
    pub fn rewind(
        &mut self,
        link: LinkId,
        id: StreamId,
        received: u64,
        limit: u64,
    ) -> Result<bool, Violation> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(false);
        };
        if stream.link != Some(link) {
            return Ok(false);
        }
        self.kept -= stream
            .send
            .rewind(received, limit)
            .map_err(|error| Violation::Offset(id, error))?;
        self.events.push_back(Event::Writable(id));
        Ok(true)
    }

    /// Bytes that may be written now: 0 until [`Event::Writable`].
    ///
    /// # Errors
    /// Where nothing more can be written.
    pub fn room(&self, id: StreamId) -> Result<usize, WriteEnd> {
        let Some(stream) = self.streams.get(&id) else {
            return Err(WriteEnd::Gone);
        };
        if let Some(end) = stream.send.ended() {
            return Err(WriteEnd::Over(end));
        }
        if !stream.send.is_open() {
            return Err(WriteEnd::Finished);
        }
        if stream.send.pieces() >= limits::STREAM_PIECES {
            return Ok(0);
        }
        let of_session = limits::SESSION_KEPT.saturating_sub(self.kept);
        let at_least = limits::STREAM_KEPT_MIN.saturating_sub(stream.send.kept());
        let room = stream.send.room().min(of_session.max(at_least));
        Ok(usize::try_from(room).unwrap_or(usize::MAX))
    }

    /// Takes bytes to send, [`room`](Self::room) at the most.
    pub fn write(&mut self, id: StreamId, bytes: Bytes) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.send.is_open()
        {
            self.kept += bytes.len() as u64;
            stream.send.write(bytes);
        }
    }

    /// No more bytes will be written to the stream.
    pub fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send.finish();
        }
    }

    /// What to hand to the stream's transport next.
    pub fn next_chunk(&mut self, id: StreamId) -> Chunk {
        let stream = self.streams.get_mut(&id);
        stream.map_or(Chunk::Nothing, |stream| stream.send.offer())
    }

    /// The transport took `len` of these bytes.
    pub fn sent(&mut self, id: StreamId, len: usize) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send.advance(len);
        }
    }

    /// The transport took the clean end.
    pub fn fin_sent(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send.fin_handed_over();
        }
    }

    /// How the stream's sending direction ended, if it did; `None` also once it is no more.
    pub fn send_end(&self, id: StreamId) -> Option<SendEnd> {
        self.streams.get(&id)?.send.ended()
    }

    /// Ends the sending direction early.
    pub fn reset(&mut self, id: StreamId, code: ResetCode) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.send.ended().is_none()
        {
            self.kept -= stream.send.abandon(SendEnd::Reset(code));
            self.say_now(&Lasting::ResetStream(ResetStream { stream: id, code }));
        }
        self.forget_if_over(id);
    }

    /// Reads no more of the stream.
    pub fn stop(&mut self, id: StreamId, code: ResetCode) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.recv.end(RecvEnd::Stopped)
        {
            self.say_now(&Lasting::StopSending(StopSending { stream: id, code }));
        }
        self.forget_if_over(id);
    }

    /// `len` bytes of the stream arrived.
    ///
    /// # Errors
    /// Where the peer was not allowed to send them.
    pub fn received(&mut self, id: StreamId, len: u64, now: Instant) -> Result<(), Violation> {
        let pace = self.pace();
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let spare = limits::SESSION_CREDIT_GROWTH.saturating_sub(self.grown);
        let before = stream.recv.grown();
        let due = stream
            .recv
            .take(len, now, pace, spare)
            .map_err(|error| Violation::Offset(id, error))?;
        self.grown = self.grown - before + stream.recv.grown();
        match (due, stream.news) {
            (Due::Now, Some(Due::Now)) | (Due::Soon, Some(_)) => {}
            (Due::Now, _) => {
                stream.news = Some(Due::Now);
                self.credit_due(id);
            }
            (Due::Soon, None) => {
                stream.news = Some(Due::Soon);
                self.credits_soon.push_back(id);
                self.acknowledge_soon(now);
            }
        }
        Ok(())
    }

    /// The stream's clean end arrived, behind every byte.
    pub fn fin_received(&mut self, id: StreamId, now: Instant) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.recv.end(RecvEnd::Ended)
        {
            self.say(&Lasting::Done(Done(id)));
            self.acknowledge_soon(now);
        }
        self.forget_if_over(id);
    }

    /// How the stream's receiving direction ended, if it did; `None` also once it is no more.
    pub fn recv_end(&self, id: StreamId) -> Option<RecvEnd> {
        self.streams.get(&id)?.recv.ended().cloned()
    }

    /// Nobody on this side has to do with the stream any more, except to deliver what it wrote.
    pub fn release(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.held = false;
        }
        self.forget_if_over(id);
    }

    /// What to tell the peer of a stream, if there is anything new.
    pub(super) fn take_credit(&mut self, id: StreamId) -> Option<(u64, u64)> {
        let stream = self.streams.get_mut(&id)?;
        stream.news = None;
        stream.recv.has_news().then(|| stream.recv.credit())
    }

    fn forget_if_over(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id).filter(|stream| !stream.held) else {
            return;
        };
        let (Some(send), Some(recv)) = (stream.send.ended(), stream.recv.ended()) else {
            return;
        };
        let (send, recv) = (send, recv.clone());
        self.grown -= stream.recv.grown();
        if let Some(class) = stream.class {
            *self.classes.of(class) -= 1;
        }
        self.streams.remove(&id);
        let count = if id.initiator() == self.role {
            &mut self.local
        } else {
            &mut self.remote
        };
        count.open = count.open.saturating_sub(1);
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
        Ok(self.streams.contains_key(&id))
    }

    pub(super) fn on_credit(&mut self, credit: &Credit) -> Result<(), Violation> {
        let id = credit.stream;
        if self.known(id)?
            && let Some(stream) = self.streams.get_mut(&id)
        {
            self.kept -= stream
                .send
                .credit(credit.received, credit.limit)
                .map_err(|error| Violation::Offset(id, error))?;
            self.events.push_back(Event::Writable(id));
        }
        Ok(())
    }

    pub(super) fn on_refuse(&mut self, refuse: Refuse) -> Result<(), Violation> {
        let id = refuse.stream;
        if id.initiator() != self.role {
            return Err(Violation::WrongInitiator(id));
        }
        if self.known(id)?
            && let Some(stream) = self.streams.get_mut(&id)
        {
            self.kept -= stream.send.abandon(SendEnd::Stopped(refuse.code));
            stream
                .recv
                .end(RecvEnd::Refused(refuse.code, refuse.reason));
            self.events.push_back(Event::Readable(id));
            self.events.push_back(Event::Writable(id));
            self.forget_if_over(id);
        }
        Ok(())
    }

    pub(super) fn on_reset(&mut self, reset: ResetStream) -> Result<(), Violation> {
        let id = reset.stream;
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.recv.end(RecvEnd::Reset(reset.code));
            self.events.push_back(Event::Readable(id));
            self.forget_if_over(id);
        } else if !self.known(id)? && id.initiator() != self.role && self.see(id)? {
            // Its OPEN was overtaken, or is lost: whatever comes of it is nobody's.
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
        } else if let Some(stream) = self.streams.get_mut(&id) {
            self.kept -= stream.send.abandon(SendEnd::Stopped(stop.code));
            self.events.push_back(Event::Writable(id));
        }
        self.forget_if_over(id);
        Ok(())
    }

    pub(super) fn on_done(&mut self, Done(id): Done) -> Result<(), Violation> {
        if self.known(id)?
            && let Some(stream) = self.streams.get_mut(&id)
        {
            let done = stream.send.done();
            self.kept -= done.map_err(|error: OffsetError| Violation::Offset(id, error))?;
            self.forget_if_over(id);
        }
        Ok(())
    }
}
