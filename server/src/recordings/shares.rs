//! The shares of users in the room for recordings: a user who fills their own loses their own oldest recordings, and takes nothing of others'.
//!
//! Room is counted in blocks of a disk, so that many small recordings count, and recordings in their number. Where there is none left, a
//! share is an equal part of it for each user who has recordings. The user with the most above theirs loses the oldest recording that is
//! finished. None that is being written goes: so one user's take half at the most of what those of others leave.

use std::collections::{BTreeMap, BTreeSet};

use time::OffsetDateTime;

use super::facts::{Facts, Key};
use super::origin::UserOrigin;

/// A block of a disk.
const BLOCK: u64 = 4096;

/// The user whose recordings count together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Holder {
    pub(super) user: String,
    pub(super) origin: Option<UserOrigin>,
}

/// Room that recordings take, or may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) bytes: u64,
    pub(super) number: u64,
}

/// The room that is taken, by users.
#[derive(Debug)]
pub(super) struct Shares {
    most: Room,
    all: Holding,
    holders: BTreeMap<Holder, Holding>,
    /// Bytes of each recording, as they count.
    each: BTreeMap<Key, u64>,
}

#[derive(Debug, Default)]
struct Holding {
    room: Room,
    /// Bytes of those that are being written.
    written: u64,
    /// Those that are finished, in the order of their ends.
    finished: BTreeSet<(OffsetDateTime, Key)>,
}

/// An answer to a user who wants room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Free,
    /// Once this recording is gone.
    After(Key),
    /// Not for this user: recordings of theirs that are being written fill their share.
    NotTheirs,
    /// Recordings that are being written fill all of it.
    None,
}

impl Room {
    /// For so many bytes more of a recording.
    pub(super) fn bytes(bytes: u64) -> Self {
        Self { bytes, number: 0 }
    }

    /// For a new recording.
    pub(super) fn one() -> Self {
        let bytes = counted(0);
        Self { bytes, number: 1 }
    }
}

impl Holding {
    fn add(&mut self, facts: &Facts, bytes: u64) {
        self.room.bytes = self.room.bytes.saturating_add(bytes);
        self.room.number = self.room.number.saturating_add(1);
        match &facts.finished {
            Some(finished) => {
                self.finished.insert((finished.at, facts.key()));
            }
            None => self.written = self.written.saturating_add(bytes),
        }
    }

    fn take(&mut self, facts: &Facts, bytes: u64) {
        self.room.bytes = self.room.bytes.saturating_sub(bytes);
        self.room.number = self.room.number.saturating_sub(1);
        match &facts.finished {
            Some(finished) => {
                self.finished.remove(&(finished.at, facts.key()));
            }
            None => self.written = self.written.saturating_sub(bytes),
        }
    }
}

impl Shares {
    pub(super) fn of(most: Room) -> Self {
        Self {
            most,
            all: Holding::default(),
            holders: BTreeMap::new(),
            each: BTreeMap::new(),
        }
    }

    /// Enters a recording whose file has so many bytes. One that is there already is [taken](Self::take) first, as it was entered.
    pub(super) fn add(&mut self, facts: &Facts, bytes: u64) {
        let bytes = counted(bytes);
        self.each.insert(facts.key(), bytes);
        self.all.add(facts, bytes);
        self.holders
            .entry(facts.holder())
            .or_default()
            .add(facts, bytes);
    }

    /// Takes a recording out.
    pub(super) fn take(&mut self, facts: &Facts) {
        let Some(bytes) = self.each.remove(&facts.key()) else {
            return;
        };
        self.all.take(facts, bytes);
        let holder = facts.holder();
        if let Some(holding) = self.holders.get_mut(&holder) {
            holding.take(facts, bytes);
            if holding.room.number == 0 {
                self.holders.remove(&holder);
            }
        }
    }

    /// Bytes of all recordings, in whole blocks.
    pub(super) fn bytes(&self) -> u64 {
        self.all.room.bytes
    }

    /// The finished recording that ended first.
    pub(super) fn oldest(&self) -> Option<&Key> {
        self.all.finished.first().map(|(_, key)| key)
    }

    /// May a user have so much more room?
    pub(super) fn place(&self, holder: &Holder, wanted: Room) -> Place {
        let own = self.holders.get(holder);
        let written = own.map_or(0, |own| own.written);
        let others = self.all.written.saturating_sub(written);
        if written > self.most.bytes.saturating_sub(others) / 2 {
            return Place::NotTheirs;
        }
        let (all, most) = (&self.all.room, &self.most);
        if all.bytes.saturating_add(wanted.bytes) > most.bytes {
            return self.next_to_go(holder, wanted, |room| room.bytes);
        }
        if all.number.saturating_add(wanted.number) > most.number {
            return self.next_to_go(holder, wanted, |room| room.number);
        }
        Place::Free
    }

    fn next_to_go(&self, holder: &Holder, wanted: Room, of: impl Fn(&Room) -> u64) -> Place {
        let own = self.holders.get(holder);
        let holders = self
            .holders
            .len()
            .saturating_add(usize::from(own.is_none()));
        let share = of(&self.most) / u64::try_from(holders).unwrap_or(u64::MAX).max(1);
        let sum = |whose: &Holder, holding: &Holding| match whose == holder {
            true => of(&holding.room).saturating_add(of(&wanted)),
            false => of(&holding.room),
        };
        let above = self.holders.iter().filter_map(|(whose, holding)| {
            let (_, oldest) = holding.finished.first()?;
            let sum = sum(whose, holding);
            (sum > share).then_some((sum, oldest))
        });
        let own = own.map_or(of(&wanted), |own| sum(holder, own));
        match above.max_by_key(|(sum, _)| *sum) {
            Some((_, oldest)) => Place::After(oldest.clone()),
            None if own > share => Place::NotTheirs,
            None => Place::None,
        }
    }
}

/// The bytes of a file in whole blocks, with the block of the facts beside it.
fn counted(bytes: u64) -> u64 {
    let blocks = bytes.div_ceil(BLOCK).saturating_add(1);
    blocks.saturating_mul(BLOCK)
}

#[cfg(test)]
mod tests;
