//! Distinguished names, as directories compare them.

use std::collections::BTreeSet;

/// A distinguished name (RFC 4514), for comparisons: directories write one name in several ways, and differ in the case of
/// letters, in spaces, and in the characters that they escape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Dn(Vec<Rdn>);

/// A relative distinguished name: its types with their values. The order has no meaning (RFC 4512, section 2.3.1).
type Rdn = BTreeSet<(String, Vec<u8>)>;

impl Dn {
    /// A text that is no distinguished name is one name, in lower case: it equals itself, and is below nothing else.
    pub(super) fn parse(text: &str) -> Self {
        let rdns = || {
            if text.trim().is_empty() {
                return Some(Vec::new());
            }
            split(text, |c| c == ',' || c == ';').map(rdn).collect()
        };
        let unreadable = || Rdn::from([(String::new(), folded(text.as_bytes()))]);
        Self(rdns().unwrap_or_else(|| vec![unreadable()]))
    }

    /// Is it this entry, or one below it?
    pub(super) fn is_within(&self, base: &Self) -> bool {
        self.0.ends_with(&base.0)
    }

    /// Does the entry bear this value of the attribute in its own name?
    pub(super) fn is_named(&self, attribute: &str, value: &str) -> bool {
        let named = (attribute.to_ascii_lowercase(), folded(value.as_bytes()));
        self.0.first().is_some_and(|rdn| rdn.contains(&named))
    }
}

/// The parts between separators that are not escaped.
fn split(text: &str, separates: impl Fn(char) -> bool) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c| {
        let separator = !escaped && separates(c);
        escaped = !escaped && c == '\\';
        separator
    })
}

fn rdn(text: &str) -> Option<Rdn> {
    split(text, |c| c == '+')
        .map(|part| {
            let (attribute, value) = part.split_once('=')?;
            let attribute = attribute.trim().to_ascii_lowercase();
            (!attribute.is_empty()).then_some(())?;
            Some((attribute, folded(&unescaped(value)?)))
        })
        .collect()
}

/// RFC 4514, section 3: a backslash stands before two hexadecimal digits, or before a character that stands for itself.
fn unescaped(value: &str) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'\\' {
            plain.push(byte);
            continue;
        }
        let pair = rest
            .get(..2)
            .and_then(|pair| std::str::from_utf8(pair).ok());
        let pair = pair.filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()));
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = rest.get(2..).unwrap_or_default();
            }
            None => {
                let (&byte, behind) = rest.split_first()?;
                plain.push(byte);
                rest = behind;
            }
        }
    }
    Some(plain)
}

/// RFC 4518: names are compared without case, and without spaces at their ends or beside other spaces.
fn folded(value: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(value) {
        Ok(text) => {
            let words: Vec<_> = text.split_whitespace().map(str::to_lowercase).collect();
            words.join(" ").into_bytes()
        }
        Err(_) => value.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_is_written_in_several_ways() {
        for (one, other) in [
            ("cn=dev,ou=groups,dc=x", "CN=Dev, OU=Groups , DC=X"),
            ("cn=a\\,b,dc=x", "cn=a\\2cb,dc=x"),
            ("cn=a\\2Cb,dc=x", "cn=a\\2cb;dc=x"),
            ("cn=a  b,dc=x", "cn= a b ,dc=x"),
            ("cn=zo\\C3\\AB,dc=x", "cn=zoë,dc=x"),
            ("cn=a+ou=b,dc=x", "OU=b + CN=a,dc=x"),
            ("", "  "),
            ("no name", "No name"),
        ] {
            assert_eq!(Dn::parse(one), Dn::parse(other), "{one} {other}");
        }
        for (one, other) in [
            ("cn=a,b=c,dc=x", "cn=a\\,b\\=c,dc=x"),
            ("cn=a,dc=x", "dc=x,cn=a"),
            ("cn=a,dc=x", "ou=a,dc=x"),
            ("cn=a\\+b=c,dc=x", "cn=a+b=c,dc=x"),
            ("no name", "cn=no name"),
            ("cn=a\\", "cn=a"),
        ] {
            assert_ne!(Dn::parse(one), Dn::parse(other), "{one} {other}");
        }
    }

    #[test]
    fn an_entry_is_below_a_base_by_whole_parts_of_its_name() {
        let base = Dn::parse("OU=Groups, DC=Example,DC=Org");
        for (dn, within) in [
            ("ou=groups,dc=example,dc=org", true),
            ("cn=dev,ou=groups,dc=example,dc=org", true),
            ("cn=dev , ou=x , ou=groups , dc=example , dc=org", true),
            // The comma is a part of the value.
            ("cn=dev\\,ou=groups,dc=example,dc=org", false),
            ("cn=dev,xou=groups,dc=example,dc=org", false),
            ("cn=dev,dc=example,dc=org", false),
            ("dc=org", false),
            ("ou=groups,dc=example,dc=org\\", false),
        ] {
            assert_eq!(Dn::parse(dn).is_within(&base), within, "{dn}");
            assert!(Dn::parse(dn).is_within(&Dn::parse("")));
        }
    }

    #[test]
    fn an_entry_bears_the_value_of_its_own_name() {
        let dn = Dn::parse("CN=Zoe \\(ops\\)\\, \\2A+UID=zoe,ou=people");
        assert!(dn.is_named("cn", "Zoe (ops), *") && dn.is_named("uid", "ZOE"));
        assert!(!dn.is_named("cn", "zoe") && !dn.is_named("ou", "people"));
    }
}
