//! Cuts frames from a byte stream.

use bytes::{Buf, Bytes, BytesMut};

use super::{DecodeError, RawFrame, VarInt};

/// Cuts frames from bytes that arrive in any pieces.
///
/// Feed it with [`push`](Self::push), take frames with [`next`](Self::next) until that gives
/// `None`. The bytes behind the last frame are available through [`into_rest`](Self::into_rest): a
/// stream's payload starts right behind its OPEN.
///
/// It buffers one frame at the most: a length above the limit is an error as soon as it is read,
/// before any of the body is.
#[derive(Debug)]
pub struct FrameReader {
    buffer: BytesMut,
    max: usize,
}

impl FrameReader {
    /// A reader that accepts bodies of up to `max` bytes.
    pub fn new(max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            max,
        }
    }

    /// Takes received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more bytes come.
    ///
    /// # Errors
    /// Where the frame's body is longer than the limit. The reader gives nothing sensible then.
    #[allow(
        clippy::should_implement_trait,
        reason = "an iterator would hide the errors' place"
    )]
    pub fn next(&mut self) -> Result<Option<RawFrame>, DecodeError> {
        let mut head = &self.buffer[..];
        let (Some(kind), Some(len)) = (VarInt::decode(&mut head), VarInt::decode(&mut head)) else {
            return Ok(None);
        };
        let head_len = self.buffer.len() - head.len();
        let len = match usize::try_from(len.into_inner()) {
            Ok(len) if len <= self.max => len,
            _ => {
                let len = len.into_inner();
                return Err(DecodeError::TooLong {
                    what: "frame",
                    len,
                    max: self.max,
                });
            }
        };
        if head.len() < len {
            self.buffer.reserve(len - head.len());
            return Ok(None);
        }
        self.buffer.advance(head_len);
        let body = self.buffer.split_to(len).freeze();
        Ok(Some(RawFrame {
            kind: kind.into_inner(),
            body,
        }))
    }

    /// Whether bytes of an unfinished frame are waiting.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Pushed bytes that are not part of a frame taken so far.
    pub fn into_rest(self) -> Bytes {
        self.buffer.freeze()
    }

    #[cfg(test)]
    pub(crate) fn read_all(mut self, wire: &[u8]) -> Result<RawFrame, DecodeError> {
        self.push(wire);
        let frame = self.next()?.expect("one whole frame");
        assert!(self.is_empty(), "bytes follow the frame");
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_whatever_the_pieces() {
        let wire = [0x05, 3, b'a', b'b', b'c', 0x40, 0x07, 0, 0x09, 1, b'z'];
        for piece in 1..wire.len() {
            let mut reader = FrameReader::new(16);
            let mut frames = Vec::new();
            for bytes in wire.chunks(piece) {
                reader.push(bytes);
                while let Some(frame) = reader.next().unwrap() {
                    frames.push((frame.kind, frame.body.to_vec()));
                }
            }
            assert_eq!(
                frames,
                [(5, b"abc".to_vec()), (7, vec![]), (9, b"z".to_vec())]
            );
        }
    }

    #[test]
    fn an_oversized_frame_is_refused_before_its_body_arrives() {
        let mut reader = FrameReader::new(16);
        reader.push(&[0x05, 17]);
        assert_eq!(
            reader.next(),
            Err(DecodeError::TooLong {
                what: "frame",
                len: 17,
                max: 16
            })
        );
    }

    #[test]
    fn payload_behind_the_frame_is_kept() {
        let mut reader = FrameReader::new(16);
        reader.push(&[0x05, 1, b'x', b'p', b'q']);
        assert_eq!(reader.next().unwrap().unwrap().body, "x");
        assert_eq!(reader.into_rest(), "pq");
    }
}
