//! One end: a session, and an application that knows which bytes must come.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;
use std::time::Instant;

use bytes::Bytes;

use crate::code::ResetCode;
use crate::frame::{FrameReader, Leg};
use crate::limits;
use crate::session::{Agreed, Ending, Event, LinkEnd, LinkId, Session};
use crate::stream::{Chunk, RecvEnd, SendEnd};
use crate::stream_id::{Role, StreamId};

/// Where a stream's transport stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attachment {
    pub(super) link: LinkId,
    pub(super) channel: usize,
}

/// An ATTACH that waits for its answer.
#[derive(Debug)]
pub(super) struct Attaching {
    pub(super) place: Attachment,
    pub(super) leg: Leg,
    pub(super) reader: FrameReader,
}

/// A stream as its application knows it.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Where it is read and written; `None` while it moves.
    pub(super) send_at: Option<Attachment>,
    pub(super) recv_at: Option<Attachment>,
    /// Our OPEN waits for ATTACHED on that channel.
    pub(super) attaching: Option<Attaching>,
    /// The peer's OPEN is still arriving.
    pub(super) header: Option<FrameReader>,
    /// Payload written and read.
    pub(super) written: u64,
    pub(super) read: u64,
    pub(super) finished: bool,
    pub(super) reset: Option<ResetCode>,
    pub(super) stopped: Option<ResetCode>,
    pub(super) refused: bool,
    /// How reading ended.
    pub(super) end: Option<RecvEnd>,
    pub(super) released: bool,
}

impl Stream {
    /// It goes on there. A direction that has ended does not.
    pub(super) fn place(&mut self, place: Attachment) {
        self.send_at = Some(place);
        self.recv_at = self.end.is_none().then_some(place);
    }
}

/// How long the pattern of payload is before it repeats: a prime, so that no chunk's length hides a
/// shift.
const PERIOD: usize = 65_521;

/// The pattern, with enough of its beginning behind it for any piece.
static PATTERN: LazyLock<Bytes> = LazyLock::new(|| {
    let byte = |at: usize| (at % PERIOD).wrapping_mul(0x9e37_79b9).to_be_bytes()[4];
    (0..4 * PERIOD).map(byte).collect::<Vec<_>>().into()
});

/// The bytes that `from` sends on a stream from `offset` on: at most three periods.
pub(super) fn payload(id: StreamId, from: usize, offset: u64, len: u64) -> Bytes {
    let shift = id.to_wire().into_inner() * 31 + from as u64 * 7 + offset;
    let start = usize::try_from(shift % PERIOD as u64).expect("below the period");
    PATTERN.slice(start..start + usize::try_from(len).expect("a piece"))
}

/// An application's actions on a stream, for the other end to compare with.
#[derive(Debug, Default)]
pub(super) struct Truth {
    pub(super) written: u64,
    pub(super) finished: bool,
    pub(super) reset: Option<ResetCode>,
    pub(super) refused: bool,
}

pub(super) struct End {
    pub(super) which: usize,
    /// Every stream that there ever was.
    pub(super) truth: HashMap<StreamId, Truth>,
    pub(super) role: Role,
    pub(super) session: Session,
    pub(super) streams: HashMap<StreamId, Stream>,
    pub(super) forgotten: HashSet<StreamId>,
    pub(super) ending: Option<Ending>,
    pub(super) go_aways: u32,
    /// Links that the session wants to end.
    pub(super) ended_links: Vec<(LinkId, LinkEnd)>,
    pub(super) most_unacked: u64,
}

impl End {
    pub(super) fn new(which: usize, agreed: &Agreed, now: Instant) -> Self {
        let role = [Role::Connector, Role::Acceptor][which];
        Self {
            which,
            truth: HashMap::new(),
            role,
            session: Session::new(role, agreed, now),
            streams: HashMap::new(),
            forgotten: HashSet::new(),
            ending: None,
            go_aways: 0,
            ended_links: Vec::new(),
            most_unacked: 0,
        }
    }

    pub(super) fn is_own(&self, id: StreamId) -> bool {
        id.initiator() == self.role
    }

    pub(super) fn take_events(&mut self) {
        while let Some(event) = self.session.poll_event() {
            assert!(self.ending.is_none(), "{event:?} after the end");
            match event {
                Event::GoAway(_) => self.go_aways += 1,
                Event::Closed => {
                    self.ending = self.session.ending().cloned();
                    assert!(self.ending.is_some(), "an ended session says how");
                    self.streams.clear();
                }
                Event::Forgotten { id, .. } => {
                    assert!(self.forgotten.insert(id), "{id} is forgotten once");
                    if let Some(stream) = self.streams.remove(&id) {
                        assert!(stream.released, "{id} is forgotten while it is held");
                    }
                }
                Event::LinkEnded(link, end) => self.ended_links.push((link, end)),
                Event::Writable(_) | Event::Readable(_) => {}
            }
        }
        assert!(self.go_aways <= 1, "one GOAWAY is enough");
    }

