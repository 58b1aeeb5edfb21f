//! Limits handshakes of unauthenticated clients.
//!
//! The cost of a flood of QUIC Initials with spoofed addresses: for each, the server derives keys and
//! opens a packet, some microseconds. One that is accepted costs a TLS flight with a signature,
//! at most three times its own bytes sent to the spoofed address (RFC 9000, section 8.1), some
//! 50 KiB, and a place here until [`limits::CONNECT_TIME`] is over. So half of the places go to
//! any client. The rest go to clients that have proven their address with a Retry, which a flood
//! cannot, at most a quarter to each source. A Retry and a refusal keep no state, and
//! are smaller than the packet they answer.
//!
//! Where every place is taken, the oldest handshake of the source with most of them ends for a
//! newcomer: handshakes that go on take milliseconds, and it takes seconds to be the oldest.
//!
//! A connection that fails in its handshake leaves its place at once, and is remembered here as long
//! as the QUIC stack keeps its remains. They count for what is asked of others, and not as places: a
//! thousand agents with a wrong CA must not keep the good ones out. Where there are too many of them,
//! a newcomer without one is let in still.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::limits;
use crate::session::now;

/// How many may be let in, and from when on more is asked of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) places: usize,
    pub(crate) unproven: usize,
    pub(crate) per_source: usize,
    pub(crate) failed: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            places: limits::UNAUTHENTICATED,
            unproven: limits::UNAUTHENTICATED_UNPROVEN,
            per_source: limits::UNAUTHENTICATED_PER_SOURCE,
            failed: limits::FAILED_HANDSHAKES,
        }
    }
}

/// Why a client is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// Until they prove that they receive at their address.
    Unproven,
    /// Too many are in.
    Full,
}

/// One customer's network: an IPv4 address, or the first 64 bits of an IPv6 one; or the larger IPv6
/// networks that one customer may have, each with its number of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Source(u64, u8);

impl Source {
    fn of(address: IpAddr) -> Self {
        let first = match address.to_canonical() {
            // No IPv6 network of the Internet begins with 32 zero bits.
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => u64::try_from(address.to_bits() >> 64).unwrap_or_default(),
        };
        Self(first, 64)
    }

    /// The /56 and the /48 around it, where it is an IPv6 network.
    fn sites(self) -> impl Iterator<Item = Self> {
        let v6 = self.0 > u64::from(u32::MAX);
        let site = move |bits: u8, rest: u32| Self(self.0 >> rest << rest, bits);
        [site(56, 8), site(48, 16)].into_iter().filter(move |_| v6)
    }

    /// It, and the networks around it.
    fn all(self) -> impl Iterator<Item = Self> {
        std::iter::once(self).chain(self.sites())
    }
}

impl Bounds {
    /// The share of a network: a larger one somewhat more, since it is several customers' in places.
    fn of(&self, source: Source) -> usize {
        match source.1 {
            ..=48 => self.per_source.saturating_mul(2),
            49..=56 => self.per_source.saturating_add(self.per_source / 2),
            _ => self.per_source,
        }
    }
}

/// Bounds the connections that are not authenticated.
#[derive(Debug, Clone)]
pub(crate) struct HandshakeLimiter {
    bounds: Bounds,
    crowd: Arc<Mutex<Crowd>>,
}

/// A smaller one is older.
type Id = u64;

#[derive(Debug, Default)]
struct Crowd {
    inside: usize,
    next: Id,
    /// Failed handshakes that the QUIC stack remembers, and until when.
    failed: BinaryHeap<Reverse<(Instant, Source)>>,
    /// Of both, by source and by the networks around it.
    counts: HashMap<Source, usize>,
    /// The handshakes by source: those that have not proven their address go first, and then the oldest.
    handshakes: HashMap<Source, BTreeMap<(bool, Id), CancellationToken>>,
    /// The same sources, the one with most last.
    by_size: BTreeSet<Rank>,
}

/// Those with twice as many are larger, and among others the oldest.
type Rank = (u32, Reverse<(bool, Id)>, Source);

