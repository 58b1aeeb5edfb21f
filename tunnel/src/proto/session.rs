//! The established session's state machine.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;

use super::code::CloseCode;
use super::frame::{Close, Control, FrameReader, GoAway, Ping, Pong};
use super::handshake::decode_close_code;
use super::keepalive::{Due, Keepalive};
use super::stream_id::{Role, StreamId};
use super::{DecodeError, limits};

/// What both sides agreed on in the handshake.
#[derive(Debug, Clone)]
pub struct Agreed {
    /// Streams that this side may have open at once.
    pub local_streams: u32,
    /// Streams that the peer may have open at once.
    pub remote_streams: u32,
    /// Silence after which a PING is due.
    pub keepalive: Duration,
}

/// A session: its streams' ids and number, its control stream, its end.
///
/// ```text
///            GOAWAY sent or received          CLOSE, loss, violation
///   Open ------------------------> Draining -----------------------> Closed
///     \------------------------------------------------------------/
/// ```
///
/// # Driving it
/// Pass the control stream's bytes to [`handle_bytes`](Self::handle_bytes) and the time to
/// [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) has passed.
/// After either, and after any other call, write what [`poll_transmit`](Self::poll_transmit) gives
/// to the control stream and act on [`poll_event`](Self::poll_event), both until `None`.
#[derive(Debug)]
pub struct Session {
    role: Role,
    phase: Phase,
    next_id: Option<StreamId>,
    local: Count,
    remote: HashSet<StreamId>,
    remote_max: u32,
    keepalive: Keepalive,
    suspect: bool,
    peer_goes_away: bool,
    reader: FrameReader,
    transmit: VecDeque<Bytes>,
    events: VecDeque<Event>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Draining,
    Closed,
}

#[derive(Debug)]
struct Count {
    open: u32,
    max: u32,
}

/// Something that the session's owner must act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer takes no new streams and says when to come back.
    GoAway(GoAway),
    /// The session ended. Nothing follows.
    Closed(Ending),
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
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
    /// The peer stopped answering.
    #[error("the peer has not answered for {} s", .0.as_secs())]
    KeepaliveTimeout(Duration),
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
    /// It asks faster than it reads the answers.
    #[error("more than {} answers wait to be read", limits::CONTROL_QUEUE)]
    NotReading,
}

impl Violation {
    /// What to tell the peer.
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::Decode(error) => decode_close_code(error),
            Self::WrongInitiator(_) | Self::DuplicateStream(_) => CloseCode::StreamId,
            Self::NotReading => CloseCode::Overloaded,
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
    /// A session whose handshake has just ended.
    pub fn new(role: Role, agreed: &Agreed, now: Instant) -> Self {
        let interval = agreed
            .keepalive
            .clamp(limits::KEEPALIVE_MIN, limits::KEEPALIVE_MAX);
        Self {
            role,
            phase: Phase::Open,
            next_id: Some(StreamId::first(role)),
            local: Count {
                open: 0,
                max: agreed.local_streams,
            },
            remote: HashSet::new(),
            remote_max: agreed.remote_streams,
            keepalive: Keepalive::new(role, interval, limits::KEEPALIVE_ANSWER, now),
            suspect: false,
            peer_goes_away: false,
            reader: FrameReader::new(limits::CONTROL_FRAME),
            transmit: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes a new stream's id. Give it back with [`release_local`](Self::release_local).
    ///
    /// # Errors
    /// Where no stream may be opened now.
    pub fn open_stream(&mut self) -> Result<StreamId, OpenRefused> {
        match self.phase {
            Phase::Open => {}
            Phase::Draining => return Err(OpenRefused::Draining),
            Phase::Closed => return Err(OpenRefused::Closed),
        }
        if self.local.open >= self.local.max {
            return Err(OpenRefused::Limit(self.local.max));
        }
        let id = self.next_id.ok_or(OpenRefused::Draining)?;
        self.next_id = id.next();
        self.local.open += 1;
        Ok(id)
    }

    /// A stream that this side opened is no more.
    pub fn release_local(&mut self) {
        self.local.open = self.local.open.saturating_sub(1);
    }

    /// The peer opened a stream. Give it back with [`release_remote`](Self::release_remote).
    ///
    /// Gives whether it may be taken: a stream above the limit, or while draining, is refused and
    /// not a violation, since the peer may have opened it before it knew.
    ///
    /// # Errors
    /// Where the peer may not use that id.
    pub fn accept_stream(&mut self, id: StreamId) -> Result<bool, Violation> {
        if id.initiator() == self.role {
            return Err(Violation::WrongInitiator(id));
        }
        if self.remote.contains(&id) {
            return Err(Violation::DuplicateStream(id));
        }
        let free = self.remote.len() < usize::try_from(self.remote_max).unwrap_or(usize::MAX);
        if self.phase != Phase::Open || !free {
            return Ok(false);
        }
        self.remote.insert(id);
        Ok(true)
    }

    /// A stream that the peer opened is no more.
    pub fn release_remote(&mut self, id: StreamId) {
        self.remote.remove(&id);
    }

    /// Streams open now, of both sides.
    pub fn open_streams(&self) -> usize {
        self.remote.len() + usize::try_from(self.local.open).unwrap_or(usize::MAX)
    }

    /// Takes no new streams from now on, and asks the peer to open none.
    pub fn go_away(&mut self, go_away: GoAway) {
        if self.phase == Phase::Open {
            self.phase = Phase::Draining;
            self.transmit.push_back(Control::GoAway(go_away).encode());
        }
    }

    /// Ends the session.
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        self.end(Ending::Local {
            code,
            reason: reason.to_owned(),
        });
    }

    /// Ends the session without a word: its transport is gone. Whoever calls this knows, and no
    /// event follows.
    pub fn abandon(&mut self) {
        self.phase = Phase::Closed;
    }

    /// Ends the session because the peer broke the protocol outside the control stream.
    pub fn fail(&mut self, violation: Violation) {
        self.end(violation.into());
    }

    /// An OPEN went unanswered for too long: asks whether the peer is there, and counts it as
    /// unresponsive until it is heard from.
    pub fn suspect(&mut self, now: Instant) {
        if self.phase == Phase::Closed {
            return;
        }
        self.suspect = true;
        self.ping(now);
    }

    /// Whether streams should rather be opened elsewhere.
    pub fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// Whether new streams may be opened: neither side is going away or gone.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// The last measured round trip, or `None` before the first.
    pub fn round_trip(&self) -> Option<Duration> {
        self.keepalive.round_trip()
    }

    /// Asks for a round trip now, unless one is being measured.
    pub fn ping(&mut self, now: Instant) {
        if let Some(opaque) = self.keepalive.probe(now) {
            self.transmit
                .push_back(Control::Ping(Ping(opaque)).encode());
        }
    }

    /// Bytes of some stream came from the peer at `at`: it is there. Its PONG may stand behind many
    /// of them.
    pub fn heard(&mut self, at: Instant) {
        self.keepalive.heard(at);
    }

    /// Takes bytes of the control stream.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Instant) {
        if self.phase == Phase::Closed {
            return;
        }
        self.reader.push(bytes);
        while self.phase != Phase::Closed {
            match self.reader.next() {
                Ok(Some(frame)) => {
                    if let Err(violation) = self.handle_frame(frame, now) {
                        self.end(violation.into());
                    }
                }
                Ok(None) => return,
                Err(error) => self.end(Violation::from(error).into()),
            }
        }
    }

