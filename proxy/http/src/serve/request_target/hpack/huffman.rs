//! The Huffman code (RFC 7541, section 5.2 and appendix B).

use std::sync::LazyLock;

use super::Malformed;

/// The bits of each octet's code, and last those of EOS, the end of a string. No more is needed: the code is canonical. Codes of
/// one length follow each other in the order of what they stand for, and the first one of a length follows the last shorter one.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, //
    28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, //
    10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, //
    15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, //
    6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, //
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, //
    23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, //
    23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, //
    26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, //
    28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const EOS: usize = 256;

/// The codes of one length.
struct Codes {
    first: u32,
    /// The octets that they stand for, or EOS.
    symbols: Vec<usize>,
}

/// By the length of the codes, from 0 to 30 bits.
static CODES: LazyLock<Vec<Codes>> = LazyLock::new(|| {
    let longest = LENGTHS.iter().copied().max().unwrap_or_default();
    let mut next = 0;
    let codes = (0..=longest).map(|length| {
        let of_length = LENGTHS
            .iter()
            .enumerate()
            .filter(|(_, bits)| **bits == length);
        let symbols: Vec<_> = of_length.map(|(symbol, _)| symbol).collect();
        let first = next * 2;
        next = first + u32::try_from(symbols.len()).unwrap_or_default();
        Codes { first, symbols }
    });
    codes.collect()
});

/// Decodes a string.
pub(super) fn decode(encoded: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut decoded = Vec::with_capacity(encoded.len() + encoded.len() / 2);
    let codes = &*CODES;
    let (mut code, mut length) = (0_u32, 0_usize);
    for byte in encoded {
        for shift in (0..8).rev() {
            code = (code << 1) | u32::from((byte >> shift) & 1);
            length += 1;
            let of_length = codes.get(length).ok_or(Malformed::Huffman)?;
            let place = code.checked_sub(of_length.first);
            let symbol = place.and_then(|place| of_length.symbols.get(place as usize));
            match symbol {
                None => continue,
                Some(&EOS) => return Err(Malformed::Huffman),
                Some(symbol) => decoded.push(u8::try_from(*symbol).unwrap_or_default()),
            }
            (code, length) = (0, 0);
        }
    }
    // The rest of the last byte is the beginning of EOS, whose bits are all ones.
    match length < 8 && code == (1 << length) - 1 {
        true => Ok(decoded),
        false => Err(Malformed::Huffman),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7541, appendix C.4.
    #[test]
    fn the_rfcs_examples_are_decoded() {
        let example: &[u8] = &[
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        assert_eq!(decode(example).unwrap(), b"www.example.com");
        assert_eq!(
            decode(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).unwrap(),
            b"no-cache"
        );
        assert_eq!(decode(&[]).unwrap(), b"");
    }

    #[test]
    fn the_end_of_a_string_is_no_octet_and_padding_is_short() {
        for malformed in [
            // EOS.
            &[0xff, 0xff, 0xff, 0xff][..],
            // A whole byte of padding, behind `a`.
            &[0x1f, 0xff],
            // Padding of zeros: `0` is 00000, and 000 behind it.
            &[0x00],
        ] {
            assert_eq!(decode(malformed), Err(Malformed::Huffman), "{malformed:x?}");
        }
        assert_eq!(decode(&[0x07]).unwrap(), b"0");
    }
}
