//! Parts of the file about programs that the agent runs for callers, which operations and shells share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;

use crate::limits;
use crate::values::{List, Parsed, Subject, present, values};

/// The callers of an operation or a shell: all, where both lists are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Callers {
    users: Vec<String>,
    groups: Vec<String>,
}

impl Callers {
    pub(crate) fn new(
        users: Option<List<Parsed<Subject>>>,
        groups: Option<List<Parsed<Subject>>>,
    ) -> Self {
        let names = |subjects| {
            let subjects = values::<Subject>(subjects).into_iter();
            let names = subjects.map(|subject| subject.as_ref().to_owned());
            names.collect()
        };
        Self {
            users: names(users),
            groups: names(groups),
        }
    }

    pub(crate) fn have(&self, user: &str, groups: &[String]) -> bool {
        (self.users.is_empty() && self.groups.is_empty())
            || self.users.iter().any(|own| own == user)
            || self.groups.iter().any(|own| groups.contains(own))
    }

    /// The end of a sentence about the rule: nothing where all callers are meant.
    pub(crate) fn describe(&self) -> String {
        let callers = self.users.iter().chain(&self.groups);
        let callers: Vec<_> = callers.map(String::as_str).collect();
        match callers.is_empty() {
            true => String::new(),
            false => format!(", for {}", callers.join(", ")),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Environment {
    #[serde(default, deserialize_with = "present")]
    pass: Option<List<Parsed<Variable>>>,
    #[serde(default)]
    set: BTreeMap<Variable, String>,
}

impl Environment {
    /// The variables of the agent's that are passed, and those that are set.
    pub(crate) fn into_parts(self) -> (Vec<String>, BTreeMap<String, String>) {
        let pass = values(self.pass).into_iter();
        let set = self.set.into_iter();
        let set = set.map(|(variable, value)| (variable.0, value));
        (pass.map(|variable| variable.0).collect(), set.collect())
    }
}

pub(crate) struct AbsolutePath(pub(crate) PathBuf);

impl FromStr for AbsolutePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |segment: &str| !matches!(segment, "" | "." | "..");
        let is_root = text == "/";
        let plain = text
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(plain));
        match (is_root || plain) && !text.chars().any(char::is_control) {
            true => Ok(Self(text.into())),
            false => Err(format!("{text:?} is not an absolute path without . and ..")),
        }
    }
}

/// As useradd has them, and no uid: a number could be a name.
pub(crate) struct UserName(pub(crate) String);

impl FromStr for UserName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        match begins && text.len() <= limits::USER_BYTES && text.chars().all(legal) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("{text:?} is no name of a user of the system")),
        }
    }
}

/// A variable of the environment.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Variable(String);

impl FromStr for Variable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        match begins && text.len() <= limits::RULE_NAME_BYTES && text.bytes().all(legal) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("{text:?} is no name of a variable")),
        }
    }
}

impl<'de> Deserialize<'de> for Variable {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Parsed::deserialize(deserializer).map(|Parsed(variable)| variable)
    }
}
