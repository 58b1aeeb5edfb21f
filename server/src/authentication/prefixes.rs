//! Prefixes of names: no two authenticators give the same names (security rule 22).

use std::borrow::Cow;

use underpass_authenticate::Misconfigured;

use super::entry::Entry;

/// Where the file says a prefix, and what it is.
pub(super) struct Prefix<'a> {
    pub(super) field: &'static str,
    pub(super) text: Cow<'a, str>,
}

/// Of an authenticator's users, and of its groups.
#[derive(Default)]
pub(super) struct Prefixes<'a> {
    pub(super) users: Option<Prefix<'a>>,
    pub(super) groups: Option<Prefix<'a>>,
}

impl<'a> Prefix<'a> {
    /// One that the file says; where it does not, that is refused later.
    pub(super) fn said(field: &'static str, text: Option<&'a String>) -> Option<Self> {
        let text = Cow::Borrowed(text?.as_str());
        Some(Self { field, text })
    }

    /// Could a name behind one be a name behind the other, or be taken for it?
    fn overlaps(&self, other: &Self) -> bool {
        let (one, other) = (self.text.to_lowercase(), other.text.to_lowercase());
        let none = one.is_empty() || other.is_empty();
        !none && (one.starts_with(&other) || other.starts_with(&one))
    }
}

/// May `entry` and an earlier one give the same name? A prefix that is none is warned of, and not refused ([`warn_of_none`]):
/// operators may know that two companies' names differ.
pub(super) fn clash(entry: &Entry, earlier: &Entry) -> Option<(&'static str, Misconfigured)> {
    let (ours, theirs) = (entry.prefixes(), earlier.prefixes());
    let pairs = [(ours.users, theirs.users), (ours.groups, theirs.groups)];
    let mut pairs = pairs.into_iter().filter_map(|(one, other)| one.zip(other));
    let (one, other) = pairs.find(|(one, other)| one.overlaps(other))?;
    let why = Misconfigured::Overlap {
        prefix: one.text.into_owned(),
        other: other.text.into_owned(),
        authenticator: earlier.name.clone(),
    };
    Some((one.field, why))
}

/// The log names authenticators without a prefix, where there is another one that gives names.
pub(super) fn warn_of_none<'a>(entries: impl Iterator<Item = &'a Entry> + Clone) {
    if entries.clone().count() < 2 {
        return;
    }
    for (name, field) in without(entries) {
        tracing::warn!(
            authenticator = name,
            "{field} is \"\": whoever has a name there has all rights of that name, whichever authenticator's it is meant to be"
        );
    }
}

fn without<'a>(
    entries: impl Iterator<Item = &'a Entry>,
) -> impl Iterator<Item = (&'a str, &'static str)> {
    entries.flat_map(|entry| {
        let Prefixes { users, groups } = entry.prefixes();
        let none = [users, groups].into_iter().flatten();
        let none = none.filter(|prefix| prefix.text.is_empty());
        none.map(|prefix| (entry.name.as_str(), prefix.field))
            .collect::<Vec<_>>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_the_beginning_of_the_other() {
        let prefix = |text: &'static str| Prefix {
            field: "",
            text: text.into(),
        };
        for (one, other, overlap) in [
            ("corp:", "corp:", true),
            ("corp-", "corp-eu-", true),
            ("corp-eu-", "corp-", true),
            ("Corp:", "corp:", true),
            ("corp:", "corp-eu:", false),
            ("", "corp:", false),
            ("", "", false),
        ] {
            assert_eq!(
                prefix(one).overlaps(&prefix(other)),
                overlap,
                "{one} {other}"
            );
        }
    }
}
