//! Which link carries a stream, and how streams go from one to another.

use std::time::Instant;

use super::{LinkId, LinkRole, Phase, Session, Violation};
use crate::code::ResetCode;
use crate::frame::{Attach, Attached, Class, Leg};
use crate::limits;
use crate::session::Event;
use crate::stream_id::{Role, StreamId};

/// The decision on a transport stream that names a stream of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It is that stream's, which is new: pass it on.
    New,
    /// It is that stream's, which goes on.
    Known,
    /// It has no stream: drop it. The peer was told why, or knows.
    Nobodys,
}

/// The first frame of a transport stream of this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// The stream's own bytes, whose first are its OPEN: the peer cannot know it yet.
    Open(Leg),
    /// ATTACH; the stream's bytes follow after the answer.
    Attach(Attach),
}

impl Session {
    // --- this side's streams ---

    /// Where a stream of that class belongs now; `None` while there is no link for it.
    fn link_of(&self, class: Option<Class>) -> Option<LinkId> {
        match class {
            Some(Class::Bulk) => self.lane.or(self.primary),
            _ => self.primary,
        }
    }

    /// Where to [`begin`](Self::begin) a stream of this side that is new; `None` while there is no link:
    /// the next one takes it.
    pub fn link_for(&self, id: StreamId) -> Option<LinkId> {
        self.link_of(self.class(id))
    }

    /// Sends each stream of this side to the link where it belongs now, the oldest first.
    pub(super) fn rehome(&mut self) {
        let own = self
            .streams
            .iter()
            .filter(|(id, stream)| id.initiator() == self.role && !stream.is_over());
        let mut moving: Vec<_> = own
            .filter_map(|(id, stream)| {
                let link = self.link_of(stream.class())?;
                (stream.link != Some(link)).then_some((*id, link))
            })
            .collect();
        moving.sort_unstable();
        for (id, link) in moving {
            if let Some(link) = self.links.get_mut(&link) {
                link.arrivals.push(id);
                self.changed = true;
            }
        }
    }

    /// This side's streams that are to [`begin`](Self::begin) on a link, since it was asked last.
    pub fn take_arrivals(&mut self, link: LinkId) -> Vec<StreamId> {
        let link = self.links.get_mut(&link);
        link.map(|link| std::mem::take(&mut link.arrivals))
            .unwrap_or_default()
    }

    /// This side's first frame of a stream on a link. `None` where the stream is gone, is there already,
    /// or does not belong there any more.
    pub fn begin(&mut self, link: LinkId, id: StreamId) -> Option<Beginning> {
        let belongs = self.link_for(id) == Some(link);
        if !belongs || self.streams.get(id)?.link == Some(link) {
            return None;
        }
        let beginning = self.streams.update(id, |stream| {
            let leg = stream.next_leg;
            stream.next_leg = leg.next();
            if !stream.send.was_sent() && stream.send.ended().is_none() {
                return Beginning::Open(leg);
            }
            let (received, limit) = stream.recv.credit();
            Beginning::Attach(Attach {
                stream: id,
                leg,
                received,
                limit,
            })
        })?;
        self.put(id, Some(link));
        self.leave_behind();
        Some(beginning)
    }

