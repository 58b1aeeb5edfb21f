//! Values of the policy's file, each of which knows its mistakes.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use underpass_core::service_account::is_label;
use underpass_core::{Network, UnixTarget};

use crate::limits;

/// A field that is there has a value: `ports:` with nothing behind it is no list.
pub(crate) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

pub(crate) fn list<T>(list: Option<List<T>>) -> Vec<T> {
    list.map(|list| list.0).unwrap_or_default()
}

pub(crate) fn values<T>(values: Option<List<Parsed<T>>>) -> Vec<T> {
    list(values).into_iter().map(|value| value.0).collect()
}

/// The texts of values that are nothing else.
pub(crate) fn texts<T: AsRef<str>>(values: &[Parsed<T>]) -> impl Iterator<Item = &str> {
    values.iter().map(|value| value.0.as_ref())
}

/// One entry or more. An empty list could mean nothing, and everything.
pub(crate) struct List<T>(pub(crate) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list with at least one entry")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<List<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = entries.next_element()? {
            if list.len() == limits::ENTRIES {
                let most = limits::ENTRIES;
                return Err(de::Error::custom(format!(
                    "the list has more than {most} entries"
                )));
            }
            list.push(entry);
        }
        match list.is_empty() {
            true => Err(de::Error::custom(
                "the list is empty: name what it allows, or leave the field out",
            )),
            false => Ok(List(list)),
        }
    }
}

/// A text with a meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parsed<T>(pub(crate) T);

impl<'de, T> Deserialize<'de> for Parsed<T>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(de::Error::custom)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleName(pub(crate) String);

impl FromStr for RuleName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let short = (1..=limits::RULE_NAME_BYTES).contains(&text.len());
        if short && text.chars().all(legal) {
            return Ok(Self(text.to_owned()));
        }
        let most = limits::RULE_NAME_BYTES;
        Err(format!(
            "{text:?} is no name of a rule: 1 to {most} letters, digits, '-', '_' and '.'"
        ))
    }
}

/// One that says what is wrong with which text.
pub(crate) struct Address(pub(crate) Network);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = text.parse();
        network
            .map(Self)
            .map_err(|error| format!("{text:?} is no network: {error}"))
    }
}

pub(crate) struct SocketPath(pub(crate) String);

impl FromStr for SocketPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let target: UnixTarget = text.parse().map_err(|error| format!("{error}"))?;
        match text.len() <= limits::SOCKET_PATH_BYTES {
            true => Ok(Self(target.path().to_owned())),
            false => Err(format!(
                "{text:?} is too long for a socket's path, which has {} bytes at most",
                limits::SOCKET_PATH_BYTES
            )),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespace(String);

impl AsRef<str> for Namespace {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for Namespace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match is_label(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("{text:?} is no name of a namespace")),
        }
    }
}

/// A user or a group. Names of both may have any characters but those that no header carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject(String);

impl AsRef<str> for Subject {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let padded = text.trim() != text;
        if text.is_empty() || padded || text.chars().any(char::is_control) {
            return Err(format!("{text:?} is no name of a user or a group"));
        }
        Ok(Self(text.to_owned()))
    }
}
