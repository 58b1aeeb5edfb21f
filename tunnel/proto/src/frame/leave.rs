//! LEAVE: a transport ends, and the session does not.

use bytes::BytesMut;

use super::{Body, DecodeError, Fields, limits};
use crate::code::CloseCode;
use crate::wire::put_bytes;

/// The sender needs this transport no more: the session goes on, on another one, now or later.
///
/// ```text
/// 0x0a | length | code (varint) | reason (length + UTF-8)
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leave {
    /// Why, for programs.
    pub code: CloseCode,
    /// Why, for a log line.
    pub reason: String,
}

impl Body for Leave {
    const TYPE: u32 = 0x0a;

    fn encode_body(&self, out: &mut BytesMut) {
        self.code.encode(out);
        put_bytes(out, limits::clip(&self.reason).as_bytes());
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self {
            code: CloseCode::from_wire(fields.varint("code")?),
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
        let leave = Leave {
            code: CloseCode::Shutdown,
            reason: "moved".into(),
        };
        assert_wire(&leave, &[0x0a, 7, 0, 5, b'm', b'o', b'v', b'e', b'd']);
    }
}