    // --- the peer's ---

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
        if self.meet(id, Leg::FIRST)? == Taken::Nobodys {
            return if self.is_current(id, Leg::FIRST) {
                Err(Violation::DuplicateStream(id))
            } else {
                Ok(Taken::Nobodys)
            };
        }
        self.take(link, id, Leg::FIRST, header);
        self.opened = Some(now);
        if self.role == Role::Connector {
            self.await_answer();
        }
        self.received(id, taken, now)?;
        Ok(Taken::New)
    }

    /// A transport stream of `link` began with ATTACH. Unless it is [`Taken::Nobodys`], answer with
    /// [`attached`](Self::attached).
    ///
    /// # Errors
    /// Where the peer may not use that id.
    pub fn take_attach(
        &mut self,
        link: LinkId,
        id: StreamId,
        leg: Leg,
    ) -> Result<Taken, Violation> {
        let taken = self.meet(id, leg)?;
        if taken == Taken::Nobodys {
            return Ok(taken);
        }
        // Of a stream that begins so, it will be seen how long its OPEN is.
        let first = self.take(link, id, leg, limits::OPEN_FRAME_WHOLE as u64);
        self.leave_behind();
        Ok(if first { Taken::New } else { Taken::Known })
    }

    /// Finds the stream of a transport stream; makes room for a new one.
    fn meet(&mut self, id: StreamId, leg: Leg) -> Result<Taken, Violation> {
        if id.initiator() == self.role {
            return Err(Violation::WrongInitiator(id));
        }
        if let Some(stream) = self.streams.get(id) {
            // A later leg may have arrived before.
            let late = leg < stream.next_leg;
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

    /// A stream of the peer's goes on with that leg; says whether it begins so.
    fn take(&mut self, link: LinkId, id: StreamId, leg: Leg, header: u64) -> bool {
        self.put(id, Some(link));
        let first = self.streams.update(id, |stream| {
            stream.next_leg = leg.next();
            let first = !std::mem::replace(&mut stream.opened, true);
            if first {
                stream.held = true;
                stream.recv.allow_header(header);
            }
            first
        });
        first.unwrap_or(false)
    }

    /// The answer to the peer's ATTACH, which has its offset; sends again from there. `None` where
    /// a later leg has the stream.
    ///
    /// # Errors
    /// Where the peer cannot have that.
    pub fn attached(&mut self, attach: Attach) -> Result<Option<Attached>, Violation> {
        if !self.rewind(attach.stream, attach.leg, attach.received, attach.limit)? {
            return Ok(None);
        }
        Ok(self.streams.update(attach.stream, |stream| {
            let (received, limit) = stream.recv.credit();
            Attached { received, limit }
        }))
    }

    // --- both sides' ---

    /// Whether no later leg of the stream has begun.
    pub fn is_current(&self, id: StreamId, leg: Leg) -> bool {
        let stream = self.streams.get(id);
        stream.is_some_and(|stream| stream.next_leg == leg.next())
    }

    /// The peer's offset in ATTACH, or in the answer to it: sends again from there. Gives `false`
    /// where a later leg has the stream.
    ///
    /// # Errors
    /// Where the peer cannot have that.
    pub fn rewind(
        &mut self,
        id: StreamId,
        leg: Leg,
        received: u64,
        limit: u64,
    ) -> Result<bool, Violation> {
        if !self.is_current(id, leg) {
            return Ok(false);
        }
        let rewound = self
            .streams
            .update(id, |stream| stream.send.rewind(received, limit));
        let Some(rewound) = rewound else {
            return Ok(false);
        };
        rewound.map_err(|error| Violation::Offset(id, error))?;
        self.events.push_back(Event::Writable(id));
        Ok(true)
    }

    /// Notes which link carries a stream.
    pub(super) fn put(&mut self, id: StreamId, link: Option<LinkId>) {
        let before = self
            .streams
            .update(id, |stream| std::mem::replace(&mut stream.link, link));
        let Some(before) = before else { return };
        if before == link {
            return;
        }
        if let Some(before) = before.and_then(|id| self.links.get_mut(&id)) {
            before.streams -= 1;
        }
        if let Some(now) = link.and_then(|id| self.links.get_mut(&id)) {
            now.streams += 1;
        }
    }

    /// The connector leaves links that carry nothing any more, now that there is a later one; and a lane
    /// that nothing needs. A main link stays until the peer has sent something on the later one: the end of the earlier one may
    /// arrive before the later one has joined there, and would be the loss of the peer's only transport.
    pub(super) fn leave_behind(&mut self) {
        if self.links.len() < 2 || self.role != Role::Connector {
            return;
        }
        let primary = self.primary.and_then(|primary| self.links.get(&primary));
        let heard = primary.is_some_and(|primary| primary.heard);
        let idle: Vec<_> = self
            .links
            .iter()
            .filter(|(_, link)| link.streams == 0 && !link.over)
            .map(|(id, link)| (*id, link.role))
            .filter(|(id, role)| Some(*id) != self.primary && *role != LinkRole::Standby)
            .filter(|(id, role)| match role {
                LinkRole::Lane => Some(*id) != self.lane || self.streams.classes().bulk == 0,
                LinkRole::Main | LinkRole::Standby => heard,
            })
            .collect();
        for (id, role) in idle {
            let reason = match role {
                LinkRole::Main | LinkRole::Standby => "the session goes on, on another transport",
                LinkRole::Lane => "the lane is not needed any more",
            };
            self.leave(id, reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::DecodeError;
    use crate::code::CloseCode;
    use crate::frame::{Ack, Control, Credit, Lasting, Ping};
    use crate::session::fixture::{open, session};
    use crate::session::{Ending, LinkEnd, LinkRefused};

    fn begun(session: &mut Session, class: Class) -> StreamId {
        let id = open(session, class);
        let link = session.link_for(id).unwrap();
        assert!(matches!(
            session.begin(link, id),
            Some(Beginning::Open(Leg::FIRST))
        ));
        // All of its OPEN is with the transport.
        while let crate::stream::Chunk::Data(bytes) = session.next_chunk(id) {
            session.sent(id, bytes.len());
        }
        id
    }

    fn link_ends(session: &mut Session) -> Vec<(LinkId, LinkEnd)> {
        let mut ends = Vec::new();
        while let Some(event) = session.poll_event() {
            if let Event::LinkEnded(link, end) = event {
                ends.push((link, end));
            }
        }
        ends
    }

    #[test]
    fn copies_go_to_the_lane_and_back() {
        let (mut session, now) = session(Role::Acceptor);
        let typed = begun(&mut session, Class::Interactive);
        let copy = begun(&mut session, Class::Bulk);
        session.link_up(LinkId(1), LinkRole::Lane, 0, now).unwrap();
        assert_eq!(session.take_arrivals(LinkId(1)), [copy]);
        assert_eq!(session.begin(LinkId(1), typed), None);
        let Some(Beginning::Attach(first)) = session.begin(LinkId(1), copy) else {
            panic!("it moves");
        };
        assert_eq!(session.begin(LinkId(1), copy), None, "it is there");

        session.link_lost(LinkId(1), now);
        assert_eq!(session.take_arrivals(LinkId(0)), [copy]);
        let Some(Beginning::Attach(second)) = session.begin(LinkId(0), copy) else {
            panic!("it moves back");
        };
        assert!(second.leg > first.leg);
        assert_eq!(
            session.rewind(copy, first.leg, 0, 1000),
            Ok(false),
            "the answer to an earlier leg is late"
        );
        assert_eq!(session.rewind(copy, second.leg, 0, 1000), Ok(true));
    }

    /// A lane's LEAVE may meet a stream that was opened there at the same moment.
    #[test]
    fn a_stream_that_met_the_end_of_its_lane_goes_to_the_main_link() {
        let (mut session, now) = session(Role::Acceptor);
        session.link_up(LinkId(1), LinkRole::Lane, 0, now).unwrap();
        let copy = begun(&mut session, Class::Bulk);
        let mut leave = BytesMut::new();
        let code = CloseCode::Shutdown;
        let reason = String::new();
        Control::Leave(crate::frame::Leave { code, reason }).encode(&mut leave);
        session.handle_bytes(LinkId(1), &leave, now);
        assert_eq!(
            session.link_for(copy),
            Some(LinkId(0)),
            "nothing new goes there"
        );
        session.link_lost(LinkId(1), now);
        assert_eq!(session.take_arrivals(LinkId(0)), [copy]);
    }

    #[test]
    fn the_connector_leaves_a_lane_that_nothing_needs() {
        let (mut session, now) = session(Role::Connector);
        let copy = begun(&mut session, Class::Bulk);
        session.link_up(LinkId(1), LinkRole::Lane, 0, now).unwrap();
        assert_eq!(link_ends(&mut session), []);
        session.begin(LinkId(1), copy).unwrap();
        session.reset(copy, ResetCode::Cancelled);
        session.stop(copy, ResetCode::Cancelled, now);
        session.release(copy);
        assert_eq!(link_ends(&mut session), [(LinkId(1), LinkEnd::Left)]);
        assert_eq!(session.lane(), None);
    }

    #[test]
    fn a_lane_says_nothing_of_the_session() {
        for frame in [
            Control::Ack(Ack(0)),
            Control::Credit(Credit {
                stream: StreamId::first(Role::Acceptor),
                received: 0,
                limit: 0,
            }),
            Control::Lasting(Lasting::Done(crate::frame::Done(StreamId::first(
                Role::Acceptor,
            )))),
        ] {
            let (mut session, now) = session(Role::Acceptor);
            begun(&mut session, Class::Default);
            session.link_up(LinkId(1), LinkRole::Lane, 0, now).unwrap();
            let mut bytes = BytesMut::new();
            Control::Ping(Ping([1; 8])).encode(&mut bytes);
            session.handle_bytes(LinkId(1), &bytes, now);
            assert!(session.is_open());
            bytes.clear();
            frame.encode(&mut bytes);
            session.handle_bytes(LinkId(1), &bytes, now);
            let told =
                std::iter::from_fn(|| session.poll_event()).any(|event| event == Event::Closed);
            let unexpected = matches!(
                session.ending(),
                Some(Ending::Violation(Violation::Decode(
                    DecodeError::UnexpectedFrame(_)
                )))
            );
            assert!(told && unexpected, "{frame:?}");
        }
    }

    #[test]
    fn a_lane_is_never_alone() {
        let (mut session, now) = session(Role::Acceptor);
        session.link_up(LinkId(1), LinkRole::Lane, 0, now).unwrap();
        session.link_lost(LinkId(0), now);
        assert_eq!(link_ends(&mut session), [(LinkId(1), LinkEnd::Left)]);
        assert_eq!((session.primary(), session.lane()), (None, None));
        assert_eq!(
            session.link_up(LinkId(2), LinkRole::Lane, 0, now),
            Err(LinkRefused::Alone)
        );
        // A refused link does not use up its number.
        session.link_up(LinkId(2), LinkRole::Main, 0, now).unwrap();
    }

    /// A lane and a later main link are dialled at the same time, and the two sides may see them in different orders.
    #[test]
    fn a_lane_and_a_main_link_do_not_come_in_each_others_way() {
        let (mut session, now) = session(Role::Acceptor);
        session.link_up(LinkId(2), LinkRole::Lane, 0, now).unwrap();
        session.link_up(LinkId(1), LinkRole::Main, 0, now).unwrap();
        session.link_up(LinkId(5), LinkRole::Main, 0, now).unwrap();
        session.link_up(LinkId(4), LinkRole::Lane, 0, now).unwrap();
        assert_eq!(session.primary(), Some(LinkId(5)));
        assert_eq!(session.lane(), Some(LinkId(4)));
        // Of each kind the later one counts, and no two links have one number.
        for (link, role) in [
            (3, LinkRole::Lane),
            (4, LinkRole::Main),
            (4, LinkRole::Standby),
            (5, LinkRole::Lane),
        ] {
            let refused = session.link_up(LinkId(link), role, 0, now);
            assert!(
                matches!(refused, Err(LinkRefused::Late { .. })),
                "{link} {role:?}: {refused:?}"
            );
        }
    }

    #[test]
    fn a_peer_that_brings_links_without_end_has_few_of_them() {
        for role in [LinkRole::Main, LinkRole::Lane, LinkRole::Standby] {
            let (mut session, now) = session(Role::Acceptor);
            let all = 3 * limits::LINKS as u64;
            for link in 1..=all {
                session.link_up(LinkId(link), role, 0, now).unwrap();
                assert!(session.links() <= limits::LINKS);
            }
            let left = link_ends(&mut session);
            assert_eq!(left.len(), 2 * limits::LINKS + 1);
            assert!(left.iter().all(|(_, end)| *end == LinkEnd::Left));
            let latest = Some(LinkId(all));
            match role {
                LinkRole::Main => assert_eq!(session.primary(), latest),
                LinkRole::Lane => {
                    assert_eq!(
                        (session.primary(), session.lane()),
                        (Some(LinkId(0)), latest)
                    );
                }
                LinkRole::Standby => {
                    assert_eq!(
                        (session.primary(), session.standby()),
                        (Some(LinkId(0)), latest)
                    );
                }
            }
        }
    }

    #[test]
    fn a_second_open_is_a_violation_and_one_behind_its_attach_is_late() {
        let now = Instant::now();
        let id = StreamId::first(Role::Connector);
        let (mut twice, _) = session(Role::Acceptor);
        assert_eq!(twice.take_open(LinkId(0), id, 10, 10, now), Ok(Taken::New));
        assert_eq!(
            twice.take_open(LinkId(0), id, 10, 10, now),
            Err(Violation::DuplicateStream(id))
        );
        let (mut overtaken, _) = session(Role::Acceptor);
        assert_eq!(overtaken.take_attach(LinkId(0), id, Leg(1)), Ok(Taken::New));
        assert_eq!(
            overtaken.take_open(LinkId(0), id, 10, 10, now),
            Ok(Taken::Nobodys)
        );
        assert_eq!(
            overtaken.take_attach(LinkId(0), id, Leg(1)),
            Ok(Taken::Nobodys),
            "nor is a leg taken twice"
        );
        assert_eq!(
            overtaken.take_attach(LinkId(0), id, Leg(2)),
            Ok(Taken::Known)
        );
    }
}
