//! How much each holds, and the next one to go. No I/O, no clock: a smaller [`Since`] is older.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use tokio_util::sync::CancellationToken;

use underpass_core::{Block, blocks_of, limits, network_of};

/// Tells connections apart; a smaller one was accepted earlier.
pub(super) type Id = u64;

/// How much strangers may hold, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StrangerBounds {
    /// All together.
    pub bytes: usize,
    /// Up to this sum, every source gets as much as it asks for.
    pub unshared: usize,
    /// Beyond that, one source.
    pub per_source: usize,
    /// One connection, even if more is free.
    pub per_connection: usize,
}

impl Default for StrangerBounds {
    fn default() -> Self {
        Self {
            bytes: limits::STRANGERS,
            unshared: limits::STRANGERS / 2,
            per_source: limits::STRANGERS / 4,
            per_connection: limits::STRANGER_MOST,
        }
    }
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Its source holds more than its share.
    Share,
    /// Everybody together holds too much, and its source the most.
    Budget,
    /// It holds too much itself.
    Most,
    /// The system has nothing left, and its source holds the most.
    System,
}

#[derive(Debug)]
pub(super) struct Crowd {
    bounds: StrangerBounds,
    held: usize,
    next: Id,
    members: HashMap<Id, Member>,
    sources: HashMap<IpAddr, Source>,
    /// The same sources, the one that has to give something up first last.
    by_held: BTreeSet<Rank>,
    sites: HashMap<Block, Site>,
    /// Members that hold something: the others' requests are known ones'.
    holding: usize,
}

/// Sources that may be one attacker's.
#[derive(Debug, Default)]
struct Site {
    held: usize,
    by_held: BTreeSet<Rank>,
}

/// Since when somebody is a stranger: a smaller one is older.
type Since = u64;

#[derive(Debug)]
struct Member {
    source: IpAddr,
    since: Since,
    /// A proxy's, which asks for others.
    for_others: bool,
    held: usize,
    close: CancellationToken,
}

#[derive(Debug, Default)]
struct Source {
    held: usize,
    /// In the order in which they have to go.
    members: BTreeSet<Order>,
    /// How many of them ask for others.
    for_others: usize,
}

impl Source {
    /// A trusted proxy's. A new connection of it has not said so yet.
    fn is_proxy(&self) -> bool {
        self.for_others > 0
    }
}

/// Sources in the order in which they pay: those that hold twice as much are larger, and of those that hold about as much the
/// one whose first connection has been a stranger's for longer. So a newcomer who has said something is not the largest of many
/// who say nothing.
type Rank = (u32, Reverse<Since>, IpAddr);

fn rank(address: IpAddr, source: &Source, share: usize) -> Rank {
    let places = (source.held / limits::STRANGER_BASE).max(1);
    let first = source.members.first();
    let first = first.map_or(Since::MAX, |(_, since, _)| *since);
    let size = match source.held {
        // A source that holds nothing has nothing to give up.
        0 => 0,
        // Many clients' requests, which the operator has let in by this proxy: within its share it pays last.
        held if source.is_proxy() && held <= share => 1,
        _ => places.ilog2().saturating_add(2),
    };
    (size, Reverse(first), address)
}

/// The order in which a source's connections have to go: twice as much first; among those that hold about as much, the oldest.
type Order = (Reverse<u32>, Since, Id);

/// The networks around a source that one subscriber or one site may have altogether.
fn sites_of(source: IpAddr) -> impl Iterator<Item = Block> {
    blocks_of(source).skip(1)
}

fn order(held: usize, since: Since, id: Id) -> Order {
    (Reverse(held.max(1).ilog2()), since, id)
}

impl Crowd {
    pub(super) fn new(bounds: StrangerBounds) -> Self {
        Self {
            bounds,
            held: 0,
            next: 0,
            members: HashMap::new(),
            sources: HashMap::new(),
            by_held: BTreeSet::new(),
            sites: HashMap::new(),
            holding: 0,
        }
    }

    /// How much the sources of a site may hold: a subscriber has one or two hundred networks of 64 bits, and a company all of
    /// a /48. They have more than one source, and never everything.
    fn per_site(&self, site: Block) -> usize {
        let share = self.bounds.per_source;
        match site.size() {
            ..=1 => share.saturating_add(share / 2),
            _ => share.saturating_mul(2),
        }
    }

    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// How many connections are strangers'.
    pub(super) fn len(&self) -> usize {
        self.holding
    }

