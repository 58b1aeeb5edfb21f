//! Filters, and the entries that a search finds.

use ldap3::ldap_escape;

use super::{
    ber::{Malformed, OCTETS, Reader, SEQUENCE, SET},
    budget::{Budget, TooMuch},
    dn::Dn,
};

/// In a filter: the typed name.
pub(super) const USERNAME: &str = "{username}";

/// The filter for a typed, untrusted name (RFC 4515, section 3).
pub(super) fn filled(filter: &str, name: &str) -> String {
    filter.replace(USERNAME, &ldap_escape(name))
}

/// A filter for groups whose attribute is one of these values. AD's matching rule is part of the attribute.
pub(super) fn any_of<'a>(
    groups: &str,
    attribute: &str,
    values: impl IntoIterator<Item = &'a str>,
) -> String {
    let values = values.into_iter();
    let values: String = values
        .map(|value| format!("({attribute}={})", ldap_escape(value)))
        .collect();
    format!("(&{groups}(|{values}))")
}

/// An entry.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) dn: String,
    attributes: Vec<Attribute>,
}

#[derive(Debug)]
struct Attribute {
    /// With its options, but for `range`.
    description: String,
    /// The number of the first one here.
    first: usize,
    values: Vec<Vec<u8>>,
    /// The number of the first one that is missing, where the directory has more.
    rest: Option<usize>,
}

/// An attribute has values that are no text.
#[derive(Debug, thiserror::Error)]
#[error("a value of the attribute {0:?} is no text")]
pub(super) struct NoText(pub(super) String);

/// Why an answer is no entry that can be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoEntry {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
}

/// These are always octets, although some of them happen to be a text (Active Directory, eDirectory).
const BINARY: [&str; 5] = [
    "objectGUID",
    "objectSid",
    "mS-DS-ConsistencyGuid",
    "msExchMailboxGuid",
    "GUID",
];

impl Found {
    /// Reads the content of an entry (RFC 4511, section 4.5.2).
    pub(super) fn read(entry: &[u8], budget: &Budget) -> Result<Self, NoEntry> {
        let mut entry = Reader::new(entry);
        let dn = entry.text()?.to_owned();
        let mut described = entry.within(SEQUENCE)?;
        let mut attributes: Vec<Attribute> = Vec::new();
        while !described.is_empty() {
            budget.value()?;
            let mut attribute = described.within(SEQUENCE)?;
            let description = attribute.text()?;
            let mut set = attribute.within(SET)?;
            let mut values = Vec::new();
            while !set.is_empty() {
                budget.value()?;
                values.push(set.expect(OCTETS)?.to_vec());
            }
            attributes.push(Attribute::of(description, values).ok_or(Malformed::Range)?);
        }
        // Active Directory gives a `memberOf` without values beside `memberOf;range=0-1499`.
        let described = attributes.iter().filter(|a| !a.values.is_empty());
        let described: Vec<_> = described.map(|a| a.description.clone()).collect();
        attributes.retain(|a| !a.values.is_empty() || !described.contains(&a.description));
        Ok(Self { dn, attributes })
    }

    /// An attribute of which the directory has more values, and the number of the first that is missing.
    pub(super) fn incomplete(&self) -> Option<(String, usize)> {
        let mut attributes = self.attributes.iter();
        attributes.find_map(|attribute| Some((attribute.description.clone(), attribute.rest?)))
    }

    /// Takes an attribute's missing values, from this number on, out of another answer about the same entry. Gives the number
    /// of those that are here then; `None` where the answer does not have them.
    pub(super) fn extend(&mut self, description: &str, from: usize, part: Self) -> Option<usize> {
        let named = |a: &Attribute| a.description.eq_ignore_ascii_case(description);
        let mut parts = part.attributes.into_iter();
        let mut part = parts.find(|a| named(a) && a.first == from)?;
        let known = self.attributes.iter_mut().find(|a| named(a))?;
        known.values.append(&mut part.values);
        known.rest = part.rest;
        Some(known.values.len())
    }

