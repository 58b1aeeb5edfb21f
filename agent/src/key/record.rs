//! The agent's own keys, and facts about them: as text, in which a file has them.

use std::fmt;
use std::fmt::Write as _;

use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use underpass_core::{AgentRole, NodeName};
use underpass_tunnel::{AgentKey, KeyError, PublicKey};
use zeroize::Zeroizing;

/// A key of the agent's own. It shows its public half alone.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct OwnKey {
    text: Zeroizing<String>,
    public: PublicKey,
}

impl OwnKey {
    /// A new key.
    pub(crate) fn generate() -> Result<Self, KeyError> {
        let key = AgentKey::from_seed(rand::random())?;
        Ok(Self {
            public: key.public_key(),
            text: key.to_secret_text(),
        })
    }

    pub(crate) fn read(text: &str) -> Result<Self, KeyError> {
        let text = Zeroizing::new(text.trim().to_owned());
        let key: AgentKey = text.parse()?;
        Ok(Self {
            public: key.public_key(),
            text,
        })
    }

    pub(crate) fn key(&self) -> Result<AgentKey, KeyError> {
        self.text.parse()
    }

    /// The private half.
    pub(crate) fn text(&self) -> &Zeroizing<String> {
        &self.text
    }

    pub(crate) fn public(&self) -> PublicKey {
        self.public
    }
}

impl fmt::Debug for OwnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnKey({})", self.public)
    }
}

/// The keys of an agent, and the work that it has joined for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyRecord {
    /// The key that the server knows.
    pub(crate) key: OwnKey,
    /// Since when the agent has it, by the clock of the machine that has made it. `None` in a file of an older agent.
    pub(crate) since: Option<OffsetDateTime>,
    /// The key that takes its place. The server may know it, or have it for the only one already.
    pub(crate) next: Option<OwnKey>,
    /// The role that the agent has joined in.
    pub(crate) role: Option<AgentRole>,
    /// The node that it has joined as.
    pub(crate) node: Option<NodeName>,
}

/// The text holds no keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum RecordError {
    #[error("it has no key where one is due")]
    Key(#[source] KeyError),
    #[error("its line {0} cannot be read (is it of a newer agent?)")]
    Line(usize),
}

const SINCE: &str = "since";
const ROLE: &str = "role";
const NODE: &str = "node";
const NEXT: &str = "next";

impl KeyRecord {
    /// A key that was made now.
    pub(crate) fn new(key: OwnKey) -> Self {
        Self {
            since: Some(OffsetDateTime::now_utc()),
            ..Self::bare(key)
        }
    }

    /// A key of which nothing else is known.
    pub(crate) fn bare(key: OwnKey) -> Self {
        Self {
            key,
            since: None,
            next: None,
            role: None,
            node: None,
        }
    }

    /// Reads the output of [`KeyRecord::to_text`], and a file that holds a key alone.
    pub(crate) fn read(text: &str) -> Result<Self, RecordError> {
        let (key, facts) = text.trim_start().split_once('\n').unwrap_or((text, ""));
        let mut record = Self::bare(OwnKey::read(key).map_err(RecordError::Key)?);
        record.read_facts(facts, 2)?;
        Ok(record)
    }

    /// Reads the output of [`KeyRecord::facts`], whose first line has this number.
    pub(crate) fn read_facts(&mut self, text: &str, first: usize) -> Result<(), RecordError> {
        for (number, line) in (first..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let bad = || RecordError::Line(number);
            let (name, value) = line.split_once(' ').ok_or_else(bad)?;
            match name {
                SINCE => {
                    let since = OffsetDateTime::parse(value, &Rfc3339);
                    self.since = Some(since.map_err(|_| bad())?);
                }
                ROLE => self.role = Some(value.parse().map_err(|_| bad())?),
                NODE => self.node = Some(value.parse().map_err(|_| bad())?),
                NEXT => self.next = Some(OwnKey::read(value).map_err(RecordError::Key)?),
                _ => return Err(bad()),
            }
        }
        Ok(())
    }

