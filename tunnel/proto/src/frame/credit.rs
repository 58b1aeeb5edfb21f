//! CREDIT: bytes of a stream that arrived, and those that may follow.

use bytes::BytesMut;

use super::{Body, DecodeError, Fields, put_varint};
use crate::stream_id::StreamId;

/// Acknowledges a stream's bytes and allows more: both as offsets from the stream's beginning
/// (PROTOCOL.md, "Offsets, acknowledgement and credit").
///
/// ```text
/// 0x0c | length | stream (varint) | received (varint) | limit (varint)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    /// Which stream; the direction that the receiver of this frame sends.
    pub stream: StreamId,
    /// Bytes that arrived: the sender may forget them.
    pub received: u64,
    /// Bytes that may be sent in all.
    pub limit: u64,
}

impl Body for Credit {
    const TYPE: u32 = 0x0c;

    fn encode_body(&self, out: &mut BytesMut) {
        self.stream.to_wire().encode(out);
        put_varint(out, self.received);
        put_varint(out, self.limit);
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self {
            stream: StreamId::from_wire(fields.raw_varint("stream")?),
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
        let credit = Credit {
            stream: StreamId::first(Role::Acceptor),
            received: 5,
            limit: 500,
        };
        assert_wire(&credit, &[0x0c, 4, 1, 5, 0x41, 0xf4]);
    }
}
