//! How many streams a peer may have open: few at first, more as it opens them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use quinn::VarInt;

use crate::proto::limits;

/// A half of a stream that the peer opened. It counts until it is dropped.
pub(super) type Place = Arc<()>;

/// Counts the peer's streams.
#[derive(Debug)]
pub(super) struct Allowance {
    halves: Place,
    limit: AtomicU32,
}

impl Allowance {
    /// The limit that every connection begins with, once the peer is authenticated.
    pub(super) fn new() -> Self {
        Self {
            halves: Place::default(),
            limit: AtomicU32::new(limits::QUIC_STREAMS_FIRST),
        }
    }

    /// The peer has opened a stream, which has two halves; gives the new limit where it is to grow.
    pub(super) fn take(&self) -> ([Place; 2], Option<VarInt>) {
        let places = [Arc::clone(&self.halves), Arc::clone(&self.halves)];
        let limit = self.limit.load(Ordering::Relaxed);
        let streams = Arc::strong_count(&self.halves) / 2;
        // Half of it is left while the peer hears of more.
        let due = streams > limit as usize / 2 && limit < limits::QUIC_STREAMS;
        let grown = due.then(|| {
            let grown = limit.saturating_mul(4).min(limits::QUIC_STREAMS);
            self.limit.store(grown, Ordering::Relaxed);
            VarInt::from_u32(grown)
        });
        (places, grown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_what_is_open_and_not_with_what_was() {
        let allowance = Allowance::new();
        for _ in 0..10 * limits::QUIC_STREAMS {
            let (_places, grown) = allowance.take();
            assert_eq!(grown, None, "one at a time");
        }
        let mut open = Vec::new();
        let mut limit = limits::QUIC_STREAMS_FIRST;
        for _ in 0..limits::QUIC_STREAMS {
            let (places, grown) = allowance.take();
            open.push(places);
            if let Some(grown) = grown {
                limit = u32::try_from(grown.into_inner()).unwrap();
            }
            assert!(limit as usize >= open.len(), "it never stops a peer");
        }
        assert_eq!(limit, limits::QUIC_STREAMS);
    }
}