    /// All of it: the key, the facts, and the next key.
    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::new());
        // Writing into memory does not fail.
        let _ = write!(text, "{}\n{}", self.key.text.as_str(), self.facts());
        if let Some(next) = &self.next {
            let _ = writeln!(text, "{NEXT} {}", next.text.as_str());
        }
        text
    }

    /// The facts alone, without a key.
    pub(crate) fn facts(&self) -> String {
        let mut facts = String::new();
        if let Some(since) = self.since.and_then(|since| since.format(&Rfc3339).ok()) {
            let _ = writeln!(facts, "{SINCE} {since}");
        }
        if let Some(role) = self.role {
            let _ = writeln!(facts, "{ROLE} {role}");
        }
        if let Some(node) = &self.node {
            let _ = writeln!(facts, "{NODE} {node}");
        }
        facts
    }

    /// The keys with which the server may know the agent.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &OwnKey> {
        std::iter::once(&self.key).chain(&self.next)
    }

    /// The key with this public half, where it is one of these.
    pub(crate) fn own(&self, public: &PublicKey) -> Option<&OwnKey> {
        self.keys().find(|key| key.public == *public)
    }

    /// Puts a next key beside this key, unless there is one, or another key has taken its place meanwhile.
    pub(crate) fn begin_after(&mut self, key: &PublicKey) -> Result<bool, KeyError> {
        match self.key.public == *key {
            true => self.begin(),
            false => Ok(false),
        }
    }

    /// Puts a next key beside the key, unless there is one.
    pub(crate) fn begin(&mut self) -> Result<bool, KeyError> {
        if self.next.is_some() {
            return Ok(false);
        }
        self.next = Some(OwnKey::generate()?);
        Ok(true)
    }

    /// Puts the next key with this public half into the place of the key. False: it is not the next one, or not any more.
    pub(crate) fn finish(&mut self, next: &PublicKey) -> bool {
        match self.next.take_if(|own| own.public == *next) {
            Some(next) => {
                self.key = next;
                self.since = Some(OffsetDateTime::now_utc());
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> KeyRecord {
        let mut record = KeyRecord::new(OwnKey::generate().unwrap());
        record.since = Some(OffsetDateTime::UNIX_EPOCH);
        record
    }

    #[test]
    fn the_text_round_trips() {
        let mut record = record();
        assert_eq!(KeyRecord::read(&record.to_text()), Ok(record.clone()));
        record.role = Some(AgentRole::Node);
        record.node = Some("worker-1".parse().unwrap());
        record.begin().unwrap();
        assert_eq!(KeyRecord::read(&record.to_text()), Ok(record.clone()));
        let text = record.to_text();
        let mut lines = text.lines();
        assert!(lines.next().unwrap().starts_with("upa_"));
        assert_eq!(lines.next(), Some("since 1970-01-01T00:00:00Z"));
        assert_eq!(lines.next(), Some("role node"));
        assert_eq!(lines.next(), Some("node worker-1"));
        assert!(lines.next().unwrap().starts_with("next upa_"));
    }

    #[test]
    fn a_file_of_an_older_agent_is_a_key_alone() {
        let key = OwnKey::generate().unwrap();
        for text in [
            key.text().to_string(),
            format!("\n{}\n\n", key.text().as_str()),
        ] {
            assert_eq!(KeyRecord::read(&text), Ok(KeyRecord::bare(key.clone())));
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let text = record().to_text();
        let read = |more: &str| KeyRecord::read(&format!("{}{more}", text.as_str()));
        for bad in [
            "colour blue\n",
            "role\n",
            "role king\n",
            "node a/b\n",
            "since noon\n",
        ] {
            assert_eq!(read(bad), Err(RecordError::Line(3)), "{bad}");
        }
        assert!(matches!(read("next upa_half"), Err(RecordError::Key(_))));
        assert!(matches!(
            KeyRecord::read("upa_half"),
            Err(RecordError::Key(_))
        ));
        assert!(matches!(KeyRecord::read(""), Err(RecordError::Key(_))));
    }

    #[test]
    fn a_next_key_takes_the_place_of_the_key_once() {
        let mut record = record();
        let first = record.key.clone();
        assert!(record.begin().unwrap());
        let next = record.next.clone().unwrap();
        assert!(!record.begin().unwrap(), "one at a time");
        assert_eq!(record.next.as_ref(), Some(&next));
        assert!(!record.finish(&first.public()));
        assert!(record.finish(&next.public()));
        assert_eq!((&record.key, &record.next), (&next, &None));
        assert!(record.since > Some(OffsetDateTime::UNIX_EPOCH));
        assert!(!record.finish(&next.public()));
    }

    #[test]
    fn rule_11_a_key_of_the_agents_own_is_not_shown() {
        let mut record = record();
        record.begin().unwrap();
        let shown = format!("{record:?}");
        for key in record.keys() {
            assert!(!shown.contains(&key.text()[4..20]), "{shown}");
            assert!(shown.contains(&key.public().to_string()));
        }
    }
}
