//! Masking (RFC 6455, section 5.3): a client XORs its payload with a mask.

use bytes::BytesMut;

/// Bytes that are copied and masked in one go: they are still in the first-level cache when the
/// mask reaches them.
const BLOCK: usize = 8 * 1024;

/// A masking key, turned to the position of the next byte of payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask(u32);

impl Mask {
    /// The key as it stands in the frame's header.
    pub const fn new(key: [u8; 4]) -> Self {
        Self(u32::from_le_bytes(key))
    }

    /// The key for the header, where nothing has been masked yet.
    pub const fn key(self) -> [u8; 4] {
        self.0.to_le_bytes()
    }

    /// Masks, or unmasks, the payload's next bytes in place.
    pub fn apply(&mut self, data: &mut [u8]) {
        let wide = (u64::from(self.0) | u64::from(self.0) << 32).to_le();
        let (words, rest) = data.as_chunks_mut::<8>();
        for word in words {
            *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
        }
        for (byte, key) in rest.iter_mut().zip(wide.to_ne_bytes()) {
            *byte ^= key;
        }
        // Whole words leave the key where it was.
        for _ in 0..rest.len() % 4 {
            self.0 = self.0.rotate_right(8);
        }
    }

    /// Appends the payload's next bytes, masked.
    pub fn append(&mut self, data: &[u8], out: &mut BytesMut) {
        for block in data.chunks(BLOCK) {
            let start = out.len();
            out.extend_from_slice(block);
            self.apply(out.get_mut(start..).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// The definition, byte by byte, however the payload is cut.
        #[test]
        fn byte_i_is_masked_with_byte_i_modulo_4(
            key: [u8; 4],
            data: Vec<u8>,
            cuts in proptest::collection::vec(0usize..40, 0..8),
        ) {
            let expected: Vec<u8> =
                data.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect();
            let mut mask = Mask::new(key);
            proptest::prop_assert_eq!(mask.key(), key);
            let mut masked = BytesMut::new();
            let mut rest = &data[..];
            for cut in cuts {
                let (piece, behind) = rest.split_at(cut.min(rest.len()));
                mask.append(piece, &mut masked);
                rest = behind;
            }
            mask.append(rest, &mut masked);
            proptest::prop_assert_eq!(&masked[..], &expected[..]);
        }
    }
}
