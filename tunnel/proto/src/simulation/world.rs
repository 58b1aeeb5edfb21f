//! The world: its events, and the invariants that must hold.

#[cfg(test)]
mod dead_path;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

#[cfg(test)]
pub(crate) use self::dead_path::{Dies, Waits};
use super::end::{Attaching, Attachment, End, Stream};
use super::network::{Item, Transport};
use crate::choices::Choices;
use crate::code::{CloseCode, ResetCode};
use crate::frame::{
    self, Attach, Attached, Body, Class, Control, Credit, Done, FrameReader, GoAway, Lasting, Leg,
    Open, Ping, RawFrame,
};
use crate::limits;
use crate::session::{
    Agreed, Beginning, Ending, LinkEnd, LinkId, LinkRefused, LinkRole, OpenRefused, Part, Taken,
    Violation,
};
use crate::stream::RecvEnd;
use crate::stream_id::StreamId;

/// The longest that anything is under way, in milliseconds: well below the time for an answer.
const DELAY_MAX: u32 = 2000;

/// The most bytes written in one go: several of them fill a window.
const WRITE_MAX: u32 = 96 * 1024;

const INTERVAL: Duration = Duration::from_secs(5);
const RESUME_WINDOW: Duration = Duration::from_secs(20);
const STREAMS: [u32; 2] = [5, 9];

/// A transport's handshake, between HELLO and its end.
struct Handshake {
    link: LinkId,
    role: LinkRole,
    at: Duration,
    connector_has: u64,
    /// The acceptor's count, once it has joined.
    acceptor_has: Option<u64>,
}

pub(crate) struct World<'a> {
    choices: &'a mut dyn Choices,
    /// The longest that anything is under way, in milliseconds.
    delay_max: u32,
    start: Instant,
    now: Duration,
    ends: [End; 2],
    transports: BTreeMap<LinkId, Transport>,
    next_link: LinkId,
    handshakes: Vec<Handshake>,
    /// Something was injected that no honest peer sends.
    poisoned: bool,
}

impl<'a> World<'a> {
    pub(crate) fn new(choices: &'a mut dyn Choices) -> Self {
        Self::with_delays(choices, DELAY_MAX)
    }

    fn with_delays(choices: &'a mut dyn Choices, delay_max: u32) -> Self {
        let start = Instant::now();
        let agreed = |local: usize, remote: usize| Agreed {
            local_streams: STREAMS[local],
            remote_streams: STREAMS[remote].try_into().expect("in range"),
            keepalive: INTERVAL.try_into().expect("in range"),
            resume_window: RESUME_WINDOW.try_into().expect("in range"),
        };
        let mut world = Self {
            choices,
            delay_max,
            start,
            now: Duration::ZERO,
            ends: [
                End::new(0, &agreed(0, 1), start),
                End::new(1, &agreed(1, 0), start),
            ],
            transports: BTreeMap::new(),
            next_link: LinkId::FIRST,
            handshakes: Vec::new(),
            poisoned: false,
        };
        let link = world.transport();
        for end in [1, 0] {
            world.join(end, link, LinkRole::Main, 0);
        }
        world
    }

    /// Follows the choices until they run out or `steps` are done, then lets everything
    /// come to its end.
    pub(crate) fn run(mut self, steps: u32) {
        for _ in 0..steps {
            let (Some(end), Some(deed)) = (self.choices.pick(2), self.choices.pick(64)) else {
                break;
            };
            self.step(end as usize, deed);
            self.settle();
        }
        self.conclude();
    }

    fn instant(&self) -> Instant {
        self.start + self.now
    }

