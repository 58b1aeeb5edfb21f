//! CLOSE: the session is over.

use bytes::BytesMut;

use super::{Body, DecodeError, Fields, limits};
use crate::code::CloseCode;
use crate::wire::put_bytes;

/// Ends the session at once. Streams that are open end with
/// [`ResetCode::SessionEnded`](crate::code::ResetCode::SessionEnded).
///
/// ```text
/// 0x08 | length | code (varint) | reason (length + UTF-8)
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// Why.
    pub code: CloseCode,
    /// For a log line.
    pub reason: String,
}

impl Body for Close {
    const TYPE: u32 = 0x08;

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
        let close = Close {
            code: CloseCode::Unauthenticated,
            reason: "no".into(),
        };
        assert_wire(&close, &[0x08, 4, 6, 2, b'n', b'o']);
    }

    #[test]
    fn a_long_reason_is_clipped_at_a_character() {
        let close = Close {
            code: CloseCode::Internal,
            reason: "é".repeat(limits::REASON),
        };
        let raw = super::super::FrameReader::new(Close::MAX)
            .read_all(&super::super::to_bytes(&close))
            .unwrap();
        let reason = raw.decode::<Close>().unwrap().reason;
        assert_eq!(reason, "é".repeat(limits::REASON / 2));
    }
}
