//! Which link is the primary one, where there are two (PROTOCOL.md, "Two links").

use std::time::Instant;

use super::{LinkId, LinkRole, Session};
use crate::frame::{Ack, Control, Primary};
use crate::limits;
use crate::stream::Due;
use crate::stream_id::Role;

impl Session {
    /// The latest link that stands by.
    pub fn standby(&self) -> Option<LinkId> {
        self.standbys().next()
    }

    /// The latest link that stands by and whose peer answers.
    pub(super) fn answering_standby(&self) -> Option<LinkId> {
        self.standbys().find(|link| !self.is_silent(*link))
    }

    /// The links that stand by, the latest first.
    fn standbys(&self) -> impl Iterator<Item = LinkId> {
        let links = self.links.iter().rev();
        let standbys = links.filter(|(_, link)| link.role == LinkRole::Standby && !link.over);
        standbys.map(|(id, _)| *id)
    }

    /// The standby takes over, if there is one that answers.
    pub(super) fn use_standby(&mut self, now: Instant) {
        if let Some(standby) = self.answering_standby()
            && self.may_change(now)
        {
            self.prefer(standby, now);
        }
    }

    /// Makes a link that stands by the primary one, here and at the peer. The one that was primary stands by.
    pub fn prefer(&mut self, id: LinkId, now: Instant) {
        let stands_by = self
            .links
            .get(&id)
            .is_some_and(|link| link.role == LinkRole::Standby && !link.over);
        if self.is_closed() || !stands_by {
            return;
        }
        self.make_primary(id);
        self.say_primary();
        self.ask_primary(now);
    }

    /// Makes a link that stands by the primary one once it has answered a PING that is sent now: that it was not found silent says
    /// nothing, since one that stands by is hardly asked. Asked again, it waits for a later answer.
    pub fn prefer_once_it_answers(&mut self, id: LinkId, now: Instant) {
        if self.links.contains_key(&id) {
            self.returning = Some((id, now));
            self.ask(id, now);
            self.links_changed = true;
        }
    }

    /// A main link that joins where another one stands by: the peer may have changed to that one at the same moment.
    pub(super) fn say_primary_beside_a_standby(&mut self) {
        if self.role == Role::Connector && self.standby().is_some() {
            self.say_primary();
        }
    }

    fn say_primary(&mut self) {
        self.change += 1;
        let change = Control::Primary(Primary(self.change));
        if let Some(link) = self.primary.and_then(|id| self.links.get_mut(&id)) {
            link.queue(&change);
        }
    }

    /// A link need not stand by any more: the connector leaves it once it carries nothing.
    pub fn retire(&mut self, id: LinkId) {
        if self.primary == Some(id) || self.is_closed() {
            return;
        }
        if let Some(link) = self.links.get_mut(&id)
            && link.role == LinkRole::Standby
        {
            link.role = LinkRole::Main;
            self.links_changed = true;
        }
        self.leave_behind();
    }

    /// The peer uses that link from now on.
    pub(super) fn on_primary(&mut self, id: LinkId, Primary(change): Primary, now: Instant) {
        // Where both changed at once, the connector's word counts.
        let counts = change > self.change || (change == self.change && self.role == Role::Acceptor);
        if !counts || !self.may_change(now) {
            return;
        }
        self.change = change;
        if self.primary == Some(id) {
            return;
        }
        let before = self.primary;
        self.make_primary(id);
        self.ask_primary(now);
        // The peer may have changed since it gets no answer there: this side finds out for itself.
        if let Some(before) = before {
            if let Some(link) = self.links.get_mut(&before) {
                link.health.is_left_by_the_peer(now);
            }
            self.ask(before, now);
        }
    }

    /// Whether the primary link may change now, where the peer asks for it or is silent: each change costs a move of all
    /// streams.
    fn may_change(&mut self, now: Instant) -> bool {
        let next = self.next_change.map_or(now, |at| at.max(now));
        let may = next.saturating_duration_since(now) < limits::CHANGES * limits::CHANGE_TIME;
        if may {
            self.next_change = Some(next + limits::CHANGE_TIME);
        }
        may
    }

