//! The established session's state machine.

mod delayed;
#[cfg(test)]
mod fixture;
mod links;
mod outbox;
mod placement;
mod primary;
mod probe;
mod seen;
mod streams;
mod table;
mod timers;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use thiserror::Error;

use self::delayed::DelayedOutput;
use self::links::Link;
pub use self::links::{LinkEnd, LinkId, LinkRefused, LinkRole};
use self::outbox::Outbox;
pub use self::placement::{Beginning, Taken};
use self::probe::Probe;
use self::seen::Seen;
pub use self::streams::{Classes, WriteAction, WriteEnd};
use self::table::Table;
pub use self::timers::Part;
use self::timers::Timers;
use super::code::CloseCode;
use super::frame::{Close, Control, GoAway, Lasting};
use super::handshake::decode_close_code;
use super::settings::{KeepaliveInterval, ResumeWindow, StreamLimit};
use super::stream::{OffsetError, RecvEnd, SendEnd};
use super::stream_id::{Role, StreamId};
use super::{DecodeError, limits};

/// The settings that both sides agreed on in the handshake.
#[derive(Debug, Clone)]
pub struct Agreed {
    /// Streams that this side may have open at once.
    pub local_streams: u32,
    /// Streams that the peer may have open at once.
    pub remote_streams: StreamLimit,
    /// Silence after which a PING is due.
    pub keepalive: KeepaliveInterval,
    /// How long the session waits without a transport.
    pub resume_window: ResumeWindow,
}

/// A session: its streams with their kept bytes, its transports (here called links), its end.
///
/// ```text
///            GOAWAY sent or received      CLOSE, violation, no link for the resume window
///   Open ------------------------> Draining ---------------------------> Closed
///     \----------------------------------------------------------------/
/// ```
///
/// # Driving it
/// The session knows links by number and streams by id; its drivers have the transports. There is a driver for
/// each [`Part`]: for each link, and for the session itself. One task may be all of them.
///
/// Input, in any order:
/// - A transport past its handshake: [`link_up`](Self::link_up). Its end: [`link_lost`](Self::link_lost).
/// - Bytes of a link's control stream: [`handle_bytes`](Self::handle_bytes). A CLOSE that the transport itself
///   carried: [`closed_by_peer`](Self::closed_by_peer).
/// - The first frame of a transport stream that the peer began: [`take_open`](Self::take_open), or
///   [`take_attach`](Self::take_attach) and then [`attached`](Self::attached), whose answer goes in front of all
///   other bytes there.
/// - Bytes of a stream, and their end: [`received`](Self::received), [`fin_received`](Self::fin_received). Bytes
///   that the stream's transport took: [`sent`](Self::sent), [`fin_sent`](Self::fin_sent).
/// - The application's calls: [`open_stream`](Self::open_stream), [`write`](Self::write),
///   [`finish`](Self::finish), [`reset`](Self::reset), [`stop`](Self::stop), [`refuse`](Self::refuse),
///   [`release`](Self::release), [`go_away`](Self::go_away), [`close`](Self::close).
/// - The time, once a part's [`next_timeout`](Self::next_timeout) has passed:
///   [`handle_timeout`](Self::handle_timeout). A link's driver first says when the transport heard of the
///   peer last ([`heard`](Self::heard)).
/// - A [`Violation`] that any of them gives: [`fail`](Self::fail).
///
/// Output, to be looked for after each input:
/// 1. [`poll_event`](Self::poll_event), until there is none.
/// 2. On each link, its [`take_arrivals`](Self::take_arrivals): each gets a transport stream there, which starts as
///    [`begin`](Self::begin) says. Where that is an ATTACH, its answer goes to [`rewind`](Self::rewind) before
///    any byte of the stream is sent.
/// 3. On each link, [`poll_transmit`](Self::poll_transmit), until there is nothing: the bytes go to the control
///    stream in that order.
/// 4. After a timeout, the streams of [`take_overdue`](Self::take_overdue). On each, and after each write,
///    [`next_chunk`](Self::next_chunk); then `sent` with the number of bytes that the transport took.
/// 5. Each part's [`next_timeout`](Self::next_timeout), which may be earlier now.
///
/// [`take_changed`](Self::take_changed) says whether 2, 3 and 5 can have changed on the primary link; the
/// other links have something new only after an event or bytes of their own, or when one joins or leaves.
///
/// After [`Event::Closed`] each link's `poll_transmit` gives the last words, which end with CLOSE where this
/// side closes; everything else changes nothing.
#[derive(Debug)]
pub struct Session {
    role: Role,
    phase: Phase,
    next_id: Option<StreamId>,
    streams: Table,
    /// Ids of the peer's that were used.
    seen: Seen,
    /// In boxes: a node of the tree has places for eleven, and hardly a session has more than two.
    links: BTreeMap<LinkId, Box<Link>>,
    /// The link that lasting frames, acknowledgements and new streams go on: the latest main one, or the standby
    /// that took its place.
    primary: Option<LinkId>,
    /// The link for streams of the class bulk, where there is one beside: the latest lane.
    lane: Option<LinkId>,
    /// The latest link that there ever was, but for lanes.
    latest: Option<LinkId>,
    latest_lane: Option<LinkId>,
    outbox: Outbox,
    /// The peer's lasting frames that arrived, and those that it knows of.
    arrived: u64,
    acknowledged: u64,
    credits_due: VecDeque<StreamId>,
    delayed: DelayedOutput,
    /// Lasting frames are to go out, and not only where others do.
    flush_now: bool,
    keepalive: Duration,
    resume_window: Duration,
    timers: Timers,
    suspect: bool,
    /// The watch over the primary link.
    probe: Probe,
    /// How many callers want to know at once when the peer is away.
    attentive: usize,
    /// The standby that is to be the primary link again once it has answered a PING of this time.
    returning: Option<(LinkId, Instant)>,
    /// When the peer opened a stream last.
    opened: Option<Instant>,
    /// Counts the changes of the primary link that were said with PRIMARY.
    change: u64,
    /// When the peer's next change is due, were they spread evenly.
    next_change: Option<Instant>,
    switches: u64,
    /// Links came, went, fell silent or changed their role.
    links_changed: bool,
    peer_goes_away: bool,
    /// Something new is to be transmitted, or a timeout is earlier.
    changed: bool,
    events: VecDeque<Event>,
}

