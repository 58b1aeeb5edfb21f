//! Integers, strings and byte runs as they stand on the wire (PROTOCOL.md, "Encoding").

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

/// An unsigned integer below 2^62, encoded in 1, 2, 4 or 8 bytes (RFC 9000, section 16).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VarInt(u64);

/// A number that a [`VarInt`] cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0} does not fit a variable-length integer (at most 2^62 - 1)")]
pub struct VarIntRange(pub u64);

impl VarInt {
    /// The largest value: 2^62 - 1.
    pub const MAX: Self = Self((1 << 62) - 1);

    /// From a number that always fits.
    pub const fn from_u32(value: u32) -> Self {
        Self(value as u64)
    }

    /// The number.
    pub const fn into_inner(self) -> u64 {
        self.0
    }

    /// Bytes that the encoding takes: 1, 2, 4 or 8.
    pub const fn encoded_len(self) -> usize {
        match self.0 {
            0..=0x3f => 1,
            0x40..=0x3fff => 2,
            0x4000..=0x3fff_ffff => 4,
            _ => 8,
        }
    }

    /// Appends the shortest encoding.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "each arm has bounded the value"
    )]
    pub fn encode(self, out: &mut BytesMut) {
        match self.encoded_len() {
            1 => out.put_u8(self.0 as u8),
            2 => out.put_u16(self.0 as u16 | 0x4000),
            4 => out.put_u32(self.0 as u32 | 0x8000_0000),
            _ => out.put_u64(self.0 | 0xc000_0000_0000_0000),
        }
    }

    /// Reads one from the front of `input`, or `None` where `input` ends before it does.
    ///
    /// Longer encodings than needed are accepted, as RFC 9000 accepts them.
    pub fn decode(input: &mut impl Buf) -> Option<Self> {
        let first = *input.chunk().first()?;
        let len = 1usize << (first >> 6);
        if input.remaining() < len {
            return None;
        }
        Some(Self(match len {
            1 => u64::from(input.get_u8()),
            2 => u64::from(input.get_u16() & 0x3fff),
            4 => u64::from(input.get_u32() & 0x3fff_ffff),
            _ => input.get_u64() & 0x3fff_ffff_ffff_ffff,
        }))
    }
}

impl TryFrom<u64> for VarInt {
    type Error = VarIntRange;

    fn try_from(value: u64) -> Result<Self, VarIntRange> {
        if value <= Self::MAX.0 {
            Ok(Self(value))
        } else {
            Err(VarIntRange(value))
        }
    }
}

impl From<u32> for VarInt {
    fn from(value: u32) -> Self {
        Self::from_u32(value)
    }
}

/// Why received bytes are not a frame. The sender of the bytes is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The frame's body ends before its fields do.
    #[error("frame ends in the middle of field `{0}`")]
    Truncated(&'static str),
    /// The frame's body goes on after its last field.
    #[error("{0} bytes follow the frame's last field")]
    Trailing(usize),
    /// A field or a frame is longer than its limit.
    #[error("`{what}` has {len} bytes, the limit is {max}")]
    TooLong {
        /// The field or frame.
        what: &'static str,
        /// Its length in bytes.
        len: u64,
        /// The most that is accepted, in bytes.
        max: usize,
    },
    /// A text field is not UTF-8.
    #[error("field `{0}` is not UTF-8")]
    NotUtf8(&'static str),
    /// A field has a value that has no meaning.
    #[error("field `{what}` has the meaningless value {value}")]
    BadValue {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// The frame's type is unknown, or has no place where it stood.
    #[error("unexpected frame type {0:#x}")]
    UnexpectedFrame(u64),
}

/// Appends a byte run with its length in front.
pub(crate) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    VarInt(bytes.len() as u64).encode(out);
    out.put_slice(bytes);
}

/// Reads the fields of one frame's body in order, each under its limit.
#[derive(Debug)]
pub struct Fields(Bytes);

impl Fields {
    pub(crate) fn new(body: Bytes) -> Self {
        Self(body)
    }

    pub(crate) fn varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.raw_varint(what).map(VarInt::into_inner)
    }

    pub(crate) fn raw_varint(&mut self, what: &'static str) -> Result<VarInt, DecodeError> {
        VarInt::decode(&mut self.0).ok_or(DecodeError::Truncated(what))
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        let value = self.varint(what)?;
        u32::try_from(value).map_err(|_| DecodeError::BadValue { what, value })
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        if self.0.len() < N {
            return Err(DecodeError::Truncated(what));
        }
        self.0.copy_to_slice(&mut array);
        Ok(array)
    }

    pub(crate) fn bytes(&mut self, what: &'static str, max: usize) -> Result<Bytes, DecodeError> {
        let len = self.varint(what)?;
        match usize::try_from(len) {
            Ok(len) if len <= max && len <= self.0.len() => Ok(self.0.split_to(len)),
            Ok(len) if len <= max => Err(DecodeError::Truncated(what)),
            _ => Err(DecodeError::TooLong { what, len, max }),
        }
    }

    pub(crate) fn string(&mut self, what: &'static str, max: usize) -> Result<String, DecodeError> {
        let bytes = self.bytes(what, max)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(DecodeError::NotUtf8(what)),
        }
    }

    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing(self.0.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 9000, appendix A.1.
    #[test]
    fn varints_are_those_of_rfc_9000() {
        let examples: [(u64, &[u8]); 4] = [
            (
                151_288_809_941_952_652,
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c],
            ),
            (494_878_333, &[0x9d, 0x7f, 0x3e, 0x7d]),
            (15_293, &[0x7b, 0xbd]),
            (37, &[0x25]),
        ];
        for (value, wire) in examples {
            let mut out = BytesMut::new();
            VarInt::try_from(value).unwrap().encode(&mut out);
            assert_eq!(&out[..], wire);
            assert_eq!(VarInt::decode(&mut &wire[..]).unwrap().into_inner(), value);
        }
        assert_eq!(
            VarInt::decode(&mut &[0x40, 0x25][..]).unwrap().into_inner(),
            37
        );
    }

    #[test]
    fn a_varint_cut_short_is_no_varint() {
        for wire in [&[][..], &[0x40], &[0x80, 0, 0], &[0xc0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(VarInt::decode(&mut &*wire), None);
        }
    }

    #[test]
    fn numbers_from_2_to_the_62_are_refused() {
        assert!(VarInt::try_from(VarInt::MAX.into_inner()).is_ok());
        assert_eq!(VarInt::try_from(1u64 << 62), Err(VarIntRange(1 << 62)));
    }

    #[test]
    fn a_length_that_lies_is_named() {
        let mut fields = Fields::new(Bytes::from_static(&[5, b'a']));
        assert_eq!(
            fields.bytes("name", 10),
            Err(DecodeError::Truncated("name"))
        );
        let mut fields = Fields::new(Bytes::from_static(&[0xff; 8]));
        assert!(matches!(
            fields.bytes("name", 10),
            Err(DecodeError::TooLong { max: 10, .. })
        ));
    }

    proptest::proptest! {
        #[test]
        fn varints_round_trip(value in 0..(1u64 << 62)) {
            let mut out = BytesMut::new();
            let varint = VarInt::try_from(value).unwrap();
            varint.encode(&mut out);
            proptest::prop_assert_eq!(out.len(), varint.encoded_len());
            proptest::prop_assert_eq!(VarInt::decode(&mut out.freeze()), Some(varint));
        }
    }
}