    fn step(&mut self, end: usize, deed: u32) {
        let now = self.instant();
        let pick = self.choices.below(16) as usize;
        let session = &mut self.ends[end].session;
        match deed {
            0..=7 => self.open(end),
            8..=19 => self.write(end, pick),
            20..=31 => self.read(end, pick),
            32..=34 => self.with_stream(end, pick, End::finish),
            35 => self.with_stream(end, pick, |end, id| end.reset(id, ResetCode::TargetFailed)),
            36 => self.with_stream(end, pick, |end, id| {
                end.stop(id, ResetCode::Overloaded, now);
            }),
            37 => self.with_stream(end, pick, End::refuse),
            38..=40 => self.with_stream(end, pick, |end, id| end.release(id, now)),
            41..=44 => self.cut(),
            45..=47 => self.dial(LinkRole::Main),
            48 | 55 => self.dial(LinkRole::Lane),
            49 if pick < 8 => self.leave(end),
            50 => session.ping(now),
            51 => session.suspect(now),
            52 if pick < 3 => session.go_away(GoAway {
                code: CloseCode::Shutdown,
                return_after_ms: 7,
                reason: "simulated".repeat(pick),
            }),
            53 if pick < 1 => session.close(CloseCode::Shutdown, "simulated"),
            54 if pick < 2 => self.poison(end),
            56 | 60 => self.dial(LinkRole::Standby),
            57 => self.mute([true, pick < 8], pick.is_multiple_of(3)),
            58 => self.mute([false, false], false),
            59 => {
                if let Some(standby) = session.standby() {
                    session.prefer(standby, now);
                }
            }
            _ => {
                let millis = self.choices.below(1500);
                self.pass(Duration::from_millis(millis.into()));
            }
        }
    }

    fn with_stream(&mut self, end: usize, pick: usize, deed: impl FnOnce(&mut End, StreamId)) {
        let mut ids: Vec<_> = self.ends[end].streams.keys().copied().collect();
        ids.sort();
        if !ids.is_empty() {
            let id = ids[pick % ids.len()];
            deed(&mut self.ends[end], id);
        }
    }

    fn open(&mut self, which: usize) {
        let target = "x".repeat(self.choices.below(40) as usize);
        let class = match self.choices.below(3) {
            0 => Class::Bulk,
            1 => Class::Interactive,
            _ => Class::Default,
        };
        let end = &mut self.ends[which];
        let was_open = end.session.is_open();
        let mut opened = None;
        let result = end.session.open_stream(|stream| {
            opened = Some(stream);
            Open {
                stream,
                class,
                target,
                header: Bytes::new(),
            }
        });
        match result {
            Ok(id) => {
                assert!(was_open, "only an open session opens");
                assert_eq!((id.initiator(), Some(id)), (end.role, opened));
                assert!(end.truth.insert(id, Default::default()).is_none());
                end.streams.insert(id, Stream::default());
                if let Some(link) = self.ends[which].session.link_for(id) {
                    self.begin(which, link, id);
                }
            }
            Err(OpenRefused::Limit(_)) => {}
            Err(OpenRefused::Draining | OpenRefused::Closed) => assert!(!was_open),
        }
    }

    fn write(&mut self, end: usize, pick: usize) {
        let len = 1 + self.choices.below(WRITE_MAX);
        let now = self.instant();
        let soon = (self.choices.below(4) == 0).then_some(now);
        self.with_stream(end, pick, |end, id| end.write(id, len.into(), soon));
    }

    // --- transports ---

    fn transport(&mut self) -> LinkId {
        let link = self.next_link;
        self.next_link = link.next();
        self.transports.insert(link, Transport::new());
        link
    }

    /// The connector dials, whether it has a transport or not.
    fn dial(&mut self, role: LinkRole) {
        if self.ends[0].ending.is_some() || self.handshakes.len() > 2 {
            return;
        }
        let link = self.transport();
        let at = self.arrival();
        self.handshakes.push(Handshake {
            link,
            role,
            at,
            connector_has: self.ends[0].session.arrived(),
            acceptor_has: None,
        });
    }

