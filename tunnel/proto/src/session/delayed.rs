//! Delayed output: acknowledgements, the ends of streams, and bytes that wait for more.
//! A message of its own costs both sides a system call and a wake-up, more than a small request does.

use std::time::Instant;

use bytes::Bytes;

use super::streams::StreamState;
use super::{LinkId, Session};
use crate::limits;
use crate::stream_id::StreamId;

/// The delayed output. [`Timer`](super::timers::Timer) says when it is due.
#[derive(Debug, Default)]
pub(super) struct DelayedOutput {
    /// Streams whose CREDIT is due soon.
    credits: Vec<StreamId>,
    /// Streams with bytes that wait for more to go with them.
    coalescing: Vec<StreamId>,
    /// Streams where they have waited long enough.
    overdue: Vec<StreamId>,
}

impl Session {
    /// A CREDIT of the stream goes out soon.
    pub(super) fn credit_soon(&mut self, id: StreamId, now: Instant) {
        self.delayed.credits.push(id);
        self.acknowledge_soon(now);
    }

    fn acknowledge_soon(&mut self, now: Instant) {
        if self.timers.acknowledge.is_none() {
            self.timers.acknowledge = Some(now + limits::ACK_DELAY);
            self.changed = true;
        }
    }

    /// Delays output that the peer does not wait for.
    pub(super) fn flush_later(&mut self, now: Instant) {
        if self.timers.flush.is_none() {
            self.timers.flush = Some(now + limits::FLUSH_DELAY);
            self.changed = true;
        }
    }

    /// As [`write`](Self::write), for bytes that can wait for more of the stream to go with them. Until there is
    /// more, or acknowledgements are due, [`next_chunk`](Self::next_chunk) does not give them;
    /// [`take_overdue`](Self::take_overdue) names the streams where it does from then on.
    pub fn write_coalesced(&mut self, id: StreamId, bytes: Bytes, now: Instant) {
        let taken = self.streams.update(id, |stream| {
            let open = stream.send.is_open();
            stream.send.write_coalesced(bytes);
            open
        });
        if taken == Some(true) {
            self.delayed.coalescing.push(id);
            self.acknowledge_soon(now);
            self.await_answer();
        }
    }

    /// Streams whose bytes have waited long enough: they are to be handed over.
    pub fn take_overdue(&mut self) -> Vec<StreamId> {
        let mut overdue = std::mem::take(&mut self.delayed.overdue);
        overdue.retain(|id| {
            let flushed = self.streams.update(*id, |stream| stream.send.flush());
            flushed.unwrap_or(false)
        });
        overdue
    }

    /// Acknowledgements are due: they take everything else along, where there are any.
    pub(super) fn on_acknowledge(&mut self) {
        self.timers.acknowledge = None;
        let delayed = &mut self.delayed;
        delayed.overdue.append(&mut delayed.coalescing);
        // Of streams that have ended meanwhile there is nothing to say.
        let streams = &mut self.streams;
        delayed.credits.retain(|id| {
            let news = streams.update(*id, StreamState::still_has_news);
            news.unwrap_or(false)
        });
        if !delayed.credits.is_empty() {
            self.flush_delayed();
        }
    }

    /// The delayed output goes out with the next transmission.
    pub(super) fn flush_delayed(&mut self) {
        self.timers.flush = None;
        self.flush_now = true;
        self.credits_due.extend(self.delayed.credits.drain(..));
        self.queue_ack();
    }

