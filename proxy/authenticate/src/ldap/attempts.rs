//! How often a wrong password reaches a directory.
//!
//! A directory that locks accounts counts wrong binds of all clients: without a bound of ours, strangers could lock out
//! everybody whose name they know, from Windows and everything else too. So fewer wrong binds reach an entry than lock it
//! ([`limits::LDAP_WRONG_BINDS`]), and one of these is kept for networks where its user has logged in before.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lru::LruCache;
use tokio::time::Instant;

use underpass_core::{Block, blocks_of, limits, network_of, share};

/// An entry, by a hash of its distinguished name with a key of this process.
type Entry = u64;

/// Counts the wrong binds of each entry.
///
/// Entries whose users have logged in are counted apart from the others, which strangers make up: a flood of names evicts none
/// of the former, and of the latter none is evicted before its time. Where there is no room for one more, it has to wait.
#[derive(Debug)]
pub(super) struct Attempts {
    hasher: RandomState,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    users: LruCache<Entry, User>,
    others: Others,
}

/// Entries whose users have not logged in, and the networks of the attempts.
#[derive(Debug, Default)]
struct Others {
    entries: HashMap<Entry, (Wrong, IpAddr)>,
    /// How many of each network.
    of: HashMap<Block, usize>,
    /// When those that are over were last looked for.
    swept: Option<Instant>,
}

impl Others {
    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn get(&self, entry: Entry) -> Option<&Wrong> {
        self.entries.get(&entry).map(|(wrong, _)| wrong)
    }

    fn get_mut(&mut self, entry: Entry) -> Option<&mut Wrong> {
        self.entries.get_mut(&entry).map(|(wrong, _)| wrong)
    }

    /// Remembers a new one, where there is room for one more of this client's networks.
    fn insert(&mut self, entry: Entry, wrong: Wrong, client: IpAddr, now: Instant) -> bool {
        if !self.has_room(client, now) {
            return false;
        }
        self.entries.insert(entry, (wrong, client));
        for block in blocks_of(client) {
            let held = self.of.entry(block).or_default();
            *held = held.saturating_add(1);
        }
        true
    }

    fn remove(&mut self, entry: Entry) {
        if let Some((_, client)) = self.entries.remove(&entry) {
            less(&mut self.of, client);
        }
    }

    fn has_room(&mut self, client: IpAddr, now: Instant) -> bool {
        let allows = |others: &Self| {
            let held = blocks_of(client).map(|block| {
                let held = others.of.get(&block).copied().unwrap_or_default();
                held / usize::try_from(block.shares()).unwrap_or(usize::MAX)
            });
            let held = held.max().unwrap_or_default();
            share::allows(held, others.entries.len(), limits::LDAP_OTHERS)
        };
        let due = self
            .swept
            .is_none_or(|swept| now.saturating_duration_since(swept) >= limits::LDAP_SWEEP);
        if !allows(self) && due {
            let of = &mut self.of;
            self.entries.retain(|_, (wrong, client)| {
                let over = wrong.is_over(now);
                if over {
                    less(of, *client);
                }
                !over
            });
            self.swept = Some(now);
        }
        allows(self)
    }
}

fn less(of: &mut HashMap<Block, usize>, client: IpAddr) {
    for block in blocks_of(client) {
        if let Some(held) = of.get_mut(&block) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                of.remove(&block);
            }
        }
    }
}

/// A user who has logged in.
#[derive(Debug, Default)]
struct User {
    /// From where, the latest first.
    networks: VecDeque<IpAddr>,
    wrong: Option<Wrong>,
}

/// Wrong binds, those included that are under way.
#[derive(Clone, Copy, Debug)]
struct Wrong {
    count: u32,
    /// The ones under way: they may be wrong, and the directory may count them at any time.
    under_way: u32,
    /// When the directory has forgotten them: it counts from the last one.
    until: Instant,
}

impl Wrong {
    fn is_over(&self, now: Instant) -> bool {
        self.under_way == 0 && self.until <= now
    }
}

