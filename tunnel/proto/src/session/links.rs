//! The session's links: its control frames, on any of its transports.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use super::probe::{PathHealth, Probe};
use super::{Ending, Event, Part, Phase, Session, Violation};
use crate::DecodeError;
use crate::code::CloseCode;
use crate::frame::{
    Ack, Close, Control, Credit, FrameReader, Lasting, Leave, Ping, Pong, RawFrame, Sequence,
};
use crate::keepalive::{Due, Keepalive, Need};
use crate::limits;
use crate::stream::Pace;
use crate::stream_id::{Role, StreamId};

/// Bytes of control frames given out in one go.
const BATCH: usize = 16 * 1024;

/// A transport's number in its session: the attempt of HELLO. Later ones are higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

impl LinkId {
    /// The link on which the session began.
    pub const FIRST: Self = Self(0);

    /// The link after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The role of a link in its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkRole {
    /// It carries the session's own frames, and streams.
    Main,
    /// It carries streams of the class bulk alone, beside a main link.
    Lane,
    /// It carries nothing, and takes the main link's place when that falls silent.
    Standby,
}

/// Why a transport may not join the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LinkRefused {
    /// The session is over.
    #[error("the session has ended")]
    Closed,
    /// A later transport has joined already.
    #[error("transport {late} comes after transport {latest}")]
    Late {
        /// The transport.
        late: LinkId,
        /// The latest one.
        latest: LinkId,
    },
    /// A lane or a standby is beside a main link, and there is none.
    #[error("no main link to be beside")]
    Alone,
    /// The peer names a number of lasting frames that cannot be.
    #[error("the peer says that it has {0} lasting frames, which cannot be")]
    Frames(u64),
}

/// How a link ended, where the transport itself did not. Exhaustive: the driver acts on each way.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinkEnd {
    /// The peer stopped answering.
    #[error("the peer has not answered for {} s", .0.as_secs())]
    KeepaliveTimeout(Duration),
    /// The peer needs it no more.
    #[error("left by the peer: {code}: {reason}")]
    PeerLeft {
        /// Why, for programs.
        code: CloseCode,
        /// Why, for people.
        reason: String,
    },
    /// This side needs it no more.
    #[error("left")]
    Left,
}

/// One link's side of the control frames.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) role: LinkRole,
    /// Streams that it carries.
    pub(super) streams: usize,
    /// Streams of this side that are to begin there.
    pub(super) arrivals: Vec<StreamId>,
    reader: FrameReader,
    pub(super) keepalive: Keepalive,
    pub(super) health: PathHealth,
    pub(super) round_trip: Option<Duration>,
    /// The peer has sent a frame there: the link has joined at its side as well.
    pub(super) heard: bool,
    /// See [`Session::queue_is_short`].
    queue_is_short: bool,
    /// See [`Session::keeps_itself_alive`].
    keeps_itself_alive: bool,
    /// Frames of this link alone.
    queue: BytesMut,
    queued: usize,
    /// The number of the lasting frame to send next, and of the one that arrives next.
    next_out: u64,
    next_in: u64,
    /// The peer is to hear the value of `next_out`.
    announce: bool,
    pub(super) over: bool,
}

impl Link {
    pub(super) fn queue(&mut self, frame: &Control) {
        frame.encode(&mut self.queue);
        self.queued += 1;
    }

    pub(super) fn has_queued(&self) -> bool {
        self.queued > 0
    }

    fn on_ping(&mut self, Ping(opaque): Ping) -> Result<(), Violation> {
        self.health.is_asked();
        if self.queued >= limits::CONTROL_QUEUE {
            return Err(Violation::NotReading);
        }
        self.queue(&Control::Pong(Pong(opaque)));
        Ok(())
    }

    /// The next lasting frame to send here is that one, as the peer is told.
    pub(super) fn restart_at(&mut self, number: u64) {
        self.next_out = number;
        self.announce = true;
    }
}

