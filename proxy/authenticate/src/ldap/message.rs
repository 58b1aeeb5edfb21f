//! LDAP's messages (RFC 4511), as far as logins need them.

use std::fmt;

use bytes::BytesMut;
use ldap3::asn1::{ASNTag, write};
use zeroize::Zeroizing;

use super::ber::{
    BOOLEAN, ENUMERATED, INTEGER, Malformed, OCTETS, Reader, SEQUENCE, element, number,
};
use underpass_core::limits;

/// A request. It may hold a password.
pub(super) type Request = Zeroizing<Vec<u8>>;

/// The protocol's version.
const VERSION: u32 = 3;

const BIND_REQUEST: u8 = 0x60;
const BIND_RESPONSE: u8 = 0x61;
const UNBIND_REQUEST: u8 = 0x42;
const SEARCH_REQUEST: u8 = 0x63;
const SEARCH_RESULT_ENTRY: u8 = 0x64;
const SEARCH_RESULT_DONE: u8 = 0x65;
const SEARCH_RESULT_REFERENCE: u8 = 0x73;
const EXTENDED_REQUEST: u8 = 0x77;
const EXTENDED_RESPONSE: u8 = 0x78;
const INTERMEDIATE_RESPONSE: u8 = 0x79;

/// `AuthenticationChoice.simple`
const SIMPLE: u8 = 0x80;
/// `ExtendedRequest.requestName`
const REQUEST_NAME: u8 = 0x80;
/// `LDAPMessage.controls`
const CONTROLS: u8 = 0xa0;

const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";

/// RFC 2696.
const PAGED_RESULTS: &[u8] = b"1.2.840.113556.1.4.319";

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer<'a> {
    Bind(Outcome),
    /// The content of an entry.
    Entry(&'a [u8]),
    /// Another directory may have more.
    Reference,
    /// An extension's news; the answer is still to come.
    Intermediate,
    Done(Done),
    Extended(Outcome),
}

/// The end of a search, or of one page of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) outcome: Outcome,
    /// The place of the next page; empty where there is none.
    pub(super) cookie: Vec<u8>,
}

/// An `LDAPResult`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) code: u32,
    /// The directory's own text, for the log.
    pub(super) said: String,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LDAP result {}", self.code)?;
        if let Some(name) = self.name() {
            write!(f, " ({name})")?;
        }
        write!(f, ", {:?}", self.said)
    }
}

impl Outcome {
    /// RFC 4511, appendix A: the codes whose remedy is the directory's or the configuration's.
    fn name(&self) -> Option<&'static str> {
        Some(match self.code {
            3 => "time limit exceeded",
            4 => "size limit exceeded: the directory gives no more entries at once",
            8 => "stronger authentication required",
            10 => "referral",
            11 => "administrative limit exceeded",
            12 => "unavailable critical extension",
            13 => "confidentiality required",
            32 => "no such object",
            48 => "inappropriate authentication",
            49 => "invalid credentials",
            50 => "insufficient access rights",
            51 => "busy",
            52 => "unavailable",
            53 => "unwilling to perform",
            _ => return None,
        })
    }
}

/// How far below its base a search goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scope {
    Base,
    Subtree,
}

/// A search.
#[derive(Debug)]
pub(super) struct Search<'a> {
    pub(super) base: &'a str,
    pub(super) scope: Scope,
    pub(super) filter: Filter,
    pub(super) attributes: &'a [&'a str],
    /// Entries in one page.
    pub(super) page: u32,
}

/// A filter as a search has it.
#[derive(Clone, Debug)]
pub(super) struct Filter(BytesMut);

/// A text is no filter.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the filter cannot be read (RFC 4515)")]
pub(super) struct NoFilter;

impl Filter {
    /// Reads a filter of RFC 4515. The caller has escaped the text that a user typed.
    pub(super) fn parse(text: &str) -> Result<Self, NoFilter> {
        let filter = ldap3::parse_filter(text).map_err(|_| NoFilter)?;
        let mut bytes = BytesMut::new();
        write::encode_into(&mut bytes, filter.into_structure()).map_err(|_| NoFilter)?;
        Ok(Self(bytes))
    }
}

/// Binds with a password.
pub(super) fn bind(id: u32, dn: &str, password: &str) -> Request {
    let version = number(INTEGER, VERSION);
    let (name, password) = (octets(dn), element(SIMPLE, &[password.as_bytes()]));
    message(id, &[&element(BIND_REQUEST, &[&version, &name, &password])])
}