/// How far a session is. `Closed` is the one place that says how it ended.
#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Draining,
    Closed(Ending),
}

/// Something that the session's owner must act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The stream may be written, or its sending direction ended.
    Writable(StreamId),
    /// The stream's receiving direction ended in another way than by its last byte.
    Readable(StreamId),
    /// The stream is no more.
    Forgotten {
        /// Which one.
        id: StreamId,
        /// How the direction ended that this side wrote.
        send: SendEnd,
        /// How the other ended.
        recv: RecvEnd,
    },
    /// The link is over: its transport is to be closed. Tell [`Session::link_lost`].
    LinkEnded(LinkId, LinkEnd),
    /// The peer takes no new streams and says when to come back.
    GoAway(GoAway),
    /// The session ended, as [`Session::ending`] says from now on. Nothing follows.
    Closed,
}

/// How a session ended. Exhaustive: metrics give each way its label.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Ending {
    /// This side closed it.
    #[error("closed: {code}: {reason}")]
    Local {
        /// Why, for programs.
        code: CloseCode,
        /// Why, for people.
        reason: String,
    },
    /// The peer closed it.
    #[error("closed by the peer: {code}: {reason}")]
    Peer {
        /// Why, for programs.
        code: CloseCode,
        /// Why, for people.
        reason: String,
    },
    /// The peer broke the protocol.
    #[error("the peer broke the protocol")]
    Violation(#[from] Violation),
    /// The last transport ended, and no other came in time.
    #[error("no transport for {} s", .0.as_secs())]
    Detached(Duration),
}

/// How the peer broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// It sent bytes that are not a frame, or not one that belongs there.
    #[error("bad control frame")]
    Decode(#[from] DecodeError),
    /// It opened a stream under an id of this side.
    #[error("stream {0} was opened by the wrong side")]
    WrongInitiator(StreamId),
    /// It opened a stream under the id of one that is open.
    #[error("stream {0} is open already")]
    DuplicateStream(StreamId),
    /// It names a stream of this side that was never opened.
    #[error("stream {0} was never opened")]
    UnknownStream(StreamId),
    /// It passes over too many stream ids.
    #[error("more than {} gaps among the stream ids", limits::STREAM_ID_GAPS)]
    StreamIdGaps,
    /// It names offsets of a stream that cannot be.
    #[error("impossible offset in stream {0}")]
    Offset(StreamId, #[source] OffsetError),
    /// It acknowledges control frames that were not sent.
    #[error("{0} lasting frames are acknowledged, and were not sent")]
    Acknowledgement(u64),
    /// It passes over lasting frames.
    #[error("lasting frame {0} is announced before those that precede it")]
    Sequence(u64),
    /// It asks faster than it reads the answers.
    #[error("more than {} answers wait to be read", limits::CONTROL_QUEUE)]
    NotReading,
    /// It does not acknowledge lasting frames.
    #[error(
        "more than {} lasting frames wait to be acknowledged",
        limits::LASTING_FRAMES
    )]
    NotAcknowledging,
}

impl Violation {
    /// A message for the peer.
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::Decode(error) => decode_close_code(error),
            Self::WrongInitiator(_)
            | Self::DuplicateStream(_)
            | Self::UnknownStream(_)
            | Self::StreamIdGaps => CloseCode::StreamId,
            Self::Offset(..) | Self::Acknowledgement(_) | Self::Sequence(_) => {
                CloseCode::FlowControl
            }
            Self::NotReading | Self::NotAcknowledging => CloseCode::Overloaded,
        }
    }
}

/// Why this side may not open a stream now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenRefused {
    /// The session is over.
    #[error("the session is closed")]
    Closed,
    /// One of the sides is going away.
    #[error("the session is draining and takes no new streams")]
    Draining,
    /// The peer allows no more streams at once.
    #[error("the peer allows {0} streams at once, and all are open")]
    Limit(u32),
}