    fn advance_handshakes(&mut self) {
        let now = self.now;
        for mut handshake in std::mem::take(&mut self.handshakes) {
            let dead = self
                .transports
                .get(&handshake.link)
                .is_none_or(|link| link.dead || link.mute.contains(&true));
            if handshake.at > now {
                self.handshakes.push(handshake);
            } else if dead {
                // Neither end hears of it.
            } else if let Some(acceptor_has) = handshake.acceptor_has {
                self.join(0, handshake.link, handshake.role, acceptor_has);
            } else {
                let acceptor_has = self.ends[1].session.arrived();
                if self.join(1, handshake.link, handshake.role, handshake.connector_has) {
                    handshake.acceptor_has = Some(acceptor_has);
                    handshake.at = self.arrival();
                    self.handshakes.push(handshake);
                }
            }
        }
    }

    fn join(&mut self, end: usize, link: LinkId, role: LinkRole, peer_has: u64) -> bool {
        let now = self.instant();
        let session = &mut self.ends[end].session;
        if let Err(refused) = session.link_up(link, role, peer_has, now) {
            let known = match refused {
                LinkRefused::Late { .. } => session.latest(role) > Some(link),
                LinkRefused::Alone => role != LinkRole::Main && session.primary().is_none(),
                _ => false,
            };
            let alive = self.ends.iter().all(|end| end.ending.is_none());
            assert!(known || !alive || self.poisoned, "{refused:?}");
            return false;
        }
        if let Some(transport) = self.transports.get_mut(&link) {
            transport.up[end] = true;
            transport.woken[end] = true;
        }
        true
    }

    /// Puts a stream of this end on a transport stream of the link.
    fn begin(&mut self, which: usize, link: LinkId, id: StreamId) {
        let at = self.arrival();
        let Some(beginning) = self.ends[which].session.begin(link, id) else {
            return;
        };
        let Some(transport) = self.transports.get_mut(&link) else {
            return;
        };
        let channel = transport.open(which);
        let place = Attachment { link, channel };
        // Streams whose application is gone are delivered all the same.
        let stream = self.ends[which].streams.entry(id).or_insert_with(released);
        (stream.send_at, stream.recv_at, stream.attaching) = (None, None, None);
        match beginning {
            Beginning::Open(_) => stream.place(place),
            Beginning::Attach(attach) => {
                let reader = FrameReader::new(limits::CONTROL_FRAME);
                stream.attaching = Some(Attaching {
                    place,
                    leg: attach.leg,
                    reader,
                });
                let item = Item::Bytes(frame::to_bytes(&attach));
                transport.post(which, channel, at, item);
            }
        }
    }

    fn cut(&mut self) {
        let live: Vec<_> = self.live();
        if live.is_empty() {
            return;
        }
        let pick = self.choices.below(u32::try_from(live.len()).unwrap_or(1));
        self.cut_link(live[pick as usize]);
    }

    /// From now on a transport carries nothing to some ends, and neither end is told. Bytes under way arrive once
    /// it carries again.
    fn mute(&mut self, mute: [bool; 2], swapped: bool) {
        let live = self.live();
        if live.is_empty() {
            return;
        }
        let pick = self.choices.below(u32::try_from(live.len()).unwrap_or(1));
        let mute = if swapped { [mute[1], mute[0]] } else { mute };
        if let Some(transport) = self.transports.get_mut(&live[pick as usize]) {
            transport.mute = mute;
        }
    }

    fn live(&self) -> Vec<LinkId> {
        let live = self
            .transports
            .iter()
            .filter(|(_, transport)| !transport.dead);
        live.map(|(link, _)| *link).collect()
    }

    fn cut_link(&mut self, link: LinkId) {
        let notice = [self.arrival(), self.arrival()].map(Some);
        if let Some(transport) = self.transports.get_mut(&link) {
            transport.cut();
            transport.notice = notice;
        }
    }

    /// The transports that an end has joined.
    fn joined(&self, end: usize) -> Vec<LinkId> {
        let joined = self
            .transports
            .iter()
            .filter(|(_, transport)| transport.up[end]);
        joined.map(|(link, _)| *link).collect()
    }