    /// Does it hold every attribute from its first value on?
    pub(super) fn begins_at_the_first(&self) -> bool {
        self.attributes.iter().all(|attribute| attribute.first == 0)
    }

    /// Attributes are looked for in any case: directories answer in the case of their schema.
    fn values(&self, attribute: &str) -> &[Vec<u8>] {
        let named = |a: &&Attribute| a.description.eq_ignore_ascii_case(attribute);
        let found = self.attributes.iter().find(named);
        found.map_or(&[], |attribute| &attribute.values)
    }

    /// An attribute's values.
    ///
    /// # Errors
    /// One of them is no text.
    pub(super) fn texts(&self, attribute: &str) -> Result<Vec<String>, NoText> {
        let values = self.values(attribute).iter();
        let texts = values.map(|value| String::from_utf8(value.clone()));
        texts
            .collect::<Result<_, _>>()
            .map_err(|_| NoText(attribute.to_owned()))
    }

    /// Whether an attribute has this value.
    pub(super) fn has(&self, attribute: &str, value: &str) -> bool {
        let mut values = self.values(attribute).iter();
        values.any(|one| one == value.as_bytes())
    }

    /// The only value of an attribute; of several, the one that the entry bears in its distinguished name.
    pub(super) fn name(&self, attribute: &str) -> Option<String> {
        let mut texts = self.texts(attribute).ok()?;
        if texts.len() > 1 {
            let dn = Dn::parse(&self.dn);
            texts.retain(|text| dn.is_named(attribute, text));
        }
        let name = texts.pop()?;
        texts.is_empty().then_some(name)
    }

    /// The only value of an attribute that may be binary.
    pub(super) fn text_or_hex(&self, attribute: &str) -> Option<String> {
        let mut values = self.texts_or_hex(attribute);
        let value = values.pop()?;
        values.is_empty().then_some(value)
    }

    /// An attribute's values, all of them in hexadecimal where one is binary.
    pub(super) fn texts_or_hex(&self, attribute: &str) -> Vec<String> {
        let octets = BINARY
            .iter()
            .any(|name| name.eq_ignore_ascii_case(attribute))
            || attribute.to_ascii_lowercase().ends_with(";binary");
        if !octets && let Ok(texts) = self.texts(attribute) {
            return texts;
        }
        let hex = |value: &Vec<u8>| value.iter().map(|byte| format!("{byte:02x}")).collect();
        self.values(attribute).iter().map(hex).collect()
    }
}

