//! GOAWAY: no new streams, and when to come back.

use bytes::BytesMut;

use super::{Body, DecodeError, Fields, VarInt, limits};
use crate::code::CloseCode;
use crate::wire::put_bytes;

/// The sender opens no more streams and takes none; those that are open go on to their end.
///
/// ```text
/// 0x07 | length | code (varint) | return after, ms (varint) | reason (length + UTF-8)
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoAway {
    /// Why the sender leaves.
    pub code: CloseCode,
    /// When to dial again, in milliseconds from now. The receiver adds no jitter of its own: the
    /// sender spreads its peers.
    pub return_after_ms: u32,
    /// For a log line.
    pub reason: String,
}

impl Body for GoAway {
    const TYPE: u32 = 0x07;

    fn encode_body(&self, out: &mut BytesMut) {
        self.code.encode(out);
        VarInt::from_u32(self.return_after_ms).encode(out);
        put_bytes(out, limits::clip(&self.reason).as_bytes());
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self {
            code: CloseCode::from_wire(fields.varint("code")?),
            return_after_ms: fields.u32("return after")?,
            reason: fields.string("reason", limits::REASON)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::assert_wire;
    use super::*;

    #[test]
    fn wire() {
        let go_away = GoAway {
            code: CloseCode::Shutdown,
            return_after_ms: 500,
            reason: "bye".into(),
        };
        assert_wire(&go_away, &[0x07, 7, 0, 0x41, 0xf4, 3, b'b', b'y', b'e']);
    }
}