    /// Somebody comes; `close` is cancelled when they have to go, which may be at once.
    pub(super) fn enter(&mut self, client: IpAddr, close: CancellationToken) -> Id {
        let source = network_of(client);
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let member = Member {
            source,
            since: id,
            for_others: false,
            held: 0,
            close,
        };
        self.insert(id, member);
        self.charge(id, limits::STRANGER_BASE);
        id
    }

    /// Somebody holds more. False: they are not here (any more).
    pub(super) fn charge(&mut self, id: Id, bytes: usize) -> bool {
        let Some(member) = self.members.get(&id) else {
            return false;
        };
        let source = member.source;
        if member.held.saturating_add(bytes) > self.bounds.per_connection {
            self.close(id, Why::Most);
            return false;
        }
        while let Some((from, why)) = self.pays(source, bytes) {
            let victim = self.first_to_go(from, (source, id, bytes));
            self.close(victim, why);
            if victim == id {
                return false;
            }
        }
        self.add(id, bytes);
        true
    }

    /// Somebody is a stranger again, from now on.
    pub(super) fn again(&mut self, id: Id) {
        if let Some(mut member) = self.remove(id) {
            member.since = self.next;
            self.next = self.next.wrapping_add(1);
            self.insert(id, member);
        }
    }

    /// Somebody turns out to be a proxy that asks for others.
    pub(super) fn asks_for_others(&mut self, id: Id) {
        if let Some(mut member) = self.remove(id) {
            member.for_others = true;
            self.insert(id, member);
        }
    }

    /// Somebody holds less.
    pub(super) fn refund(&mut self, id: Id, bytes: usize) {
        if let Some(mut member) = self.remove(id) {
            member.held = member.held.saturating_sub(bytes);
            self.insert(id, member);
        }
    }

    /// One of the largest source's has to go. False: there is nobody.
    pub(super) fn make_room(&mut self) -> bool {
        let largest = self.by_held.last();
        let source = largest.and_then(|(_, _, largest)| self.sources.get(largest));
        let holding = source.filter(|source| source.held > 0);
        let first = holding.and_then(|source| source.members.first());
        let Some((.., id)) = first.copied() else {
            return false;
        };
        self.close(id, Why::System);
        true
    }

    /// Somebody goes, or is no stranger any more.
    pub(super) fn leave(&mut self, id: Id) {
        self.remove(id);
    }

    /// Somebody turns out to come from elsewhere.
    pub(super) fn move_to(&mut self, id: Id, client: IpAddr) {
        let source = network_of(client);
        let Some(mut member) = self.remove(id) else {
            return;
        };
        let held = std::mem::take(&mut member.held);
        member.source = source;
        self.insert(id, member);
        self.charge(id, held);
    }

    /// The source that has to give something up before this one may hold so much more.
    fn pays(&self, source: IpAddr, bytes: usize) -> Option<(IpAddr, Why)> {
        let all = self.held.saturating_add(bytes);
        let of_source = self.sources.get(&source).map_or(0, |source| source.held);
        let of_source = of_source.saturating_add(bytes);
        if all > self.bounds.unshared && of_source > self.bounds.per_source {
            return Some((source, Why::Share));
        }
        for site in sites_of(source).filter(|_| all > self.bounds.unshared) {
            let held = self.sites.get(&site).map_or(0, |site| site.held);
            if held.saturating_add(bytes) > self.per_site(site) {
                let sources = self.sites.get(&site);
                let largest = sources.and_then(|site| site.by_held.last());
                return Some((largest.map_or(source, |largest| largest.2), Why::Share));
            }
        }
        if all <= self.bounds.bytes {
            return None;
        }
        let largest = self
            .by_held
            .last()
            .map_or(source, |(_, _, largest)| *largest);
        Some((largest, Why::Budget))
    }

    /// The first of a source that has to go. It is the asker, where the source is theirs and they would hold the most.
    fn first_to_go(&self, from: IpAddr, (source, id, bytes): (IpAddr, Id, usize)) -> Id {
        let first = self
            .sources
            .get(&from)
            .and_then(|from| from.members.first());
        let member = self.members.get(&id);
        let (held, since) = member.map_or((0, Since::MAX), |member| (member.held, member.since));
        let asking = order(held.saturating_add(bytes), since, id);
        match first {
            Some(first) if from != source || *first <= asking => first.2,
            _ => id,
        }
    }

