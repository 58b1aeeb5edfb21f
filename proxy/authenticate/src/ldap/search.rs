//! Filters, and the entries that a search finds.

use ldap3::{SearchEntry, ldap_escape};

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
    entry: SearchEntry,
}

impl From<SearchEntry> for Found {
    fn from(entry: SearchEntry) -> Self {
        let dn = entry.dn.clone();
        Self { dn, entry }
    }
}

impl Found {
    /// An attribute's values. Its name is looked for in any case: directories answer in the case of their schema.
    pub(super) fn texts(&self, attribute: &str) -> impl Iterator<Item = &str> {
        let named = |(name, _): &(&String, &Vec<String>)| name.eq_ignore_ascii_case(attribute);
        let values = self
            .entry
            .attrs
            .iter()
            .find(named)
            .map(|(_, values)| values);
        values.into_iter().flatten().map(String::as_str)
    }

    /// The only value of an attribute.
    pub(super) fn text(&self, attribute: &str) -> Option<&str> {
        let mut values = self.texts(attribute);
        match (values.next(), values.next()) {
            (Some(value), None) => Some(value),
            _ => None,
        }
    }

    /// The only value of an attribute that may be binary.
    pub(super) fn text_or_hex(&self, attribute: &str) -> Option<String> {
        if let Some(text) = self.text(attribute) {
            return Some(text.to_owned());
        }
        let mut binary = self.entry.bin_attrs.iter();
        let (_, values) = binary.find(|(name, _)| name.eq_ignore_ascii_case(attribute))?;
        match values.as_slice() {
            [value] => Some(value.iter().map(|byte| format!("{byte:02x}")).collect()),
            _ => None,
        }
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
}