    fn leave(&mut self, end: usize) {
        let primary = self.ends[end].session.primary();
        let earlier = self.transports.iter().find(|(link, transport)| {
            transport.up[end] && !transport.dead && Some(**link) != primary
        });
        if let Some((link, _)) = earlier {
            let link = *link;
            self.ends[end].session.leave(link, "simulated");
        }
    }

    fn lost(&mut self, end: usize, link: LinkId) {
        let now = self.instant();
        if let Some(transport) = self.transports.get_mut(&link)
            && std::mem::take(&mut transport.up[end])
        {
            for stream in self.ends[end].streams.values_mut() {
                let there = |place: &mut Attachment| place.link == link;
                stream.send_at.take_if(there);
                stream.recv_at.take_if(there);
                stream
                    .attaching
                    .take_if(|attaching| attaching.place.link == link);
            }
            self.ends[end].session.link_lost(link, now);
        }
    }

    // --- bytes ---

    fn arrival(&mut self) -> Duration {
        self.now + Duration::from_millis(self.choices.below(self.delay_max).into())
    }

    /// Takes all output and events of both sessions.
    fn settle(&mut self) {
        for end in 0..2 {
            self.ends[end].take_events();
            self.transmit(end);
            self.end_links(end);
            self.arrive(end);
            // All streams are pumped below.
            self.ends[end].session.take_overdue();
            self.pump(end);
            self.notice_ends(end);
            self.ends[end].take_events();
            self.ends[end].check();
            self.set_alarms(end);
        }
    }

    /// Sets the alarms of the links whose drivers have a turn, and no others: as a driver does that sleeps until its alarm rings,
    /// something arrives on its link, or the session says that there is something new.
    fn set_alarms(&mut self, end: usize) {
        let now = self.instant();
        let session = &mut self.ends[end].session;
        let changed = session.take_changed();
        let primary = session.primary().filter(|_| changed);
        let all = session.take_links_changed();
        for (link, transport) in &mut self.transports {
            let woken = std::mem::take(&mut transport.woken[end]);
            if transport.up[end] && (woken || all || primary == Some(*link)) {
                transport.alarm[end] = session.next_timeout(Part::Link(*link), now);
            }
        }
    }

    /// Puts streams on the links where they belong now.
    fn arrive(&mut self, end: usize) {
        for link in self.joined(end) {
            for id in self.ends[end].session.take_arrivals(link) {
                self.begin(end, link, id);
            }
        }
    }

    fn transmit(&mut self, end: usize) {
        let links = self.joined(end);
        for link in links {
            let mut batches = 0;
            while let Some(bytes) = self.ends[end].session.poll_transmit(link) {
                batches += 1;
                assert!(batches < 1000, "it goes on and on");
                self.send_control(end, link, bytes);
            }
        }
    }

    /// Cuts the bytes at random places; the pieces stay in order.
    fn send_control(&mut self, from: usize, link: LinkId, bytes: Bytes) {
        let mut bytes = bytes;
        while !bytes.is_empty() {
            let most = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let piece = bytes.split_to(1 + self.choices.below(most) as usize);
            let at = self.arrival();
            if let Some(transport) = self.transports.get_mut(&link)
                && !transport.dead
            {
                transport.control[1 - from].post(at, piece);
            }
        }
    }

    /// Ends the links that a session wants to end.
    fn end_links(&mut self, end: usize) {
        for (link, why) in std::mem::take(&mut self.ends[end].ended_links) {
            match why {
                // Its LEAVE is on its way; the peer ends the transport.
                LinkEnd::Left => {}
                LinkEnd::PeerLeft { .. } | LinkEnd::KeepaliveTimeout(_) => self.cut_link(link),
            }
            self.lost(end, link);
        }
    }

