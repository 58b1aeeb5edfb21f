//! PROOF: the connector proves that it owns the key.

use bytes::{BufMut, BytesMut};

use super::{Body, DecodeError, Fields};

/// The connector's answer to CHALLENGE.
///
/// ```text
/// 0x03 | length | signature (64) | 0                        for a new session
/// 0x03 | length | signature (64) | 1 | resumption (32)      for one that exists
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Ed25519 signature (RFC 8032) over the handshake's transcript.
    pub signature: [u8; 64],
    /// HMAC-SHA256 (RFC 2104) over the transcript, by the secret of the session to resume.
    pub resumption: Option<[u8; 32]>,
}

impl Body for Proof {
    const TYPE: u32 = 0x03;

    fn encode_body(&self, out: &mut BytesMut) {
        out.put_slice(&self.signature);
        match &self.resumption {
            None => out.put_u8(0),
            Some(resumption) => {
                out.put_u8(1);
                out.put_slice(resumption);
            }
        }
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self {
            signature: fields.array("signature")?,
            resumption: match fields.varint("resumption")? {
                0 => None,
                1 => Some(fields.array("resumption")?),
                value => {
                    return Err(DecodeError::BadValue {
                        what: "resumption",
                        value,
                    });
                }
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::assert_wire;
    use super::*;

    #[test]
    fn wire() {
        let mut wire = vec![0x03, 0x40, 65];
        wire.extend([0xdd; 64]);
        wire.push(0);
        let proof = Proof {
            signature: [0xdd; 64],
            resumption: None,
        };
        assert_wire(&proof, &wire);
        let mut wire = vec![0x03, 0x40, 97];
        wire.extend([0xdd; 64]);
        wire.push(1);
        wire.extend([0xcc; 32]);
        let proof = Proof {
            signature: [0xdd; 64],
            resumption: Some([0xcc; 32]),
        };
        assert_wire(&proof, &wire);
    }
}