impl Session {
    /// A transport has joined as `role`, whose peer says that it has `peer_has` lasting frames.
    ///
    /// # Errors
    /// Where it may not join. Nothing has changed then.
    pub fn link_up(
        &mut self,
        link: LinkId,
        role: LinkRole,
        peer_has: u64,
        now: Instant,
    ) -> Result<(), LinkRefused> {
        self.check_place(link, role)?;
        if self.outbox.acknowledge(peer_has).is_err() {
            return Err(LinkRefused::Frames(peer_has));
        }
        let next_out = self.outbox.first();
        let primary = self.primary.and_then(|primary| self.links.get(&primary));
        let health = PathHealth::new(now, primary.map(|primary| &primary.health));
        let joined = Link {
            role,
            streams: 0,
            arrivals: Vec::new(),
            reader: FrameReader::new(limits::CONTROL_FRAME),
            keepalive: Keepalive::new(self.role, self.keepalive, limits::KEEPALIVE_ANSWER, now),
            health,
            round_trip: None,
            heard: false,
            queue_is_short: false,
            keeps_itself_alive: false,
            queue: BytesMut::new(),
            queued: 0,
            next_out,
            next_in: 0,
            announce: role == LinkRole::Main && self.latest.is_some(),
            over: false,
        };
        self.links.insert(link, Box::new(joined));
        self.flush_now = true;
        match role {
            LinkRole::Main => {
                self.latest = Some(link);
                let before = self.primary.replace(link);
                self.leave_lane_beside(before);
                self.timers.resume = None;
                self.suspect = false;
                self.probe = Probe::Idle;
                if self.outbox.len() > 0 || self.streams.len() > 0 {
                    self.await_answer();
                }
                self.say_primary_beside_a_standby();
                self.ping(now);
            }
            LinkRole::Lane => {
                self.latest_lane = Some(link);
                self.lane = Some(link);
            }
            LinkRole::Standby => {
                self.latest = Some(link);
                self.ask(link, now);
                if self.primary.is_some_and(|primary| self.is_silent(primary)) {
                    self.use_standby(now);
                }
            }
        }
        self.links_changed = true;
        self.bound_links();
        self.rehome();
        self.leave_behind();
        Ok(())
    }

    /// Whether there is a place for a link with this number and role.
    fn check_place(&self, link: LinkId, role: LinkRole) -> Result<(), LinkRefused> {
        if self.is_closed() {
            return Err(LinkRefused::Closed);
        }
        let in_use = self.links.contains_key(&link).then_some(link);
        let later = self.latest(role).filter(|latest| link <= *latest);
        if let Some(latest) = later.or(in_use) {
            return Err(LinkRefused::Late { late: link, latest });
        }
        if role != LinkRole::Main && self.primary.is_none() {
            return Err(LinkRefused::Alone);
        }
        Ok(())
    }

    /// A peer that brings links and leaves none has its earliest ones left.
    fn bound_links(&mut self) {
        let excess = self.links().saturating_sub(limits::LINKS);
        let staying = self.links.iter().filter(|(_, link)| !link.over);
        let earliest: Vec<_> = staying
            .map(|(id, _)| *id)
            .filter(|id| Some(*id) != self.primary && Some(*id) != self.lane)
            .filter(|id| Some(*id) != self.standby())
            .take(excess)
            .collect();
        for link in earliest {
            self.leave(link, "too many transports at once");
        }
    }

    /// A link's transport has ended. Where it was the primary one, the standby takes its place; without one the
    /// session waits for another, or ends. The others are no substitute: earlier ones only carry streams that have
    /// not moved yet, and the same failure may have cut a lane, too.
    pub fn link_lost(&mut self, link: LinkId, now: Instant) {
        self.links.remove(&link);
        self.streams.uproot(link);
        self.lane.take_if(|lane| *lane == link);
        if self.is_closed() {
            return;
        }
        self.links_changed = true;
        if self.primary != Some(link) {
            self.rehome();
            if self.role == Role::Connector {
                self.await_answer();
            }
            return;
        }
        self.primary = None;
        // One that is silent is better than none: its own end is noticed, too.
        if let Some(standby) = self.answering_standby().or_else(|| self.standby()) {
            self.prefer(standby, now);
            return;
        }
        self.probe = Probe::Idle;
        self.timers.resume = Some(now + self.resume_window);
        let others: Vec<_> = self.links.keys().copied().collect();
        for link in others {
            self.leave(link, "the session has lost its main transport");
        }
        // At once, where the window is zero.
        self.handle_timeout(Part::Session, now);
    }

    /// This side needs a link no more: the peer is told, and the link ends.
    pub fn leave(&mut self, link: LinkId, reason: &str) {
        if self.is_closed() {
            return;
        }
        if let Some(left) = self.links.get_mut(&link)
            && !std::mem::replace(&mut left.over, true)
        {
            left.queue(&Control::Leave(Leave {
                code: CloseCode::Shutdown,
                reason: reason.to_owned(),
            }));
            self.changed = true;
            self.links_changed = true;
            self.end_link(link, LinkEnd::Left);
        }
    }