    /// The caller asks whether it answers.
    fn make_primary(&mut self, id: LinkId) {
        let before = self.primary.replace(id);
        if let Some(link) = before.and_then(|id| self.links.get_mut(&id)) {
            link.role = LinkRole::Standby;
        }
        self.timers.resume = None;
        self.returning = None;
        self.switches += 1;
        if let Some(link) = self.links.get_mut(&id) {
            link.role = LinkRole::Main;
            // Frames on the other link may not arrive.
            link.restart_at(self.outbox.first());
            link.queue(&Control::Ack(Ack(self.arrived)));
        }
        self.acknowledged = self.arrived;
        self.leave_lane_beside(before);
        self.say_credits_again(before);
        self.flush_now = true;
        self.changed = true;
        self.links_changed = true;
        self.rehome();
        self.leave_behind();
    }

    /// The failure that silenced a main link may have silenced the lane beside it.
    pub(super) fn leave_lane_beside(&mut self, main: Option<LinkId>) {
        if main.is_some_and(|main| self.is_silent(main))
            && let Some(lane) = self.lane
        {
            self.leave(lane, "its main link does not answer");
        }
    }

    /// CREDIT that was said on a link may not have arrived. Streams that move hear of it by their ATTACH.
    fn say_credits_again(&mut self, link: Option<LinkId>) {
        let staying: Vec<_> = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.link != link && stream.recv.ended().is_none())
            .map(|(id, _)| *id)
            .collect();
        for id in staying {
            let due = self.streams.update(id, |stream| {
                stream.recv.say_again();
                stream.is_news(Due::Now)
            });
            if due == Some(true) {
                self.credits_due.push_back(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::BytesMut;

    use super::*;
    use crate::code::ResetCode;
    use crate::frame::{Class, FrameReader, Lasting, Ping, RawFrame};
    use crate::session::fixture::{open, session};
    use crate::session::{LinkEnd, Part};

    const MAIN: LinkId = LinkId::FIRST;
    const STANDBY: LinkId = LinkId(1);

    fn two_links(role: Role) -> (Session, Instant) {
        let (mut session, now) = session(role);
        session.link_up(STANDBY, LinkRole::Standby, 0, now).unwrap();
        said(&mut session, MAIN);
        said(&mut session, STANDBY);
        (session, now)
    }

    /// The frames that a link's control stream is given.
    fn said(session: &mut Session, link: LinkId) -> Vec<Control> {
        let mut reader = FrameReader::new(limits::CONTROL_FRAME);
        while let Some(bytes) = session.poll_transmit(link) {
            reader.push(&bytes);
        }
        let next = |reader: &mut FrameReader| reader.next().unwrap();
        std::iter::from_fn(|| next(&mut reader))
            .map(|frame: RawFrame| Control::decode(frame).unwrap())
            .collect()
    }

    fn hear(session: &mut Session, link: LinkId, frame: &Control, now: Instant) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        session.handle_bytes(link, &bytes, now);
    }

    /// Lets the primary link's timers ring until there is another one, or none is set.
    fn wait(session: &mut Session, mut now: Instant) -> Instant {
        while session.primary() == Some(MAIN) {
            let Some(at) = session.next_timeout(Part::Link(MAIN), now) else {
                break;
            };
            now = at;
            session.handle_timeout(Part::Link(MAIN), now);
        }
        now
    }

    #[test]
    fn what_was_said_to_a_silent_link_is_said_again() {
        for role in [Role::Connector, Role::Acceptor] {
            let (mut session, now) = two_links(role);
            let id = open(&mut session, Class::Default);
            assert!(session.begin(MAIN, id).is_some());
            session.reset(id, ResetCode::Cancelled);
            let reset = Control::Lasting(Lasting::ResetStream(crate::frame::ResetStream {
                stream: id,
                code: ResetCode::Cancelled,
            }));
            assert!(said(&mut session, MAIN).contains(&reset));

            let later = wait(&mut session, now);
            assert_eq!(session.primary(), Some(STANDBY));
            assert!(
                later - now < Duration::from_millis(300),
                "{:?}",
                later - now
            );
            assert_eq!(session.standby(), Some(MAIN), "it may answer again");
            let said = said(&mut session, STANDBY);
            let expected = [
                Control::Sequence(crate::frame::Sequence(0)),
                reset,
                Control::Ack(Ack(0)),
                Control::Primary(Primary(1)),
            ];
            assert!(said.starts_with(&expected), "{said:?}");
            assert_eq!(session.take_arrivals(STANDBY), [id]);
        }
    }

    #[test]
    fn two_links_that_answer_are_asked_half_as_often() {
        let (mut session, now) = two_links(Role::Acceptor);
        let at = now + Duration::from_millis(1);
        // The PINGs with which a link begins.
        for asked in 0..limits::PINGS_FIRST {
            let pong = Control::Pong(crate::frame::Pong(asked.to_be_bytes()));
            hear(&mut session, MAIN, &pong, at);
            hear(&mut session, STANDBY, &pong, at);
        }
        let asked = |session: &mut Session, link| {
            let due = session.next_timeout(Part::Link(link), at).unwrap();
            (due - now).as_secs()
        };
        assert_eq!(asked(&mut session, MAIN), 30);
        assert_eq!(asked(&mut session, STANDBY), 30);
        session.keeps_itself_alive(MAIN);
        assert_eq!(session.next_timeout(Part::Link(MAIN), at), None);
        assert_eq!(asked(&mut session, STANDBY), 30);
        session.link_lost(STANDBY, at);
        assert_eq!(asked(&mut session, MAIN), 15);
    }

    #[test]
    fn a_link_that_is_lost_has_a_successor() {
        let (mut session, now) = two_links(Role::Acceptor);
        session.link_lost(MAIN, now);
        assert_eq!(
            (session.primary(), session.standby()),
            (Some(STANDBY), None)
        );
        assert_eq!(session.detached_since(), None);
        session.link_lost(STANDBY, now);
        assert_eq!(session.detached_since(), Some(now));
    }

    #[test]
    fn of_two_changes_at_once_the_connectors_counts() {
        for (role, expected) in [(Role::Connector, STANDBY), (Role::Acceptor, MAIN)] {
            let (mut session, now) = two_links(role);
            session.prefer(STANDBY, now);
            hear(&mut session, MAIN, &Control::Primary(Primary(1)), now);
            assert_eq!(session.primary(), Some(expected), "{role:?}");
            hear(&mut session, MAIN, &Control::Primary(Primary(2)), now);
            assert_eq!(session.primary(), Some(MAIN));
        }
    }

    #[test]
    fn a_link_that_the_peer_has_left_is_asked_whether_it_answers() {
        let (mut session, now) = two_links(Role::Connector);
        hear(&mut session, STANDBY, &Control::Primary(Primary(1)), now);
        assert_eq!(session.primary(), Some(STANDBY));
        assert!(session.is_silent(MAIN));
        // Its first PING is unanswered, and another one would say nothing more.
        let pong = Control::Pong(crate::frame::Pong([0; 8]));
        hear(&mut session, MAIN, &pong, now);
        assert!(!session.is_silent(MAIN));
    }

    /// The same, and the peer has answered the PINGs with which links begin.
    fn measured_links(role: Role) -> (Session, Instant) {
        let (mut session, now) = session(role);
        session.link_up(STANDBY, LinkRole::Standby, 0, now).unwrap();
        for link in [MAIN, STANDBY] {
            while let Some(Control::Ping(Ping(opaque))) = said(&mut session, link).last() {
                let pong = Control::Pong(crate::frame::Pong(*opaque));
                hear(&mut session, link, &pong, now);
            }
        }
        (session, now)
    }

    /// Of a stream whose bytes the peer has, all of them.
    fn acknowledge(session: &mut Session, stream: crate::stream_id::StreamId, now: Instant) {
        let mut received = 0;
        while let crate::stream::Chunk::Data(bytes) = session.next_chunk(stream) {
            received += bytes.len() as u64;
            session.sent(stream, bytes.len());
        }
        let limit = received + 1000;
        let credit = crate::frame::Credit {
            stream,
            received,
            limit,
        };
        hear(session, MAIN, &Control::Credit(credit), now);
    }

    /// A driver looks at its timers only when it is told to.
    #[test]
    fn what_begins_to_wait_wakes_the_driver() {
        for role in [Role::Connector, Role::Acceptor] {
            let (mut session, now) = two_links(role);
            let first = open(&mut session, Class::Default);
            assert!(session.begin(MAIN, first).is_some());
            session.next_timeout(Part::Link(MAIN), now);
            acknowledge(&mut session, first, now);
            let calm = session.next_timeout(Part::Link(MAIN), now);
            assert!(calm.is_none_or(|at| at - now > Duration::from_millis(100)));
            session.take_changed();
            let now = now + Duration::from_millis(20);
            open(&mut session, Class::Default);
            assert!(session.take_changed(), "{role:?}");
            let alarm = session.next_timeout(Part::Link(MAIN), now).unwrap();
            assert_eq!(alarm - now, limits::PROBE_DELAY, "{role:?}");
        }
    }

    #[test]
    fn a_return_waits_for_an_answer() {
        let (mut session, now) = measured_links(Role::Connector);
        session.prefer_once_it_answers(STANDBY, now);
        assert_eq!(session.primary(), Some(MAIN));
        let asked = said(&mut session, STANDBY);
        let Some(Control::Ping(ping)) = asked.first() else {
            panic!("it is asked: {asked:?}");
        };
        let pong = Control::Pong(crate::frame::Pong(ping.0));
        hear(&mut session, STANDBY, &pong, now);
        assert_eq!(session.primary(), Some(STANDBY));
        // The new one has to answer, whether anything else waits or not.
        let said = said(&mut session, STANDBY);
        assert!(
            matches!(said[..], [.., Control::Primary(_), Control::Ping(_)]),
            "{said:?}"
        );
        let alarm = session.next_timeout(Part::Link(STANDBY), now).unwrap();
        assert!(alarm - now <= limits::PROBE_ANSWER, "{:?}", alarm - now);
    }

    /// Silence that ends says nothing of how long answers take; a peer that leaves a link, nothing of its path.
    #[test]
    fn a_silence_is_no_round_trip_and_a_leave_no_false_alarm() {
        let (mut session, now) = measured_links(Role::Connector);
        let change = |session: &mut Session, to, change, now| {
            hear(session, to, &Control::Primary(Primary(change)), now);
        };
        change(&mut session, STANDBY, 1, now);
        let asked = said(&mut session, MAIN);
        let Some(Control::Ping(ping)) = asked.last() else {
            panic!("it is asked: {asked:?}");
        };
        let pong = Control::Pong(crate::frame::Pong(ping.0));
        let later = now + Duration::from_millis(50);
        hear(&mut session, MAIN, &pong, later);
        assert!(!session.is_silent(MAIN));
        assert_eq!(session.round_trip_of(MAIN), Duration::ZERO);
        change(&mut session, MAIN, 2, later);
        session.await_answer();
        open(&mut session, Class::Default);
        let asked = session.next_timeout(Part::Link(MAIN), later).unwrap();
        assert_eq!(asked - later, limits::PROBE_ANSWER, "patience as at first");
    }

    /// Nothing waits for the peer, and the next keepalive is seconds away.
    #[test]
    fn a_link_in_doubt_is_asked_at_once() {
        for role in [Role::Connector, Role::Acceptor] {
            let (mut session, now) = measured_links(role);
            session.doubt(now);
            let asked = said(&mut session, MAIN);
            assert!(matches!(asked.last(), Some(Control::Ping(_))), "{asked:?}");
            // A second doubt is no second question.
            session.doubt(now + Duration::from_millis(10));
            let later = wait(&mut session, now);
            assert!(session.is_silent(MAIN));
            assert!(later - now <= limits::PROBE_ANSWER, "{:?}", later - now);
        }
    }

    /// An acceptor on which nothing waits leaves it to the keepalive.
    #[test]
    fn a_peer_that_is_attended_to_is_asked_soon() {
        let (mut session, now) = measured_links(Role::Acceptor);
        let calm = session.next_timeout(Part::Link(MAIN), now).unwrap();
        assert!(calm - now >= limits::KEEPALIVE, "{:?}", calm - now);
        session.take_changed();
        session.attend();
        assert!(session.take_changed(), "its driver looks at the clock");
        let later = wait(&mut session, now);
        assert_eq!(session.primary(), Some(STANDBY));
        let soon = limits::LIVELY_ASK + limits::PROBE_ANSWER;
        assert!(later - now <= soon, "{:?}", later - now);

        let (mut session, now) = measured_links(Role::Acceptor);
        for _ in 0..2 {
            session.attend();
        }
        session.leave_be();
        session.next_timeout(Part::Link(MAIN), now);
        let asked = session.next_timeout(Part::Link(MAIN), now).unwrap();
        assert_eq!(asked - now, limits::LIVELY_ASK, "for the other caller");
        session.leave_be();
        let asked = session.next_timeout(Part::Link(MAIN), now).unwrap();
        assert!(asked - now >= limits::KEEPALIVE, "{:?}", asked - now);
    }

    #[test]
    fn old_news_do_not_make_a_silent_link_answer() {
        let (mut session, now) = two_links(Role::Acceptor);
        open(&mut session, Class::Default);
        let silent = wait(&mut session, now);
        session.heard(MAIN, now);
        assert!(session.is_silent(MAIN));
        session.heard(MAIN, silent);
        assert!(!session.is_silent(MAIN));
    }

    #[test]
    fn a_peer_that_changes_without_end_is_not_followed() {
        let (mut session, now) = two_links(Role::Acceptor);
        for change in 1..10_000 {
            let link = if change % 2 == 0 { MAIN } else { STANDBY };
            hear(&mut session, link, &Control::Primary(Primary(change)), now);
        }
        assert_eq!(session.switches(), u64::from(limits::CHANGES));
        let later = now + limits::CHANGE_TIME;
        hear(
            &mut session,
            STANDBY,
            &Control::Primary(Primary(10_001)),
            later,
        );
        assert_eq!(session.switches(), u64::from(limits::CHANGES) + 1);
        assert!(!session.is_closed());
    }

    #[test]
    fn a_standby_is_left_once_it_is_retired() {
        let (mut session, now) = two_links(Role::Connector);
        session.prefer(STANDBY, now);
        session.retire(MAIN);
        assert!(
            !main_is_left(&mut session),
            "the peer may not have the other"
        );
        hear(&mut session, STANDBY, &Control::Ack(Ack(0)), now);
        assert!(main_is_left(&mut session));
        assert_eq!(session.standby(), None);
    }

    /// Its end may overtake the later link's beginning at the peer, which would lose its only transport.
    #[test]
    fn an_earlier_link_stays_until_the_peer_has_the_later_one() {
        let (mut session, now) = session(Role::Connector);
        session.link_up(STANDBY, LinkRole::Main, 0, now).unwrap();
        hear(&mut session, MAIN, &Control::Ack(Ack(0)), now);
        assert!(!main_is_left(&mut session));
        hear(&mut session, STANDBY, &Control::Ping(Ping([0; 8])), now);
        assert!(main_is_left(&mut session));
    }

    fn main_is_left(session: &mut Session) -> bool {
        std::iter::from_fn(|| session.poll_event())
            .any(|event| event == super::super::Event::LinkEnded(MAIN, LinkEnd::Left))
    }
}
