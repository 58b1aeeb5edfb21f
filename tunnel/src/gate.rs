//! Who may begin a handshake, while nobody knows who they are.
//!
//! What a flood of QUIC Initials with made-up addresses costs: each takes keys to be derived and a
//! packet to be opened, some microseconds. One that is accepted costs a TLS flight with a signature,
//! three times its own bytes sent to the made-up address at the most (RFC 9000, section 8.1), some
//! 50 KiB, and a place here until [`limits::CONNECT_TIME`] is over. So half of the places go to
//! whoever asks; the rest to those who have shown with a Retry that they receive at their address,
//! which a flood cannot, and of them a quarter to each source. A Retry and a refusal keep nothing, and
//! are smaller than what they answer.
//!
//! A connection that fails in its handshake leaves its place at once, and is remembered here as long
//! as the QUIC stack keeps its remains. They count for what is asked of others, and not as places: a
//! thousand agents with a wrong CA must not keep the good ones out.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use underpass_proto::limits;

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

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// Until they prove that they receive at their address.
    Unproven,
    /// Too many are in.
    Full,
}

/// What is one customer's: an IPv4 address, or the first 64 bits of an IPv6 one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Source(u64);

impl Source {
    fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            // No IPv6 network of the Internet begins with 32 zero bits.
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => u64::try_from(address.to_bits() >> 64).unwrap_or_default(),
        })
    }
}

/// Bounds the connections that are not authenticated.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    bounds: Bounds,
    crowd: Arc<Mutex<Crowd>>,
}

#[derive(Debug, Default)]
struct Crowd {
    inside: usize,
    /// What the QUIC stack has not forgotten, and when it will have.
    failed: BinaryHeap<Reverse<(Instant, Source)>>,
    /// Of both, by source.
    sources: HashMap<Source, usize>,
}

impl Crowd {
    fn leave(&mut self, source: Source) {
        if let Some(count) = self.sources.get_mut(&source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.sources.remove(&source);
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
}

impl Gate {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            crowd: Arc::default(),
        }
    }

    /// Lets in who comes from `source`, where it has one; `proven`, if it is known to receive there.
    pub(crate) fn enter(&self, source: Option<IpAddr>, proven: bool) -> Result<Place, Closed> {
        let source = source.map(Source::of);
        let mut crowd = lock(&self.crowd);
        crowd.forget(now());
        let Bounds { places, failed, .. } = self.bounds;
        if crowd.inside >= places || crowd.failed.len() >= failed {
            return Err(Closed::Full);
        }
        if crowd.inside + crowd.failed.len() >= self.bounds.unproven {
            let same = source.and_then(|source| crowd.sources.get(&source));
            match same {
                _ if !proven => return Err(Closed::Unproven),
                Some(&same) if same >= self.bounds.per_source => return Err(Closed::Full),
                _ => {}
            }
        }
        crowd.inside += 1;
        if let Some(source) = source {
            *crowd.sources.entry(source).or_default() += 1;
        }
        drop(crowd);
        Ok(Place {
            crowd: Arc::clone(&self.crowd),
            source,
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
pub(crate) struct Place {
    crowd: Arc<Mutex<Crowd>>,
    source: Option<Source>,
    remembered: Duration,
}

impl Place {
    /// For how long its remains count when it leaves.
    pub(crate) fn remember_for(&mut self, time: Duration) {
        self.remembered = time;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut crowd = lock(&self.crowd);
        crowd.inside = crowd.inside.saturating_sub(1);
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
        let gate = Gate::new(BOUNDS);
        let places: Vec<_> = (0..4).map(|_| gate.enter(source(1), false)).collect();
        assert!(places.iter().all(Result::is_ok), "{places:?}");
        assert_eq!(gate.enter(source(2), false).unwrap_err(), Closed::Unproven);
    }

    #[test]
    fn in_a_rush_a_source_gets_its_share_and_no_more() {
        let gate = Gate::new(BOUNDS);
        let _spoofed: Vec<_> = (10..14).map(|n| gate.enter(source(n), false)).collect();
        let first = gate.enter(source(1), true).unwrap();
        let _second = gate.enter(source(1), true).unwrap();
        assert_eq!(gate.enter(source(1), true).unwrap_err(), Closed::Full);
        let _other = gate.enter(source(2), true).unwrap();
        drop(first);
        let _again = gate.enter(source(1), true).unwrap();
        let _nameless = gate.enter(None, true).unwrap();
        // Every place is taken.
        assert_eq!(gate.enter(source(3), true).unwrap_err(), Closed::Full);
        assert_eq!(gate.enter(source(3), false).unwrap_err(), Closed::Full);
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_counts_until_it_is_forgotten() {
        let gate = Gate::new(BOUNDS);
        for n in 0..4 {
            let mut place = gate.enter(source(n), false).unwrap();
            place.remember_for(Duration::from_secs(1 + u64::from(n % 2)));
        }
        // Nobody is inside, and yet no more of these.
        assert_eq!(gate.enter(source(9), false).unwrap_err(), Closed::Unproven);
        // Who is there is not kept out by them.
        let places: Vec<_> = (20..28).map(|n| gate.enter(source(n), true)).collect();
        assert!(places.iter().all(Result::is_ok), "{places:?}");
        drop(places);
        tokio::time::advance(Duration::from_secs(1)).await;
        gate.enter(source(9), false).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        gate.enter(source(9), false).unwrap();
        let crowd = lock(&gate.crowd);
        assert!(
            crowd.sources.is_empty() && crowd.failed.is_empty(),
            "{crowd:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn remains_are_bounded_too() {
        let gate = Gate::new(BOUNDS);
        for n in 0..6 {
            let mut place = gate.enter(source(n), true).unwrap();
            place.remember_for(Duration::from_secs(1));
        }
        assert_eq!(gate.enter(source(9), true).unwrap_err(), Closed::Full);
        tokio::time::advance(Duration::from_secs(1)).await;
        gate.enter(source(9), true).unwrap();
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
