//! ATTACH and ATTACHED: a stream goes on, on another transport.

use bytes::BytesMut;

use super::{Body, DecodeError, Fields, put_varint};
use crate::stream_id::StreamId;

/// A part of a stream's way over the transports. The side that opened the stream counts them; a stream is
/// where the highest one led.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leg(pub u64);

impl Leg {
    /// The first, which begins with OPEN.
    pub const FIRST: Self = Self(0);

    /// The one after this.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The first frame on a transport stream that carries on a session's stream, from the side that
/// opened that stream. Its payload follows once ATTACHED was received.
///
/// ```text
/// 0x12 | length | stream (varint) | leg (varint) | received (varint) | limit (varint)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attach {
    /// Which stream.
    pub stream: StreamId,
    /// Which part of the stream's way over the transports begins here.
    pub leg: Leg,
    /// Bytes of the stream that the sender of this frame has: the next ones follow ATTACHED.
    pub received: u64,
    /// Bytes of the stream that may be sent to it in all.
    pub limit: u64,
}

impl Body for Attach {
    const TYPE: u32 = 0x12;

    fn encode_body(&self, out: &mut BytesMut) {
        self.stream.to_wire().encode(out);
        put_varint(out, self.leg.0);
        put_varint(out, self.received);
        put_varint(out, self.limit);
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self {
            stream: StreamId::from_wire(fields.raw_varint("stream")?),
            leg: Leg(fields.varint("leg")?),
            received: fields.varint("received")?,
            limit: fields.varint("limit")?,
        })
    }
}

/// The answer to [`Attach`], first in the other direction.
///
/// ```text
/// 0x13 | length | received (varint) | limit (varint)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// Bytes of the stream that the sender of this frame has: the next ones follow it.
    pub received: u64,
    /// Bytes of the stream that may be sent to it in all.
    pub limit: u64,
}

impl Body for Attached {
    const TYPE: u32 = 0x13;

    fn encode_body(&self, out: &mut BytesMut) {
        put_varint(out, self.received);
        put_varint(out, self.limit);
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self {
            received: fields.varint("received")?,
            limit: fields.varint("limit")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::assert_wire;
    use super::*;
    use crate::stream_id::Role;

    #[test]
    fn wire() {
        let attach = Attach {
            stream: StreamId::first(Role::Acceptor),
            leg: Leg(2),
            received: 3,
            limit: 500,
        };
        assert_wire(&attach, &[0x12, 5, 1, 2, 3, 0x41, 0xf4]);
        let attached = Attached {
            received: 3,
            limit: 500,
        };
        assert_wire(&attached, &[0x13, 3, 3, 0x41, 0xf4]);
    }
}
