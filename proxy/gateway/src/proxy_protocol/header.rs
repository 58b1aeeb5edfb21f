//! A header's bytes, without I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use underpass_core::limits;

/// The beginning of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The beginning of version 1.
const WORD: &[u8] = b"PROXY ";

/// The shortest header of version 1: `PROXY UNKNOWN` and the end of its line.
const SHORTEST_LINE: usize = 15;

/// The longest one, its end included.
const LONGEST_LINE: usize = 107;

/// Version 2 up to its length.
const FIXED: usize = 16;

/// The result after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The header goes on for so many bytes at the least: to read them is to read no byte behind it.
    Needs(usize),
    /// It is whole. The client's address, where it says one.
    Whole(Option<IpAddr>),
}

/// Bytes that are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They begin otherwise: TLS, most likely.
    #[error("it begins with something else")]
    Other,
    /// Version 1: no end of the line where there must be one.
    #[error("its line does not end as it must")]
    Line,
    /// Version 1: not the words that there must be.
    #[error("its line cannot be read")]
    Words,
    /// Version 2: another version, or a command that is none.
    #[error("its version or command is unknown")]
    Command,
    /// Version 2: a family or protocol that is none.
    #[error("its address family is unknown")]
    Family,
    /// Version 2: shorter than its addresses.
    #[error("it is too short for its addresses")]
    Short,
    /// Version 2: longer than anybody's.
    #[error("it is too long")]
    Long,
}

/// Reads what has come of a header, from its first byte on, in any pieces: as long as nothing is malformed, more is
/// asked for until it is whole.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if begins(bytes, &SIGNATURE) && !bytes.is_empty() {
        return binary(bytes);
    }
    if begins(bytes, WORD) {
        return line(bytes);
    }
    Err(Malformed::Other)
}

/// Do the two agree, as far as both go?
fn begins(bytes: &[u8], with: &[u8]) -> bool {
    bytes.iter().zip(with).all(|(byte, other)| byte == other)
}

/// Section 2.1.
fn line(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let ending = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    let rest = ending.map_or(&b""[..], |at| bytes.get(at..).unwrap_or_default());
    match rest {
        b"\r\n" => words(bytes.strip_suffix(b"\r\n").unwrap_or_default()).map(Parsed::Whole),
        b"" | b"\r" if bytes.len() < LONGEST_LINE => {
            let end = 2 - rest.len();
            let needs = end.max(SHORTEST_LINE.saturating_sub(bytes.len()));
            // Nothing that is too long already is waited for.
            Ok(Parsed::Needs(needs.min(LONGEST_LINE - bytes.len())))
        }
        _ => Err(Malformed::Line),
    }
}

fn words(line: &[u8]) -> Result<Option<IpAddr>, Malformed> {
    if let Some([] | [b' ', ..]) = line.strip_prefix(b"PROXY UNKNOWN") {
        // "The receiver must ignore anything presented before the CRLF."
        return Ok(None);
    }
    let line = str::from_utf8(line).map_err(|_| Malformed::Words)?;
    let mut words = line.split(' ').skip(1);
    let kind = words.next();
    let rest = [words.next(), words.next(), words.next(), words.next()];
    let [Some(source), Some(target), Some(from), Some(to)] = rest else {
        return Err(Malformed::Words);
    };
    let addresses = match kind {
        Some("TCP4") => both::<Ipv4Addr>(source, target),
        Some("TCP6") => both::<Ipv6Addr>(source, target),
        _ => None,
    };
    let sane = words.next().is_none() && is_port(from) && is_port(to);
    addresses.filter(|_| sane).map(Some).ok_or(Malformed::Words)
}

/// The first of two addresses of one family.
fn both<A: std::str::FromStr + Into<IpAddr>>(source: &str, target: &str) -> Option<IpAddr> {
    target.parse::<A>().ok()?;
    Some(source.parse::<A>().ok()?.into())
}

/// "Heading zeroes are not permitted", and no sign either.
fn is_port(text: &str) -> bool {
    text.parse::<u16>()
        .is_ok_and(|port| port.to_string() == text)
}

