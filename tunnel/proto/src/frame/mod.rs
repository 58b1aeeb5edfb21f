//! Frames: `type (varint) | length (varint) | body`, one file each (PROTOCOL.md, "Frames").

mod ack;
mod attach;
mod challenge;
mod close;
mod control;
mod credit;
mod go_away;
mod hello;
mod leave;
mod open;
mod ping;
mod primary;
mod proof;
mod reader;
mod resumed;
mod stream_ends;
mod welcome;

pub use ack::{Ack, Sequence};
pub use attach::{Attach, Attached, Leg};
pub use challenge::Challenge;
pub use close::Close;
pub use control::{Control, Lasting};
pub use credit::Credit;
pub use go_away::GoAway;
pub use hello::{Hello, Purpose, Wish};
pub use leave::Leave;
pub use open::{Answer, Class, Open};
pub use ping::{Ping, Pong};
pub use primary::Primary;
pub use proof::Proof;
pub use reader::FrameReader;
pub use resumed::Resumed;
pub use stream_ends::{Done, Refuse, ResetStream, StopSending};
pub use welcome::Welcome;

use bytes::{Bytes, BytesMut};

use super::wire::{Fields, VarInt};
use super::{DecodeError, limits};

/// A frame type's number, the limit of its body and the body's encoding.
///
/// Sealed: the reader of fields has no public name, so that the frames here are all the frames there are.
pub trait Body: Sized {
    /// The number on the wire.
    const TYPE: u32;
    /// The most bytes a body may have.
    const MAX: usize = limits::CONTROL_FRAME;
    /// Appends the body.
    fn encode_body(&self, out: &mut BytesMut);
    /// Reads the body.
    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError>;
}

/// A frame as it was cut from the byte stream, its body not yet read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawFrame {
    /// The type's number.
    pub kind: u64,
    /// The body.
    pub body: Bytes,
}

impl RawFrame {
    /// The frame of type `B`.
    ///
    /// # Errors
    /// Where it is a frame of another type, or its body cannot be decoded.
    pub fn decode<B: Body>(self) -> Result<B, DecodeError> {
        if self.kind != u64::from(B::TYPE) {
            return Err(DecodeError::UnexpectedFrame(self.kind));
        }
        if self.body.len() > B::MAX {
            let len = self.body.len() as u64;
            return Err(DecodeError::TooLong {
                what: "frame",
                len,
                max: B::MAX,
            });
        }
        let mut fields = Fields::new(self.body);
        let body = B::decode_body(&mut fields)?;
        fields.finish()?;
        Ok(body)
    }
}

pub(crate) fn encode<B: Body>(body: &B, out: &mut BytesMut) {
    let mut bytes = BytesMut::new();
    body.encode_body(&mut bytes);
    VarInt::from_u32(B::TYPE).encode(out);
    super::wire::put_bytes(out, &bytes);
}

/// Appends an integer. Offsets and counts never come near 2^62.
pub(crate) fn put_varint(out: &mut BytesMut, value: u64) {
    VarInt::try_from(value).unwrap_or(VarInt::MAX).encode(out);
}

/// The frame as bytes of its own.
pub fn to_bytes<B: Body>(body: &B) -> Bytes {
    let mut out = BytesMut::new();
    encode(body, &mut out);
    out.freeze()
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Asserts the exact bytes of a frame, that they decode to it, that every shorter body is
    /// refused, and that a longer one is.
    pub(crate) fn assert_wire<B: Body + PartialEq + std::fmt::Debug>(frame: &B, wire: &[u8]) {
        assert_eq!(to_bytes(frame)[..], *wire, "encoding of {frame:?}");
        let raw = FrameReader::new(B::MAX).read_all(wire).unwrap();
        assert_eq!(raw.clone().decode::<B>().unwrap(), *frame);
        for len in 0..raw.body.len() {
            let short = RawFrame {
                kind: raw.kind,
                body: raw.body.slice(..len),
            };
            assert!(short.decode::<B>().is_err(), "{len} bytes of {frame:?}");
        }
        let mut long = raw.body.to_vec();
        long.push(0);
        let long = RawFrame {
            kind: raw.kind,
            body: long.into(),
        };
        assert_eq!(long.decode::<B>(), Err(DecodeError::Trailing(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(kind in 0u64..24, body: Vec<u8>) {
            let raw = RawFrame { kind, body: body.into() };
            let _ = Control::decode(raw.clone());
            let _ = raw.clone().decode::<Hello>();
            let _ = raw.clone().decode::<Challenge>();
            let _ = raw.clone().decode::<Proof>();
            let _ = raw.clone().decode::<Welcome>();
            let _ = raw.clone().decode::<Resumed>();
            let _ = raw.clone().decode::<Open>();
            let _ = raw.clone().decode::<Answer>();
            let _ = raw.clone().decode::<Attach>();
            let _ = raw.decode::<Attached>();
        }
    }
}
