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
use underpass_core::{Authority, Identity, limits, share};

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

/// The shares of [`limits::KNOWN_HEADS`] are counted in it.
const UNIT: usize = 1024 * 1024;

/// One connection of a holder.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: Id,
    /// Its requests in flight. It is idle without any.
    pub(super) requests: Arc<AtomicUsize>,
    pub(super) close: CancellationToken,
    /// The charge for bytes of a request that has not begun.
    pub(super) unasked: usize,
}

#[derive(Debug)]
pub(super) struct Known {
    connections: usize,
    holders: HashMap<Arc<Holder>, BTreeMap<Id, Member>>,
    members: HashMap<Id, Arc<Holder>>,
    /// The charges of all, and of the holders that have any.
    unasked: usize,
    unasked_of: HashMap<Arc<Holder>, usize>,
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

    /// The holder with the most gives up its oldest connection without a request in flight, or else its oldest: of the users
    /// of one authority, where that has more than half of all connections, since a captured one gives ever new names. False:
    /// nobody is here.
    pub(super) fn make_room(&mut self) -> bool {
        let half = self.len() / 2;
        let mut authorities = self.authorities.values();
        let largest = authorities.find(|vouched| vouched.connections > half);
        let by_count = largest.map_or(&self.by_count, |vouched| &vouched.by_count);
        let Some((.., holder)) = by_count.last() else {
            return false;
        };
        let holder = Arc::clone(holder);
        self.give_up(&holder, "room")
    }

    /// Charges bytes of a request that has not begun. False: its holder has too many, and the connection has to end.
    pub(super) fn charge(&mut self, id: Id, bytes: usize) -> bool {
        let Some(holder) = self.members.get(&id).cloned() else {
            return false;
        };
        let held = self.unasked_of.get(&holder).copied().unwrap_or_default();
        let all = self.unasked.saturating_add(bytes) / UNIT;
        if !share::allows(held / UNIT, all, limits::KNOWN_HEADS / UNIT) {
            metrics::counter!("underpass_authenticated_closed_total", "bound" => "heads")
                .increment(1);
            if let Some(member) = self.leave(id) {
                member.close.cancel();
            }
            return false;
        }
        self.unasked = self.unasked.saturating_add(bytes);
        self.unasked_of
            .insert(Arc::clone(&holder), held.saturating_add(bytes));
        let members = self.holders.get_mut(&holder);
        if let Some(member) = members.and_then(|members| members.get_mut(&id)) {
            member.unasked = member.unasked.saturating_add(bytes);
        }
        true
    }

    /// The request has begun.
    pub(super) fn refund(&mut self, id: Id) {
        let Some(holder) = self.members.get(&id).cloned() else {
            return;
        };
        let members = self.holders.get_mut(&holder);
        if let Some(member) = members.and_then(|members| members.get_mut(&id)) {
            let bytes = std::mem::take(&mut member.unasked);
            self.give_back(&holder, bytes);
        }
    }

    #[cfg(test)]
    pub(super) fn unasked(&self) -> usize {
        self.unasked
    }

    fn give_back(&mut self, holder: &Arc<Holder>, bytes: usize) {
        self.unasked = self.unasked.saturating_sub(bytes);
        if let Some(held) = self.unasked_of.get_mut(holder) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                self.unasked_of.remove(holder);
            }
        }
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
        if let Some(member) = self.leave(id) {
            member.close.cancel();
        }
        metrics::counter!("underpass_authenticated_closed_total", "bound" => bound).increment(1);
        true
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
    fn rule_23_heads_of_one_user_that_do_not_end_have_a_share() {
        let mut known = Known::new(10_000);
        let most = limits::KNOWN_HEADS / UNIT;
        let greedy: Vec<_> = (0..1000)
            .map(|id| enter(&mut known, id, user("mallory"), 0))
            .collect();
        for guest in &greedy {
            known.charge(guest.0, UNIT);
        }
        assert_eq!(inside(&greedy).len(), most / 4 * 3 - 1);
        let alice = enter(&mut known, 1000, user("alice"), 0);
        assert!(known.charge(alice.0, UNIT) && alice.is_in());
        // A request that begins frees what its head has taken.
        known.refund(greedy[0].0);
        known.refund(greedy[1].0);
        assert!(known.charge(greedy[0].0, UNIT) && greedy[0].is_in());
    }

    #[test]
    fn nothing_is_kept_of_who_leaves() {
        let mut known = Known::new(16);
        for id in 0..8 {
            enter(&mut known, id, user("alice"), 0);
        }
        assert!(known.charge(3, UNIT) && known.charge(4, 2 * UNIT) && !known.charge(8, 1));
        for id in 0..9 {
            known.leave(id);
        }
        assert!(!known.make_room());
        assert!(known.holders.is_empty() && known.by_count.is_empty() && known.members.is_empty());
        assert!(known.authorities.is_empty() && known.unasked_of.is_empty());
        assert_eq!(known.unasked, 0);
    }
}
