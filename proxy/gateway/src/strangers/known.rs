//! Connections of authenticated users and agents, and the choice of one to close. No I/O, no clock: an id is older if it is
//! smaller.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio_util::sync::CancellationToken;
use underpass_core::{Authority, Identity, limits};

use super::crowd::Id;

/// The holder of an authenticated connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Holder {
    /// An agent's, of this cluster: all agents of a cluster count together.
    Agent(Arc<str>),
    /// A user's: a name means somebody together with its authority (security rule 22).
    User(Authority, Arc<str>),
}

impl From<&Identity> for Holder {
    fn from(identity: &Identity) -> Self {
        let authority = identity.provenance().map(|by| by.authority().clone());
        Self::User(authority.unwrap_or_default(), identity.user().into())
    }
}

/// One connection of a holder.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: Id,
    /// Its requests in flight. It is idle without any.
    pub(super) requests: Arc<AtomicUsize>,
    pub(super) close: CancellationToken,
    /// The charge for bytes that nobody has taken yet.
    pub(super) unasked: usize,
}

#[derive(Debug)]
pub(super) struct Known {
    connections: usize,
    holders: HashMap<Arc<Holder>, BTreeMap<Id, Member>>,
    members: HashMap<Id, Arc<Holder>>,
    /// The charges of all, and of the holders that have any, the one with most last.
    unasked: usize,
    unasked_of: HashMap<Arc<Holder>, usize>,
    by_unasked: BTreeSet<(usize, Arc<Holder>)>,
    /// The same holders, the one that has to give a connection up first last.
    by_count: BTreeSet<Rank>,
    authorities: HashMap<Authority, Vouched>,
}

/// The users whom one authority vouches for.
#[derive(Debug, Default)]
struct Vouched {
    connections: usize,
    by_count: BTreeSet<Rank>,
}

/// The largest holder pays; among equals users before agents, and then the oldest.
type Rank = (usize, bool, Reverse<Id>, Arc<Holder>);

fn rank(holder: &Arc<Holder>, members: &BTreeMap<Id, Member>) -> Rank {
    let first = members.keys().next().copied().unwrap_or(Id::MAX);
    let user = matches!(**holder, Holder::User(..));
    (members.len(), user, Reverse(first), Arc::clone(holder))
}

