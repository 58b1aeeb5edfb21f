//! Connections whose peer has not authenticated yet, and one budget in bytes for all of them (security rule 23).
//!
//! A connection costs memory before any request on it is authenticated: its TLS and HTTP state, a head that is still
//! arriving, bodies that the client sends ahead. [`Strangers`] counts all of it, over all connections and by source:
//!
//! - The listener enters each connection when it accepts it, and wraps its socket in [`Metered`]: a stranger is charged
//!   [`limits::STRANGER_BASE`], and [`limits::STRANGER_BYTE`] for each byte that is read from it.
//! - The front charges a request's decoded head while its credential is checked: HPACK makes large heads of few bytes.
//! - Whoever is authenticated leaves the crowd for good ([`Standing::authenticated`]), and what was charged is free.
//!
//! Half of the budget is for whoever asks. Beyond it each source has a share, and beyond the whole budget the largest source
//! pays: its connection that holds the most is closed, among equals the one that has been a stranger for longest. So a
//! newcomer from another source always gets in, whoever is silent goes first, and a client that gets to its credential in
//! time is not affected.

mod crowd;
mod metered;

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use http::HeaderMap;
use tokio_util::sync::CancellationToken;

use self::crowd::{Crowd, Id};
pub use self::{crowd::StrangerBounds, metered::Metered};
use underpass_core::{limits, network_of};

/// Everybody who is connected and not authenticated. Clones share the budget.
#[derive(Clone, Debug)]
pub struct Strangers(Arc<Mutex<Crowd>>);

impl Default for Strangers {
    fn default() -> Self {
        Self::new(StrangerBounds::default())
    }
}

impl Strangers {
    /// There is nobody yet.
    pub fn new(bounds: StrangerBounds) -> Self {
        Self(Arc::new(Mutex::new(Crowd::new(bounds))))
    }

    /// A new connection from `peer`. Others may be closed to make room for it.
    pub fn enter(&self, peer: IpAddr) -> Standing {
        let closed = CancellationToken::new();
        let id = self.lock().enter(network_of(peer), closed.clone());
        Standing(Some(Arc::new(Counted {
            strangers: self.clone(),
            id,
            known: AtomicBool::new(false),
            closed,
        })))
    }

    /// Closes one connection of the source that holds most, where the system has no more files or memory for another one.
    /// False: there is none.
    pub fn make_room(&self) -> bool {
        self.lock().make_room()
    }

    /// What all of them hold, in bytes.
    pub fn bytes(&self) -> usize {
        self.lock().held()
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.lock().len()
    }

    /// Sets the gauges.
    pub fn record(&self) {
        let gauge = |number: usize| u32::try_from(number).map_or(f64::MAX, f64::from);
        let (bytes, connections) = {
            let crowd = self.lock();
            (crowd.held(), crowd.len())
        };
        metrics::gauge!("underpass_unauthenticated_bytes").set(gauge(bytes));
        metrics::gauge!("underpass_unauthenticated_connections").set(gauge(connections));
    }

    fn lock(&self) -> MutexGuard<'_, Crowd> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a connection is to the budget. It is given back when the last clone is dropped. By default the connection is not
/// counted at all.
#[derive(Clone, Default)]
pub struct Standing(Option<Arc<Counted>>);

struct Counted {
    strangers: Strangers,
    id: Id,
    known: AtomicBool,
    closed: CancellationToken,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.strangers.lock().leave(self.id);
    }
}

impl Standing {
    /// A load balancer has said whose connection it is.
    pub fn comes_from(&self, client: IpAddr) {
        if let Some(counted) = &self.0 {
            let mut crowd = counted.strangers.lock();
            crowd.move_to(counted.id, network_of(client));
        }
    }

    /// A request of this connection, or its agent, was authenticated: it is a stranger no longer.
    pub fn authenticated(&self) {
        let Some(counted) = &self.0 else { return };
        if !counted.known.swap(true, Ordering::AcqRel) {
            counted.strangers.lock().leave(counted.id);
        }
    }

    /// Waits until the connection has to be closed, to make room for others or because it holds too much.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn closed(&self) {
        match &self.0 {
            Some(counted) => counted.closed.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Charges bytes that were read. False: the connection has to end.
    fn charge(&self, bytes: usize) -> bool {
        let Some(counted) = &self.0 else { return true };
        if counted.known.load(Ordering::Acquire) {
            return true;
        }
        // It may have become known meanwhile.
        counted.strangers.lock().charge(counted.id, bytes) || counted.known.load(Ordering::Acquire)
    }

    /// Charges a request's head until what is returned is dropped. `None`: there is no room for it.
    pub(crate) fn hold(&self, headers: &HeaderMap) -> Option<Held> {
        let lines = headers.iter();
        let sizes = lines
            .map(|(name, value)| name.as_str().len() + value.len() + limits::STRANGER_HEADER_LINE);
        let bytes = sizes.sum();
        self.charge(bytes).then(|| Held {
            standing: self.clone(),
            bytes,
        })
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standing").finish_non_exhaustive()
    }
}

/// A request's head while its credential is checked.
#[derive(Debug)]
#[must_use]
pub struct Held {
    standing: Standing,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(counted) = &self.standing.0 {
            counted.strangers.lock().refund(counted.id, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn rule_23_a_head_is_charged_while_it_is_held_and_nothing_once_somebody_is_known() {
        let strangers = Strangers::default();
        let standing = strangers.enter(HERE);
        let mut headers = HeaderMap::new();
        for _ in 0..1000 {
            headers.append("a", HeaderValue::from_static(""));
        }
        // A thousand lines, of two bytes each on an HTTP/2 connection.
        let held = standing.hold(&headers).unwrap();
        assert!(strangers.bytes() > limits::STRANGER_BASE + 100_000);
        drop(held);
        assert_eq!(strangers.bytes(), limits::STRANGER_BASE);
        let held = standing.hold(&headers).unwrap();
        standing.authenticated();
        assert_eq!((strangers.bytes(), strangers.connections()), (0, 0));
        drop(held);
        let _free = standing.hold(&headers).unwrap();
        assert_eq!(strangers.bytes(), 0);
        drop(standing);
        assert_eq!(strangers.bytes(), 0);
    }

    #[test]
    fn what_is_not_counted_costs_nothing() {
        let standing = Standing::default();
        assert!(standing.charge(usize::MAX));
        standing.authenticated();
    }
}
