//! BER as LDAP restricts it (RFC 4511, section 5.1): every length is definite.
//!
//! Nothing here recurses: a [`Reader`] gives one element after the other, and its caller knows which elements a message has. The
//! content of every other element is skipped, however deep it is. A parser of whole trees overflows its stack where a peer
//! nests some thousand elements in each other.

use zeroize::Zeroizing;

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// Octets of a long length. Active Directory always writes four, with leading zeros.
const LENGTH_OCTETS: usize = 8;

/// The low bits of a tag that goes on in the next octet.
const LONG_TAG: u8 = 0x1f;

/// Why some bytes are no LDAP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("a length is indefinite (RFC 4511, section 5.1, allows definite ones only)")]
    Indefinite,
    #[error("a length is larger than any message")]
    Length,
    #[error("a tag has more than one octet")]
    Tag,
    #[error("an element ends behind the one that it is in")]
    CutOff,
    #[error("there is an element {found:#04x} in the place of an element {wanted:#04x}")]
    Unexpected { wanted: u8, found: u8 },
    #[error("an element {0:#04x} is missing")]
    Missing(u8),
    #[error("a number is negative, or larger than four octets")]
    Number,
    #[error("a name is no UTF-8")]
    Text,
    #[error("the values of an attribute are not those of its range")]
    Range,
}

/// The first octets of an element.
#[derive(Clone, Copy)]
struct Header {
    tag: u8,
    /// Octets of the header itself.
    length: usize,
    /// Octets of the content.
    content: usize,
}

impl Header {
    /// `None`: not all of it is here.
    fn read(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some((&tag, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        if tag & LONG_TAG == LONG_TAG {
            return Err(Malformed::Tag);
        }
        let Some((&first, rest)) = rest.split_first() else {
            return Ok(None);
        };
        let long = match first {
            0..0x80 => {
                let (length, content) = (2, usize::from(first));
                return Ok(Some(Self {
                    tag,
                    length,
                    content,
                }));
            }
            0x80 => return Err(Malformed::Indefinite),
            _ => usize::from(first & 0x7f),
        };
        if long > LENGTH_OCTETS {
            return Err(Malformed::Length);
        }
        let Some(octets) = rest.get(..long) else {
            return Ok(None);
        };
        let octets = octets.iter();
        let content = octets.fold(0, |value: u64, octet| value << 8 | u64::from(*octet));
        Ok(Some(Self {
            tag,
            length: 2 + long,
            content: usize::try_from(content).map_err(|_| Malformed::Length)?,
        }))
    }
}

/// The length of the message that begins here, its header included, whether or not the rest of it is here; `None` where even the
/// header is not.
pub(super) fn message_length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    if let Some(&found) = bytes.first()
        && found != SEQUENCE
    {
        let wanted = SEQUENCE;
        return Err(Malformed::Unexpected { wanted, found });
    }
    let Some(header) = Header::read(bytes)? else {
        return Ok(None);
    };
    let length = header.length.checked_add(header.content);
    length.map(Some).ok_or(Malformed::Length)
}

/// Reads the elements of a constructed element.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(content: &'a [u8]) -> Self {
        Self(content)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tag and the content of the next element, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let header = Header::read(self.0)?.ok_or(Malformed::CutOff)?;
        let rest = self.0.get(header.length..).unwrap_or_default();
        let element = rest.split_at_checked(header.content);
        let (content, rest) = element.ok_or(Malformed::CutOff)?;
        self.0 = rest;
        Ok(Some((header.tag, content)))
    }

    /// The content of the next element, which has this tag.
    pub(super) fn expect(&mut self, wanted: u8) -> Result<&'a [u8], Malformed> {
        match self.next()? {
            Some((tag, content)) if tag == wanted => Ok(content),
            Some((found, _)) => Err(Malformed::Unexpected { wanted, found }),
            None => Err(Malformed::Missing(wanted)),
        }
    }

    /// The elements of the next element, which has this tag.
    pub(super) fn within(&mut self, wanted: u8) -> Result<Self, Malformed> {
        self.expect(wanted).map(Self)
    }

    /// The next element, a text.
    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.expect(OCTETS)?).map_err(|_| Malformed::Text)
    }

    /// The next element, a number that is not negative.
    pub(super) fn number(&mut self, wanted: u8) -> Result<u32, Malformed> {
        let octets = self.expect(wanted)?;
        let octets = match octets {
            // One octet more than the number needs, for its sign.
            [0, rest @ ..] if !rest.is_empty() => rest,
            [first, ..] if *first < 0x80 => octets,
            _ => return Err(Malformed::Number),
        };
        if octets.len() > size_of::<u32>() {
            return Err(Malformed::Number);
        }
        let octets = octets.iter();
        Ok(octets.fold(0, |value, octet| value << 8 | u32::from(*octet)))
    }
}

