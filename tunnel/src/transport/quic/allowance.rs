//! How many streams a peer may have open: few at first, more as it opens them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use quinn::{Side, VarInt};

use crate::limits;

/// Counts the peer's streams.
#[derive(Debug)]
pub(super) struct Allowance {
    open: Arc<AtomicUsize>,
    limit: AtomicU32,
}

/// A stream that the peer opened; each of its halves has it.
#[derive(Debug)]
pub(super) struct PeerStream {
    open: Arc<AtomicUsize>,
    /// The peer has ended its direction.
    over: AtomicBool,
}

/// Streams that this side's peer may have open at first.
const fn first(side: Side) -> u32 {
    match side {
        Side::Client => limits::QUIC_STREAMS_FIRST,
        Side::Server => limits::QUIC_STREAMS_FIRST_OF_DIALLER,
    }
}

impl Allowance {
    /// With the limit that the connection of this side begins with, once the peer is authenticated.
    pub(super) fn new(side: Side) -> Self {
        Self {
            open: Arc::default(),
            limit: AtomicU32::new(first(side)),
        }
    }

    /// Streams that the peer may have open now.
    pub(super) fn limit(&self) -> VarInt {
        VarInt::from_u32(self.limit.load(Ordering::Relaxed))
    }

    /// The peer has opened a stream; gives the new limit where it is to grow.
    pub(super) fn take(&self) -> (Arc<PeerStream>, Option<VarInt>) {
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        let place = Arc::new(PeerStream {
            open: Arc::clone(&self.open),
            over: AtomicBool::new(false),
        });
        let limit = self.limit.load(Ordering::Relaxed);
        // Half of it is left while the peer hears of more.
        let due = open > limit as usize / 2 && limit < limits::QUIC_STREAMS;
        let grown = due.then(|| {
            let grown = limit.saturating_mul(4).min(limits::QUIC_STREAMS);
            self.limit.store(grown, Ordering::Relaxed);
            VarInt::from_u32(grown)
        });
        (place, grown)
    }
}

impl PeerStream {
    /// The peer has ended its direction.
    pub(super) fn over(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Drop for PeerStream {
    /// A stream dropped here before the peer has ended it still counts against the peer's limit in QUIC, for an
    /// unknown time: it counts for ever.
    fn drop(&mut self) {
        if *self.over.get_mut() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDES: [Side; 2] = [Side::Client, Side::Server];

    #[test]
    fn it_grows_with_what_is_open_and_not_with_what_was() {
        for side in SIDES {
            let allowance = Allowance::new(side);
            one_at_a_time(&allowance);
            let mut open = Vec::new();
            grows_to_the_end(side, &allowance, |place| open.push(place));
        }
    }

    fn one_at_a_time(allowance: &Allowance) {
        for _ in 0..10 * limits::QUIC_STREAMS {
            let (place, grown) = allowance.take();
            place.over();
            assert_eq!(grown, None, "one at a time");
        }
    }

    #[test]
    fn what_the_peer_has_not_ended_counts_though_nobody_reads_it() {
        for side in SIDES {
            grows_to_the_end(side, &Allowance::new(side), drop);
        }
    }

    fn grows_to_the_end(side: Side, allowance: &Allowance, mut with: impl FnMut(Arc<PeerStream>)) {
        let mut limit = u64::from(first(side));
        for open in 1..=u64::from(limits::QUIC_STREAMS) {
            let (place, grown) = allowance.take();
            with(place);
            limit = grown.map_or(limit, VarInt::into_inner);
            assert!(limit >= open, "it never stops a peer");
        }
        assert_eq!(limit, u64::from(limits::QUIC_STREAMS));
    }
}