    /// Whether something goes out on the primary link now, and gathered frames with it.
    pub(super) fn must_flush(&self, primary: LinkId) -> bool {
        let link = self.links.get(&primary);
        self.flush_now || link.is_some_and(|link| link.has_queued()) || !self.credits_due.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::code::ResetCode;
    use crate::frame::Class;
    use crate::session::Part;
    use crate::session::fixture::{self, open};
    use crate::stream::Chunk;
    use crate::stream_id::Role;

    const LINK: LinkId = LinkId::FIRST;
    const PART: Part = Part::Link(LINK);
    const MILLISECOND: Duration = Duration::from_millis(1);

    /// A session that has a stream, and has said and handed over everything.
    fn session() -> (Session, StreamId, Instant) {
        let (mut session, now) = fixture::session(Role::Acceptor);
        let id = open(&mut session, Class::Default);
        session.begin(LINK, id).unwrap();
        hand_over(&mut session, id);
        while session.poll_transmit(LINK).is_some() {}
        (session, id, now)
    }

    /// The output for the stream's transport.
    fn hand_over(session: &mut Session, id: StreamId) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        loop {
            let chunk = session.next_chunk(id);
            match &chunk {
                Chunk::Nothing => return chunks,
                Chunk::Data(bytes) => session.sent(id, bytes.len()),
                Chunk::Fin => session.fin_sent(id),
            }
            chunks.push(chunk);
        }
    }

    #[test]
    fn bytes_that_wait_are_named_when_acknowledgements_are_due() {
        let (mut session, id, now) = session();
        session.write_coalesced(id, Bytes::from_static(b"answer"), now);
        assert_eq!(session.take_overdue(), []);
        assert_eq!(hand_over(&mut session, id), []);
        assert_eq!(
            session.next_timeout(PART, now),
            Some(now + limits::ACK_DELAY)
        );
        session.handle_timeout(PART, now + limits::ACK_DELAY);
        assert_eq!(session.take_overdue(), [id]);
        assert_eq!(session.take_overdue(), []);
        assert_eq!(hand_over(&mut session, id).len(), 1);
        assert_eq!(session.poll_transmit(LINK), None);
    }

    #[test]
    fn bytes_that_went_with_others_are_not_named() {
        let (mut session, id, now) = session();
        session.write_coalesced(id, Bytes::from_static(b"answer"), now);
        session.write(id, Bytes::from_static(b"more"));
        assert_eq!(hand_over(&mut session, id).len(), 2);
        session.handle_timeout(PART, now + limits::ACK_DELAY);
        assert_eq!(session.take_overdue(), []);
    }

    #[test]
    fn a_request_that_is_over_costs_no_message() {
        let (mut session, id, now) = session();
        session.received(id, 1000, now).unwrap();
        session.fin_received(id, now + MILLISECOND);
        let due = now + limits::ACK_DELAY;
        session.handle_timeout(PART, due);
        assert_eq!(session.poll_transmit(LINK), None);
        let flushed = now + MILLISECOND + limits::FLUSH_DELAY;
        assert_eq!(session.next_timeout(PART, due), Some(flushed));
        session.handle_timeout(PART, flushed);
        assert!(session.poll_transmit(LINK).is_some(), "DONE");
        assert_eq!(session.poll_transmit(LINK), None);
    }

    #[test]
    fn what_is_read_is_acknowledged_soon_and_takes_the_rest_along() {
        let (mut session, id, now) = session();
        let other = open(&mut session, Class::Default);
        session.fin_received(other, now);
        session.received(id, 1000, now).unwrap();
        session.handle_timeout(PART, now + limits::ACK_DELAY);
        let sent = session.poll_transmit(LINK).unwrap();
        assert!(sent.len() > 6, "a CREDIT and a DONE: {sent:?}");
        let later = session.next_timeout(PART, now).unwrap();
        assert!(later > now + limits::FLUSH_DELAY, "nothing is left");
        // And again, for later bytes.
        session.received(id, 1000, later).unwrap();
        session.handle_timeout(PART, later + limits::ACK_DELAY);
        assert!(session.poll_transmit(LINK).is_some());
    }

    #[test]
    fn who_has_answered_says_later_that_he_reads_no_more() {
        let (mut session, id, now) = session();
        let other = open(&mut session, Class::Default);
        session.finish(id);
        session.stop(id, ResetCode::Cancelled, now);
        assert_eq!(session.poll_transmit(LINK), None);
        session.stop(other, ResetCode::Cancelled, now);
        let sent = session.poll_transmit(LINK).unwrap();
        assert!(sent.len() > 6, "both: {sent:?}");
        assert_eq!(session.poll_transmit(LINK), None);
    }
}