/// An element of these parts. It may be a password, or hold one.
pub(super) fn element(tag: u8, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    // All at once: a buffer that grows leaves copies.
    let mut bytes = Vec::with_capacity(2 + size_of::<usize>() + length);
    bytes.push(tag);
    match u8::try_from(length) {
        Ok(short @ 0..0x80) => bytes.push(short),
        _ => {
            let octets = length.to_be_bytes();
            let zeros = octets.iter().take_while(|octet| **octet == 0).count();
            let long = octets.get(zeros..).unwrap_or_default();
            // Eight at the most.
            bytes.push(0x80 | u8::try_from(long.len()).unwrap_or_default());
            bytes.extend_from_slice(long);
        }
    }
    for part in parts {
        bytes.extend_from_slice(part);
    }
    Zeroizing::new(bytes)
}

/// A number.
pub(super) fn number(tag: u8, value: u32) -> Zeroizing<Vec<u8>> {
    let [a, b, c, d] = value.to_be_bytes();
    let octets = [0, a, b, c, d];
    // As few as hold it and the sign's bit (X.690, section 8.3.2).
    let first = octets
        .windows(2)
        .position(|pair| !matches!(pair, [0, 0..0x80]));
    let shortest = octets.get(first.unwrap_or(4)..).unwrap_or_default();
    element(tag, &[shortest])
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn a_length_has_every_definite_form() {
        for (bytes, length) in [
            (&[0x30, 0x00][..], Some(2)),
            (&[0x30, 0x7f], Some(129)),
            (&[0x30, 0x81, 0x05], Some(8)),
            (&[0x30, 0x84, 0, 0, 0, 5], Some(11)),
            (&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], Some(0x1_0000_0005)),
            (&[0x30, 0x88, 0, 0, 0, 0, 0, 0, 1, 0], Some(266)),
            (&[], None),
            (&[0x30], None),
            (&[0x30, 0x84, 0, 0, 0], None),
        ] {
            assert_eq!(message_length(bytes), Ok(length), "{bytes:x?}");
        }
        for (bytes, why) in [
            (&[0x30, 0x80][..], Malformed::Indefinite),
            (&[0x30, 0x89], Malformed::Length),
            (&[0x30, 0xff], Malformed::Length),
            (
                &[0x30, 0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                Malformed::Length,
            ),
            (
                &[0x16],
                Malformed::Unexpected {
                    wanted: 0x30,
                    found: 0x16,
                },
            ),
        ] {
            assert_eq!(message_length(bytes), Err(why), "{bytes:x?}");
        }
    }

    #[test]
    fn elements_are_within_the_one_that_holds_them() {
        let mut reader = Reader::new(&[0x30, 4, 4, 1, b'a', 5, 2, 1, 7]);
        let mut inner = reader.within(SEQUENCE).unwrap();
        assert_eq!(inner.text(), Ok("a"));
        assert_eq!(inner.next(), Err(Malformed::CutOff));
        assert_eq!(reader.number(INTEGER), Ok(7));
        assert_eq!(reader.next(), Ok(None));
        assert_eq!(reader.expect(SET), Err(Malformed::Missing(SET)));
        for (bytes, why) in [
            (&[4, 2, 0][..], Malformed::CutOff),
            (&[4, 0x84, 0, 0], Malformed::CutOff),
            (
                &[4, 0x88, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                Malformed::CutOff,
            ),
            (&[0x1f, 0x81, 0x01, 0], Malformed::Tag),
            (&[4, 0x80, 0, 0], Malformed::Indefinite),
            (&[4, 1, 0xff], Malformed::Text),
        ] {
            assert_eq!(Reader::new(bytes).text(), Err(why), "{bytes:x?}");
        }
    }

    #[test]
    fn numbers_are_as_short_as_they_can_be() {
        for (value, content) in [
            (0, &[0][..]),
            (127, &[127]),
            (128, &[0, 128]),
            (256, &[1, 0]),
            (u32::MAX, &[0, 255, 255, 255, 255]),
        ] {
            let bytes = number(INTEGER, value);
            assert_eq!(*bytes, *element(INTEGER, &[content]), "{value}");
            assert_eq!(Reader::new(&bytes).number(INTEGER), Ok(value));
        }
        for content in [&[][..], &[255], &[0x80, 0], &[1, 0, 0, 0, 0]] {
            let bytes = element(INTEGER, &[content]);
            let read = Reader::new(&bytes).number(INTEGER);
            assert_eq!(read, Err(Malformed::Number), "{content:x?}");
        }
    }

    #[test]
    fn elements_are_read_as_they_were_written() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let (one, other) = (vec![1; length / 2], vec![2; length - length / 2]);
            let bytes = element(SEQUENCE, &[&one, &other]);
            assert_eq!(message_length(&bytes), Ok(Some(bytes.len())), "{length}");
            let content = Reader::new(&bytes).expect(SEQUENCE).unwrap();
            assert_eq!(content, [one, other].concat(), "{length}");
        }
    }

    /// Elements of random bytes do not overlap, and end where the bytes do.
    #[test]
    fn any_bytes_are_read_or_refused() {
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..200_000 {
            let length = random.random_range(0..32);
            let bytes: Vec<u8> = (0..length).map(|_| random.random()).collect();
            let mut reader = Reader::new(&bytes);
            let mut read = 0;
            while let Ok(Some((_, content))) = reader.next() {
                read += 2 + content.len();
                assert!(read <= bytes.len(), "{bytes:x?}");
            }
            if let Ok(Some(length)) = message_length(&bytes) {
                assert!(length >= 2, "{bytes:x?}");
            }
        }
    }
}
