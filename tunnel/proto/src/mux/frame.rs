//! Frames (PROTOCOL.md, "Streams over underpass.v1").
//!
//! ```text
//! 0x40 | stream (varint) | length (varint) | payload     DATA
//! 0x41 | stream (varint) | length (varint) | payload     DATA with FIN: nothing follows
//! 0x42 | stream (varint) | code (varint)                 RESET: this direction ended early
//! 0x43 | stream (varint) | code (varint)                 STOP: the other direction is not read
//! ```

use bytes::{Buf, BufMut, BytesMut};

use super::error::Violation;
use super::number::Number;
use crate::VarInt;
use crate::code::ResetCode;
use crate::limits;

const DATA: u8 = 0x40;
const DATA_FIN: u8 = 0x41;
const RESET: u8 = 0x42;
const STOP: u8 = 0x43;

/// Bytes of a header at the most: the type and two integers of eight.
pub(super) const HEADER_MAX: usize = 17;

/// Bytes of a DATA frame's header where the payload has `len` at the most.
pub(super) fn data_header_len(number: Number, len: usize) -> usize {
    let len = VarInt::try_from(len as u64).unwrap_or(VarInt::MAX);
    1 + number.to_wire().encoded_len() + len.encoded_len()
}

/// A frame's part before the payload; of RESET and STOP, all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    Data { len: usize, fin: bool },
    Reset(ResetCode),
    Stop(ResetCode),
}

impl Header {
    pub(super) fn encode(self, number: Number, out: &mut BytesMut) {
        let (kind, value) = match self {
            Self::Data { len, fin } => (if fin { DATA_FIN } else { DATA }, len as u64),
            Self::Reset(code) => (RESET, code.to_wire()),
            Self::Stop(code) => (STOP, code.to_wire()),
        };
        out.put_u8(kind);
        number.to_wire().encode(out);
        // Lengths are bounded; codes come from small enums, or from the wire.
        VarInt::try_from(value).unwrap_or(VarInt::MAX).encode(out);
    }

    /// Takes a header from the front of `input`; `None` where it is not whole.
    fn decode(input: &mut &[u8]) -> Result<Option<(Number, Self)>, Violation> {
        let Ok(kind) = input.try_get_u8() else {
            return Ok(None);
        };
        if !(DATA..=STOP).contains(&kind) {
            return Err(Violation::Kind(kind));
        }
        let Some(number) = VarInt::decode(input) else {
            return Ok(None);
        };
        let Some(value) = VarInt::decode(input) else {
            return Ok(None);
        };
        let header = match (kind, value.into_inner()) {
            (RESET, code) => Self::Reset(ResetCode::from_wire(code)),
            (STOP, code) => Self::Stop(ResetCode::from_wire(code)),
            (DATA, 0) => return Err(Violation::EmptyData),
            (_, len) => match usize::try_from(len) {
                Ok(len) if len <= limits::MUX_DATA => Self::Data {
                    len,
                    fin: kind == DATA_FIN,
                },
                _ => return Err(Violation::DataTooLong { len }),
            },
        };
        Ok(Some((Number::from_wire(number), header)))
    }
}

/// Finds headers in a byte stream that is cut anywhere.
#[derive(Debug, Default)]
pub(super) struct HeaderReader {
    /// The beginning of a header whose rest has not come.
    begun: Vec<u8>,
}

impl HeaderReader {
    /// Takes the next header from the front of `input`; `None` where its rest has not come, and
    /// `input` is then empty.
    pub(super) fn next(
        &mut self,
        input: &mut impl Buf,
    ) -> Result<Option<(Number, Header)>, Violation> {
        let before = self.begun.len();
        if before == 0 {
            let chunk = &mut input.chunk();
            let len = chunk.len();
            if let Some(header) = Header::decode(chunk)? {
                let taken = len - chunk.len();
                input.advance(taken);
                return Ok(Some(header));
            }
        }
        let more = input.chunk();
        let more = more.get(..HEADER_MAX - before).unwrap_or(more);
        self.begun.extend_from_slice(more);
        let rest = &mut self.begun.as_slice();
        let header = Header::decode(rest)?;
        match header {
            Some(_) => {
                let taken = self.begun.len() - rest.len() - before;
                input.advance(taken);
                self.begun.clear();
            }
            // A header that is not whole is shorter than the longest: everything was taken.
            None => input.advance(input.remaining()),
        }
        Ok(header)
    }

