//! The uids that shells get.

use std::fmt;
use std::str::FromStr;

use crate::limits;

/// A range of uids, which are gids too: each shell that should have a uid of its own gets one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShellUids {
    first: u32,
    last: u32,
}

impl ShellUids {
    /// The first one.
    pub fn first(self) -> u32 {
        self.first
    }

    /// The last one.
    pub fn last(self) -> u32 {
        self.last
    }
}

impl Default for ShellUids {
    fn default() -> Self {
        Self {
            first: *limits::SHELL_UIDS.start(),
            last: *limits::SHELL_UIDS.end(),
        }
    }
}

impl fmt::Display for ShellUids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for ShellUids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (low, high) = (
            limits::SHELL_UIDS_RANGE.start(),
            limits::SHELL_UIDS_RANGE.end(),
        );
        let most = limits::SHELL_UIDS_MOST;
        let uids = text.split_once('-').and_then(|(first, last)| {
            let [first, last] = [first.parse().ok()?, last.parse().ok()?];
            Some(Self { first, last })
        });
        let legal = |uids: &Self| {
            let all = [uids.first, uids.last];
            let distance = uids.last.checked_sub(uids.first);
            all.iter().all(|uid| limits::SHELL_UIDS_RANGE.contains(uid))
                && distance.is_some_and(|distance| distance < most)
        };
        uids.filter(legal).ok_or_else(|| {
            format!(
                "{text:?} is no range of uids: as in {}, from {low} to {high} and {most} at the most",
                Self::default()
            )
        })
    }
}