    /// Nothing new goes there.
    fn end_link(&mut self, link: LinkId, end: LinkEnd) {
        self.lane.take_if(|lane| *lane == link);
        self.events.push_back(Event::LinkEnded(link, end));
    }

    /// The main link, for streams without a lane; `None` while the session has no transport.
    pub fn primary(&self) -> Option<LinkId> {
        self.primary
    }

    /// The lane for streams of the class bulk, if there is one.
    pub fn lane(&self) -> Option<LinkId> {
        self.lane
    }

    /// Links that are not being left.
    pub fn links(&self) -> usize {
        self.links.values().filter(|link| !link.over).count()
    }

    /// The latest link that there ever was, of those that a link of this role must come after: lanes do not come in the way of
    /// the others, which may be dialled at the same time.
    pub fn latest(&self, role: LinkRole) -> Option<LinkId> {
        match role {
            LinkRole::Main | LinkRole::Standby => self.latest,
            LinkRole::Lane => self.latest_lane,
        }
    }

    /// Since when the session has no transport.
    pub fn detached_since(&self) -> Option<Instant> {
        self.timers.resume?.checked_sub(self.resume_window)
    }

    /// Lasting frames of the peer that have arrived: its next link is told this number.
    pub fn arrived(&self) -> u64 {
        self.arrived
    }

    /// No transport came in time.
    pub(super) fn on_resume_window(&mut self) {
        self.end(Ending::Detached(self.resume_window));
    }

    /// The path's round trip: the shortest measured on the primary link.
    pub fn round_trip(&self) -> Option<Duration> {
        self.links.get(&self.primary?)?.round_trip
    }

    /// The time that answers take on a link: its last measured round trip, as far as that says something of the next one. A
    /// queue that has gone would make a path seem slow for as long as nobody measures again.
    pub(super) fn round_trip_of(&self, link: LinkId) -> Duration {
        let Some(link) = self.links.get(&link) else {
            return Duration::ZERO;
        };
        let last = link.keepalive.round_trip().or(link.round_trip);
        let shortest = link.round_trip.unwrap_or_default();
        last.unwrap_or_default().min(shortest + limits::PROBE_QUEUE)
    }

    /// How large the windows of streams on a link are to be.
    pub(super) fn pace(&self, link: Option<LinkId>) -> Pace {
        // They do not grow before the first measure, a round trip after the link's beginning.
        let round_trip = self.round_trip().unwrap_or_default();
        let queue_is_short = || {
            let link = link.and_then(|id| self.links.get(&id));
            round_trip >= limits::LONG_PATH && link.is_some_and(|link| link.queue_is_short)
        };
        if self.streams.classes().interactive == 0 || queue_is_short() {
            Pace::Throughput(round_trip)
        } else {
            Pace::Latency(round_trip)
        }
    }

    /// The link's transport never has more in flight than its path holds: the rest waits at this
    /// side, where keystrokes overtake it.
    pub fn queue_is_short(&mut self, link: LinkId) {
        if let Some(link) = self.links.get_mut(&link) {
            link.queue_is_short = true;
        }
    }

    /// A link's transport itself asks its peer for a sign of life after [`limits::KEEPALIVE_MAX`] of silence, and ends where none comes.
    pub fn keeps_itself_alive(&mut self, link: LinkId) {
        if let Some(link) = self.links.get_mut(&link) {
            link.keeps_itself_alive = true;
        }
    }

    /// The transport has measured a round trip of its own.
    pub fn measured(&mut self, link: LinkId, round_trip: Duration) {
        if let Some(link) = self.links.get_mut(&link) {
            let shortest = link.round_trip.get_or_insert(round_trip);
            *shortest = round_trip.min(*shortest);
        }
    }

    /// Asks for a round trip now, unless one is being measured.
    pub fn ping(&mut self, now: Instant) {
        if let Some(primary) = self.primary {
            self.ask(primary, now);
        }
    }

    /// Bytes of some stream came over the link at `at`: the peer is there. Its PONG may stand behind
    /// many of them.
    pub fn heard(&mut self, link: LinkId, at: Instant) {
        if let Some(entry) = self.links.get_mut(&link) {
            entry.keepalive.heard(at);
            self.path_answers(link, at);
        }
    }