fn rank(source: Source, inside: &BTreeMap<(bool, Id), CancellationToken>) -> Option<Rank> {
    let (first, _) = inside.first_key_value()?;
    Some((inside.len().max(1).ilog2(), Reverse(*first), source))
}

impl Crowd {
    fn count(&mut self, source: Source) {
        for network in source.all() {
            *self.counts.entry(network).or_default() += 1;
        }
    }

    fn leave(&mut self, source: Source) {
        for network in source.all() {
            if let Some(count) = self.counts.get_mut(&network) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.counts.remove(&network);
                }
            }
        }
    }

    fn forget(&mut self, now: Instant) {
        while let Some(Reverse((until, source))) = self.failed.peek().copied()
            && until <= now
        {
            self.failed.pop();
            self.leave(source);
        }
    }

    /// Has a network around it its share?
    fn has_its_share(&self, source: Source, bounds: &Bounds) -> bool {
        let mut networks = source.all();
        networks.any(|network| {
            self.counts.get(&network).copied().unwrap_or_default() >= bounds.of(network)
        })
    }

    fn begin(&mut self, source: Source, key: (bool, Id), closed: CancellationToken) {
        self.change(source, |inside| {
            inside.insert(key, closed);
        });
    }

    /// Takes a handshake from among those that may be ended.
    fn end(&mut self, source: Source, key: (bool, Id)) -> bool {
        self.change(source, |inside| inside.remove(&key).is_some())
    }

    fn change<T>(
        &mut self,
        source: Source,
        change: impl FnOnce(&mut BTreeMap<(bool, Id), CancellationToken>) -> T,
    ) -> T {
        let inside = self.handshakes.entry(source).or_default();
        if let Some(rank) = rank(source, inside) {
            self.by_size.remove(&rank);
        }
        let changed = change(inside);
        match rank(source, inside) {
            Some(rank) => {
                self.by_size.insert(rank);
            }
            None => {
                self.handshakes.remove(&source);
            }
        }
        changed
    }

    /// Ends the oldest handshake of the source with most. False: there is none that has a source.
    fn make_room(&mut self) -> bool {
        let Some((_, Reverse(key), source)) = self.by_size.last().copied() else {
            return false;
        };
        if let Some(closed) = self.change(source, |inside| inside.remove(&key)) {
            closed.cancel();
        }
        self.inside = self.inside.saturating_sub(1);
        true
    }
}

impl HandshakeLimiter {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            crowd: Arc::default(),
        }
    }

    /// Lets in a client from `source`, where it has one; `proven`, if it is known to receive there.
    pub(crate) fn enter(
        &self,
        source: Option<IpAddr>,
        proven: bool,
    ) -> Result<HandshakePermit, Closed> {
        let source = source.map(Source::of);
        let mut crowd = lock(&self.crowd);
        crowd.forget(now());
        let Bounds { places, failed, .. } = self.bounds;
        if crowd.inside + crowd.failed.len() >= self.bounds.unproven {
            if !proven {
                return Err(Closed::Unproven);
            }
            if source.is_some_and(|source| crowd.has_its_share(source, &self.bounds)) {
                return Err(Closed::Full);
            }
        }
        // Others' failures keep out no source that has nothing here.
        let blameless = |source: Source| !crowd.counts.contains_key(&source);
        if crowd.failed.len() >= failed && !source.is_some_and(blameless) {
            return Err(Closed::Full);
        }
        if crowd.inside >= places && !crowd.make_room() {
            return Err(Closed::Full);
        }
        crowd.inside += 1;
        let key = (proven, crowd.next);
        crowd.next = crowd.next.wrapping_add(1);
        let closed = CancellationToken::new();
        if let Some(source) = source {
            crowd.count(source);
            crowd.begin(source, key, closed.clone());
        }
        drop(crowd);
        Ok(HandshakePermit {
            crowd: Arc::clone(&self.crowd),
            source,
            key,
            closed,
            remembered: Duration::ZERO,
        })
    }

    /// How long the last of those that failed is remembered still.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> Option<Duration> {
        let crowd = lock(&self.crowd);
        let last = crowd
            .failed
            .iter()
            .map(|Reverse((until, _))| *until)
            .max()?;
        Some(last.saturating_duration_since(now()))
    }
}