impl Session {
    /// A session whose handshake has just ended; its first link comes with
    /// [`link_up`](Self::link_up).
    pub fn new(role: Role, agreed: &Agreed, now: Instant) -> Self {
        let resume_window = agreed.resume_window.time();
        Self {
            role,
            phase: Phase::Open,
            next_id: Some(StreamId::first(role)),
            streams: Table::new(role, agreed.local_streams, agreed.remote_streams.get()),
            seen: Seen::default(),
            links: BTreeMap::new(),
            primary: None,
            lane: None,
            latest: None,
            latest_lane: None,
            outbox: Outbox::default(),
            arrived: 0,
            acknowledged: 0,
            credits_due: VecDeque::new(),
            delayed: DelayedOutput::default(),
            flush_now: false,
            keepalive: agreed.keepalive.time(),
            resume_window,
            timers: Timers {
                resume: Some(now + resume_window),
                ..Timers::default()
            },
            suspect: false,
            probe: Probe::Idle,
            returning: None,
            attentive: 0,
            opened: None,
            change: 0,
            next_change: None,
            switches: 0,
            links_changed: false,
            peer_goes_away: false,
            changed: false,
            events: VecDeque::new(),
        }
    }

    /// Streams that are not over, of both sides.
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Bytes kept until the peer acknowledges them, over all streams.
    pub fn unacked(&self) -> u64 {
        self.streams.unacked()
    }

    /// Takes no new streams from now on, and asks the peer to open none.
    pub fn go_away(&mut self, go_away: GoAway) {
        if self.phase == Phase::Open {
            self.phase = Phase::Draining;
            self.say_now(&Lasting::GoAway(go_away));
        }
    }

    /// Ends the session.
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        self.end(Ending::Local {
            code,
            reason: reason.to_owned(),
        });
    }

    /// The transport carried the peer's CLOSE.
    pub fn closed_by_peer(&mut self, code: CloseCode, reason: String) {
        self.end(Ending::Peer { code, reason });
    }

    /// Ends the session because the peer broke the protocol.
    pub fn fail(&mut self, violation: Violation) {
        self.end(violation.into());
    }

    /// An OPEN went unanswered for too long: asks whether the peer is there, and counts it as
    /// unresponsive until it is heard from.
    pub fn suspect(&mut self, now: Instant) {
        if self.is_closed() {
            return;
        }
        self.suspect = true;
        self.ping(now);
    }

    /// Whether streams should rather be opened elsewhere: an OPEN went unanswered, or nothing answers on the primary
    /// link, and none has taken its place.
    pub fn is_suspect(&self) -> bool {
        self.suspect || self.primary.is_some_and(|link| self.is_silent(link))
    }

    /// Since when nothing is heard from the peer, though something waits for it: its links are lost, or the primary one is silent.
    /// An OPEN that went unanswered is told apart by [`is_unanswered`](Self::is_unanswered).
    pub fn away_since(&self) -> Option<Instant> {
        let silent = self.primary.and_then(|link| self.silent_since(link));
        silent.or_else(|| self.detached_since())
    }

    /// Whether an OPEN went unanswered for its whole time, and the peer was not heard from since.
    pub fn is_unanswered(&self) -> bool {
        self.suspect
    }

    /// Whether new streams may be opened: neither side is going away or gone.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether the session has ended.
    pub fn is_closed(&self) -> bool {
        self.ending().is_some()
    }

    /// How the session ended, if it has.
    pub fn ending(&self) -> Option<&Ending> {
        match &self.phase {
            Phase::Open | Phase::Draining => None,
            Phase::Closed(ending) => Some(ending),
        }
    }

    /// An event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Queues a frame that the peer must get at once.
    fn say_now(&mut self, frame: &Lasting) {
        self.changed = true;
        self.flush_now = true;
        self.say(frame);
    }

    /// Queues a frame that the peer must get, even if the link is lost; it goes with the next output.
    fn say(&mut self, frame: &Lasting) {
        if self.is_closed() {
            return;
        }
        self.outbox.push(frame.to_bytes());
        self.await_answer();
        // One that cannot hear, since it is away, is not to blame.
        if self.outbox.len() > limits::LASTING_FRAMES && self.primary.is_some() {
            self.end(Violation::NotAcknowledging.into());
        }
    }

    fn end(&mut self, ending: Ending) {
        if self.is_closed() {
            return;
        }
        let told = match &ending {
            Ending::Local { code, reason } => Some((*code, reason.clone())),
            Ending::Violation(violation) => {
                Some((violation.close_code(), crate::error::chain(violation)))
            }
            Ending::Peer { .. } | Ending::Detached(_) => None,
        };
        if let Some((code, reason)) = told {
            let close = Control::Close(Close { code, reason });
            for link in self.links.values_mut() {
                link.queue(&close);
            }
        }
        self.streams.clear();
        self.changed = true;
        self.phase = Phase::Closed(ending);
        self.events.push_back(Event::Closed);
    }
}
