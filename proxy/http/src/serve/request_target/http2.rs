//! The same over HTTP/2 (RFC 9113): the value of `:path` in header blocks. Resets and ends of streams are read here as well.
//!
//! `h2` also resets a stream whose `:authority` it cannot read. Such a request gets another authority and a mark, so that its client is
//! answered in words. Go's servers take any.
//!
//! Blocks depend on those before them, by the table of RFC 7541. Until a field has to be changed, all bytes are passed on as they came,
//! and blocks are only read. From then on `h2`'s table is no longer the client's, so that each block is written anew,
//! without the table.
//!
//! hyper tells the reader of a stream that its client has reset with CANCEL or NO_ERROR that it has ended, so that a transfer that was
//! cut looks complete. It is given another code, of which hyper makes an error. And a CONNECT's stream gets its own number into its
//! head: hyper does not tell it, and looks at no reset once its own half has ended. See [`ClientEnds`].

use std::{borrow::Cow, io, ops::Range};

use bytes::Bytes;
use http::{HeaderMap, Request, Version, uri::Authority};

use super::{
    Encode, Others, Part,
    hpack::{Field, Line, Malformed, Reader},
};
use crate::serve::ClientEnds;
use underpass_core::limits;

/// Length of a client's connection preface (section 3.4).
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

/// Length of a frame's header (section 4.1).
const HEADER: usize = 9;

/// The largest payload that may be sent to one who has not asked for larger ones (section 6.5.2), as hyper does not.
const PAYLOAD: usize = 16 * 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// Length of the fields that [`PRIORITY`] announces.
const PRIORITY_FIELDS: usize = 5;

/// Length of the frame [`RST_STREAM`] (section 6.4).
const RESET: usize = HEADER + 4;

/// NO_ERROR and CANCEL (section 7).
const CLEAN: [[u8; 4]; 2] = [[0; 4], [0, 0, 0, 8]];

/// CONNECT_ERROR: a connection was reset.
const CUT: [u8; 4] = [0, 0, 0, 10];

/// The number of a CONNECT's stream, in its head.
const STREAM: &str = "underpass-stream";

/// The authority of a request in the place of one that cannot be read, and the mark of such a request.
const NO_AUTHORITY: &[u8] = b"authority.invalid";
const BAD_AUTHORITY: &str = "underpass-bad-authority";

/// A block with `:status`, which no request has (section 8.3): `h2` resets the stream and nothing else. As trailers it is none.
const MALFORMED: &[u8] = &[0x88];

/// The heads of a connection's requests.
#[derive(Debug)]
pub struct Heads {
    mode: Mode,
    reader: Reader,
    /// Bytes to come that are of no head.
    passing: usize,
    /// The stream whose last frame they are of.
    ending: Option<u32>,
    /// A head whose end has not come, as it came.
    kept: Vec<u8>,
    /// So many of them are worth another look.
    enough: usize,
    ends: ClientEnds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// All bytes pass as they came.
    Reads,
    /// Blocks are written anew.
    Writes,
    /// No head is looked at any more.
    Lost,
}

impl Default for Heads {
    fn default() -> Self {
        Self {
            mode: Mode::Reads,
            reader: Reader::default(),
            passing: PREFACE,
            ending: None,
            kept: Vec::new(),
            enough: 0,
            ends: ClientEnds::default(),
        }
    }
}

/// A head that cannot be read, after others were changed: `h2` cannot read it any more either.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("a malformed header block: {0}")]
    Malformed(#[from] Malformed),
    #[error("a header block that is too large or in too many frames, or none where one is due")]
    Frames,
}

impl From<Unreadable> for io::Error {
    fn from(why: Unreadable) -> Self {
        Self::new(io::ErrorKind::InvalidData, why)
    }
}

