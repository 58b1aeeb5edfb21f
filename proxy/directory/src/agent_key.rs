//! The keys of an agent, one after the other: the next one is registered beside the current one, and takes its place once the agent
//! has proved it.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    Registration,
    draft::{Draft, Expect},
    error::ChangeError,
    object::Agent,
};
use underpass_core::limits;

/// A key that waits for its first use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NextKey {
    /// The public key, as the tunnel writes it.
    pub key: String,
    /// When it was registered.
    #[serde(with = "time::serde::rfc3339")]
    pub registered: OffsetDateTime,
}

/// A key that another one has taken the place of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ReplacedKey {
    /// The public key, as the tunnel writes it.
    pub key: String,
    /// When that was.
    #[serde(with = "time::serde::rfc3339")]
    pub replaced: OffsetDateTime,
}

/// How a key stands to its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStanding {
    /// It is the agent's.
    Current,
    /// It counts as well, and becomes the agent's with its first use.
    Next,
    /// It counts for nothing, since then; `None` is a time before those that are remembered.
    Replaced(Option<OffsetDateTime>),
}

impl KeyStanding {
    /// Does its holder count as the agent?
    pub fn counts(self) -> bool {
        match self {
            Self::Current | Self::Next => true,
            Self::Replaced(_) => false,
        }
    }
}

impl Agent {
    /// Its keys, as they stand, but for the [earlier ones](Self::earlier_keys).
    pub fn keys(&self) -> impl Iterator<Item = (&str, KeyStanding)> {
        let current = std::iter::once((self.key.as_str(), KeyStanding::Current));
        let next = self.next_key.iter();
        let next = next.map(|next| (next.key.as_str(), KeyStanding::Next));
        let replaced = self.replaced_keys.iter();
        let replaced =
            replaced.map(|old| (old.key.as_str(), KeyStanding::Replaced(Some(old.replaced))));
        current.chain(next).chain(replaced)
    }

    /// Does the holder of this key count as the agent?
    pub fn holds(&self, key: &str) -> bool {
        self.keys()
            .any(|(own, standing)| own == key && standing.counts())
    }

    /// Is the key one of its own, or was it not long ago?
    pub(super) fn has_had(&self, key: &str) -> bool {
        self.keys().any(|(own, _)| own == key)
    }
}

/// An agent that registers its next key. It has proved that it holds both.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    /// Its id.
    pub agent: &'a str,
    /// The key that it has, as the tunnel writes it.
    pub key: &'a str,
    /// The key that is to follow.
    pub next: &'a str,
}

/// A next key that is registered, and waits for its first use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// It was registered now, and not before.
    pub is_new: bool,
    /// The key that waited until now: another holder of the current key has registered it, or the agent has lost it.
    pub instead_of: Option<String>,
}

/// A key that has taken the place of another one.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotated {
    /// The agent's id.
    pub agent: String,
    /// The agent, with its key.
    pub object: Agent,
    /// The key that counts for nothing from now on.
    pub old: String,
}

/// Why no next key is registered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotationError {
    /// There is no such agent any more.
    #[error("this agent was revoked")]
    NoAgent,
    /// The server has made the agent's key.
    #[error("the key of a static token is not rotated: make another token, and revoke this agent")]
    StaticToken,
    /// The key is not the one that the agent has.
    #[error("the key that registers the next one is not the agent's current key")]
    NotCurrent,
    /// The next key is known: as another agent's, or as an older one of this agent's.
    #[error("the next key is known already: a next key is a new one")]
    KeyKnown,
    /// The directory does not take it.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl Draft {
    /// Registers an agent's next key beside the one that it has. The same again changes nothing: the first answer may have been lost.
    /// Another one takes the place of a next key that waits, since the agent may have lost that.
    ///
    /// # Errors
    /// The agent has no such key, or must not have the next one. Nothing has changed then.
    pub fn register_next_key(&mut self, rotation: &Rotation<'_>) -> Result<Waiting, RotationError> {
        let Rotation { agent, key, next } = *rotation;
        let found = self.get::<Agent>(agent).ok_or(RotationError::NoAgent)?;
        let mut object = Agent::clone(&found.object);
        if object.has_static_token() {
            return Err(RotationError::StaticToken);
        }
        if object.key != key {
            return Err(RotationError::NotCurrent);
        }
        let waits = object.next_key.as_ref();
        if waits.is_some_and(|waits| waits.key == next) {
            return Ok(Waiting {
                is_new: false,
                instead_of: None,
            });
        }
        if self.before().standing_of_key(next).is_some() {
            return Err(RotationError::KeyKnown);
        }
        let registered = self.now();
        let key = next.to_owned();
        let before = object.next_key.replace(NextKey { key, registered });
        self.put(agent, object, Expect::Present)?;
        Ok(Waiting {
            is_new: true,
            instead_of: before.map(|before| before.key),
        })
    }

    /// Makes a next key, which its holder has proved, the only key of its agent, and removes a credential that the agent has registered
    /// with another one: that may have been a thief. `None`: no agent has this next key (any more).
    ///
    /// # Errors
    /// The directory does not take it.
    pub fn replace_key(&mut self, next: &str) -> Result<Option<Rotated>, ChangeError> {
        let found = self.before().standing_of_key(next);
        let Some((agent, before, KeyStanding::Next)) = found else {
            return Ok(None);
        };
        let (agent, mut object) = (agent.to_owned(), before.clone());
        let old = std::mem::replace(&mut object.key, next.to_owned());
        object.next_key = None;
        object.key_since = Some(self.now());
        let replaced = ReplacedKey {
            key: old.clone(),
            replaced: self.now(),
        };
        object.replaced_keys.insert(0, replaced);
        while object.replaced_keys.len() > limits::REPLACED_KEYS
            && let Some(earlier) = object.replaced_keys.pop()
        {
            object.earlier_keys.add(&earlier.key);
        }
        self.put(&agent, object.clone(), Expect::Present)?;
        let cluster = object.cluster.as_str();
        let registered = self.get::<Registration>(cluster);
        let is_by_another_key = registered.is_some_and(|entry| {
            entry.object.agent == agent && entry.object.key.as_deref() != Some(next)
        });
        if is_by_another_key {
            self.remove::<Registration>(cluster, Expect::Present)?;
        }
        Ok(Some(Rotated { agent, object, old }))
    }
}
