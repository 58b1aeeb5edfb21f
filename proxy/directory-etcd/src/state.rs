//! The state of the directory: the value of one key, which each transaction compares and sets.

use serde::{Deserialize, Serialize};
use underpass_directory::Revision;

use crate::error::EtcdError;
use crate::keys::damaged;

/// The value of the key `revision`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    revision: u64,
    /// A random number of the change that has led to it: two histories have no two of them in common, and a writer that got no
    /// answer finds its own.
    pub(crate) commit: String,
    /// So many parts of that change are not among the objects yet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) parts: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl State {
    /// Of a new directory.
    pub(crate) fn first() -> Self {
        Self {
            revision: 0,
            commit: random(),
            parts: 0,
        }
    }

    /// After one more change.
    pub(crate) fn next(&self, commit: String, parts: usize) -> Self {
        Self {
            revision: self.revision().next().0,
            commit,
            parts,
        }
    }

    /// The same, with all parts among the objects.
    pub(crate) fn folded(&self) -> Self {
        Self {
            parts: 0,
            ..self.clone()
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision(self.revision)
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(crate) fn read(key: &[u8], value: &[u8]) -> Result<Self, EtcdError> {
        serde_json::from_slice(value).map_err(|_| damaged(key))
    }

    /// Whether this state can follow `known`, or be the same.
    pub(crate) fn follows(&self, known: &Self) -> Result<(), EtcdError> {
        let is_same = self.revision == known.revision;
        if self.revision > known.revision || (is_same && self.commit == known.commit) {
            return Ok(());
        }
        Err(EtcdError::WentBack {
            found: self.revision,
            known: known.revision,
        })
    }
}

/// A number that nothing else has.
pub(crate) fn random() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let first = State::first();
        let large = first.next(random(), 3);
        for state in [first.clone(), large.clone(), large.folded()] {
            assert_eq!(State::read(b"k", &state.write()).unwrap(), state);
        }
        assert_eq!(large.revision(), Revision(1));
        for value in [
            "",
            "7",
            r#"{"revision":1}"#,
            r#"{"revision":1,"commit":"x","more":1}"#,
        ] {
            State::read(b"k", value.as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn rule_12_a_state_goes_on_from_the_one_before() {
        let first = State::first();
        let second = first.next(random(), 2);
        second.follows(&first).unwrap();
        second.follows(&second).unwrap();
        second.folded().follows(&second).unwrap();
        first.follows(&second).unwrap_err();
        // An older copy, and as many changes on it.
        let other = first.next(random(), 0);
        let error = other.follows(&second).unwrap_err();
        assert!(matches!(error, EtcdError::WentBack { .. }));
    }
}