    fn close(&mut self, id: Id, why: Why) {
        let Some(member) = self.remove(id) else {
            return;
        };
        member.close.cancel();
        let why = match why {
            Why::Share => "share",
            Why::Budget => "budget",
            Why::Most => "connection",
            Why::System => "system",
        };
        metrics::counter!("underpass_unauthenticated_closed_total", "bound" => why).increment(1);
    }

    fn add(&mut self, id: Id, bytes: usize) {
        if let Some(mut member) = self.remove(id) {
            member.held = member.held.saturating_add(bytes);
            self.insert(id, member);
        }
    }

    fn insert(&mut self, id: Id, member: Member) {
        let (address, held) = (member.source, member.held);
        self.unrank(address);
        let source = self.sources.entry(address).or_default();
        source.held = source.held.saturating_add(held);
        source.members.insert(order(held, member.since, id));
        let one = usize::from(member.for_others);
        source.for_others = source.for_others.saturating_add(one);
        self.held = self.held.saturating_add(held);
        self.holding = self.holding.saturating_add(usize::from(held > 0));
        for site in sites_of(address) {
            let site = self.sites.entry(site).or_default();
            site.held = site.held.saturating_add(held);
        }
        self.members.insert(id, member);
        self.rank(address);
    }

    fn remove(&mut self, id: Id) -> Option<Member> {
        let member = self.members.remove(&id)?;
        let (address, held) = (member.source, member.held);
        self.unrank(address);
        self.held = self.held.saturating_sub(held);
        self.holding = self.holding.saturating_sub(usize::from(held > 0));
        if let Some(source) = self.sources.get_mut(&address) {
            source.held = source.held.saturating_sub(held);
            source.members.remove(&order(held, member.since, id));
            let one = usize::from(member.for_others);
            source.for_others = source.for_others.saturating_sub(one);
            if source.members.is_empty() {
                self.sources.remove(&address);
            }
        }
        for site in sites_of(address) {
            if let Some(site) = self.sites.get_mut(&site) {
                site.held = site.held.saturating_sub(held);
            }
        }
        self.rank(address);
        Some(member)
    }

    /// Takes a source from where it stands among the others, before it changes.
    fn unrank(&mut self, address: IpAddr) {
        let Some(source) = self.sources.get(&address) else {
            return;
        };
        let rank = rank(address, source, self.bounds.per_source);
        self.by_held.remove(&rank);
        for site in sites_of(address) {
            if let Some(site) = self.sites.get_mut(&site) {
                site.by_held.remove(&rank);
            }
        }
    }

