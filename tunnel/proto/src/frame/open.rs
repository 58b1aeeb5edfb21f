//! OPEN and ANSWER: a stream's target, and whether the peer accepts it.

use bytes::{Bytes, BytesMut};

use super::{Body, DecodeError, Fields, VarInt, limits};
use crate::stream_id::StreamId;
use crate::wire::put_bytes;

/// How urgent a stream's bytes are, beside those of other streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Class {
    /// Keystrokes: a shell, an attach.
    Interactive,
    /// Requests and watches.
    #[default]
    Default,
    /// Copies: throughput matters, a single byte's delay does not.
    Bulk,
}

impl Class {
    const fn to_wire(self) -> u32 {
        match self {
            Self::Interactive => 0,
            Self::Default => 1,
            Self::Bulk => 2,
        }
    }

    fn from_wire(value: u64) -> Result<Self, DecodeError> {
        match value {
            0 => Ok(Self::Interactive),
            1 => Ok(Self::Default),
            2 => Ok(Self::Bulk),
            _ => Err(DecodeError::BadValue {
                what: "class",
                value,
            }),
        }
    }
}

/// The open header: the first frame on a new stream, from its initiator. Payload may follow at
/// once.
///
/// ```text
/// 0x10 | length | stream (varint) | class (varint) | target (length + UTF-8)
///      | header (length + bytes)
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The stream's id in the session.
    pub stream: StreamId,
    /// How urgent it is.
    pub class: Class,
    /// The peer connects it to this, in the application's words.
    pub target: String,
    /// The header for the target, in the application's encoding.
    pub header: Bytes,
}

impl Body for Open {
    const TYPE: u32 = 0x10;
    const MAX: usize = limits::OPEN_FRAME;

    fn encode_body(&self, out: &mut BytesMut) {
        self.stream.to_wire().encode(out);
        VarInt::from_u32(self.class.to_wire()).encode(out);
        put_bytes(out, self.target.as_bytes());
        put_bytes(out, &self.header);
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self {
            stream: StreamId::from_wire(fields.raw_varint("stream")?),
            class: Class::from_wire(fields.varint("class")?)?,
            target: fields.string("target", limits::TARGET)?,
            header: fields.bytes("header", limits::OPEN_HEADER)?,
        })
    }
}

/// The first frame in the other direction of a stream: the peer takes it, and its payload follows.
/// A stream that is not taken is answered with [`Refuse`](super::Refuse) instead.
///
/// ```text
/// 0x11 | 0
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer;

impl Body for Answer {
    const TYPE: u32 = 0x11;

    fn encode_body(&self, _: &mut BytesMut) {}

    fn decode_body(_: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::assert_wire;
    use super::*;
    use crate::stream_id::Role;

    #[test]
    fn wire() {
        let open = Open {
            stream: StreamId::first(Role::Acceptor),
            class: Class::Bulk,
            target: "tcp".into(),
            header: Bytes::from_static(b"h"),
        };
        assert_wire(&open, &[0x10, 8, 1, 2, 3, b't', b'c', b'p', 1, b'h']);
        assert_wire(&Answer, &[0x11, 0]);
    }

    #[test]
    fn a_class_of_the_future_is_refused_not_guessed() {
        let mut fields = Fields::new(Bytes::from_static(&[1, 3, 0, 0]));
        let error = Open::decode_body(&mut fields).unwrap_err();
        assert_eq!(
            error,
            DecodeError::BadValue {
                what: "class",
                value: 3
            }
        );
    }
}