/// Says that nothing follows. It has no answer.
pub(super) fn unbind(id: u32) -> Request {
    message(id, &[&element(UNBIND_REQUEST, &[])])
}

/// Asks for TLS.
pub(super) fn start_tls(id: u32) -> Request {
    let name = element(REQUEST_NAME, &[START_TLS]);
    message(id, &[&element(EXTENDED_REQUEST, &[&name])])
}

/// Asks for the page of a search at `cookie`.
pub(super) fn search(id: u32, search: &Search<'_>, cookie: &[u8]) -> Request {
    let scope = match search.scope {
        Scope::Base => 0,
        Scope::Subtree => 2,
    };
    let attributes: Vec<_> = search.attributes.iter().map(|name| octets(name)).collect();
    let attributes: Vec<&[u8]> = attributes.iter().map(|name| name.as_slice()).collect();
    let request = element(
        SEARCH_REQUEST,
        &[
            &octets(search.base),
            &number(ENUMERATED, scope),
            // Aliases are not followed; the size and the time have no limit of ours; values come along.
            &number(ENUMERATED, 0),
            &number(INTEGER, 0),
            &number(INTEGER, 0),
            &element(BOOLEAN, &[&[0]]),
            &search.filter.0,
            &element(SEQUENCE, &attributes),
        ],
    );
    let cookie = element(OCTETS, &[cookie]);
    let paged = element(SEQUENCE, &[&number(INTEGER, search.page), &cookie]);
    let (name, value) = (
        element(OCTETS, &[PAGED_RESULTS]),
        element(OCTETS, &[&paged]),
    );
    let control = element(SEQUENCE, &[&name, &value]);
    message(id, &[&request, &element(CONTROLS, &[&control])])
}

fn octets(text: &str) -> Request {
    element(OCTETS, &[text.as_bytes()])
}

fn message(id: u32, parts: &[&[u8]]) -> Request {
    let id = number(INTEGER, id);
    let parts: Vec<&[u8]> = std::iter::once(id.as_slice())
        .chain(parts.iter().copied())
        .collect();
    element(SEQUENCE, &parts)
}

/// Reads a whole message: the id of its request, 0 where there is none, and the answer.
pub(super) fn read(message: &[u8]) -> Result<(u32, Answer<'_>), Malformed> {
    let mut message = Reader::new(message).within(SEQUENCE)?;
    let id = message.number(INTEGER)?;
    let (tag, content) = message.next()?.ok_or(Malformed::Missing(BIND_RESPONSE))?;
    let answer = match tag {
        BIND_RESPONSE => Answer::Bind(Outcome::read(content)?),
        SEARCH_RESULT_ENTRY => Answer::Entry(content),
        SEARCH_RESULT_REFERENCE => Answer::Reference,
        SEARCH_RESULT_DONE => Answer::Done(Done {
            outcome: Outcome::read(content)?,
            cookie: cookie(message)?,
        }),
        EXTENDED_RESPONSE => Answer::Extended(Outcome::read(content)?),
        INTERMEDIATE_RESPONSE => Answer::Intermediate,
        found => {
            let wanted = BIND_RESPONSE;
            return Err(Malformed::Unexpected { wanted, found });
        }
    };
    Ok((id, answer))
}

impl Outcome {
    fn read(content: &[u8]) -> Result<Self, Malformed> {
        let mut parts = Reader::new(content);
        let code = parts.number(ENUMERATED)?;
        // The entry that the directory found instead.
        parts.expect(OCTETS)?;
        let said = String::from_utf8_lossy(parts.expect(OCTETS)?);
        let said = said.chars().take(limits::PEER_MESSAGE_CHARS).collect();
        Ok(Self { code, said })
    }
}

