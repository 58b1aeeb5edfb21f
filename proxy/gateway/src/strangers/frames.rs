//! The frames of an HTTP/2 connection (RFC 9113, section 4.1), above its TLS: which of its bytes are kept until somebody takes them.

use tokio::io::AsyncRead;
use tokio_util::io::InspectReader;

use super::Standing;

/// Length of a client's connection preface (section 3.4).
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Where in the frames a connection is.
#[derive(Debug)]
struct Frames {
    preface: usize,
    header: [u8; 9],
    /// Bytes of `header` that are there.
    have: usize,
    /// Bytes of the payload that have yet to come.
    left: usize,
    payload: Payload,
    /// Bytes of a head that has not ended.
    head: usize,
}

#[derive(Debug, Clone, Copy)]
enum Payload {
    Data,
    Head {
        ends: bool,
    },
    /// Nothing that is kept.
    Control,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            preface: PREFACE,
            header: [0; 9],
            have: 0,
            left: 0,
            payload: Payload::Control,
            head: 0,
        }
    }
}

impl Frames {
    /// Follows the bytes that came. Gives how many of them are of bodies.
    fn came(&mut self, mut bytes: &[u8]) -> usize {
        let mut data: usize = 0;
        let skipped = self.preface.min(bytes.len());
        self.preface -= skipped;
        bytes = bytes.get(skipped..).unwrap_or_default();
        while !bytes.is_empty() {
            if self.left == 0 {
                bytes = self.header_came(bytes);
                continue;
            }
            let (payload, rest) = bytes.split_at(self.left.min(bytes.len()));
            bytes = rest;
            self.left -= payload.len();
            match self.payload {
                Payload::Data => data = data.saturating_add(payload.len()),
                Payload::Head { .. } => self.head = self.head.saturating_add(payload.len()),
                Payload::Control => {}
            }
            self.end_of_head();
        }
        data
    }

    fn header_came<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let room = self.header.get_mut(self.have..).unwrap_or_default();
        let (came, rest) = bytes.split_at(room.len().min(bytes.len()));
        if let Some(room) = room.get_mut(..came.len()) {
            room.copy_from_slice(came);
        }
        self.have += came.len();
        if self.have == self.header.len() {
            self.have = 0;
            let [high, middle, low, kind, flags, ..] = self.header;
            self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
            self.payload = match kind {
                DATA => Payload::Data,
                HEADERS | CONTINUATION => Payload::Head {
                    ends: flags & END_HEADERS != 0,
                },
                _ => Payload::Control,
            };
            self.end_of_head();
        }
        rest
    }

    fn end_of_head(&mut self) {
        if self.left == 0 && matches!(self.payload, Payload::Head { ends: true }) {
            self.head = 0;
        }
    }
}

/// A byte stream of HTTP/2 whose heads and bodies are charged to its connection, and not what is read of its socket. Where that
/// is too much, the connection is closed as [`Standing::closed`] says.
pub(crate) fn charged<I: AsyncRead>(
    io: I,
    standing: Standing,
) -> InspectReader<I, impl FnMut(&[u8])> {
    standing.charge_by_frames();
    let mut frames = Frames::default();
    InspectReader::new(io, move |came: &[u8]| {
        let before = frames.head;
        let data = frames.came(came);
        if data > 0 || frames.head != before {
            standing.frames_came(frames.head, data);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, len: usize) -> Vec<u8> {
        let [_, high, middle, low] = u32::try_from(len).unwrap().to_be_bytes();
        let mut frame = vec![high, middle, low, kind, flags, 0, 0, 0, 1];
        frame.resize(9 + len, 0xab);
        frame
    }

    fn stream() -> (Vec<u8>, usize) {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for (kind, flags, len) in [
            (4, 0, 18),                     // SETTINGS
            (HEADERS, END_HEADERS, 70_000), // a whole head
            (DATA, 0, 300),
            (8, 0, 4), // WINDOW_UPDATE
            (6, 1, 8), // PING
            (DATA, 1, 0),
            (HEADERS, 0, 100),
            (CONTINUATION, END_HEADERS, 0),
            (DATA, 1, 5),
            (HEADERS, 0, 200),
            (CONTINUATION, 0, 50),
        ] {
            bytes.extend(frame(kind, flags, len));
        }
        (bytes, 305)
    }

    /// In pieces of any size.
    #[test]
    fn rule_23_heads_that_do_not_end_and_bodies_are_told_from_control_frames() {
        let (bytes, data) = stream();
        for piece in [1, 2, 7, 9, 10, 1000, bytes.len()] {
            let mut frames = Frames::default();
            let came: usize = bytes.chunks(piece).map(|piece| frames.came(piece)).sum();
            assert_eq!((came, frames.head), (data, 250), "in pieces of {piece}");
        }
    }

    #[test]
    fn bytes_that_are_no_frames_are_followed_all_the_same() {
        let mut frames = Frames::default();
        let mut state = 7_u64;
        for _ in 0..10_000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            let bytes = state.to_le_bytes();
            let data = frames.came(bytes.get(..(state >> 61) as usize).unwrap());
            assert!(data <= bytes.len());
        }
    }
}
