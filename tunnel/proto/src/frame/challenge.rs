//! CHALLENGE: the acceptor asks for a proof.

use bytes::{BufMut, BytesMut};

use super::{Body, DecodeError, Fields, VarInt};

/// The acceptor's answer to HELLO.
///
/// ```text
/// 0x02 | length | version (varint) | nonce (32)
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The version chosen from those of HELLO.
    pub version: u32,
    /// Random bytes, never used before.
    pub nonce: [u8; 32],
}

impl Body for Challenge {
    const TYPE: u32 = 0x02;

    fn encode_body(&self, out: &mut BytesMut) {
        VarInt::from_u32(self.version).encode(out);
        out.put_slice(&self.nonce);
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self {
            version: fields.u32("version")?,
            nonce: fields.array("nonce")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::assert_wire;
    use super::*;

    #[test]
    fn wire() {
        let mut wire = vec![0x02, 33, 1];
        wire.extend([0xcc; 32]);
        assert_wire(
            &Challenge {
                version: 1,
                nonce: [0xcc; 32],
            },
            &wire,
        );
    }
}
