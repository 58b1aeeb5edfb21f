//! WELCOME: the session stands.

use bytes::{BufMut, BytesMut};

use super::{Body, DecodeError, Fields, VarInt, limits};
use crate::agent_name::AgentName;
use crate::secret::SessionSecret;
use crate::wire::put_bytes;

/// The acceptor's answer to a good PROOF.
///
/// ```text
/// 0x04 | length | session (16) | secret (32) | max streams (varint) | keepalive, ms (varint)
///      | resume window, ms (varint) | peer (length + UTF-8) | software (length + UTF-8)
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The session's id: random, for logs and for resuming.
    pub session: [u8; 16],
    /// A later transport must prove that it knows this.
    pub secret: SessionSecret,
    /// Streams that the connector may have open at once.
    pub max_streams: u32,
    /// Silence, in milliseconds, after which either side sends a PING.
    pub keepalive_ms: u32,
    /// How long the session waits, in milliseconds, when it has no transport; 0: not at all.
    pub resume_window_ms: u32,
    /// The connector's name, as the acceptor knows it.
    pub peer: AgentName,
    /// The acceptor's software, for logs: name and version.
    pub software: String,
}

impl Body for Welcome {
    const TYPE: u32 = 0x04;

    fn encode_body(&self, out: &mut BytesMut) {
        out.put_slice(&self.session);
        out.put_slice(self.secret.expose());
        VarInt::from_u32(self.max_streams).encode(out);
        VarInt::from_u32(self.keepalive_ms).encode(out);
        VarInt::from_u32(self.resume_window_ms).encode(out);
        put_bytes(out, self.peer.as_bytes());
        put_bytes(out, self.software.as_bytes());
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self {
            session: fields.array("session")?,
            secret: SessionSecret::new(fields.array("secret")?),
            max_streams: fields.u32("max streams")?,
            keepalive_ms: fields.u32("keepalive")?,
            resume_window_ms: fields.u32("resume window")?,
            peer: AgentName::decode(fields, "peer")?,
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
        let welcome = Welcome {
            session: [0xee; 16],
            secret: SessionSecret::new([0xdd; 32]),
            max_streams: 7,
            keepalive_ms: 10_000,
            resume_window_ms: 9,
            peer: "c".try_into().unwrap(),
            software: "s".into(),
        };
        let mut wire = vec![0x04, 56];
        wire.extend([0xee; 16]);
        wire.extend([0xdd; 32]);
        wire.extend([7, 0x67, 0x10, 9, 1, b'c', 1, b's']);
        assert_wire(&welcome, &wire);
    }
}
