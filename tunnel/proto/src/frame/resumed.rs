//! RESUMED: the transport joins a session.

use bytes::BytesMut;

use super::{Body, DecodeError, Fields, put_varint};

/// The acceptor's answer to a good PROOF for a session that it has, in place of WELCOME.
///
/// ```text
/// 0x09 | length | received (varint)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resumed {
    /// Lasting control frames of the connector's that have arrived since the session began.
    pub received: u64,
}

impl Body for Resumed {
    const TYPE: u32 = 0x09;

    fn encode_body(&self, out: &mut BytesMut) {
        put_varint(out, self.received);
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self {
            received: fields.varint("received")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::assert_wire;
    use super::*;

    #[test]
    fn wire() {
        assert_wire(&Resumed { received: 9 }, &[0x09, 1, 9]);
    }
}