impl Attempts {
    pub(super) fn new() -> Self {
        let users = NonZeroUsize::new(limits::LDAP_USERS).unwrap_or(NonZeroUsize::MIN);
        Self {
            hasher: RandomState::new(),
            state: Arc::new(Mutex::new(State {
                users: LruCache::new(users),
                others: Others::default(),
            })),
        }
    }

    /// A password of this entry is going to be tried. Where it must not, how long until it may.
    pub(super) fn begin(&self, dn: &str, client: IpAddr) -> Result<Attempt, Duration> {
        // Directories compare most names without case.
        let entry = self.hasher.hash_one(dn.to_lowercase());
        let (now, network) = (Instant::now(), network_of(client));
        lock(&self.state).begin(entry, network, now)?;
        Ok(Attempt {
            state: Arc::clone(&self.state),
            entry,
            network,
            sent: false,
        })
    }

    /// A relative distinguished name's value for a typed name that the directory does not know: a hash with a key of this
    /// process, so that no entry can have that name. Spellings that directories take for one name (RFC 4518: case, spaces) have
    /// one.
    pub(super) fn nobody(&self, typed: &str) -> String {
        let words: Vec<_> = typed.split_whitespace().map(str::to_lowercase).collect();
        let hash = self.hasher.hash_one(words.join(" "));
        format!("underpass-nobody-{hash:016x}")
    }
}

impl State {
    fn begin(&mut self, entry: Entry, network: IpAddr, now: Instant) -> Result<(), Duration> {
        let user = self.users.get(&entry);
        let known = user.is_some_and(|user| user.networks.contains(&network));
        let most = if known {
            limits::LDAP_WRONG_BINDS
        } else {
            limits::LDAP_WRONG_BINDS_OF_STRANGERS
        };
        let wrong = self
            .wrong(entry)
            .copied()
            .filter(|wrong| !wrong.is_over(now));
        if let Some(wrong) = wrong.filter(|wrong| wrong.count >= most) {
            return Err(wrong.until.saturating_duration_since(now));
        }
        let before = wrong.unwrap_or(Wrong {
            count: 0,
            under_way: 0,
            until: now + limits::LDAP_WRONG_BINDS_TIME,
        });
        let wrong = Wrong {
            count: before.count.saturating_add(1),
            under_way: before.under_way.saturating_add(1),
            ..before
        };
        if let Some(user) = self.users.get_mut(&entry) {
            user.wrong = Some(wrong);
            return Ok(());
        }
        if let Some(there) = self.others.get_mut(entry) {
            *there = wrong;
            return Ok(());
        }
        let inserted = self.others.insert(entry, wrong, network, now);
        inserted.then_some(()).ok_or(limits::LDAP_WRONG_BINDS_TIME)
    }

    fn wrong(&mut self, entry: Entry) -> Option<&Wrong> {
        match self.users.peek(&entry) {
            Some(user) => user.wrong.as_ref(),
            None => self.others.get(entry),
        }
    }

    /// The directory forgets the wrong ones, and so does this, except for those that may come to it after this one.
    fn right(&mut self, entry: Entry, network: IpAddr) {
        let wrong = self.wrong(entry).copied();
        self.others.remove(entry);
        let user = self.users.get_or_insert_mut(entry, User::default);
        user.wrong = wrong
            .filter(|wrong| wrong.under_way > 0)
            .map(|wrong| Wrong {
                count: wrong.under_way,
                ..wrong
            });
        user.networks.retain(|known| *known != network);
        user.networks.push_front(network);
        user.networks.truncate(limits::PASSWORD_NETWORKS);
    }

    fn wrong_mut(&mut self, entry: Entry) -> Option<&mut Wrong> {
        match self.users.peek_mut(&entry) {
            Some(user) => user.wrong.as_mut(),
            None => self.others.get_mut(entry),
        }
    }

    /// One is no longer under way. A directory that is slow counts from a moment that is not known, at this one at the latest.
    fn counted(&mut self, entry: Entry, now: Instant) {
        if let Some(wrong) = self.wrong_mut(entry) {
            wrong.under_way = wrong.under_way.saturating_sub(1);
            wrong.until = now + limits::LDAP_WRONG_BINDS_TIME;
        }
    }