    /// Hands bytes to the transports, in pieces.
    fn pump(&mut self, end: usize) {
        let mut ids: Vec<_> = self.ends[end].streams.keys().copied().collect();
        ids.sort();
        for id in ids {
            while let Some(place) = self.ends[end].streams.get(&id).and_then(|s| s.send_at) {
                let most = 1 + self.choices.below(WRITE_MAX) as usize;
                let Some(item) = self.ends[end].chunk(id, most) else {
                    break;
                };
                let at = self.arrival();
                if let Some(transport) = self.transports.get_mut(&place.link) {
                    transport.post(end, place.channel, at, item);
                }
            }
        }
    }

    /// The application looks how its streams ended.
    fn notice_ends(&mut self, which: usize) {
        let [one, two] = &mut self.ends;
        let (end, other) = if which == 0 { (one, two) } else { (two, one) };
        for (id, stream) in &mut end.streams {
            let Some(told) = end.session.recv_end(*id).filter(|_| stream.end.is_none()) else {
                continue;
            };
            stream.recv_at = None;
            let truth = other.truth.get(id);
            match &told {
                _ if self.poisoned => {}
                RecvEnd::Reset(code) => {
                    // An end that never met the stream cancels it, in answer to a reset.
                    let said = truth.map_or(Some(ResetCode::Cancelled), |truth| truth.reset);
                    assert_eq!(said, Some(*code), "{id} was not reset so");
                }
                RecvEnd::Refused(..) => assert!(truth.is_none_or(|truth| truth.refused)),
                RecvEnd::Ended | RecvEnd::Stopped => panic!("{id} ended by itself: {told:?}"),
            }
            stream.end = Some(told);
        }
    }

