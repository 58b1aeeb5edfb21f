//! The frames inside a yamux stream (PROTOCOL.md, "Streams over yamux").
//!
//! ```text
//! 0x20 | length | bytes           DATA
//! 0x21 | 0                        FIN: nothing follows in this direction
//! 0x22 | length | code (varint)   RESET: this direction ended early
//! 0x23 | length | code (varint)   STOP: the other direction is not read any more
//! ```

use bytes::{Bytes, BytesMut};

use super::code::ResetCode;
use super::frame::RawFrame;
use super::wire::{self, Fields};
use super::{DecodeError, VarInt};

const DATA: u32 = 0x20;
const FIN: u32 = 0x21;
const RESET: u32 = 0x22;
const STOP: u32 = 0x23;

/// Bytes of one DATA frame at the most: with its header and yamux's own it fills one TLS record.
pub const DATA_MAX: usize = 16 * 1024 - 32;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of the stream.
    Data(Bytes),
    /// The direction's clean end.
    Fin,
    /// The direction ended early.
    Reset(ResetCode),
    /// The sender reads no more of the other direction.
    Stop(ResetCode),
}

impl Frame {
    /// The type's number.
    pub fn kind(&self) -> u64 {
        u64::from(match self {
            Self::Data(_) => DATA,
            Self::Fin => FIN,
            Self::Reset(_) => RESET,
            Self::Stop(_) => STOP,
        })
    }

    /// Reads the frame's body.
    ///
    /// # Errors
    /// Where it is no frame of a yamux stream, or its body cannot be decoded.
    pub fn decode(raw: RawFrame) -> Result<Self, DecodeError> {
        match u32::try_from(raw.kind) {
            Ok(DATA) => Ok(Self::Data(raw.body)),
            Ok(FIN) => Fields::new(raw.body).finish().map(|()| Self::Fin),
            Ok(RESET) => code(raw.body).map(Self::Reset),
            Ok(STOP) => code(raw.body).map(Self::Stop),
            _ => Err(DecodeError::UnexpectedFrame(raw.kind)),
        }
    }
}

/// Type, name and limit of each frame, for the test that compares them with the document.
#[cfg(test)]
pub(crate) fn frames() -> impl Iterator<Item = (u64, &'static str, usize)> {
    let names = [
        (DATA, "DATA"),
        (FIN, "FIN"),
        (RESET, "RESET"),
        (STOP, "STOP"),
    ];
    names
        .into_iter()
        .map(|(kind, name)| (u64::from(kind), name, DATA_MAX))
}

fn code(body: Bytes) -> Result<ResetCode, DecodeError> {
    let mut fields = Fields::new(body);
    let code = ResetCode::from_wire(fields.varint("code")?);
    fields.finish()?;
    Ok(code)
}

/// Appends DATA: [`DATA_MAX`] bytes at the most.
pub fn put_data(out: &mut BytesMut, data: &[u8]) {
    put(out, DATA, data);
}

/// Appends FIN.
pub fn put_fin(out: &mut BytesMut) {
    put(out, FIN, &[]);
}

/// Appends RESET.
pub fn put_reset(out: &mut BytesMut, code: ResetCode) {
    put_code(out, RESET, code);
}

/// Appends STOP.
pub fn put_stop(out: &mut BytesMut, code: ResetCode) {
    put_code(out, STOP, code);
}

fn put_code(out: &mut BytesMut, kind: u32, code: ResetCode) {
    let mut body = BytesMut::with_capacity(8);
    code.encode(&mut body);
    put(out, kind, &body);
}

fn put(out: &mut BytesMut, kind: u32, body: &[u8]) {
    VarInt::from_u32(kind).encode(out);
    wire::put_bytes(out, body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameReader;

    fn wire(put: impl FnOnce(&mut BytesMut)) -> Bytes {
        let mut out = BytesMut::new();
        put(&mut out);
        out.freeze()
    }

    fn read(wire: &[u8]) -> Result<Frame, DecodeError> {
        Frame::decode(FrameReader::new(DATA_MAX).read_all(wire).unwrap())
    }

    #[test]
    fn bytes_of_each_frame() {
        let cases = [
            (
                wire(|out| put_data(out, b"hi")),
                &[0x20, 2, b'h', b'i'][..],
                Frame::Data("hi".into()),
            ),
            (wire(put_fin), &[0x21, 0], Frame::Fin),
            (
                wire(|out| put_reset(out, ResetCode::Forbidden)),
                &[0x22, 1, 1],
                Frame::Reset(ResetCode::Forbidden),
            ),
            (
                wire(|out| put_stop(out, ResetCode::Cancelled)),
                &[0x23, 1, 0],
                Frame::Stop(ResetCode::Cancelled),
            ),
        ];
        for (encoded, expected, frame) in cases {
            assert_eq!(encoded[..], *expected);
            assert_eq!(read(expected), Ok(frame));
        }
    }

    #[test]
    fn a_fin_with_a_body_and_a_frame_without_a_meaning_are_refused() {
        assert_eq!(read(&[0x21, 1, 0]), Err(DecodeError::Trailing(1)));
        assert_eq!(read(&[0x22, 0]), Err(DecodeError::Truncated("code")));
        assert_eq!(read(&[0x24, 0]), Err(DecodeError::UnexpectedFrame(0x24)));
    }
}