fn lock(crowd: &Mutex<Crowd>) -> MutexGuard<'_, Crowd> {
    // Nothing panics while it is held.
    crowd.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One that was let in; out when dropped.
#[derive(Debug)]
pub(crate) struct HandshakePermit {
    crowd: Arc<Mutex<Crowd>>,
    source: Option<Source>,
    key: (bool, Id),
    closed: CancellationToken,
    remembered: Duration,
}

impl HandshakePermit {
    /// Is cancelled when the handshake has to end, to make room for a newcomer's.
    pub(crate) fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// For how long its remains count when it leaves.
    pub(crate) fn remember_for(&mut self, time: Duration) {
        self.remembered = time;
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        let mut crowd = lock(&self.crowd);
        // The evicted handshake has given its place up already.
        let inside = self.source.is_none_or(|source| crowd.end(source, self.key));
        crowd.inside = crowd.inside.saturating_sub(usize::from(inside));
        match self.source {
            Some(source) if !self.remembered.is_zero() => {
                crowd
                    .failed
                    .push(Reverse((now() + self.remembered, source)));
            }
            Some(source) => crowd.leave(source),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        places: 8,
        unproven: 4,
        per_source: 2,
        failed: 6,
    };

    fn source(n: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, n]))
    }

    #[test]
    fn before_there_is_a_rush_anybody_gets_in() {
        let handshake_limiter = HandshakeLimiter::new(BOUNDS);
        let places: Vec<_> = (0..4)
            .map(|_| handshake_limiter.enter(source(1), false))
            .collect();
        assert!(places.iter().all(Result::is_ok), "{places:?}");
        assert_eq!(
            handshake_limiter.enter(source(2), false).unwrap_err(),
            Closed::Unproven
        );
    }

    #[test]
    fn in_a_rush_a_source_gets_its_share_and_no_more() {
        let handshake_limiter = HandshakeLimiter::new(BOUNDS);
        let _spoofed: Vec<_> = (10..14)
            .map(|n| handshake_limiter.enter(source(n), false))
            .collect();
        let first = handshake_limiter.enter(source(1), true).unwrap();
        let _second = handshake_limiter.enter(source(1), true).unwrap();
        assert_eq!(
            handshake_limiter.enter(source(1), true).unwrap_err(),
            Closed::Full
        );
        let _other = handshake_limiter.enter(source(2), true).unwrap();
        drop(first);
        let _again = handshake_limiter.enter(source(1), true).unwrap();
        let _nameless = handshake_limiter.enter(None, true).unwrap();
        // Every place is taken.
        assert_eq!(
            handshake_limiter.enter(source(3), false).unwrap_err(),
            Closed::Unproven
        );
        assert_eq!(
            handshake_limiter.enter(source(1), true).unwrap_err(),
            Closed::Full
        );
    }

    #[test]
    fn rule_23_a_newcomer_takes_the_place_of_the_oldest_handshake() {
        let handshake_limiter = HandshakeLimiter::new(BOUNDS);
        let is_in = |place: &HandshakePermit| !place.closed.is_cancelled();
        let spoofed: Vec<_> = (10..14)
            .map(|n| handshake_limiter.enter(source(n), false).unwrap())
            .collect();
        // Few sources take all that there is, each its share.
        let flood: Vec<_> = [1, 1, 2, 2]
            .map(|n| handshake_limiter.enter(source(n), true).unwrap())
            .into();
        let honest = handshake_limiter.enter(source(3), true).unwrap();
        let inside: Vec<_> = flood.iter().map(is_in).collect();
        assert_eq!(inside, [false, true, true, true]);
        let other = handshake_limiter.enter(source(4), true).unwrap();
        let inside: Vec<_> = flood.iter().map(is_in).collect();
        assert_eq!(inside, [false, true, false, true]);
        // All have one: those whose address is made up go before the others.
        let more: Vec<_> = (20..24)
            .map(|n| handshake_limiter.enter(source(n), true).unwrap())
            .collect();
        assert!(!spoofed.iter().any(is_in) && more.iter().all(is_in));
        assert!(is_in(&honest) && is_in(&other));
        drop((spoofed, flood, honest, other, more));
        let crowd = lock(&handshake_limiter.crowd);
        assert_eq!(crowd.inside, 0);
        assert!(crowd.counts.is_empty() && crowd.handshakes.is_empty());
        assert!(crowd.by_size.is_empty());
    }

    #[test]
    fn rule_23_a_site_has_more_than_a_network_and_not_everything() {
        let handshake_limiter = HandshakeLimiter::new(Bounds {
            places: 64,
            unproven: 0,
            per_source: 4,
            failed: 6,
        });
        let enter = |text: String| handshake_limiter.enter(Some(text.parse().unwrap()), true);
        let inside = |places: &[Result<HandshakePermit, Closed>]| {
            places.iter().filter(|place| place.is_ok()).count()
        };
        let subscriber: Vec<_> = (0..16)
            .map(|n| enter(format!("2001:db8:1:{n:x}::1")))
            .collect();
        assert_eq!(inside(&subscriber), 6);
        let company: Vec<_> = (0..16)
            .map(|n| enter(format!("2001:db8:2:{n:x}00::1")))
            .collect();
        assert_eq!(inside(&company), 8);
        let v4: Vec<_> = (0..16)
            .map(|n| handshake_limiter.enter(source(n), true))
            .collect();
        assert_eq!(inside(&v4), 16);
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_counts_until_it_is_forgotten() {
        let handshake_limiter = HandshakeLimiter::new(BOUNDS);
        for n in 0..4 {
            let mut place = handshake_limiter.enter(source(n), false).unwrap();
            place.remember_for(Duration::from_secs(1 + u64::from(n % 2)));
        }
        // None is inside, and yet no more of these.
        assert_eq!(
            handshake_limiter.enter(source(9), false).unwrap_err(),
            Closed::Unproven
        );
        // They do not keep proven sources out.
        let places: Vec<_> = (20..28)
            .map(|n| handshake_limiter.enter(source(n), true))
            .collect();
        assert!(places.iter().all(Result::is_ok), "{places:?}");
        drop(places);
        tokio::time::advance(Duration::from_secs(1)).await;
        handshake_limiter.enter(source(9), false).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        handshake_limiter.enter(source(9), false).unwrap();
        let crowd = lock(&handshake_limiter.crowd);
        assert!(
            crowd.counts.is_empty() && crowd.failed.is_empty(),
            "{crowd:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn remains_are_bounded_too() {
        let handshake_limiter = HandshakeLimiter::new(BOUNDS);
        for n in 0..6 {
            let mut place = handshake_limiter.enter(source(n), true).unwrap();
            place.remember_for(Duration::from_secs(1));
        }
        assert_eq!(
            handshake_limiter.enter(source(0), true).unwrap_err(),
            Closed::Full
        );
        assert_eq!(
            handshake_limiter.enter(source(9), false).unwrap_err(),
            Closed::Unproven
        );
        tokio::time::advance(Duration::from_secs(1)).await;
        handshake_limiter.enter(source(0), true).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_remains_of_others_keep_no_newcomer_out() {
        let handshake_limiter = HandshakeLimiter::new(BOUNDS);
        for n in 0..6 {
            let mut place = handshake_limiter.enter(source(n), true).unwrap();
            place.remember_for(Duration::from_secs(1));
        }
        let _place = handshake_limiter.enter(source(9), true).unwrap();
    }

    #[test]
    fn a_source_is_what_one_customer_is_given() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(Source::of(Ipv4Addr::LOCALHOST.into()), of("192.0.2.1"));
    }
}