    /// Takes bytes of a link's control stream.
    pub fn handle_bytes(&mut self, link: LinkId, bytes: &[u8], now: Instant) {
        let Some(reader) = self.reader(link) else {
            return;
        };
        reader.push(bytes);
        while let Some(reader) = self.reader(link) {
            let handled = match reader.next() {
                Ok(Some(frame)) => self.handle_frame(link, frame, now),
                Ok(None) => return,
                Err(error) => Err(error.into()),
            };
            if let Err(violation) = handled {
                self.fail(violation);
            }
        }
    }

    /// `None` once nothing more is to be read there.
    fn reader(&mut self, link: LinkId) -> Option<&mut FrameReader> {
        if self.is_closed() {
            return None;
        }
        let link = self.links.get_mut(&link)?;
        (!link.over).then_some(&mut link.reader)
    }

    fn handle_frame(&mut self, id: LinkId, frame: RawFrame, now: Instant) -> Result<(), Violation> {
        let kind = frame.kind;
        let frame = Control::decode(frame)?;
        self.suspect = false;
        let Some(link) = self.links.get_mut(&id) else {
            return Ok(());
        };
        if link.role == LinkRole::Lane && !frame.is_of_the_link() {
            link.keepalive.heard(now);
            return Err(DecodeError::UnexpectedFrame(kind).into());
        }
        let measured = self.hear(id, &frame, now);
        let Some(link) = self.links.get_mut(&id) else {
            return Ok(());
        };
        match frame {
            Control::Ping(ping) => link.on_ping(ping)?,
            Control::Pong(_) => self.on_pong(id, measured, now),
            Control::Close(Close { code, reason }) => self.end(Ending::Peer { code, reason }),
            Control::Leave(Leave { code, reason }) => {
                link.over = true;
                self.links_changed = true;
                self.end_link(id, LinkEnd::PeerLeft { code, reason });
            }
            Control::Sequence(Sequence(number)) => {
                if number > self.arrived {
                    return Err(Violation::Sequence(number));
                }
                link.next_in = number;
            }
            Control::Ack(Ack(count)) => self
                .outbox
                .acknowledge(count)
                .map_err(|_| Violation::Acknowledgement(count))?,
            Control::Credit(credit) => self.on_credit(&credit)?,
            Control::Primary(primary) => self.on_primary(id, primary, now),
            Control::Lasting(frame) => {
                let number = link.next_in;
                link.next_in += 1;
                // A frame sent again, on a later link, counts once.
                if number == self.arrived {
                    self.arrived += 1;
                    self.flush_later(now);
                    self.handle_lasting(frame)?;
                }
            }
        }
        Ok(())
    }

    /// The peer has sent something on the link. Gives the round trip that a PONG tells of, unless it ends a silence:
    /// then it is how long the silence was.
    fn hear(&mut self, id: LinkId, frame: &Control, now: Instant) -> Option<Duration> {
        let link = self.links.get_mut(&id)?;
        link.keepalive.heard(now);
        let was_silent = link.health.is_silent();
        // Before the consequences of an answer, which may be another PING.
        let measured = match frame {
            Control::Pong(Pong(opaque)) => link.keepalive.pong(*opaque, now),
            _ => None,
        };
        if !std::mem::replace(&mut link.heard, true) {
            self.leave_behind();
        }
        if frame.is_an_answer() {
            self.path_answers(id, now);
        }
        measured.filter(|_| !was_silent)
    }

    fn on_pong(&mut self, id: LinkId, measured: Option<Duration>, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let again = link.keepalive.asked() < limits::PINGS_FIRST;
        let again = again && link.role != LinkRole::Lane;
        if let Some(round_trip) = measured {
            link.keepalive.measured(round_trip);
            self.measured(id, round_trip);
            self.answered_a_ping(id, round_trip);
        }
        if again {
            self.ask(id, now);
        }
    }

    fn handle_lasting(&mut self, frame: Lasting) -> Result<(), Violation> {
        match frame {
            Lasting::GoAway(go_away) => {
                if self.phase == Phase::Open {
                    self.phase = Phase::Draining;
                }
                // Only the first counts, which also bounds the events.
                if !std::mem::replace(&mut self.peer_goes_away, true) {
                    self.events.push_back(Event::GoAway(go_away));
                }
                Ok(())
            }
            Lasting::Refuse(refuse) => self.on_refuse(refuse),
            Lasting::ResetStream(reset) => self.on_reset(reset),
            Lasting::StopSending(stop) => self.on_stop(stop),
            Lasting::Done(done) => self.on_done(done),
        }
    }

    pub(super) fn credit_due(&mut self, id: StreamId) {
        self.credits_due.push_back(id);
        self.changed = true;
    }