/// The place of the next page, from what follows the answer in its message.
fn cookie(mut message: Reader<'_>) -> Result<Vec<u8>, Malformed> {
    while let Some((tag, controls)) = message.next()? {
        if tag != CONTROLS {
            continue;
        }
        let mut controls = Reader::new(controls);
        while let Some((_, control)) = controls.next()? {
            let mut control = Reader::new(control);
            if control.expect(OCTETS)? != PAGED_RESULTS {
                continue;
            }
            let value = match control.next()? {
                Some((BOOLEAN, _)) => control.expect(OCTETS)?,
                Some((OCTETS, value)) => value,
                _ => return Err(Malformed::Missing(OCTETS)),
            };
            let mut paged = Reader::new(value).within(SEQUENCE)?;
            // A guess at the number of all entries.
            paged.expect(INTEGER)?;
            return paged.expect(OCTETS).map(<[u8]>::to_vec);
        }
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use ldap3::asn1::parse_tag;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    fn result(tag: u8, code: u32, said: &str, more: &[u8]) -> Request {
        let parts = [number(ENUMERATED, code), octets(""), octets(said)];
        element(tag, &[&parts[0], &parts[1], &parts[2], more])
    }

    fn outcome(code: u32, said: &str) -> Outcome {
        let said = said.to_owned();
        Outcome { code, said }
    }

    /// A search's end with this value of the control.
    fn done(id: u32, critical: bool, value: &[u8]) -> Request {
        let critical = element(BOOLEAN, &[&[u8::from(critical)]]);
        let other = element(SEQUENCE, &[&octets("1.2.3")]);
        let (name, value) = (element(OCTETS, &[PAGED_RESULTS]), element(OCTETS, &[value]));
        let paged = element(SEQUENCE, &[&name, &critical, &value]);
        let controls = element(CONTROLS, &[&other, &paged]);
        message(id, &[&result(SEARCH_RESULT_DONE, 0, "", &[]), &controls])
    }

    /// The bytes of RFC 4511, written out.
    #[test]
    fn results_have_names() {
        let told = |code| outcome(code, "x").to_string();
        assert!(
            told(4).starts_with("LDAP result 4 (size limit exceeded"),
            "{}",
            told(4)
        );
        assert_eq!(told(52), "LDAP result 52 (unavailable), \"x\"");
        assert_eq!(told(77), "LDAP result 77, \"x\"");
    }

    #[test]
    fn requests_are_rfc_4511s() {
        let bytes = bind(1, "cn=a", "b");
        assert_eq!(
            *bytes,
            *b"\x30\x11\x02\x01\x01\x60\x0c\x02\x01\x03\x04\x04cn=a\x80\x01b"
        );
        assert_eq!(*unbind(300), *b"\x30\x06\x02\x02\x01\x2c\x42\x00");
        let bytes = start_tls(1);
        let wanted = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037";
        assert_eq!(*bytes, *wanted);
        let bytes = search(
            2,
            &Search {
                base: "dc=x",
                scope: Scope::Subtree,
                filter: Filter::parse("(uid=a\\2a)").unwrap(),
                attributes: &["cn", "sn"],
                page: 500,
            },
            b"next",
        );
        let wanted = b"\x30\x59\x02\x01\x02\x63\x2a\x04\x04dc=x\x0a\x01\x02\x0a\x01\x00\x02\x01\x00\x02\x01\x00\x01\x01\x00\
            \xa3\x09\x04\x03uid\x04\x02a*\x30\x08\x04\x02cn\x04\x02sn\
            \xa0\x28\x30\x26\x04\x161.2.840.113556.1.4.319\x04\x0c\x30\x0a\x02\x02\x01\xf4\x04\x04next";
        assert_eq!(*bytes, *wanted);
        // ldap3's parser reads all of it.
        let (rest, _) = parse_tag(&bytes).unwrap();
        assert!(rest.is_empty());
    }

    #[test]
    fn answers_are_read() {
        let bound = message(7, &[&result(BIND_RESPONSE, 49, "80090308: data 52e", &[])]);
        let said = "80090308: data 52e";
        assert_eq!(read(&bound), Ok((7, Answer::Bind(outcome(49, said)))));
        // Referral, SASL credentials, and what later versions may add are skipped.
        let more = [&element(0xa3, &[b"x"])[..], &element(0x87, &[b"y"])].concat();
        let bound = message(1, &[&result(BIND_RESPONSE, 0, "", &more), b"\x8b\x00"]);
        assert_eq!(read(&bound), Ok((1, Answer::Bind(outcome(0, "")))));
        let entry = message(2, &[&element(SEARCH_RESULT_ENTRY, &[b"content"])]);
        assert_eq!(read(&entry), Ok((2, Answer::Entry(b"content"))));
        let reference = message(2, &[&element(SEARCH_RESULT_REFERENCE, &[b"content"])]);
        assert_eq!(read(&reference), Ok((2, Answer::Reference)));
        let ended = message(2, &[&result(SEARCH_RESULT_DONE, 32, "", &[])]);
        let (outcome, cookie) = (outcome(32, ""), Vec::new());
        assert_eq!(
            read(&ended),
            Ok((2, Answer::Done(Done { outcome, cookie })))
        );
    }

    /// RFC 4511, section 4.4.1; and as Active Directory writes it, with the name outside of the response.
    #[test]
    fn a_notice_of_disconnection_is_read() {
        let name = element(0x8a, &[b"1.3.6.1.4.1.1466.20036"]);
        let notice = Ok((0, Answer::Extended(outcome(52, ""))));
        let within = message(0, &[&result(EXTENDED_RESPONSE, 52, "", &name)]);
        assert_eq!(read(&within), notice);
        let beside = message(0, &[&result(EXTENDED_RESPONSE, 52, "", &[]), &name]);
        assert_eq!(read(&beside), notice);
    }

    #[test]
    fn the_next_page_is_found_among_controls() {
        let value = element(SEQUENCE, &[&number(INTEGER, 0), &octets("next")]);
        for critical in [false, true] {
            let bytes = done(3, critical, &value);
            let Ok((3, Answer::Done(done))) = read(&bytes) else {
                panic!("{:?}", read(&bytes));
            };
            assert_eq!(done.cookie, b"next");
        }
        for value in [
            &b""[..],
            b"\x30\x00",
            b"\x30\x03\x02\x01\x00",
            b"\x30\x80\x00",
        ] {
            assert!(read(&done(3, false, value)).is_err(), "{value:x?}");
        }
    }

    #[test]
    fn other_messages_are_refused() {
        for bytes in [
            &b""[..],
            b"\x30\x00",
            b"\x30\x03\x02\x01\x01",
            // No id; a negative one.
            b"\x30\x02\x61\x00",
            b"\x30\x05\x02\x01\xff\x61\x00",
            // A request.
            b"\x30\x05\x02\x01\x01\x60\x00",
            // A result without a code, and without texts.
            b"\x30\x05\x02\x01\x01\x61\x00",
            b"\x30\x08\x02\x01\x01\x61\x03\x0a\x01\x00",
            b"\x30\x0a\x02\x01\x01\x61\x05\x0a\x01\x00\x04\x00",
        ] {
            assert!(read(bytes).is_err(), "{bytes:x?}");
        }
    }

    /// Answers with bytes that are changed, added or cut off.
    #[test]
    fn rule_23_any_answer_of_a_directory_is_read_or_refused() {
        let value = element(SEQUENCE, &[&number(INTEGER, 0), &octets("next")]);
        let answers = [
            message(1, &[&result(BIND_RESPONSE, 49, "no", b"\xa3\x03\x04\x01x")]),
            message(2, &[&element(SEARCH_RESULT_ENTRY, &[b"\x04\x01a\x30\x00"])]),
            done(3, true, &value),
        ];
        let mut random = StdRng::seed_from_u64(2);
        let (mut good, mut bad) = (0, 0);
        for number in 0..200_000 {
            let mut bytes = answers[number % answers.len()].to_vec();
            for _ in 0..random.random_range(0..4) {
                let at = random.random_range(0..bytes.len());
                match random.random_range(0..4) {
                    0 => bytes[at] = random.random(),
                    1 => bytes[at] ^= 1 << random.random_range(0..8),
                    2 => bytes.insert(at, random.random()),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            match read(&bytes) {
                Ok((_, Answer::Entry(content))) => {
                    assert!(content.len() <= bytes.len());
                    good += 1;
                }
                Ok(_) => good += 1,
                Err(_) => bad += 1,
            }
        }
        assert!(good > 10_000 && bad > 10_000, "{good} {bad}");
    }

    /// The recursion of a parser of trees overflows the stack with a thousandth of it.
    #[test]
    fn rule_23_elements_in_each_other_are_not_followed() {
        let mut deep = Vec::new();
        for inner in (0..200_000_u32).rev() {
            deep.extend([SEQUENCE, 0x84]);
            deep.extend((6 * inner).to_be_bytes());
        }
        assert!(read(&deep).is_err());
        assert!(read(&done(1, false, &deep)).is_err());
        let refers = result(BIND_RESPONSE, 10, "", &element(0xa3, &[&deep]));
        assert!(read(&message(1, &[&refers, &element(CONTROLS, &[&deep])])).is_ok());
    }
}
