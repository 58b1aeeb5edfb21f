//! PRIMARY: the link on which it stands is the primary one from now on.

use bytes::BytesMut;

use super::{Body, DecodeError, Fields, put_varint};

/// The sender uses this link from now on for new streams and for the session's frames, and asks the receiver to do
/// the same (PROTOCOL.md, "Two links"). `change` counts the changes: the later one counts.
///
/// ```text
/// 0x16 | length | change (varint)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Primary(pub u64);

impl Body for Primary {
    const TYPE: u32 = 0x16;

    fn encode_body(&self, out: &mut BytesMut) {
        put_varint(out, self.0);
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self(fields.varint("change")?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::assert_wire;
    use super::*;

    #[test]
    fn wire() {
        assert_wire(&Primary(500), &[0x16, 2, 0x41, 0xf4]);
    }
}