    /// Puts it where it belongs, if it is still there.
    fn rank(&mut self, address: IpAddr) {
        let rank = self
            .sources
            .get(&address)
            .map(|source| rank(address, source, self.bounds.per_source));
        if let Some(rank) = rank {
            self.by_held.insert(rank);
        }
        for key in sites_of(address) {
            let site = self.sites.entry(key).or_default();
            if let Some(rank) = rank {
                site.by_held.insert(rank);
            } else if site.by_held.is_empty() {
                self.sites.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: usize = limits::STRANGER_BASE;

    /// Room for so many who say nothing.
    fn crowd(places: usize) -> Crowd {
        Crowd::new(StrangerBounds {
            bytes: places * BASE,
            unshared: places * BASE / 2,
            per_source: places * BASE / 4,
            per_connection: 20 * BASE,
        })
    }

    fn source(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    struct Guest(Id, CancellationToken);

    impl Guest {
        fn new(crowd: &mut Crowd, from: u8) -> Self {
            let close = CancellationToken::new();
            Self(crowd.enter(source(from), close.clone()), close)
        }

        fn is_in(&self) -> bool {
            !self.1.is_cancelled()
        }
    }

    fn guests(crowd: &mut Crowd, from: u8, count: usize) -> Vec<Guest> {
        (0..count).map(|_| Guest::new(crowd, from)).collect()
    }

    fn inside(guests: &[Guest]) -> Vec<usize> {
        let numbered = guests.iter().enumerate();
        let inside = numbered.filter(|(_, guest)| guest.is_in());
        inside.map(|(number, _)| number).collect()
    }

    impl Crowd {
        fn check(&self) {
            assert!(self.held <= self.bounds.bytes);
            let members = self.members.values().map(|member| member.held);
            assert_eq!(members.sum::<usize>(), self.held);
            let sources = self.sources.values().map(|source| source.held);
            assert_eq!(sources.sum::<usize>(), self.held);
            assert_eq!(self.by_held.len(), self.sources.len());
            let holding = self.members.values().filter(|member| member.held > 0);
            assert_eq!(holding.count(), self.holding);
            for (address, source) in &self.sources {
                let share = self.bounds.per_source;
                assert!(self.by_held.contains(&rank(*address, source, share)));
                assert!(source.held <= self.bounds.unshared);
                for (order_, since, id) in &source.members {
                    let member = &self.members[id];
                    let kept = order(member.held, member.since, *id);
                    assert_eq!((kept, member.source), ((*order_, *since, *id), *address));
                }
            }
        }
    }

    #[test]
    fn rule_23_a_proxy_pays_after_those_who_fill_the_room_from_many_networks() {
        let mut crowd = crowd(64);
        let proxy = guests(&mut crowd, 1, 3);
        for guest in &proxy {
            crowd.asks_for_others(guest.0);
        }
        // Between two requests of its clients: it has just become a stranger's again.
        crowd.leave(proxy[2].0);
        let flood: Vec<_> = (2..63).map(|n| Guest::new(&mut crowd, n)).collect();
        let again = Guest::new(&mut crowd, 1);
        crowd.asks_for_others(again.0);
        crowd.check();
        let more: Vec<_> = (63..200).map(|n| Guest::new(&mut crowd, n)).collect();
        assert_eq!((inside(&proxy), again.is_in()), (vec![0, 1, 2], true));
        assert!(flood.iter().all(|guest| !guest.is_in()));
        assert!(more.last().unwrap().is_in());
        // Beyond its share it pays as anybody.
        let many = guests(&mut crowd, 1, 64);
        for guest in &many {
            crowd.asks_for_others(guest.0);
        }
        assert_eq!(inside(&proxy), [2]);
        assert_eq!(inside(&many).len(), 16);
        crowd.check();
    }

    #[test]
    fn rule_23_who_was_known_until_now_is_the_newest_stranger() {
        let mut crowd = crowd(64);
        let old = Guest::new(&mut crowd, 1);
        let flood: Vec<_> = (2..65).map(|n| Guest::new(&mut crowd, n)).collect();
        crowd.refund(old.0, BASE);
        crowd.again(old.0);
        crowd.charge(old.0, BASE);
        let newcomer = Guest::new(&mut crowd, 65);
        assert!(old.is_in() && newcomer.is_in() && !flood[0].is_in());
        crowd.check();
    }

    #[test]
    fn rule_23_one_source_never_keeps_another_out() {
        let mut crowd = crowd(16);
        // More than there is room for, and none of them says a word.
        let flood = guests(&mut crowd, 1, 100);
        assert_eq!(inside(&flood), (92..100).collect::<Vec<_>>());
        let others: Vec<_> = (2..10).map(|from| Guest::new(&mut crowd, from)).collect();
        assert!(others.iter().all(Guest::is_in));
        // Everything is taken: a newcomer from elsewhere gets a place of the largest source's.
        let newcomer = Guest::new(&mut crowd, 99);
        assert!(newcomer.is_in() && others.iter().all(Guest::is_in));
        crowd.check();
    }

    #[test]
    fn rule_23_many_sources_that_say_nothing_keep_no_newcomer_out() {
        let mut crowd = crowd(16);
        let silent: Vec<_> = (1..=16).map(|from| Guest::new(&mut crowd, from)).collect();
        // A stranger that speaks holds more than each silent one, and stays.
        let honest = Guest::new(&mut crowd, 99);
        assert!(crowd.charge(honest.0, 2048));
        let more: Vec<_> = (100..112)
            .map(|from| Guest::new(&mut crowd, from))
            .collect();
        assert!(honest.is_in() && crowd.charge(honest.0, 2048));
        assert!(more.iter().all(Guest::is_in));
        assert_eq!(inside(&silent).len(), 2);
        crowd.check();
    }

    #[test]
    fn rule_23_the_oldest_that_say_nothing_go_first() {
        let mut crowd = crowd(16);
        let elsewhere = guests(&mut crowd, 2, 4);
        let flood = guests(&mut crowd, 1, 5);
        assert_eq!(inside(&flood), [1, 2, 3, 4]);
        // Somebody honest from the same source has the time that the flood takes for its share.
        let honest = Guest::new(&mut crowd, 1);
        let flood = guests(&mut crowd, 1, 3);
        assert!(honest.is_in());
        crowd.leave(honest.0);
        let flood_again = guests(&mut crowd, 1, 9);
        assert_eq!(inside(&flood_again).len() + inside(&flood).len(), 4);
        assert!(elsewhere.iter().all(Guest::is_in));
        crowd.check();
    }

    #[test]
    fn rule_23_who_holds_most_goes_before_who_is_oldest() {
        let mut crowd = crowd(16);
        let old = Guest::new(&mut crowd, 1);
        let heavy = Guest::new(&mut crowd, 1);
        assert!(crowd.charge(heavy.0, 5 * BASE));
        // Two more KiB of a client about to log in do not make it heavy.
        assert!(crowd.charge(old.0, 2048));
        let _elsewhere = guests(&mut crowd, 2, 4);
        let newcomer = Guest::new(&mut crowd, 1);
        assert!(!heavy.is_in() && old.is_in() && newcomer.is_in());
        // A stranger that asks for more than the share pays.
        assert!(!crowd.charge(newcomer.0, 5 * BASE));
        assert!(!newcomer.is_in() && old.is_in());
        crowd.check();
    }

    #[test]
    fn rule_23_one_connection_has_an_end_whatever_is_free() {
        let mut crowd = crowd(1000);
        let guest = Guest::new(&mut crowd, 1);
        assert!(crowd.charge(guest.0, 19 * BASE));
        assert!(!crowd.charge(guest.0, 1));
        assert!(!guest.is_in());
        assert_eq!(crowd.held(), 0);
    }

    #[test]
    fn rule_23_a_large_network_is_not_as_many_strangers_as_it_has_addresses() {
        let mut crowd = crowd(32);
        let mut enter = |text: String| {
            let close = CancellationToken::new();
            Guest(crowd.enter(text.parse().unwrap(), close.clone()), close)
        };
        let honest: Vec<_> = (0..4)
            .map(|n| enter(format!("2001:db8:{}::1", n + 100)))
            .collect();
        // Each from a network of its own, first within a /56 and then within a /48.
        let subscriber: Vec<_> = (0..100)
            .map(|n| enter(format!("2001:db8:1:{n:x}::1")))
            .collect();
        assert_eq!(inside(&subscriber).len(), 12);
        let company: Vec<_> = (0..100)
            .map(|n| enter(format!("2001:db8:2:{n:x}00::1")))
            .collect();
        assert_eq!(inside(&company).len(), 16);
        assert!(honest.iter().all(Guest::is_in));
        crowd.check();
        for guest in honest.iter().chain(&subscriber).chain(&company) {
            crowd.leave(guest.0);
        }
        assert!(crowd.sites.is_empty());
    }

    #[test]
    fn rule_23_where_the_system_has_nothing_left_the_largest_source_pays() {
        let mut crowd = crowd(16);
        let other = Guest::new(&mut crowd, 2);
        let flood = guests(&mut crowd, 1, 3);
        assert!(crowd.make_room() && crowd.make_room());
        assert!(other.is_in());
        assert_eq!(inside(&flood), [2]);
        assert!(crowd.make_room() && crowd.make_room() && !crowd.make_room());
        crowd.check();
    }

    #[test]
    fn who_comes_by_a_load_balancer_counts_for_where_they_are() {
        let mut crowd = crowd(16);
        for from in 1..=12 {
            let guest = Guest::new(&mut crowd, 200);
            crowd.move_to(guest.0, source(from));
            assert!(guest.is_in());
        }
        assert_eq!(crowd.len(), 12);
        crowd.check();
    }

    #[test]
    fn nothing_leaks_whoever_comes_and_goes() {
        let mut seed = 1_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(seed >> 33).unwrap() % below
        };
        let mut crowd = crowd(20);
        let mut there: Vec<Guest> = Vec::new();
        for _ in 0..20_000 {
            let from = u8::try_from(random(5)).unwrap();
            match random(6) {
                0..2 => there.push(Guest::new(&mut crowd, from)),
                2 if !there.is_empty() => {
                    crowd.leave(there.swap_remove(random(there.len())).0);
                }
                3 if !there.is_empty() => {
                    let id = there[random(there.len())].0;
                    let bytes = random(3 * BASE);
                    if crowd.charge(id, bytes) && random(2) == 0 {
                        crowd.refund(id, bytes);
                    }
                }
                4 if !there.is_empty() => {
                    crowd.move_to(there[random(there.len())].0, source(from));
                }
                _ => {}
            }
            crowd.check();
        }
        for guest in there {
            crowd.leave(guest.0);
        }
        assert_eq!((crowd.held(), crowd.len()), (0, 0));
        assert!(crowd.sources.is_empty() && crowd.by_held.is_empty());
    }
}