/// Section 2.2.
fn binary(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else {
        return Ok(Parsed::Needs(FIXED.saturating_sub(bytes.len())));
    };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed::Command),
    };
    // "Discard the protocol block including the family which is ignored."
    let addresses = match family {
        _ if local => 0,
        0x11 => 12,
        0x21 => 36,
        // Nobody's whom we could know: another protocol, or a socket of the proxy's own machine.
        _ if family >> 4 <= 3 && family & 0xf <= 2 => 0,
        _ => return Err(Malformed::Family),
    };
    if length < addresses {
        return Err(Malformed::Short);
    }
    if FIXED + length > limits::PROXY_HEADER_BYTES {
        return Err(Malformed::Long);
    }
    if rest.len() < length {
        return Ok(Parsed::Needs(length - rest.len()));
    }
    // TLVs may follow the addresses: we use none.
    let source = match addresses {
        12 => rest.first_chunk::<4>().map(|octets| (*octets).into()),
        36 => rest.first_chunk::<16>().map(|octets| (*octets).into()),
        _ => None,
    };
    Ok(Parsed::Whole(source))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V4: &str = "PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\r\n";

    /// A header of version 2.
    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, block].concat()
    }

    fn v2_tcp4(tlvs: &[u8]) -> Vec<u8> {
        let addresses = [192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x67, 1, 187];
        v2(0x21, 0x11, &[&addresses[..], tlvs].concat())
    }

    fn v2_tcp6() -> Vec<u8> {
        let source: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let block = [&source.octets()[..], &[9; 20]].concat();
        v2(0x21, 0x21, &block)
    }

    /// The result of reading `pieces` at most at a time, and how much was read.
    fn feed(stream: &[u8], mut piece: impl FnMut() -> usize) -> Result<(Parsed, usize), Malformed> {
        let mut read = 0;
        loop {
            match parse(&stream[..read])? {
                Parsed::Needs(more) => {
                    assert!(more > 0);
                    let left = stream.len() - read;
                    if left == 0 {
                        return Ok((Parsed::Needs(more), read));
                    }
                    read += more.min(left).min(piece().max(1));
                }
                whole => return Ok((whole, read)),
            }
        }
    }

    fn said(header: &[u8]) -> Result<Option<IpAddr>, Malformed> {
        match feed(header, || usize::MAX)? {
            (Parsed::Whole(client), _) => Ok(client),
            (Parsed::Needs(more), _) => panic!("needs {more} more: {header:?}"),
        }
    }

    /// Headers that are in use, with what they say.
    fn good() -> Vec<(Vec<u8>, Option<IpAddr>)> {
        let ip = |text: &str| Some(text.parse().unwrap());
        let longest = format!(
            "PROXY UNKNOWN {0} {0} 65535 65535\r\n",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        );
        assert_eq!(longest.len(), LONGEST_LINE);
        vec![
            (V4.into(), ip("192.0.2.1")),
            (
                "PROXY TCP6 2001:db8::7 ::1 65535 0\r\n".into(),
                ip("2001:db8::7"),
            ),
            ("PROXY UNKNOWN\r\n".into(), None),
            (b"PROXY UNKNOWN whatever \xff this is\r\n".to_vec(), None),
            (longest.into(), None),
            (v2_tcp4(&[]), ip("192.0.2.1")),
            (v2_tcp4(&[4, 0, 3, 1, 2, 3]), ip("192.0.2.1")),
            // A TLV that lies about its length is skipped with the others.
            (v2_tcp4(&[4, 255, 255]), ip("192.0.2.1")),
            (v2_tcp6(), ip("2001:db8::7")),
            (v2(0x20, 0, &[]), None),
            // LOCAL: the rest is ignored.
            (v2(0x20, 0x11, &[1; 12]), None),
            (v2(0x20, 0xff, &[1; 3]), None),
            // UNSPEC, UDP, Unix sockets.
            (v2(0x21, 0x00, &[1; 12]), None),
            (v2(0x21, 0x12, &[1; 12]), None),
            (v2(0x21, 0x31, &[1; 216]), None),
        ]
    }

    #[test]
    fn headers_say_where_the_client_is() {
        for (header, client) in good() {
            assert_eq!(said(&header), Ok(client), "{header:?}");
        }
    }

    #[test]
    fn cut_at_any_byte_it_is_no_header_and_no_error() {
        for (header, _) in good() {
            for cut in 0..header.len() {
                let parsed = parse(&header[..cut]);
                let Ok(Parsed::Needs(more)) = parsed else {
                    panic!("{parsed:?} after {cut} bytes of {header:?}");
                };
                assert!(
                    more <= header.len() - cut,
                    "reads past the end: {header:?}, {cut}, {more}"
                );
            }
        }
    }

    #[test]
    fn what_does_not_match_exactly_is_malformed() {
        for line in [
            "PROXY TCP4 192.0.2.1 198.51.100.2 4711\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 4711 443 \r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 4711 443 x\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.2 4711 443\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.2 4711 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 04711 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 +4711 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 4711 65536\r\n",
            "PROXY TCP4 2001:db8::7 ::1 4711 443\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.2 4711 443\r\n",
            "PROXY TCP6 2001:db8::7%lo ::1 4711 443\r\n",
            "PROXY TCP5 192.0.2.1 198.51.100.2 4711 443\r\n",
            "PROXY tcp4 192.0.2.1 198.51.100.2 4711 443\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n        ",
        ] {
            assert!(feed(line.as_bytes(), || usize::MAX).is_err(), "{line:?}");
        }
        for (bytes, why) in [
            (&b"\x16\x03\x01\x02\x00\x01"[..], Malformed::Other),
            (b"GET / HTTP/1.1\r\n", Malformed::Other),
            (b"PROXX", Malformed::Other),
            (b"PROXYTCP4", Malformed::Other),
            (b"\r\n\r\n\r", Malformed::Other),
            (b"PROXY TCP4 192.0.2.1\n", Malformed::Line),
            (b"PROXY TCP4 192.0.2.1\rX", Malformed::Line),
            (b"PROXY UNKNOWN \r \r\n", Malformed::Line),
        ] {
            assert_eq!(parse(bytes), Err(why), "{bytes:?}");
        }
        let endless = "PROXY UNKNOWN ".to_owned() + &"x".repeat(LONGEST_LINE);
        let fed = feed(endless.as_bytes(), || usize::MAX);
        assert_eq!(fed, Err(Malformed::Line));
    }

    #[test]
    fn a_binary_header_that_lies_is_malformed() {
        for (header, why) in [
            (v2(0x11, 0x11, &[0; 12]), Malformed::Command),
            (v2(0x22, 0x11, &[0; 12]), Malformed::Command),
            (v2(0x21, 0x41, &[0; 12]), Malformed::Family),
            (v2(0x21, 0x13, &[0; 12]), Malformed::Family),
            (v2(0x21, 0x11, &[0; 11]), Malformed::Short),
            (v2(0x21, 0x21, &[0; 35]), Malformed::Short),
            (v2(0x21, 0x11, &[]), Malformed::Short),
            (
                v2(0x21, 0x11, &vec![0; limits::PROXY_HEADER_BYTES]),
                Malformed::Long,
            ),
            (
                v2(0x20, 0x00, &vec![0; usize::from(u16::MAX)]),
                Malformed::Long,
            ),
        ] {
            // Nothing after the length is waited for.
            assert_eq!(parse(&header[..FIXED]), Err(why), "{header:?}");
        }
        let whole = v2_tcp4(&vec![0; limits::PROXY_HEADER_BYTES - FIXED - 12]);
        assert!(said(&whole).is_ok());
    }

    proptest! {
        /// A header in pieces says the same as in one, and nothing behind it is touched.
        #[test]
        fn pieces_change_nothing(
            which in 0..15_usize,
            pieces in proptest::collection::vec(1..40_usize, 1..20),
            behind in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let (header, client) = good().swap_remove(which);
            let stream = [&header[..], &behind].concat();
            let mut pieces = pieces.iter().cycle();
            let fed = feed(&stream, || *pieces.next().unwrap());
            prop_assert_eq!(fed, Ok((Parsed::Whole(client), header.len())));
        }

        /// No bytes make it panic, read for ever, or ask for more than the bound.
        #[test]
        fn any_bytes_are_a_header_or_not(
            start in 0..3_usize,
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            let start = [&b""[..], b"PROXY TCP4 ", &SIGNATURE][start];
            let stream = [start, &bytes].concat();
            if let Ok((Parsed::Needs(more), read)) = feed(&stream, || usize::MAX) {
                prop_assert!(read + more <= limits::PROXY_HEADER_BYTES);
            }
        }

        /// A flipped bit may make it say something else, and nothing worse.
        #[test]
        fn a_flipped_bit_is_survived(which in 0..15_usize, at in any::<prop::sample::Index>(), bit in 0..8_u32) {
            let (mut header, _) = good().swap_remove(which);
            let at = at.index(header.len());
            header[at] ^= 1 << bit;
            let _ = feed(&header, || usize::MAX);
        }
    }
}
