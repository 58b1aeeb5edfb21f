//! Text out of bytes that come in pieces: a character that a piece cuts is whole in the next one.

/// A decoder. It gives the same text however the bytes are cut; bytes that are no UTF-8 become U+FFFD.
#[derive(Debug, Default)]
pub(crate) struct Utf8 {
    /// The beginning of a character: three bytes at the most.
    begun: Vec<u8>,
}

impl Utf8 {
    /// Bytes of a character that is not whole yet.
    pub(crate) fn begun(&self) -> usize {
        self.begun.len()
    }

    /// The text of some more bytes.
    pub(crate) fn decode(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.begun);
        all.extend_from_slice(bytes);
        let mut text = String::with_capacity(all.len());
        let mut rest = all.as_slice();
        loop {
            let error = match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    return text;
                }
                Err(error) => error,
            };
            let (valid, after) = rest
                .split_at_checked(error.valid_up_to())
                .unwrap_or_default();
            text.push_str(&String::from_utf8_lossy(valid));
            let Some(wrong) = error.error_len() else {
                self.begun = after.to_vec();
                return text;
            };
            text.push(char::REPLACEMENT_CHARACTER);
            rest = after.get(wrong..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_character_across_pieces_is_whole() {
        let mut decoder = Utf8::default();
        let euro = "€".as_bytes();
        assert_eq!(decoder.decode(&euro[..1]), "");
        assert_eq!(decoder.begun(), 1);
        assert_eq!(decoder.decode(&euro[1..2]), "");
        assert_eq!(decoder.decode(&[euro[2], b'x']), "€x");
        assert_eq!(decoder.begun(), 0);
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0xe2), Just(0x82), Just(0xac), Just(0xf0)], 0..64),
            cuts in proptest::collection::vec(1_usize..9, 1..8),
        ) {
            let mut decoder = Utf8::default();
            let mut text = String::new();
            let mut rest = bytes.as_slice();
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let cut = (*cuts.next().unwrap()).min(rest.len());
                text.push_str(&decoder.decode(&rest[..cut]));
                prop_assert!(decoder.begun() <= 3);
                rest = &rest[cut..];
            }
            let whole = bytes.len() - decoder.begun();
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes[..whole]));
        }
    }
}
