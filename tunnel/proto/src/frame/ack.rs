//! ACK and SEQUENCE: which lasting control frames arrived, and which follow.

use bytes::BytesMut;

use super::{Body, DecodeError, Fields, put_varint};

/// How many of the receiver's lasting control frames have arrived, since the session began
/// (PROTOCOL.md, "Lasting frames").
///
/// ```text
/// 0x0b | length | count (varint)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack(pub u64);

impl Body for Ack {
    const TYPE: u32 = 0x0b;

    fn encode_body(&self, out: &mut BytesMut) {
        put_varint(out, self.0);
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self(fields.varint("count")?))
    }
}

/// The number of the lasting frame that follows next on this link. It is the first frame on a link
/// that resumes a session: acknowledgements may have overtaken its handshake.
///
/// ```text
/// 0x15 | length | number (varint)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence(pub u64);

impl Body for Sequence {
    const TYPE: u32 = 0x15;

    fn encode_body(&self, out: &mut BytesMut) {
        put_varint(out, self.0);
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self(fields.varint("number")?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::assert_wire;
    use super::*;

    #[test]
    fn wire() {
        assert_wire(&Ack(500), &[0x0b, 2, 0x41, 0xf4]);
        assert_wire(&Sequence(500), &[0x15, 2, 0x41, 0xf4]);
    }
}
