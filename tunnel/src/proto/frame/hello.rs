//! HELLO: the connector names itself.

use bytes::{BufMut, BytesMut};

use super::{Body, DecodeError, Fields, VarInt, limits};
use crate::proto::wire::put_bytes;

/// The first frame of a session, from the connector.
///
/// ```text
/// 0x01 | length | count (varint) | version (varint) × count | public key (32) | instance (16)
///      | max streams (varint) | software (length + UTF-8)
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The protocol versions that the connector speaks, best first.
    pub versions: Vec<u32>,
    /// The Ed25519 key (RFC 8032) whose owner the connector claims to be.
    pub public_key: [u8; 32],
    /// A random number of the connector's process. A second session of the same key and instance
    /// replaces the first; one of another instance stands beside it.
    pub instance: [u8; 16],
    /// Streams that the acceptor may have open at once.
    pub max_streams: u32,
    /// What runs there, for logs: name and version.
    pub software: String,
}

impl Body for Hello {
    const TYPE: u32 = 0x01;

    fn encode_body(&self, out: &mut BytesMut) {
        let count = self.versions.len().min(limits::VERSIONS);
        VarInt::from_u32(u32::try_from(count).unwrap_or(u32::MAX)).encode(out);
        for version in self.versions.iter().take(count) {
            VarInt::from_u32(*version).encode(out);
        }
        out.put_slice(&self.public_key);
        out.put_slice(&self.instance);
        VarInt::from_u32(self.max_streams).encode(out);
        put_bytes(out, self.software.as_bytes());
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        let count = fields.varint("versions")?;
        if count > limits::VERSIONS as u64 {
            return Err(DecodeError::TooLong {
                what: "versions",
                len: count,
                max: limits::VERSIONS,
            });
        }
        let versions = (0..count)
            .map(|_| fields.u32("version"))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            versions,
            public_key: fields.array("public key")?,
            instance: fields.array("instance")?,
            max_streams: fields.u32("max streams")?,
            software: fields.string("software", limits::SOFTWARE)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::assert_wire;
    use super::*;

    #[test]
    fn wire() {
        let hello = Hello {
            versions: vec![1],
            public_key: [0xaa; 32],
            instance: [0xbb; 16],
            max_streams: 100,
            software: "x/1".into(),
        };
        let mut wire = vec![0x01, 0x38, 1, 1];
        wire.extend([0xaa; 32]);
        wire.extend([0xbb; 16]);
        wire.extend([0x40, 100, 3, b'x', b'/', b'1']);
        assert_wire(&hello, &wire);
    }

    #[test]
    fn a_list_of_versions_is_bounded() {
        let mut fields = Fields::new(vec![17; 20].into());
        assert!(matches!(
            Hello::decode_body(&mut fields),
            Err(DecodeError::TooLong { .. })
        ));
    }
}