impl Encode for Heads {
    fn came(&mut self, bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
        if self.kept.is_empty() {
            return self.follow(bytes);
        }
        self.kept.extend_from_slice(bytes);
        if self.kept.len() < self.enough {
            return Ok(Some(Vec::new()));
        }
        let kept = std::mem::take(&mut self.kept);
        let others = self.follow(&kept)?;
        Ok(others.or(Some(kept)))
    }

    fn ended(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.kept)
    }
}

impl Heads {
    /// Those of a connection whose CONNECTs' ends are followed.
    pub(in super::super) fn new(ends: ClientEnds) -> Self {
        Self {
            ends,
            ..Self::default()
        }
    }

    /// The number of the stream of a CONNECT with these fields, where its head was read. A line of the client's own comes before.
    pub fn stream(fields: &HeaderMap) -> Option<u32> {
        let line = fields.get_all(STREAM).iter().next_back()?;
        line.to_str().ok()?.parse().ok()
    }

    /// Whether the client's `:authority` could not be read. A client that sends the mark by itself is refused for nothing else.
    pub fn is_without_authority<B>(request: &Request<B>) -> bool {
        request.version() == Version::HTTP_2 && request.headers().contains_key(BAD_AUTHORITY)
    }

    /// Follows bytes that begin where the last ones that were passed on have ended. Gives others in their place, or nothing
    /// where they pass as they are. An unfinished head at their end is kept.
    fn follow(&mut self, bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut others = Others::default();
        let mut at = 0;
        loop {
            let passes = self.passing.min(bytes.len() - at);
            self.passing -= passes;
            at += passes;
            if let Some(stream) = self.ending.take_if(|_| self.passing == 0) {
                self.ends.end_came(stream);
            }
            let rest = bytes.get(at..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            let next = match self.mode {
                Mode::Lost => next_beside_heads(rest),
                Mode::Reads | Mode::Writes => next(rest),
            };
            match next {
                Next::Passes(length) => self.passing = length,
                Next::Last { stream, length } => {
                    self.passing = length;
                    self.ending = Some(stream);
                }
                Next::Reset { stream, code } => {
                    self.ends.reset_came(stream);
                    if CLEAN.contains(&code) {
                        others.replace(bytes, at + HEADER..at + RESET, &CUT);
                    }
                    at += RESET;
                }
                Next::Needs(length) if length <= self.largest() => {
                    self.kept = rest.to_vec();
                    self.enough = length;
                    others.replace(bytes, at..bytes.len(), &[]);
                    break;
                }
                Next::Needs(_) | Next::Unknown => self.lose(Unreadable::Frames)?,
                Next::Head(head) => {
                    let range = at..at + head.length;
                    match self.head(&head) {
                        Ok(None) => {}
                        Ok(Some(written)) => others.replace(bytes, range.clone(), &written),
                        Err(why) => {
                            self.lose(why)?;
                            continue;
                        }
                    }
                    at = range.end;
                }
            }
        }
        Ok((!others.is_untouched()).then(|| others.finish(bytes)))
    }

    /// Bytes of a head, in its frames, that are kept until it has ended. Where `h2` cannot read it as it is, as many as hyper takes.
    fn largest(&self) -> usize {
        match self.mode {
            Mode::Reads | Mode::Lost => limits::FOLLOWED_HEAD,
            Mode::Writes => limits::HTTP1_BUFFER_BYTES,
        }
    }

    fn lose(&mut self, why: Unreadable) -> Result<(), Unreadable> {
        match self.mode {
            Mode::Writes => Err(why),
            Mode::Reads | Mode::Lost => {
                self.mode = Mode::Lost;
                Ok(())
            }
        }
    }

    /// Reads a head. Gives it as it is to be written in its place, if it is to be.
    fn head(&mut self, head: &Head<'_>) -> Result<Option<Vec<u8>>, Unreadable> {
        let mut lines = self.reader.read(&head.block)?;
        let mut is_bad = false;
        for line in &mut lines {
            if let Some(encoded) = encoded(&line.field) {
                line.field.value = encoded.into();
                self.mode = Mode::Writes;
            } else if is_bad_authority(&line.field) {
                line.field.value = Bytes::from_static(NO_AUTHORITY);
                self.mode = Mode::Writes;
                is_bad = true;
            }
        }
        if is_bad {
            lines.push(Line::new(BAD_AUTHORITY, "1".to_owned()));
        }
        let is_connect = |field: &Field| field.name == ":method" && field.value == "CONNECT";
        let connects = lines.iter().any(|line| is_connect(&line.field));
        let stream = number(head.stream);
        if connects {
            self.ends.begins(stream);
        }
        if head.flags & END_STREAM != 0 {
            self.ends.end_came(stream);
        }
        let number = connects.then(|| Line::new(STREAM, stream.to_string()));
        match (self.mode, number) {
            (Mode::Writes, number) => {
                lines.extend(number);
                Ok(Some(head.write(&lines)))
            }
            // One that does not use the table is read behind any block.
            (Mode::Reads | Mode::Lost, Some(number)) => {
                let mut payload = [head.priority, &head.block].concat();
                number.write(&mut payload);
                Ok(Some(head.frames(&payload)))
            }
            (Mode::Reads | Mode::Lost, None) => Ok(None),
        }
    }
}

/// An authority that `h2` cannot read, or that names a user besides a server (section 8.3.1).
fn is_bad_authority(field: &Field) -> bool {
    field.name == ":authority"
        && (field.value.contains(&b'@') || Authority::try_from(&*field.value).is_err())
}

/// A path that is not as it may be, as it may be.
fn encoded(field: &Field) -> Option<Vec<u8>> {
    if field.name != ":path" {
        return None;
    }
    let mut others = Others::default();
    let mut part = Part::Start;
    for (at, byte) in field.value.iter().enumerate() {
        if let Some(code) = part.encodes(*byte) {
            others.replace(&field.value, at..at + 1, &code);
        }
        part = part.behind(*byte);
    }
    (!others.is_untouched()).then(|| others.finish(&field.value))
}

/// A whole head: a frame HEADERS, and all of its CONTINUATION (section 4.3).
#[derive(Debug)]
struct Head<'a> {
    /// Bytes of all its frames.
    length: usize,
    flags: u8,
    stream: [u8; 4],
    /// The fields that [`PRIORITY`] announces, or nothing.
    priority: &'a [u8],
    /// Copied where it is in several frames.
    block: Cow<'a, [u8]>,
}