impl Attribute {
    /// Active Directory gives the first 1,500 of more values as `memberOf;range=0-1499`, and the last ones as
    /// `memberOf;range=1500-*` ([MS-ADTS], section 3.1.1.3.1.3.3). `None` for a range that does not fit its values.
    fn of(described: &str, values: Vec<Vec<u8>>) -> Option<Self> {
        let mut attribute = Self {
            description: String::with_capacity(described.len()),
            first: 0,
            values,
            rest: None,
        };
        for part in described.split(';') {
            match part.split_once('=') {
                Some((option, range)) if option.eq_ignore_ascii_case("range") => {
                    let (first, last) = range.split_once('-')?;
                    attribute.first = first.parse().ok()?;
                    if last != "*" {
                        let rest = last.parse::<usize>().ok()?.checked_add(1)?;
                        let count = rest.checked_sub(attribute.first)?;
                        (count > 0 && count == attribute.values.len()).then_some(())?;
                        attribute.rest = Some(rest);
                    }
                }
                _ => {
                    if !attribute.description.is_empty() {
                        attribute.description.push(';');
                    }
                    attribute.description.push_str(part);
                }
            }
        }
        Some(attribute)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_cannot_change_a_filter() {
        let filter = "(&(objectClass=person)(|(uid={username})(mail={username})))";
        for (typed, escaped) in [
            ("alice", "alice"),
            ("*", "\\2a"),
            (
                "*)(uid=*))(|(uid=*",
                "\\2a\\29\\28uid=\\2a\\29\\29\\28|\\28uid=\\2a",
            ),
            ("a\\2a", "a\\5c2a"),
            ("a\0b", "a\\00b"),
            ("{username}", "{username}"),
            ("zoë", "zoë"),
        ] {
            let filled = filled(filter, typed);
            let wanted = format!("(&(objectClass=person)(|(uid={escaped})(mail={escaped})))");
            assert_eq!(filled, wanted);
            ldap3::parse_filter(&filled).unwrap();
        }
    }

    #[test]
    fn active_directory_follows_nested_groups_itself() {
        let filter = any_of(
            "(objectClass=group)",
            "member:1.2.840.113556.1.4.1941:",
            ["CN=Zoë (ops),DC=example"],
        );
        let wanted = "(&(objectClass=group)(|(member:1.2.840.113556.1.4.1941:=CN=Zoë \\28ops\\29,DC=example)))";
        assert_eq!(filter, wanted);
        ldap3::parse_filter(&filter).unwrap();
    }

    #[test]
    fn a_part_of_an_attribute_says_where_it_begins_and_ends() {
        let of = |described: &str, count: usize| {
            let attribute = Attribute::of(described, vec![Vec::new(); count])?;
            Some((attribute.description, attribute.first, attribute.rest))
        };
        let some = |name: &str, first, rest| Some((name.to_owned(), first, rest));
        assert_eq!(of("memberOf", 3), some("memberOf", 0, None));
        assert_eq!(of("memberOf;range=0-2", 3), some("memberOf", 0, Some(3)));
        assert_eq!(of("memberOf;Range=3-*", 3), some("memberOf", 3, None));
        let others = "memberOf;x-a;range=3-3;lang-en";
        assert_eq!(of(others, 1), some("memberOf;x-a;lang-en", 3, Some(4)));
        for wrong in [
            "memberOf;range=0-3",
            "memberOf;range=3-0",
            "memberOf;range=0",
            "memberOf;range=a-*",
            "memberOf;range=-1-*",
            "memberOf;range=0-18446744073709551615",
        ] {
            assert_eq!(of(wrong, 3), None, "{wrong}");
        }
        assert_eq!(of("memberOf;range=0--1", 0), None);
    }

    #[test]
    fn octets_are_hexadecimal_whatever_they_happen_to_be() {
        let attribute = |name: &str, value: &[u8]| Attribute::of(name, vec![value.to_vec()]);
        let found = Found {
            dn: "cn=a".to_owned(),
            attributes: [
                attribute("objectGUID", b"sixteen letters!"),
                attribute("entryUUID", b"1-2"),
                attribute("jpegPhoto;binary", b"JPEG"),
                attribute("other", b"\xff\x00"),
            ]
            .into_iter()
            .collect::<Option<_>>()
            .unwrap(),
        };
        for (name, text) in [
            ("objectguid", "7369787465656e206c65747465727321"),
            ("entryUUID", "1-2"),
            ("jpegPhoto;binary", "4a504547"),
            ("other", "ff00"),
        ] {
            assert_eq!(found.text_or_hex(name).as_deref(), Some(text), "{name}");
        }
        assert!(found.texts("other").is_err());
        assert_eq!(found.text_or_hex("none"), None);
    }

    #[test]
    fn of_several_names_the_entrys_own_counts() {
        let named = |dn: &str, names: &[&str]| {
            let values = names.iter().map(|name| name.as_bytes().to_vec());
            let attributes = vec![Attribute::of("cn", values.collect()).unwrap()];
            let dn = dn.to_owned();
            Found { dn, attributes }.name("CN")
        };
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(named("ou=x", &["dev"]), some("dev"));
        assert_eq!(named("cn=Dev,ou=x", &["ops", "dev"]), some("dev"));
        assert_eq!(named("ou=dev", &["ops", "dev"]), None);
        assert_eq!(named("cn=dev", &[]), None);
    }
}