    pub(super) fn check(&mut self) {
        let unacked = self.session.unacked();
        self.most_unacked = self.most_unacked.max(unacked);
        assert!(
            unacked <= limits::SESSION_UNACKED,
            "the session's bound holds"
        );
        if self.ending.is_some() {
            assert_eq!(unacked, 0, "an ended session keeps nothing");
            assert_eq!(self.session.open_streams(), 0);
            assert!(!self.session.is_open(), "an ended session opens nothing");
        } else if self.session.lane().is_some() {
            assert!(
                self.session.primary().is_some(),
                "a lane is beside something"
            );
        }
        assert!(
            self.session.links() <= limits::LINKS,
            "the links' bound holds"
        );
    }

    /// Writes up to `len` bytes; where `soon` says when it is, they may wait.
    pub(super) fn write(&mut self, id: StreamId, len: u64, soon: Option<Instant>) {
        let which = self.which;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.finished || stream.reset.is_some() || stream.released {
            return;
        }
        match self.session.writable(id) {
            Ok(writable) => {
                let len = len.min(writable as u64);
                if len > 0 {
                    let bytes = payload(id, which, stream.written, len);
                    match soon {
                        Some(now) => self.session.write_coalesced(id, bytes, now),
                        None => self.session.write(id, bytes),
                    }
                    stream.written += len;
                    self.truth.entry(id).or_default().written = stream.written;
                }
            }
            Err(crate::session::WriteEnd::Over(SendEnd::Stopped(_))) => {}
            Err(end) => panic!("{id} cannot be written: {end:?}"),
        }
    }

    pub(super) fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.reset.is_none()
            && !stream.released
        {
            stream.finished = true;
            self.truth.entry(id).or_default().finished = true;
            self.session.finish(id);
        }
    }

    pub(super) fn reset(&mut self, id: StreamId, code: ResetCode) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.released
        {
            stream.send_at = None;
            if self.session.send_end(id).is_none() {
                stream.reset = Some(code);
                self.truth.entry(id).or_default().reset = Some(code);
            }
            self.session.reset(id, code);
        }
    }

    pub(super) fn stop(&mut self, id: StreamId, code: ResetCode, now: Instant) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.released
        {
            if stream.end.is_none() {
                stream.end = Some(RecvEnd::Stopped);
                stream.stopped = Some(code);
            }
            stream.recv_at = None;
            self.session.stop(id, code, now);
        }
    }

    pub(super) fn refuse(&mut self, id: StreamId) {
        let own = self.is_own(id);
        if let Some(stream) = self.streams.get_mut(&id)
            && !own
            && stream.written == 0
            && !stream.released
            && !stream.finished
            && stream.reset.is_none()
        {
            stream.refused = true;
            stream.released = true;
            self.truth.entry(id).or_default().refused = true;
            self.session.refuse(id, ResetCode::Forbidden, "simulated");
        }
    }

    /// The stream of a transport stream that was met.
    pub(super) fn meet(&mut self, id: StreamId) -> &mut Stream {
        self.truth.entry(id).or_default();
        let stream = self.streams.entry(id).or_default();
        stream.attaching = None;
        stream
    }

    /// Payload arrived: it must be the other end's bytes at that place.
    pub(super) fn compare(&mut self, id: StreamId, bytes: &Bytes) {
        let from = 1 - self.which;
        if let Some(stream) = self.streams.get_mut(&id) {
            for piece in bytes.chunks(PERIOD) {
                let len = piece.len() as u64;
                let expected = payload(id, from, stream.read, len);
                assert!(expected == piece, "{id} from {}", stream.read);
                stream.read += len;
            }
        }
    }

    /// Lets go of a stream, as dropping its halves does.
    pub(super) fn release(&mut self, id: StreamId, now: Instant) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let sending = !stream.finished && stream.reset.is_none();
        if sending && !matches!(self.session.send_end(id), Some(SendEnd::Stopped(_))) {
            self.reset(id, ResetCode::Cancelled);
        }
        self.stop(id, ResetCode::Cancelled, now);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.released = true;
        }
        self.session.release(id);
    }

    /// The stream's next item for its transport: at most `most` bytes.
    pub(super) fn chunk(&mut self, id: StreamId, most: usize) -> Option<super::network::Item> {
        match self.session.next_chunk(id) {
            Chunk::Data(bytes) => {
                let bytes = bytes.slice(..bytes.len().min(most));
                self.session.sent(id, bytes.len());
                Some(super::network::Item::Bytes(bytes))
            }
            Chunk::Fin => {
                self.session.fin_sent(id);
                Some(super::network::Item::Fin)
            }
            Chunk::Nothing => None,
        }
    }
}