impl Head<'_> {
    /// One that the table makes much larger is malformed instead: its stream is reset, and others go on.
    fn write(&self, lines: &[Line]) -> Vec<u8> {
        let largest = limits::FOLLOWED_HEAD_GROWTH + 2 * self.block.len();
        let mut payload = self.priority.to_vec();
        for line in lines {
            line.write(&mut payload);
            if payload.len() > largest {
                payload.truncate(self.priority.len());
                payload.extend_from_slice(MALFORMED);
                break;
            }
        }
        self.frames(&payload)
    }

    /// The frames with this payload, of this head's stream.
    fn frames(&self, payload: &[u8]) -> Vec<u8> {
        let mut frames = Vec::with_capacity(payload.len() + HEADER);
        let mut kind = HEADERS;
        let mut flags = self.flags & !(PADDED | END_HEADERS);
        let mut rest = payload;
        loop {
            let (fragment, behind) = rest.split_at(rest.len().min(PAYLOAD));
            if behind.is_empty() {
                flags |= END_HEADERS;
            }
            let [_, high, middle, low] = u32::try_from(fragment.len()).unwrap_or(0).to_be_bytes();
            frames.extend_from_slice(&[high, middle, low, kind, flags]);
            frames.extend_from_slice(&self.stream);
            frames.extend_from_slice(fragment);
            if behind.is_empty() {
                return frames;
            }
            (kind, flags, rest) = (CONTINUATION, 0, behind);
        }
    }
}

