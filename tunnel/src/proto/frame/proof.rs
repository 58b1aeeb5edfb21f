//! PROOF: the connector proves that it owns the key.

use bytes::{BufMut, BytesMut};

use super::{Body, DecodeError, Fields};

/// The connector's answer to CHALLENGE.
///
/// ```text
/// 0x03 | length | signature (64)
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Ed25519 signature (RFC 8032) over the handshake's transcript.
    pub signature: [u8; 64],
}

impl Body for Proof {
    const TYPE: u32 = 0x03;

    fn encode_body(&self, out: &mut BytesMut) {
        out.put_slice(&self.signature);
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self {
            signature: fields.array("signature")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::assert_wire;
    use super::*;

    #[test]
    fn wire() {
        let mut wire = vec![0x03, 0x40, 64];
        wire.extend([0xdd; 64]);
        assert_wire(
            &Proof {
                signature: [0xdd; 64],
            },
            &wire,
        );
    }
}