    /// The directory has not got it.
    fn undo(&mut self, entry: Entry) {
        let Some(wrong) = self.wrong_mut(entry) else {
            return;
        };
        wrong.under_way = wrong.under_way.saturating_sub(1);
        wrong.count = wrong.count.saturating_sub(1);
        if wrong.count > 0 {
            return;
        }
        match self.users.peek_mut(&entry) {
            Some(user) => user.wrong = None,
            None => self.others.remove(entry),
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Each step leaves it whole.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A password that is going to be tried. Dropped before it was sent, it does not count; later, it does.
#[derive(Debug)]
#[must_use]
pub(super) struct Attempt {
    state: Arc<Mutex<State>>,
    entry: Entry,
    network: IpAddr,
    sent: bool,
}

impl Attempt {
    /// It is sent: the directory may have counted it, with any answer.
    pub(super) fn sent(&mut self) {
        self.sent = true;
    }

    pub(super) fn right(mut self) {
        self.sent();
        let (entry, network) = (self.entry, self.network);
        let state = Arc::clone(&self.state);
        drop(self);
        lock(&state).right(entry, network);
    }

    #[cfg(test)]
    fn wrong(mut self) {
        self.sent();
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        match self.sent {
            true => state.counted(self.entry, Instant::now()),
            false => state.undo(self.entry),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const ALICE: &str = "uid=alice,ou=people,dc=example,dc=org";

    /// From ever new networks.
    fn guesses(attempts: &Attempts, dn: &str, count: u32) -> u32 {
        let from = |n: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n));
        let tried = (0..count).filter_map(|n| attempts.begin(dn, from(n)).ok());
        tried.map(Attempt::wrong).count().try_into().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_strangers_lock_no_account() {
        let attempts = Attempts::new();
        let tried = guesses(&attempts, ALICE, 100);
        assert_eq!(tried, limits::LDAP_WRONG_BINDS_OF_STRANGERS);
        let wait = attempts.begin(&ALICE.to_uppercase(), HOME).unwrap_err();
        assert_eq!(wait, limits::LDAP_WRONG_BINDS_TIME);
        let bob = ALICE.replace("alice", "bob");
        assert_eq!(guesses(&attempts, &bob, 1), 1);
        tokio::time::advance(wait).await;
        assert_eq!(guesses(&attempts, ALICE, 100), tried);
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_who_has_logged_in_there_before_still_can() {
        let attempts = Attempts::new();
        attempts.begin(ALICE, HOME).unwrap().right();
        guesses(&attempts, ALICE, 100);
        // She mistypes once, then does not; and a right one makes the directory forget.
        attempts.begin(ALICE, HOME).unwrap().wrong();
        attempts.begin(ALICE, HOME).unwrap_err();
        tokio::time::advance(limits::LDAP_WRONG_BINDS_TIME).await;
        guesses(&attempts, ALICE, 100);
        attempts.begin(ALICE, HOME).unwrap().right();
        assert_eq!(
            guesses(&attempts, ALICE, 100),
            limits::LDAP_WRONG_BINDS_OF_STRANGERS
        );
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_a_right_one_forgets_no_guess_that_is_under_way() {
        let attempts = Attempts::new();
        attempts.begin(ALICE, HOME).unwrap().right();
        let from = |n: u8| IpAddr::from(std::net::Ipv4Addr::new(10, 0, 0, n));
        let mut under_way: Vec<_> = (0..100)
            .filter_map(|n| attempts.begin(ALICE, from(n)).ok())
            .collect();
        let guessed = limits::LDAP_WRONG_BINDS_OF_STRANGERS;
        assert_eq!(under_way.len(), guessed as usize);
        under_way.iter_mut().for_each(Attempt::sent);
        // She logs in. The directory reads the guesses after that, and counts them.
        attempts.begin(ALICE, HOME).unwrap().right();
        drop(under_way);
        assert_eq!(guesses(&attempts, ALICE, 100), 0);
        tokio::time::advance(limits::LDAP_WRONG_BINDS_TIME).await;
        assert_eq!(guesses(&attempts, ALICE, 100), guessed);
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_guesses_at_the_same_time_count_all_of_them() {
        let attempts = Attempts::new();
        let under_way: Vec<_> = (0..100)
            .filter_map(|_| attempts.begin(ALICE, HOME).ok())
            .collect();
        assert_eq!(under_way.len(), 3);
        // Nothing was sent: the directory could not be reached.
        drop(under_way);
        assert_eq!(lock(&attempts.state).others.len(), 0);
        let _again = attempts.begin(ALICE, HOME).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_a_guess_that_was_not_sent_prolongs_no_wait() {
        let attempts = Attempts::new();
        attempts.begin(ALICE, HOME).unwrap().wrong();
        tokio::time::advance(limits::LDAP_WRONG_BINDS_TIME / 2).await;
        drop(attempts.begin(ALICE, HOME).unwrap());
        tokio::time::advance(limits::LDAP_WRONG_BINDS_TIME / 2).await;
        let tried = guesses(&attempts, ALICE, 100);
        assert_eq!(tried, limits::LDAP_WRONG_BINDS_OF_STRANGERS);
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_what_was_sent_counts_whatever_is_heard_of_it() {
        let attempts = Attempts::new();
        let mut under_way: Vec<_> = (0..100)
            .filter_map(|_| attempts.begin(ALICE, HOME).ok())
            .collect();
        under_way.iter_mut().for_each(Attempt::sent);
        // The directory is slow, and counts them late.
        tokio::time::advance(limits::LDAP_WRONG_BINDS_TIME / 2).await;
        drop(under_way);
        let wait = attempts.begin(ALICE, HOME).unwrap_err();
        assert_eq!(wait, limits::LDAP_WRONG_BINDS_TIME);
    }

    #[test]
    fn rule_23_nobody_is_one_name_in_every_spelling() {
        let attempts = Attempts::new();
        let nobody = attempts.nobody("no body");
        assert_eq!(attempts.nobody(" No  BODY "), nobody);
        assert_ne!(attempts.nobody("nobody"), nobody);
        assert_ne!(Attempts::new().nobody("no body"), nobody);
        assert!(
            nobody
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-')
        );
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_names_that_are_made_up_push_out_nobody() {
        let attempts = Attempts::new();
        attempts.begin(ALICE, HOME).unwrap().right();
        let bob = ALICE.replace("alice", "bob");
        guesses(&attempts, &bob, 100);
        // From everywhere: one network does not fill it.
        for n in 1..limits::LDAP_OTHERS {
            let from = std::net::Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(n).unwrap());
            let attempt = attempts.begin(&format!("uid={n}"), from.into());
            attempt.unwrap().wrong();
        }
        assert_eq!(lock(&attempts.state).others.len(), limits::LDAP_OTHERS);
        // No new name, nor bob, whose time is not over; alice as ever.
        attempts.begin("uid=new", HOME).unwrap_err();
        assert_eq!(guesses(&attempts, &bob, 1), 0);
        attempts.begin(ALICE, HOME).unwrap().right();
        tokio::time::advance(limits::LDAP_WRONG_BINDS_TIME).await;
        attempts.begin("uid=new", HOME).unwrap().wrong();
        assert_eq!(lock(&attempts.state).others.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_one_site_does_not_take_all_room_for_names() {
        let attempts = Attempts::new();
        let from = |n: u32| {
            let bits = 0x2001_0db8 << 96 | u128::from(n) << 64;
            IpAddr::from(std::net::Ipv6Addr::from_bits(bits))
        };
        // A new /64 for each name.
        let guess = |n: u32| attempts.begin(&format!("uid={n}"), from(n));
        let tried = (0..65_536).filter_map(|n| guess(n).ok());
        let tried = tried.map(Attempt::wrong).count();
        assert_eq!(tried, limits::LDAP_OTHERS / 4 * 3);
        attempts.begin("uid=new", HOME).unwrap().wrong();
        guess(65_536).unwrap().wrong();
        tokio::time::advance(limits::LDAP_WRONG_BINDS_TIME).await;
        guess(65_535).unwrap().wrong();
        let state = lock(&attempts.state);
        assert_eq!((state.others.len(), state.others.of.len()), (1, 3));
    }
}