/// The beginning of bytes.
#[derive(Debug)]
enum Next<'a> {
    /// A frame of no head, with so many bytes.
    Passes(usize),
    /// The same, which ends the client's half of a stream.
    Last {
        stream: u32,
        length: usize,
    },
    Reset {
        stream: u32,
        code: [u8; 4],
    },
    /// Something that can be told once there are so many bytes.
    Needs(usize),
    Head(Head<'a>),
    /// Frames that a client does not send.
    Unknown,
}

/// A frame's header, and where its payload is.
struct Frame {
    kind: u8,
    flags: u8,
    stream: [u8; 4],
    payload: Range<usize>,
}

impl Frame {
    /// The frame that begins at `at`, if its header is there.
    fn at(bytes: &[u8], at: usize) -> Option<Self> {
        let (header, _) = bytes.get(at..)?.split_first_chunk::<HEADER>()?;
        let [high, middle, low, kind, flags, stream @ ..] = *header;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        let begins = at + HEADER;
        Some(Self {
            kind,
            flags,
            stream,
            payload: begins..begins + length,
        })
    }
}

/// A stream's number, in 31 bits.
fn number(stream: [u8; 4]) -> u32 {
    u32::from_be_bytes(stream) & (u32::MAX >> 1)
}

/// The same where nothing is a head.
fn next_beside_heads(bytes: &[u8]) -> Next<'_> {
    let Some(first) = Frame::at(bytes, 0) else {
        return Next::Needs(HEADER);
    };
    if matches!(first.kind, DATA | HEADERS) && first.flags & END_STREAM != 0 {
        return Next::Last {
            stream: number(first.stream),
            length: first.payload.end,
        };
    }
    if first.kind != RST_STREAM || first.payload.end != RESET {
        return Next::Passes(first.payload.end);
    }
    match bytes.get(HEADER..).and_then(<[u8]>::first_chunk) {
        Some(code) => Next::Reset {
            stream: number(first.stream),
            code: *code,
        },
        None => Next::Needs(RESET),
    }
}

fn next(bytes: &[u8]) -> Next<'_> {
    let Some(first) = Frame::at(bytes, 0) else {
        return Next::Needs(HEADER);
    };
    match first.kind {
        HEADERS => {}
        PUSH_PROMISE | CONTINUATION => return Next::Unknown,
        _ => return next_beside_heads(bytes),
    }
    let Some(payload) = bytes.get(first.payload.clone()) else {
        return Next::Needs(first.payload.end);
    };
    let Some((priority, fragment)) = fragment(payload, first.flags) else {
        return Next::Unknown;
    };
    let mut head = Head {
        length: first.payload.end,
        flags: first.flags,
        stream: first.stream,
        priority,
        block: Cow::Borrowed(fragment),
    };
    let mut flags = first.flags;
    let mut frames = 1;
    while flags & END_HEADERS == 0 {
        let Some(frame) = Frame::at(bytes, head.length) else {
            return Next::Needs(head.length + HEADER);
        };
        frames += 1;
        if frame.kind != CONTINUATION
            || frame.stream != first.stream
            || frames > limits::FOLLOWED_HEAD_FRAMES
        {
            return Next::Unknown;
        }
        head.length = frame.payload.end;
        let Some(fragment) = bytes.get(frame.payload) else {
            return Next::Needs(head.length);
        };
        head.block.to_mut().extend_from_slice(fragment);
        flags = frame.flags;
    }
    Next::Head(head)
}

/// The fields of [`PRIORITY`] and the fragment of a block in a payload of HEADERS (section 6.2).
fn fragment(mut payload: &[u8], flags: u8) -> Option<(&[u8], &[u8])> {
    if flags & PADDED != 0 {
        let (padding, rest) = payload.split_first()?;
        let length = rest.len().checked_sub(usize::from(*padding))?;
        payload = rest.get(..length)?;
    }
    match flags & PRIORITY {
        0 => Some((&[], payload)),
        _ => payload.split_at_checked(PRIORITY_FIELDS),
    }
}

#[cfg(test)]
mod tests;