    /// Lets `time` pass: due events happen, in order.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.next_event().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.advance_handshakes();
            for end in 0..2 {
                self.notice_deaths(end);
                self.deliver_control(end);
                self.deliver_streams(end);
                self.handle_timeouts(end);
            }
            self.settle();
        }
        self.now = until;
        self.transports
            .retain(|_, transport| !transport.dead || transport.up.contains(&true));
    }

    fn next_event(&mut self) -> Option<Duration> {
        let mut next: Option<Duration> = self.handshakes.iter().map(|h| h.at).min();
        let mut consider = |at: Option<Duration>| {
            if let Some(at) = at {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        };
        let now = self.instant();
        for (link, transport) in &self.transports {
            for end in 0..2 {
                if !transport.up[end] {
                    continue;
                }
                consider(transport.notice[end]);
                let alarm = transport.alarm[end];
                consider(alarm.map(|at| at.saturating_duration_since(self.start)));
                if transport.mute[end] {
                    continue;
                }
                consider(transport.control[end].next_at());
                for (channel, opener) in transport.channels.iter().zip(&transport.openers) {
                    let automatic = *opener != end && !channel.met;
                    if automatic || self.is_attaching(end, *link) {
                        consider(
                            channel.to[end]
                                .next_at()
                                .filter(|at| *at > self.now || automatic),
                        );
                    }
                }
            }
        }
        for end in &mut self.ends {
            let timeout = end.session.next_timeout(Part::Session, now);
            let at = timeout.map(|at| at.saturating_duration_since(self.start));
            next = next.into_iter().chain(at).min();
        }
        next
    }

    fn is_attaching(&self, end: usize, link: LinkId) -> bool {
        let mut streams = self.ends[end].streams.values();
        streams.any(|stream| {
            let attaching = stream.attaching.as_ref();
            attaching.is_some_and(|attaching| attaching.place.link == link)
        })
    }

    fn handle_timeouts(&mut self, end: usize) {
        let now = self.instant();
        for (link, transport) in &mut self.transports {
            if transport.up[end] && transport.alarm[end].is_some_and(|at| at <= now) {
                let part = Part::Link(*link);
                self.ends[end].session.handle_timeout(part, now);
                transport.woken[end] = true;
            }
        }
        self.ends[end].session.handle_timeout(Part::Session, now);
        self.ends[end].take_events();
    }

    fn notice_deaths(&mut self, end: usize) {
        let due: Vec<_> = self
            .transports
            .iter()
            .filter(|(_, transport)| {
                transport.notice[end].is_some_and(|at| at <= self.now) && transport.up[end]
            })
            .map(|(link, _)| *link)
            .collect();
        for link in due {
            self.lost(end, link);
        }
    }

    fn deliver_control(&mut self, end: usize) {
        let links = self.joined(end);
        for link in links {
            while self.transports[&link].up[end] && !self.transports[&link].mute[end] {
                let (now, instant) = (self.now, self.instant());
                let Some(transport) = self.transports.get_mut(&link) else {
                    break;
                };
                let Some(bytes) = transport.control[end].take(now) else {
                    break;
                };
                transport.woken[end] = true;
                self.ends[end].session.handle_bytes(link, &bytes, instant);
                self.settle();
            }
        }
    }

    /// Reads without an application: the first frames of transport streams.
    fn deliver_streams(&mut self, end: usize) {
        let links = self.joined(end);
        for link in links {
            let channels = self.transports[&link].channels.len();
            for channel in 0..channels {
                if self.transports[&link].up[end] {
                    self.meet(end, Attachment { link, channel });
                }
            }
        }
        let mut ids: Vec<_> = self.ends[end].streams.keys().copied().collect();
        ids.sort();
        for id in ids {
            self.await_attached(end, id);
        }
    }

    fn next_item(&mut self, end: usize, place: Attachment) -> Option<Item> {
        let now = self.now;
        let transport = self.transports.get_mut(&place.link)?;
        if transport.mute[end] {
            return None;
        }
        transport.channels.get_mut(place.channel)?.to[end].take(now)
    }

    fn first_of(&mut self, place: Attachment) -> &mut Option<(FrameReader, usize)> {
        let transport = self.transports.get_mut(&place.link).expect("it is known");
        &mut transport.channels[place.channel].first
    }

    /// The first frame of a transport stream that the other end opened.
    fn meet(&mut self, end: usize, place: Attachment) {
        let transport = &self.transports[&place.link];
        if transport.openers[place.channel] == end || transport.channels[place.channel].met {
            return;
        }
        let fresh = || (FrameReader::new(limits::OPEN_FRAME), 0);
        let (mut reader, mut taken) = self.first_of(place).take().unwrap_or_else(fresh);
        let frame = loop {
            if let Some(frame) = reader.next().expect("an honest peer's frame") {
                break Some(frame);
            }
            match self.next_item(end, place) {
                Some(Item::Bytes(bytes)) => {
                    taken += bytes.len();
                    reader.push(&bytes);
                }
                Some(Item::Fin) => break None,
                None => {
                    *self.first_of(place) = Some((reader, taken));
                    return;
                }
            }
        };
        if let Some(transport) = self.transports.get_mut(&place.link) {
            transport.channels[place.channel].met = true;
            transport.woken[end] = true;
        }
        if let Some(frame) = frame {
            let result = self.take_first(end, place, frame, reader.into_rest(), taken);
            if let Err(violation) = result {
                assert!(self.poisoned, "an honest peer was blamed: {violation:?}");
                self.ends[end].session.fail(violation);
            }
        }
    }

    fn take_first(
        &mut self,
        end: usize,
        place: Attachment,
        frame: RawFrame,
        rest: Bytes,
        taken: usize,
    ) -> Result<(), Violation> {
        let now = self.instant();
        let session = &mut self.ends[end].session;
        if frame.kind == u64::from(Attach::TYPE) {
            let attach: Attach = frame.decode()?;
            let met = session.take_attach(place.link, attach.stream, attach.leg)?;
            if met == Taken::Nobodys {
                return Ok(());
            }
            let answer = session.attached(attach)?;
            let stream = self.ends[end].meet(attach.stream);
            if met == Taken::New {
                stream.header = Some(FrameReader::new(limits::OPEN_FRAME));
            }
            stream.place(place);
            let answer = frame::to_bytes(&answer.expect("it is this leg's"));
            let at = self.arrival();
            if let Some(transport) = self.transports.get_mut(&place.link) {
                transport.post(end, place.channel, at, Item::Bytes(answer));
            }
            return Ok(());
        }
        let open: Open = frame.decode()?;
        let header = (taken - rest.len()) as u64;
        let met = session.take_open(place.link, open.stream, header, taken as u64, now)?;
        if met == Taken::New {
            let stream = self.ends[end].meet(open.stream);
            stream.place(place);
            self.ends[end].compare(open.stream, &rest);
        }
        Ok(())
    }

    fn await_attached(&mut self, end: usize, id: StreamId) {
        loop {
            let stream = self.ends[end].streams.get(&id);
            let Some(attaching) = stream.and_then(|stream| stream.attaching.as_ref()) else {
                return;
            };
            let place = attaching.place;
            let Some(item) = self.next_item(end, place) else {
                return;
            };
            let Some(stream) = self.ends[end].streams.get_mut(&id) else {
                return;
            };
            let (Item::Bytes(bytes), Some(mut attaching)) = (item, stream.attaching.take()) else {
                return;
            };
            attaching.reader.push(&bytes);
            let Some(frame) = attaching.reader.next().expect("an honest peer's frame") else {
                stream.attaching = Some(attaching);
                continue;
            };
            let attached: Attached = frame.decode().expect("an honest peer's ATTACHED");
            let session = &mut self.ends[end].session;
            match session.rewind(id, attaching.leg, attached.received, attached.limit) {
                Ok(true) => {
                    if let Some(stream) = self.ends[end].streams.get_mut(&id) {
                        stream.place(place);
                    }
                    let rest = attaching.reader.into_rest();
                    self.take_bytes(end, id, &rest);
                }
                Ok(false) => {}
                Err(violation) => {
                    assert!(self.poisoned, "an honest peer was blamed: {violation:?}");
                    session.fail(violation);
                }
            }
        }
    }

    /// An application reads arrived bytes of one of its streams.
    fn read(&mut self, end: usize, pick: usize) {
        let mut found = None;
        self.with_stream(end, pick, |_, id| found = Some(id));
        if let Some(id) = found {
            for _ in 0..=self.choices.below(4) {
                self.read_one(end, id);
            }
        }
    }

    fn read_one(&mut self, end: usize, id: StreamId) -> bool {
        let now = self.instant();
        let place = self.ends[end]
            .streams
            .get(&id)
            .and_then(|stream| stream.recv_at);
        let Some(item) = place.and_then(|place| self.next_item(end, place)) else {
            return false;
        };
        match item {
            Item::Bytes(bytes) => self.take_bytes(end, id, &bytes),
            Item::Fin => {
                let written = self.ends[1 - end].truth.get(&id).map(|truth| {
                    assert!(truth.finished, "a clean end is never made up");
                    truth.written
                });
                if let Some(stream) = self.ends[end].streams.get_mut(&id) {
                    assert!(stream.end.is_none(), "{id} ends once");
                    assert!(
                        written == Some(stream.read) || self.poisoned,
                        "{id} is short"
                    );
                    stream.end = Some(RecvEnd::Ended);
                    stream.recv_at = None;
                }
                self.ends[end].session.fin_received(id, now);
            }
        }
        true
    }

    fn take_bytes(&mut self, end: usize, id: StreamId, bytes: &Bytes) {
        let now = self.instant();
        let end = &mut self.ends[end];
        if let Err(violation) = end.session.received(id, bytes.len() as u64, now) {
            assert!(self.poisoned, "an honest peer was blamed: {violation:?}");
            end.session.fail(violation);
            return;
        }
        let Some(stream) = end.streams.get_mut(&id) else {
            return;
        };
        let Some(mut reader) = stream.header.take() else {
            return end.compare(id, bytes);
        };
        reader.push(bytes);
        match reader.next().expect("an honest peer's OPEN") {
            Some(frame) => {
                let open: Open = frame.decode().expect("an honest peer's OPEN");
                assert_eq!(open.stream, id);
                end.compare(id, &reader.into_rest());
            }
            None => stream.header = Some(reader),
        }
    }

    /// Sends `end` frames of a dishonest peer.
    fn poison(&mut self, end: usize) {
        let Some(link) = self.ends[end].session.primary() else {
            return;
        };
        let number = u64::from(self.choices.below(4000));
        let stream = crate::VarInt::try_from(number % 40).map(StreamId::from_wire);
        let stream = stream.expect("a small number");
        let mut out = BytesMut::new();
        match self.choices.below(8) {
            7 => Control::Primary(frame::Primary(number)).encode(&mut out),
            0 => {
                let go_away = Lasting::GoAway(GoAway {
                    code: CloseCode::Overloaded,
                    return_after_ms: 1,
                    reason: String::new(),
                });
                out.extend_from_slice(&go_away.to_bytes().repeat(3));
            }
            1 => {
                for _ in 0..=self.choices.below(200) {
                    Control::Ping(Ping([9; 8])).encode(&mut out);
                }
            }
            2 => Control::Ack(frame::Ack(number)).encode(&mut out),
            3 => Control::Credit(Credit {
                stream,
                received: number,
                limit: number,
            })
            .encode(&mut out),
            4 => Control::Lasting(Lasting::Done(Done(stream))).encode(&mut out),
            5 => {
                let attach = Attach {
                    stream,
                    leg: Leg(u64::from(self.choices.below(4))),
                    received: number,
                    limit: number,
                };
                let at = self.arrival();
                if let Some(transport) = self.transports.get_mut(&link) {
                    let channel = transport.open(1 - end);
                    transport.post(1 - end, channel, at, Item::Bytes(frame::to_bytes(&attach)));
                }
            }
            _ => out.extend(
                (0..self.choices.below(64))
                    .map(|_| u8::try_from(self.choices.below(256)).unwrap_or_default()),
            ),
        }
        self.poisoned = true;
        self.send_control(1 - end, link, out.freeze());
    }

    // --- the end ---

    /// The applications finish, read to the end and let go; a transport is there. Then nothing is
    /// left.
    fn conclude(&mut self) {
        for _ in 0..40 {
            if self.ends[0].session.primary().is_none() && self.handshakes.is_empty() {
                self.dial(LinkRole::Main);
            }
            let now = self.instant();
            for end in 0..2 {
                let mut ids: Vec<_> = self.ends[end].streams.keys().copied().collect();
                ids.sort();
                for id in ids {
                    self.ends[end].finish(id);
                    while self.read_one(end, id) {}
                    let over = |stream: &Stream| stream.end.is_some() && !stream.released;
                    if self.ends[end].streams.get(&id).is_some_and(over) {
                        self.ends[end].release(id, now);
                    }
                }
            }
            self.settle();
            self.pass(Duration::from_millis(1500));
        }
        self.pass(RESUME_WINDOW + Duration::from_secs(60));
        self.judge();
    }

    fn judge(&self) {
        let ended = self.ends.iter().filter(|end| end.ending.is_some()).count();
        assert!(
            ended != 1,
            "both ends hear of the end: {:?}",
            self.ends.each_ref().map(|end| &end.ending)
        );
        for end in &self.ends {
            if let Some(Ending::Violation(violation)) = &end.ending {
                assert!(self.poisoned, "an honest peer was blamed for {violation:?}");
            }
            if end.ending.is_none() && !self.poisoned {
                let open = end.session.open_streams();
                assert_eq!(
                    open,
                    0,
                    "{:?} has streams left: {:?}, the other one {:?}",
                    end.role,
                    end.streams,
                    self.ends[1 - end.which].streams
                );
                assert_eq!(
                    end.session.unacked(),
                    0,
                    "no byte outlives its acknowledgement"
                );
            }
        }
    }
}

fn released() -> Stream {
    Stream {
        released: true,
        finished: true,
        ..Stream::default()
    }
}
