//! PING and PONG: is the peer there, and how far away?

use bytes::{BufMut, BytesMut};

use super::{Body, DecodeError, Fields};

/// Asks for a [`Pong`] with the same bytes.
///
/// ```text
/// 0x05 | length | opaque (8)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping(
    /// Chosen by the sender.
    pub [u8; 8],
);

/// Answers a [`Ping`].
///
/// ```text
/// 0x06 | length | opaque (8)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pong(
    /// The bytes of the PING.
    pub [u8; 8],
);

impl Body for Ping {
    const TYPE: u32 = 0x05;

    fn encode_body(&self, out: &mut BytesMut) {
        out.put_slice(&self.0);
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        fields.array("opaque").map(Self)
    }
}

impl Body for Pong {
    const TYPE: u32 = 0x06;

    fn encode_body(&self, out: &mut BytesMut) {
        out.put_slice(&self.0);
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        fields.array("opaque").map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::assert_wire;
    use super::*;

    #[test]
    fn wire() {
        assert_wire(
            &Ping([1, 2, 3, 4, 5, 6, 7, 8]),
            &[0x05, 8, 1, 2, 3, 4, 5, 6, 7, 8],
        );
        assert_wire(
            &Pong([1, 2, 3, 4, 5, 6, 7, 8]),
            &[0x06, 8, 1, 2, 3, 4, 5, 6, 7, 8],
        );
    }
}
