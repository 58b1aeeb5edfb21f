//! Groups that a user is in, and that do not count.

use std::{
    collections::HashSet,
    fmt,
    sync::{Mutex, PoisonError},
};

use underpass_core::{brief, limits};

/// Why a group does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    OutsideBase,
    Elsewhere,
    Missing,
    NoName,
    Unwritable,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutsideBase => "it is not below the base of groupSearch",
            Self::Elsewhere => {
                "the directory refers to another one for it, and referrals are not followed"
            }
            Self::Missing => "the account that searches finds no such entry, or must not read it",
            Self::Unwritable => {
                "no header can hold it: it is empty, too long, begins or ends with a space, or has a control character in it"
            }
            Self::NoName => "its nameAttribute has no value, or several that are not its own name",
        })
    }
}

/// Says in the log that a group does not count: once, and not for each login.
#[derive(Debug)]
pub(crate) struct LeftOut {
    authenticator: String,
    said: Mutex<HashSet<(String, Reason)>>,
}

impl LeftOut {
    pub(crate) fn new(authenticator: &str) -> Self {
        Self {
            authenticator: authenticator.to_owned(),
            said: Mutex::default(),
        }
    }

    pub(crate) fn say(&self, group: &str, reason: Reason) {
        let group = &*brief(group);
        let authenticator = self.authenticator.as_str();
        match self.is_new(group, reason) {
            New::No => {}
            // In Active Directory most users are in groups that stand elsewhere on purpose.
            New::Yes if reason == Reason::OutsideBase => {
                tracing::info!(authenticator, ?group, %reason, "a group does not count");
            }
            New::Yes => tracing::warn!(authenticator, ?group, %reason, "a group does not count"),
            New::Last => {
                tracing::warn!(
                    authenticator,
                    ?group,
                    %reason,
                    "a group does not count; more of them are not logged until the server or the authenticator starts anew"
                );
            }
        }
    }

    fn is_new(&self, group: &str, reason: Reason) -> New {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() >= limits::GROUPS_LEFT_OUT || !said.insert((group.to_lowercase(), reason)) {
            return New::No;
        }
        if said.len() == limits::GROUPS_LEFT_OUT {
            New::Last
        } else {
            New::Yes
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum New {
    No,
    Yes,
    Last,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_said_once_and_so_many_of_them() {
        let left_out = LeftOut::new("corp");
        let say = |number: usize| left_out.is_new(&format!("CN=g{number}"), Reason::Elsewhere);
        assert_eq!((say(0), say(0)), (New::Yes, New::No));
        assert_eq!(left_out.is_new("cn=g0", Reason::Elsewhere), New::No);
        assert_eq!(left_out.is_new("cn=g0", Reason::Missing), New::Yes);
        for number in 1..limits::GROUPS_LEFT_OUT - 2 {
            assert_eq!(say(number), New::Yes, "{number}");
        }
        let last = limits::GROUPS_LEFT_OUT - 2;
        assert_eq!((say(last), say(last + 1)), (New::Last, New::No));
    }
}
