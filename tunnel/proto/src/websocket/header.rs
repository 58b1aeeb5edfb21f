//! A frame's header: up to 14 bytes (RFC 6455, section 5.2).

use bytes::{Buf, BufMut, BytesMut};

use super::{FramingError, Mask};

/// Payload of a control frame at the most.
pub const CONTROL_MAX: usize = 125;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// A frame's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// The next fragment of a message.
    Continuation,
    /// A binary message, or its first fragment.
    Binary,
    /// The last frame of a direction.
    Close,
    /// Asks for a [`Pong`](Self::Pong).
    Ping,
    /// Answers a [`Ping`](Self::Ping).
    Pong,
}

impl Opcode {
    const fn to_wire(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }

    const fn from_wire(value: u8) -> Result<Self, FramingError> {
        Ok(match value {
            0x0 => Self::Continuation,
            0x1 => return Err(FramingError::Text),
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            other => return Err(FramingError::Opcode(other)),
        })
    }

    /// Whether it may stand between a message's fragments, and is short.
    pub const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A frame's part before its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The message's last frame.
    pub fin: bool,
    /// The frame's type.
    pub opcode: Opcode,
    /// Bytes of payload.
    pub len: u64,
    /// Of a client's frame.
    pub mask: Option<Mask>,
}

impl Header {
    /// A frame that is a message of its own.
    pub fn whole(opcode: Opcode, len: usize, mask: Option<Mask>) -> Self {
        Self {
            fin: true,
            opcode,
            len: len as u64,
            mask,
        }
    }

    /// Appends the header.
    pub fn encode(self, out: &mut BytesMut) {
        let masked = if self.mask.is_some() { MASKED } else { 0 };
        out.put_u8(self.opcode.to_wire() | if self.fin { FIN } else { 0 });
        if let Some(short) = u8::try_from(self.len).ok().filter(|len| *len < LENGTH_16) {
            out.put_u8(short | masked);
        } else if let Ok(long) = u16::try_from(self.len) {
            out.put_u8(LENGTH_16 | masked);
            out.put_u16(long);
        } else {
            out.put_u8(LENGTH_64 | masked);
            out.put_u64(self.len);
        }
        if let Some(mask) = self.mask {
            out.put_slice(&mask.key());
        }
    }

    /// Takes a header from the front of `input`; `None`, and nothing taken, where it is not whole.
    ///
    /// # Errors
    /// Where these bytes are no header, or one that a multiplexer's peer does not send.
    pub fn decode(input: &mut BytesMut) -> Result<Option<Self>, FramingError> {
        let mut rest = &input[..];
        let Some(([first, second], behind)) = rest.split_first_chunk() else {
            return Ok(None);
        };
        rest = behind;
        if first & RESERVED != 0 {
            return Err(FramingError::Reserved);
        }
        let opcode = Opcode::from_wire(first & 0x0f)?;
        let len = match second & !MASKED {
            LENGTH_16 => match rest.try_get_u16() {
                Ok(len) if len < u16::from(LENGTH_16) => return Err(FramingError::Length),
                Ok(len) => u64::from(len),
                Err(_) => return Ok(None),
            },
            LENGTH_64 => match rest.try_get_u64() {
                Ok(len) if len <= u16::MAX.into() || len >> 63 != 0 => {
                    return Err(FramingError::Length);
                }
                Ok(len) => len,
                Err(_) => return Ok(None),
            },
            short => u64::from(short),
        };
        let mask = if second & MASKED == 0 {
            None
        } else if let Some((key, behind)) = rest.split_first_chunk() {
            rest = behind;
            Some(Mask::new(*key))
        } else {
            return Ok(None);
        };
        let header = Self {
            fin: first & FIN != 0,
            opcode,
            len,
            mask,
        };
        if opcode.is_control() && (!header.fin || len > CONTROL_MAX as u64) {
            return Err(FramingError::Control);
        }
        input.advance(input.len() - rest.len());
        Ok(Some(header))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(len: u64) -> Header {
        Header {
            fin: true,
            opcode: Opcode::Binary,
            len,
            mask: None,
        }
    }

    /// The examples of RFC 6455, section 5.7, and the borders of each length.
    #[test]
    fn bytes_of_each_length() {
        let cases: [(Header, &[u8]); 7] = [
            (binary(256), &[0x82, 0x7e, 0x01, 0x00]),
            (binary(65_536), &[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]),
            (binary(125), &[0x82, 125]),
            (binary(126), &[0x82, 126, 0, 126]),
            (binary(65_535), &[0x82, 126, 0xff, 0xff]),
            (
                Header::whole(Opcode::Pong, 5, Some(Mask::new([0x37, 0xfa, 0x21, 0x3d]))),
                &[0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d],
            ),
            (
                Header {
                    fin: false,
                    opcode: Opcode::Continuation,
                    ..binary(2)
                },
                &[0x00, 0x02],
            ),
        ];
        for (header, wire) in cases {
            let mut out = BytesMut::new();
            header.encode(&mut out);
            assert_eq!(out[..], *wire, "{header:?}");
            for len in 0..wire.len() {
                let mut short = BytesMut::from(&wire[..len]);
                assert_eq!(Header::decode(&mut short), Ok(None), "{len} bytes");
                assert_eq!(short.len(), len, "nothing is taken");
            }
            out.put_slice(b"payload");
            assert_eq!(Header::decode(&mut out), Ok(Some(header)));
            assert_eq!(out[..], *b"payload");
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        let refused = |wire: &[u8]| Header::decode(&mut BytesMut::from(wire)).unwrap_err();
        assert_eq!(refused(&[0xc2, 0]), FramingError::Reserved);
        assert_eq!(refused(&[0x83, 0]), FramingError::Opcode(3));
        assert_eq!(refused(&[0x81, 0]), FramingError::Text);
        assert_eq!(refused(&[0x09, 0]), FramingError::Control, "a fragment");
        assert_eq!(refused(&[0x89, 126, 0, 126]), FramingError::Control);
        assert_eq!(refused(&[0x82, 126, 0, 125]), FramingError::Length);
        let long = [0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        assert_eq!(refused(&long), FramingError::Length);
        let negative = [0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(refused(&negative), FramingError::Length);
    }
}
