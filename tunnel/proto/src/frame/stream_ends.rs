//! How a stream's directions end: REFUSE, `RESET_STREAM`, `STOP_SENDING`, DONE.

use bytes::BytesMut;

use super::{Body, DecodeError, Fields, limits};
use crate::code::ResetCode;
use crate::stream_id::StreamId;
use crate::wire::put_bytes;

/// The stream is not taken: both its directions are over, and nothing was done with its payload.
///
/// ```text
/// 0x0d | length | stream (varint) | code (varint) | reason (length + UTF-8)
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refuse {
    /// Which stream, one that the receiver opened.
    pub stream: StreamId,
    /// Why, for programs.
    pub code: ResetCode,
    /// Why, for people.
    pub reason: String,
}

impl Body for Refuse {
    const TYPE: u32 = 0x0d;

    fn encode_body(&self, out: &mut BytesMut) {
        self.stream.to_wire().encode(out);
        self.code.encode(out);
        put_bytes(out, limits::clip(&self.reason).as_bytes());
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self {
            stream: StreamId::from_wire(fields.raw_varint("stream")?),
            code: ResetCode::from_wire(fields.varint("code")?),
            reason: fields.string("reason", limits::REASON)?,
        })
    }
}

/// The sender's direction of a stream ended early.
///
/// ```text
/// 0x0e | length | stream (varint) | code (varint)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResetStream {
    /// Which stream.
    pub stream: StreamId,
    /// Why.
    pub code: ResetCode,
}

impl Body for ResetStream {
    const TYPE: u32 = 0x0e;

    fn encode_body(&self, out: &mut BytesMut) {
        self.stream.to_wire().encode(out);
        self.code.encode(out);
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self {
            stream: StreamId::from_wire(fields.raw_varint("stream")?),
            code: ResetCode::from_wire(fields.varint("code")?),
        })
    }
}

/// The receiver's direction of a stream is not read any more.
///
/// ```text
/// 0x0f | length | stream (varint) | code (varint)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopSending {
    /// Which stream.
    pub stream: StreamId,
    /// Why.
    pub code: ResetCode,
}

impl Body for StopSending {
    const TYPE: u32 = 0x0f;

    fn encode_body(&self, out: &mut BytesMut) {
        self.stream.to_wire().encode(out);
        self.code.encode(out);
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self {
            stream: StreamId::from_wire(fields.raw_varint("stream")?),
            code: ResetCode::from_wire(fields.varint("code")?),
        })
    }
}

/// The receiver's direction of a stream arrived whole, its clean end included: it may be forgotten.
///
/// ```text
/// 0x14 | length | stream (varint)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done(pub StreamId);

impl Body for Done {
    const TYPE: u32 = 0x14;

    fn encode_body(&self, out: &mut BytesMut) {
        self.0.to_wire().encode(out);
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self(StreamId::from_wire(fields.raw_varint("stream")?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::assert_wire;
    use super::*;
    use crate::stream_id::Role;

    #[test]
    fn wire() {
        let stream = StreamId::first(Role::Acceptor);
        let refuse = Refuse {
            stream,
            code: ResetCode::Forbidden,
            reason: "no".into(),
        };
        assert_wire(&refuse, &[0x0d, 5, 1, 1, 2, b'n', b'o']);
        let code = ResetCode::TargetFailed;
        assert_wire(&ResetStream { stream, code }, &[0x0e, 2, 1, 7]);
        assert_wire(&StopSending { stream, code }, &[0x0f, 2, 1, 7]);
        assert_wire(&Done(stream), &[0x14, 1, 1]);
    }
}