    /// Whether the byte stream stands between frames, as far as headers go.
    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_empty()
    }
}

/// Type and name of each frame, for the test that compares them with the document.
#[cfg(test)]
pub(crate) const FRAMES: [(u8, &str); 4] = [
    (DATA, "DATA"),
    (DATA_FIN, "DATA with FIN"),
    (RESET, "RESET"),
    (STOP, "STOP"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(value: u64) -> Number {
        Number::from_wire(VarInt::try_from(value).unwrap())
    }

    fn read(wire: &[u8]) -> Result<Option<(Number, Header)>, Violation> {
        HeaderReader::default().next(&mut &*wire)
    }

    /// The document's examples.
    #[test]
    fn bytes_of_each_frame() {
        let data = |len, fin| Header::Data { len, fin };
        let cases: [(u64, Header, &[u8]); 5] = [
            (0, data(2, false), &[0x40, 0, 2]),
            (5, data(0, true), &[0x41, 5, 0]),
            (70, data(16_384, true), &[0x41, 0x40, 70, 0x80, 0, 0x40, 0]),
            (2, Header::Reset(ResetCode::Cancelled), &[0x42, 2, 0]),
            (
                3,
                Header::Stop(ResetCode::Other(300)),
                &[0x43, 3, 0x41, 0x2c],
            ),
        ];
        for (stream, header, wire) in cases {
            let mut out = BytesMut::new();
            header.encode(number(stream), &mut out);
            assert_eq!(out[..], *wire, "{header:?}");
            assert_eq!(read(wire), Ok(Some((number(stream), header))));
        }
    }

    #[test]
    fn what_is_no_frame_is_named() {
        assert_eq!(read(&[0x3f, 0, 0]), Err(Violation::Kind(0x3f)));
        assert_eq!(read(&[0x44]), Err(Violation::Kind(0x44)));
        assert_eq!(read(&[0x40, 0, 0]), Err(Violation::EmptyData));
        let len = limits::MUX_DATA as u64 + 1;
        let mut wire = BytesMut::from(&[0x40, 0][..]);
        VarInt::try_from(len).unwrap().encode(&mut wire);
        assert_eq!(read(&wire), Err(Violation::DataTooLong { len }));
    }

    fn headers() -> impl Strategy<Value = Header> {
        let code = (0..1u64 << 62).prop_map(ResetCode::from_wire);
        prop_oneof![
            (0..=limits::MUX_DATA, any::<bool>()).prop_map(|(len, fin)| Header::Data {
                len,
                fin: fin || len == 0
            }),
            code.clone().prop_map(Header::Reset),
            code.prop_map(Header::Stop),
        ]
    }

    proptest! {
        #[test]
        fn headers_survive_any_cut(
            frames in prop::collection::vec((0..1u64 << 62, headers()), 1..20),
            cuts in prop::collection::vec(1usize..20, 1..20),
        ) {
            let mut wire = BytesMut::new();
            for (stream, header) in &frames {
                let before = wire.len();
                header.encode(number(*stream), &mut wire);
                prop_assert!(wire.len() - before <= HEADER_MAX);
            }
            let mut wire = wire.freeze();
            let mut reader = HeaderReader::default();
            let mut seen = Vec::new();
            for cut in cuts.iter().cycle() {
                if wire.is_empty() {
                    break;
                }
                let mut piece = wire.split_to((*cut).min(wire.len()));
                while let Some((number, header)) = reader.next(&mut piece).unwrap() {
                    seen.push((number.to_wire().into_inner(), header));
                }
                prop_assert!(piece.is_empty());
            }
            prop_assert!(reader.is_empty());
            prop_assert_eq!(seen, frames);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(pieces: Vec<Vec<u8>>) {
            let mut reader = HeaderReader::default();
            for piece in &pieces {
                let mut piece = piece.as_slice();
                while let Ok(Some(_)) = reader.next(&mut piece) {}
            }
        }
    }
}