impl Known {
    /// So many connections have room here, strangers' included.
    pub(super) fn new(connections: usize) -> Self {
        Self {
            connections,
            holders: HashMap::new(),
            members: HashMap::new(),
            unasked: 0,
            unasked_of: HashMap::new(),
            by_unasked: BTreeSet::new(),
            by_count: BTreeSet::new(),
            authorities: HashMap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// A connection turns out to be this holder's. Beyond half of the room a holder has a quarter at the most, and gives
    /// another one up for it.
    pub(super) fn enter(&mut self, holder: Holder, member: Member) {
        let holder = Arc::new(holder);
        let held = self.holders.get(&holder).map_or(0, BTreeMap::len);
        if self.len() >= self.connections / 2 && held >= (self.connections / 4).max(1) {
            self.give_up(&holder, "user share");
        }
        self.insert(holder, member);
    }

    /// The holder with the most gives up its oldest connection without a request in flight, or else its oldest. Where nobody
    /// has much, and the users of one authority have more than half of all connections, one of them pays: a captured
    /// authority gives ever new names. False: nobody is here.
    pub(super) fn make_room(&mut self) -> bool {
        let half = self.len() / 2;
        let much = self.connections / 16;
        let most = self.by_count.last();
        let mut authorities = self.authorities.values();
        let largest = authorities.find(|vouched| vouched.connections > half);
        let largest = largest.and_then(|vouched| vouched.by_count.last());
        let first = most.filter(|(count, ..)| *count > much);
        let Some((.., holder)) = first.or(largest).or(most) else {
            return false;
        };
        let holder = Arc::clone(holder);
        self.give_up(&holder, "room")
    }

    /// Charges bytes that nobody has taken yet. Where all connections hold too many, the holder with most of them gives up its
    /// connection with most. False: that is this one, or it is not here.
    pub(super) fn charge(&mut self, id: Id, bytes: usize) -> bool {
        while self.unasked.saturating_add(bytes) > limits::KNOWN_HEADS {
            let Some(heaviest) = self.heaviest() else {
                break;
            };
            self.close(heaviest, "heads");
        }
        let Some(holder) = self.members.get(&id).cloned() else {
            return false;
        };
        let members = self.holders.get_mut(&holder);
        if let Some(member) = members.and_then(|members| members.get_mut(&id)) {
            member.unasked = member.unasked.saturating_add(bytes);
        }
        self.unasked = self.unasked.saturating_add(bytes);
        self.hold(&holder, |held| held.saturating_add(bytes));
        true
    }

    fn heaviest(&self) -> Option<Id> {
        let (_, holder) = self.by_unasked.last()?;
        let members = self.holders.get(holder)?.values();
        let heaviest = members.max_by_key(|member| member.unasked)?;
        Some(heaviest.id)
    }

    /// So many of them were taken.
    pub(super) fn refund(&mut self, id: Id, bytes: usize) {
        let Some(holder) = self.members.get(&id).cloned() else {
            return;
        };
        let members = self.holders.get_mut(&holder);
        if let Some(member) = members.and_then(|members| members.get_mut(&id)) {
            let bytes = bytes.min(member.unasked);
            member.unasked = member.unasked.saturating_sub(bytes);
            self.give_back(&holder, bytes);
        }
    }

    fn give_back(&mut self, holder: &Arc<Holder>, bytes: usize) {
        self.unasked = self.unasked.saturating_sub(bytes);
        self.hold(holder, |held| held.saturating_sub(bytes));
    }

    fn hold(&mut self, holder: &Arc<Holder>, change: impl FnOnce(usize) -> usize) {
        let before = self.unasked_of.get(holder).copied().unwrap_or_default();
        let after = change(before);
        self.by_unasked.remove(&(before, Arc::clone(holder)));
        match after {
            0 => self.unasked_of.remove(holder),
            _ => {
                self.by_unasked.insert((after, Arc::clone(holder)));
                self.unasked_of.insert(Arc::clone(holder), after)
            }
        };
    }

    #[cfg(test)]
    pub(super) fn unasked(&self) -> usize {
        self.unasked
    }

    pub(super) fn leave(&mut self, id: Id) -> Option<Member> {
        let holder = self.members.remove(&id)?;
        self.unrank(&holder);
        let members = self.holders.get_mut(&holder)?;
        let member = members.remove(&id);
        if members.is_empty() {
            self.holders.remove(&holder);
        }
        self.rank(&holder);
        self.give_back(&holder, member.as_ref().map_or(0, |member| member.unasked));
        member
    }

    fn insert(&mut self, holder: Arc<Holder>, member: Member) {
        self.unrank(&holder);
        self.members.insert(member.id, Arc::clone(&holder));
        let members = self.holders.entry(Arc::clone(&holder)).or_default();
        members.insert(member.id, member);
        self.rank(&holder);
    }

    /// Takes a holder from where it stands among the others, before it changes.
    fn unrank(&mut self, holder: &Arc<Holder>) {
        let Some(members) = self.holders.get(holder) else {
            return;
        };
        let rank = rank(holder, members);
        self.by_count.remove(&rank);
        let Holder::User(authority, _) = &**holder else {
            return;
        };
        if let Some(vouched) = self.authorities.get_mut(authority) {
            vouched.connections = vouched.connections.saturating_sub(members.len());
            vouched.by_count.remove(&rank);
            if vouched.by_count.is_empty() {
                self.authorities.remove(authority);
            }
        }
    }

    fn rank(&mut self, holder: &Arc<Holder>) {
        let Some(members) = self.holders.get(holder) else {
            return;
        };
        let rank = rank(holder, members);
        self.by_count.insert(rank.clone());
        if let Holder::User(authority, _) = &**holder {
            let vouched = self.authorities.entry(authority.clone()).or_default();
            vouched.connections = vouched.connections.saturating_add(members.len());
            vouched.by_count.insert(rank);
        }
    }

    fn give_up(&mut self, holder: &Arc<Holder>, bound: &'static str) -> bool {
        let Some(members) = self.holders.get(holder) else {
            return false;
        };
        let mut all = members.values();
        let idle = all.find(|member| member.requests.load(Ordering::Acquire) == 0);
        let Some(id) = idle
            .map(|member| member.id)
            .or_else(|| members.keys().next().copied())
        else {
            return false;
        };
        self.close(id, bound);
        true
    }

    fn close(&mut self, id: Id, bound: &'static str) {
        if let Some(member) = self.leave(id) {
            member.close.cancel();
        }
        metrics::counter!("underpass_authenticated_closed_total", "bound" => bound).increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Guest(Id, CancellationToken);

    impl Guest {
        fn is_in(&self) -> bool {
            !self.1.is_cancelled()
        }
    }

    fn user(name: &str) -> Holder {
        Holder::User(Authority::Directory, name.into())
    }

    fn agent(cluster: &str) -> Holder {
        Holder::Agent(cluster.into())
    }

    /// One with so many requests in flight.
    fn enter(known: &mut Known, id: Id, holder: Holder, requests: usize) -> Guest {
        let close = CancellationToken::new();
        let member = Member {
            id,
            requests: Arc::new(requests.into()),
            close: close.clone(),
            unasked: 0,
        };
        known.enter(holder, member);
        Guest(id, close)
    }

    fn inside(guests: &[Guest]) -> Vec<Id> {
        let inside = guests.iter().filter(|guest| guest.is_in());
        inside.map(|guest| guest.0).collect()
    }

    #[test]
    fn rule_23_who_has_most_connections_gives_the_oldest_idle_one_up() {
        let mut known = Known::new(100);
        let agents: Vec<_> = (0..8)
            .map(|id| enter(&mut known, id, agent(&format!("edge-{id}")), 1))
            .collect();
        let other = enter(&mut known, 8, user("bob"), 0);
        let greedy: Vec<_> = (9..13)
            .map(|id| enter(&mut known, id, user("mallory"), usize::from(id == 9)))
            .collect();
        assert!(known.make_room());
        assert_eq!(inside(&greedy), [9, 11, 12], "the oldest that is idle");
        assert!(known.make_room() && known.make_room());
        assert_eq!(inside(&greedy), [9], "the one that does something last");
        assert!(agents.iter().all(Guest::is_in) && other.is_in());
        // All have one: users go before agents.
        assert!(known.make_room() && known.make_room());
        assert!(agents.iter().all(Guest::is_in) && !other.is_in());
        assert_eq!(known.len(), 8);
    }

    #[test]
    fn rule_23_one_user_has_a_share_of_the_connections() {
        let mut known = Known::new(16);
        let first: Vec<_> = (0..8)
            .map(|id| enter(&mut known, id, user("mallory"), 1))
            .collect();
        assert_eq!(inside(&first).len(), 8, "half is for whoever asks");
        let more: Vec<_> = (8..40)
            .map(|id| enter(&mut known, id, user("mallory"), 1))
            .collect();
        assert_eq!((inside(&first).len(), inside(&more).len()), (0, 8));
        // The same name of another authority is somebody else.
        let provider = "ldap/corp".parse().unwrap();
        let other = Holder::User(provider, "mallory".into());
        let other = enter(&mut known, 40, other, 0);
        assert!(other.is_in());
        assert_eq!(known.len(), 9);
    }

    #[test]
    fn rule_23_ever_new_names_of_one_authority_pay_for_each_other() {
        let mut known = Known::new(100);
        let agents: Vec<_> = (0..4)
            .map(|id| enter(&mut known, id, agent("edge"), 1))
            .collect();
        // Two connections, older than all others.
        let honest: Vec<_> = (4..6)
            .map(|id| enter(&mut known, id, user("alice"), 1))
            .collect();
        let vouched = |name: Id| {
            let authority = "token-review/captured".parse().unwrap();
            Holder::User(authority, name.to_string().into())
        };
        let names: Vec<_> = (6..100)
            .map(|id| enter(&mut known, id, vouched(id), 1))
            .collect();
        for id in 100..200 {
            assert!(known.make_room());
            enter(&mut known, id, vouched(id), 1);
        }
        assert!(agents.iter().all(Guest::is_in) && honest.iter().all(Guest::is_in));
        assert!(!names.iter().any(Guest::is_in));
        // As many as all others together: nobody is told from a company's provider.
        while known
            .authorities
            .values()
            .any(|vouched| vouched.connections > known.len() / 2)
        {
            assert!(known.make_room());
        }
        assert!(known.make_room());
        assert!(
            !agents.iter().all(Guest::is_in),
            "the holder with most pays"
        );
    }

    #[test]
    fn rule_23_the_holder_of_most_heads_that_do_not_end_pays() {
        const UNIT: usize = 1024 * 1024;
        let mut known = Known::new(10_000);
        let most = limits::KNOWN_HEADS / UNIT;
        let alice = enter(&mut known, 0, user("alice"), 1);
        assert!(known.charge(alice.0, UNIT));
        let greedy: Vec<_> = (1..1000)
            .map(|id| enter(&mut known, id, user("mallory"), 1))
            .collect();
        for guest in &greedy {
            known.charge(guest.0, UNIT);
        }
        assert_eq!(inside(&greedy).len(), most - 1);
        // Others' heads find room, however many there are.
        let others: Vec<_> = (1000..1100)
            .map(|id| enter(&mut known, id, user(&id.to_string()), 1))
            .collect();
        assert!(
            others
                .iter()
                .all(|other| known.charge(other.0, UNIT) && other.is_in())
        );
        assert!(alice.is_in());
        // A head that has ended is free.
        let left = inside(&greedy);
        known.refund(left[0], usize::MAX);
        assert!(known.charge(left[1], UNIT));
        assert_eq!(inside(&greedy).len(), left.len());
    }

    #[test]
    fn rule_23_an_authority_with_most_users_does_not_pay_for_somebody_greedy_elsewhere() {
        let mut known = Known::new(160);
        let corp = |name: Id| Holder::User("jwt/corp".parse().unwrap(), name.to_string().into());
        let honest: Vec<_> = (0..90)
            .map(|id| enter(&mut known, id, corp(id), 1))
            .collect();
        let greedy: Vec<_> = (90..130)
            .map(|id| enter(&mut known, id, user("mallory"), 1))
            .collect();
        for _ in 0..30 {
            assert!(known.make_room());
        }
        assert!(honest.iter().all(Guest::is_in));
        assert_eq!(inside(&greedy).len(), 10);
    }

    #[test]
    fn nothing_is_kept_of_who_leaves() {
        let mut known = Known::new(16);
        for id in 0..8 {
            enter(&mut known, id, user("alice"), 0);
        }
        assert!(known.charge(3, 1000) && known.charge(4, 2000) && !known.charge(8, 1));
        for id in 0..9 {
            known.leave(id);
        }
        assert!(!known.make_room());
        assert!(known.holders.is_empty() && known.by_count.is_empty() && known.members.is_empty());
        assert!(known.authorities.is_empty() && known.unasked_of.is_empty());
        assert!(known.by_unasked.is_empty());
        assert_eq!(known.unasked, 0);
    }
}