    fn handle_frame(
        &mut self,
        frame: super::frame::RawFrame,
        now: Instant,
    ) -> Result<(), Violation> {
        let frame = Control::decode(frame)?;
        self.keepalive.heard(now);
        self.suspect = false;
        match frame {
            Control::Ping(Ping(opaque)) => {
                if self.transmit.len() >= limits::CONTROL_QUEUE {
                    return Err(Violation::NotReading);
                }
                self.transmit
                    .push_back(Control::Pong(Pong(opaque)).encode());
            }
            Control::Pong(Pong(opaque)) => self.keepalive.pong(opaque, now),
            Control::GoAway(go_away) => {
                if self.phase == Phase::Open {
                    self.phase = Phase::Draining;
                }
                // Only the first counts, which also bounds the events.
                if !std::mem::replace(&mut self.peer_goes_away, true) {
                    self.events.push_back(Event::GoAway(go_away));
                }
            }
            Control::Close(Close { code, reason }) => self.end(Ending::Peer { code, reason }),
        }
        Ok(())
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), or `None` once closed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (self.phase != Phase::Closed).then(|| self.keepalive.poll_timeout())
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.phase == Phase::Closed {
            return;
        }
        match self.keepalive.handle_timeout(now) {
            Some(Due::Ping(opaque)) => {
                self.transmit
                    .push_back(Control::Ping(Ping(opaque)).encode());
            }
            Some(Due::Lost) => self.end(Ending::KeepaliveTimeout(limits::KEEPALIVE_ANSWER)),
            None => {}
        }
    }

    /// Bytes to write to the control stream.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.transmit.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn end(&mut self, ending: Ending) {
        if self.phase == Phase::Closed {
            return;
        }
        self.phase = Phase::Closed;
        let told = match &ending {
            Ending::Local { code, reason } => Some((*code, reason.clone())),
            Ending::Violation(violation) => {
                Some((violation.close_code(), crate::error::chain(violation)))
            }
            Ending::KeepaliveTimeout(_) => Some((CloseCode::KeepaliveTimeout, ending.to_string())),
            Ending::Peer { .. } => None,
        };
        if let Some((code, reason)) = told {
            self.transmit
                .push_back(Control::Close(Close { code, reason }).encode());
        }
        self.events.push_back(Event::Closed(ending));
    }
}
