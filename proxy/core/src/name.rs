//! Names and labels of the directory's objects.

use std::{borrow::Borrow, collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::limits;

/// The name of a user, a group, a binding, an agent or a token. Identity providers have names such as `alice@example.org` and
/// `cn=dev,ou=groups`, so that little is refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Box<str>);

/// Why a text is not a [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name is 1 to {} bytes without control characters, and neither starts nor ends with a space",
    limits::OBJECT_NAME_BYTES
)]
pub struct NameError;

impl Name {
    /// Checks `name`.
    ///
    /// # Errors
    /// It is empty, too long, padded, or holds a control character: no header could carry it unchanged.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let padded = name.starts_with(' ') || name.ends_with(' ');
        let long = name.len() > limits::OBJECT_NAME_BYTES;
        if name.is_empty() || long || padded || name.chars().any(char::is_control) {
            return Err(NameError);
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(&name)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.into()
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Labels, with Kubernetes' syntax: a key is an optional prefix and `/` before 1 to 63 of letters, digits, `-`, `_` and
/// `.`; a value is up to 63 of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(
    try_from = "BTreeMap<String, String>",
    into = "BTreeMap<String, String>"
)]
pub struct Labels(BTreeMap<String, String>);

/// Why a map is no [`Labels`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelsError {
    /// A key with other characters than these, or too long.
    #[error(
        "{0:?} is not a label's key (an optional prefix/, then 1 to 63 of letters, digits, '-', '_', '.')"
    )]
    Key(String),
    /// A value with other characters than these, or too long.
    #[error("{0:?} is not a label's value (up to 63 of letters, digits, '-', '_', '.')")]
    Value(String),
    /// More of them than are of use.
    #[error("more than {} labels", limits::LABELS)]
    TooMany,
}

impl Labels {
    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Key by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Has `other` all of these labels?
    pub fn are_among(&self, other: &Self) -> bool {
        self.0
            .iter()
            .all(|(key, value)| other.0.get(key) == Some(value))
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = LabelsError;

    fn try_from(labels: BTreeMap<String, String>) -> Result<Self, Self::Error> {
        if labels.len() > limits::LABELS {
            return Err(LabelsError::TooMany);
        }
        for (key, value) in &labels {
            let (prefix, bare) = key.rsplit_once('/').unwrap_or(("a", key));
            let prefix_is_sane = (1..=253).contains(&prefix.len()) && prefix.bytes().all(is_word);
            if bare.is_empty() || !is_label(bare) || !prefix_is_sane {
                return Err(LabelsError::Key(key.clone()));
            }
            if !is_label(value) {
                return Err(LabelsError::Value(value.clone()));
            }
        }
        Ok(Self(labels))
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

fn is_label(text: &str) -> bool {
    text.len() <= 63 && text.bytes().all(is_word)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_a_header_can_carry() {
        for good in [
            "a",
            "alice@example.org",
            "cn=dev,ou=groups",
            "Zoë Müller",
            "a/b",
        ] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        let long = "x".repeat(limits::OBJECT_NAME_BYTES + 1);
        for bad in ["", " a", "a ", "a\nb", "a\u{7f}", &long] {
            assert_eq!(Name::new(bad), Err(NameError), "{bad:?}");
        }
    }

    fn labels(pairs: &[(&str, &str)]) -> Result<Labels, LabelsError> {
        let pairs = pairs
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()));
        pairs.collect::<BTreeMap<_, _>>().try_into()
    }

    #[test]
    fn labels_have_kubernetes_syntax() {
        labels(&[("env", "prod"), ("example.org/team", "a_b.c-D"), ("x", "")]).unwrap();
        for (key, value) in [
            ("", "x"),
            ("a b", "x"),
            ("a/", "x"),
            ("/a", "x"),
            ("a/b/c", "x"),
            ("k", "ü"),
        ] {
            assert!(labels(&[(key, value)]).is_err(), "{key:?}={value:?}");
        }
    }

    #[test]
    fn a_selector_is_among_the_labels() {
        let all = labels(&[("env", "prod"), ("zone", "a")]).unwrap();
        assert!(labels(&[("env", "prod")]).unwrap().are_among(&all));
        assert!(!labels(&[("env", "dev")]).unwrap().are_among(&all));
        assert!(!all.are_among(&labels(&[("env", "prod")]).unwrap()));
    }
}