    /// Whether links came, went, fell silent or changed their role since it was asked last.
    pub fn take_links_changed(&mut self) -> bool {
        std::mem::take(&mut self.links_changed)
    }

    /// How often the primary link changed to the standby.
    pub fn switches(&self) -> u64 {
        self.switches
    }

    /// Whether there may be something new to transmit, or an earlier timeout, since it was asked
    /// last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Whether a link is gone, or is being left.
    pub(super) fn is_over(&self, link: LinkId) -> bool {
        self.links.get(&link).is_none_or(|link| link.over)
    }

    /// When a link's keepalive is due.
    pub(super) fn keepalive_at(&self, link: LinkId) -> Option<Instant> {
        let need = self.need_of(link);
        let link = self.links.get(&link)?;
        link.keepalive.poll_timeout(need)
    }

    pub(super) fn on_keepalive(&mut self, link: LinkId, now: Instant) {
        let need = self.need_of(link);
        let Some(entry) = self.links.get_mut(&link) else {
            return;
        };
        match entry.keepalive.handle_timeout(need, now) {
            Some(Due::Ping(opaque)) => entry.queue(&Control::Ping(Ping(opaque))),
            Some(Due::Lost) => {
                entry.over = true;
                self.links_changed = true;
                self.end_link(link, LinkEnd::KeepaliveTimeout(limits::KEEPALIVE_ANSWER));
            }
            None => {}
        }
    }

    fn need_of(&self, link: LinkId) -> Need {
        if self.is_owed(link) {
            return Need::Owed;
        }
        let answers = |link: LinkId| !self.is_silent(link);
        let has_two = self.primary.is_some_and(answers) && self.answering_standby().is_some();
        match self.links.get(&link) {
            Some(entry) if has_two && answers(link) => match entry.keeps_itself_alive {
                true => Need::Kept,
                false => Need::Spared,
            },
            _ => Need::Only,
        }
    }

    /// Whether the peer has something to acknowledge on a link. Bytes that its application leaves
    /// unread look the same; then it answers the PING.
    fn is_owed(&self, link: LinkId) -> bool {
        if self.primary == Some(link) {
            return self.streams.unacked() > 0 || self.outbox.len() > 0;
        }
        // All kept bytes may be of streams elsewhere: then a PING was sent in vain.
        let carries = self.links.get(&link).is_some_and(|link| link.streams > 0);
        carries && self.streams.unacked() > 0
    }

    pub(super) fn queue_ack(&mut self) {
        if self.acknowledged == self.arrived {
            return;
        }
        if let Some(link) = self.primary.and_then(|id| self.links.get_mut(&id)) {
            link.queue(&Control::Ack(Ack(self.arrived)));
            self.acknowledged = self.arrived;
        }
    }

    /// Bytes to write to a link's control stream.
    pub fn poll_transmit(&mut self, link: LinkId) -> Option<Bytes> {
        if self.arrived - self.acknowledged >= limits::ACK_FRAMES {
            self.queue_ack();
        }
        let mut out = BytesMut::new();
        if self.primary == Some(link) && self.must_flush(link) {
            self.transmit_lasting(link, &mut out);
        }
        // A CLOSE is the last word, behind everything that was said before.
        if out.len() < BATCH
            && let Some(entry) = self.links.get_mut(&link)
        {
            entry.queued = 0;
            out.unsplit(std::mem::take(&mut entry.queue));
        }
        if self.primary == Some(link) && !self.is_closed() {
            self.transmit_credits(&mut out);
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    fn transmit_lasting(&mut self, link: LinkId, out: &mut BytesMut) {
        let Some(link) = self.links.get_mut(&link).filter(|link| !link.over) else {
            return;
        };
        // Of these the peer has said over another link that it has them.
        if link.next_out < self.outbox.first() {
            link.restart_at(self.outbox.first());
        }
        if std::mem::take(&mut link.announce) {
            Control::Sequence(Sequence(link.next_out)).encode(out);
        }
        while let Some(frame) = self.outbox.get(link.next_out) {
            if out.len() >= BATCH {
                return;
            }
            out.extend_from_slice(frame);
            link.next_out += 1;
        }
        self.flush_now = false;
    }

    fn transmit_credits(&mut self, out: &mut BytesMut) {
        while out.len() < BATCH
            && let Some(stream) = self.credits_due.pop_front()
        {
            if let Some((received, limit)) = self.take_credit(stream) {
                let credit = Credit {
                    stream,
                    received,
                    limit,
                };
                Control::Credit(credit).encode(out);
            }
        }
    }
}
