//! Connections, and each stranger's and each user's share of them (security rule 23).
//!
//! A connection costs memory before any request on it is authenticated: its TLS and HTTP state, a head that is still
//! arriving, bodies that the client sends ahead. [`Strangers`] counts all of it, over all connections and by source:
//!
//! - The listener enters each connection when it accepts it, and wraps its socket in [`Metered`]: a stranger is charged
//!   [`limits::STRANGER_BASE`], and [`limits::STRANGER_BYTE`] for each byte that is read from it.
//! - The front charges a request's decoded head while its credential is checked: HPACK makes large heads of few bytes.
//! - An authenticated connection leaves the strangers ([`Standing::recognise`]), and its charge is free. The connection
//!   counts for its user or its agent's cluster from then on ([`Holder`]), and so do heads that do not end.
//! - The connection of a proxy that asks for others is known for as long as a request on it has an identity, and a
//!   stranger's again afterwards: the next request may be another user's.
//!
//! Half of the strangers' budget is for every source. Beyond it each source has a share, and beyond the whole budget the
//! largest source pays: its connection that holds the most is closed, among equals the one that has been a stranger for
//! longest. So a newcomer from another source always gets in, silent connections go first, and a client that gets to its
//! credential in time is not affected. Where connections themselves run out ([`Strangers::make_room`]), strangers pay while
//! they have more than a third of them, and else the authenticated holder with the most.

mod charge;
mod crowd;
pub(crate) mod frames;
mod known;
mod metered;

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use http::HeaderMap;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use self::{
    charge::Charge,
    crowd::{Crowd, Id},
    known::{Known, Member},
};
pub use self::{crowd::StrangerBounds, known::Holder, metered::Metered};
use underpass_core::{Peer, limits};
use underpass_http::serve;

/// Everybody who is connected. Clones share the budget.
#[derive(Clone, Debug)]
pub struct Strangers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    crowd: Mutex<Crowd>,
    known: Mutex<Known>,
}

impl Default for Strangers {
    fn default() -> Self {
        Self::new(StrangerBounds::default())
    }
}

impl Strangers {
    /// There is nobody yet.
    pub fn new(bounds: StrangerBounds) -> Self {
        Self::within(bounds, limits::CONNECTIONS)
    }

    /// The same where there is room for so many connections in all.
    pub fn within(bounds: StrangerBounds, connections: usize) -> Self {
        Self(Arc::new(Shared {
            crowd: Mutex::new(Crowd::new(bounds)),
            known: Mutex::new(Known::new(connections)),
        }))
    }

    /// A new connection from `peer`. Others may be closed to make room for it.
    pub fn enter(&self, peer: IpAddr) -> Standing {
        self.enter_with(peer, None)
    }

    /// The same of a connection that has a place among all, and gives it back when its socket and its standing are gone.
    pub fn enter_at(&self, peer: IpAddr, place: OwnedSemaphorePermit) -> Standing {
        self.enter_with(peer, Some(place))
    }

    fn enter_with(&self, peer: IpAddr, place: Option<OwnedSemaphorePermit>) -> Standing {
        let closed = CancellationToken::new();
        let id = self.crowd().enter(peer, closed.clone());
        Standing(Some(Arc::new(Counted {
            strangers: self.clone(),
            id,
            known: AtomicBool::new(false),
            for_others: AtomicBool::new(false),
            uncharged: AtomicBool::new(false),
            shell: AtomicBool::new(false),
            requests: Arc::default(),
            charge: Mutex::default(),
            closed,
            _place: place,
        })))
    }

    /// Closes one connection, where there is no room for another one: a stranger's, where they have more than a third of all,
    /// or else one of the user or the cluster that has most. False: there is none.
    pub fn make_room(&self) -> bool {
        let (mut crowd, mut known) = (self.crowd(), self.known());
        let too_strange = crowd.len().saturating_mul(2) > known.len();
        if too_strange && crowd.make_room() {
            return true;
        }
        known.make_room() || crowd.make_room()
    }

    /// The bytes that all strangers hold.
    pub fn bytes(&self) -> usize {
        self.crowd().held()
    }

    /// How many connections of strangers there are.
    pub fn connections(&self) -> usize {
        self.crowd().len()
    }

    /// How many connections there are whose peer is known.
    pub fn known_connections(&self) -> usize {
        self.known().len()
    }

    /// The charges of authenticated connections.
    #[cfg(test)]
    pub(crate) fn known_bytes(&self) -> usize {
        self.known().unasked()
    }

    /// Sets the gauges.
    pub fn record(&self) {
        let gauge = |number: usize| u32::try_from(number).map_or(f64::MAX, f64::from);
        let (bytes, connections) = {
            let crowd = self.crowd();
            (crowd.held(), crowd.len())
        };
        metrics::gauge!("underpass_unauthenticated_bytes").set(gauge(bytes));
        metrics::gauge!("underpass_unauthenticated_connections").set(gauge(connections));
        metrics::gauge!("underpass_authenticated_connections").set(gauge(self.known().len()));
    }

    /// Locked before [`Strangers::known`] where both are.
    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        // Nothing panics while it is held.
        self.0.crowd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's part in the budget. It is given back when the last clone is dropped. By default the connection is not
/// counted at all.
#[derive(Clone, Default)]
pub struct Standing(Option<Arc<Counted>>);

struct Counted {
    strangers: Strangers,
    id: Id,
    /// It counts for its user or its agent's cluster.
    known: AtomicBool,
    /// The peer is a proxy: each request may be somebody else's.
    for_others: AtomicBool,
    /// Authenticated requests in flight.
    requests: Arc<AtomicUsize>,
    /// Bytes that come are no requests: the connection is an agent's or a shell's, or they are discarded.
    uncharged: AtomicBool,
    /// The connection carries a shell or a forwarded port.
    shell: AtomicBool,
    /// Locked before the other locks.
    charge: Mutex<Charge>,
    closed: CancellationToken,
    _place: Option<OwnedSemaphorePermit>,
}

impl Counted {
    fn charge(&self) -> MutexGuard<'_, Charge> {
        self.charge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the charge, and that of an authenticated connection among the others. The connection is closed where that is too
    /// much.
    fn change(&self, change: impl FnOnce(&mut Charge)) {
        let mut charge = self.charge();
        change(&mut charge);
        if self.is_known() {
            self.settle(&mut charge);
        }
    }

    /// False: the connection has to end.
    fn settle(&self, charge: &mut Charge) -> bool {
        let (due, before) = (charge.due(), charge.known);
        if due > before && !self.strangers.known().charge(self.id, due - before) {
            return false;
        }
        if due < before {
            self.strangers.known().refund(self.id, before - due);
        }
        charge.known = due;
        true
    }

    /// Bytes of a body that is discarded take no memory. A stranger gets back what they cost, up to a bound for its connection:
    /// over HTTP/1.1 such a body is its connection's last.
    fn discarded(&self, bytes: usize) -> bool {
        let mut charge = self.charge();
        if self.is_known() {
            charge.body_read(bytes);
            return self.settle(&mut charge);
        }
        let Some(cost) = charge.discarded(bytes) else {
            return false;
        };
        self.strangers.crowd().refund(self.id, cost);
        true
    }

    fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    fn asks_for_others(&self) -> bool {
        self.for_others.load(Ordering::Acquire)
    }

    fn recognise(&self, holder: Holder) {
        let mut charge = self.charge();
        self.requests.fetch_add(1, Ordering::AcqRel);
        if self.known.swap(true, Ordering::AcqRel) {
            return;
        }
        let charged = charge.recognised();
        if self.asks_for_others() {
            let all = charged.saturating_add(limits::STRANGER_BASE);
            self.strangers.crowd().refund(self.id, all);
        } else {
            self.strangers.crowd().leave(self.id);
        }
        let member = Member {
            id: self.id,
            requests: Arc::clone(&self.requests),
            close: self.closed.clone(),
            unasked: 0,
        };
        self.strangers.known().enter(holder, member);
    }

    fn request_ended(&self) {
        let mut charge = self.charge();
        let before = self.requests.fetch_sub(1, Ordering::AcqRel);
        if before == 1 && self.asks_for_others() {
            (charge.ahead, charge.known) = (0, 0);
            self.known.store(false, Ordering::Release);
            self.strangers.known().leave(self.id);
            let mut crowd = self.strangers.crowd();
            crowd.again(self.id);
            crowd.charge(self.id, limits::STRANGER_BASE);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.strangers.crowd().leave(self.id);
        self.strangers.known().leave(self.id);
    }
}

impl Standing {
    /// The connection's peer is known: its address, by a load balancer where there is one, and whether it is a proxy that asks
    /// for others. Of such a one an authentication counts for one request.
    pub fn comes_from(&self, peer: &Peer) {
        let Some(counted) = &self.0 else { return };
        let mut crowd = counted.strangers.crowd();
        crowd.move_to(counted.id, peer.address());
        if peer.asks_for_others() {
            counted.for_others.store(true, Ordering::Release);
            crowd.asks_for_others(counted.id);
        }
    }

    /// A request of this connection, or its agent, was authenticated. The request is in flight until what is returned is
    /// dropped.
    pub fn recognise(&self, holder: impl Into<Holder>) -> Recognised {
        if let Some(counted) = &self.0 {
            counted.recognise(holder.into());
        }
        Recognised(self.0.clone())
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

    fn is_closed(&self) -> bool {
        let counted = self.0.as_ref();
        counted.is_some_and(|counted| counted.closed.is_cancelled())
    }

    /// The same as [`Standing::closed`], for what is polled together with the socket.
    fn closing(&self) -> Option<WaitForCancellationFutureOwned> {
        let counted = self.0.as_ref()?;
        Some(counted.closed.clone().cancelled_owned())
    }

    /// Charges bytes that were read. False: the connection has to end.
    fn charge(&self, bytes: usize) -> bool {
        let Some(counted) = &self.0 else { return true };
        if counted.uncharged.load(Ordering::Acquire) {
            return true;
        }
        let mut charge = counted.charge();
        if !counted.is_known() {
            charge.strange = charge.strange.saturating_add(bytes);
            return counted.strangers.crowd().charge(counted.id, bytes);
        }
        if charge.is_by_frames() {
            return true;
        }
        charge.ahead = charge.ahead.saturating_add(bytes);
        counted.settle(&mut charge)
    }

    /// Whether the connection carries a shell or a forwarded port.
    pub fn is_shell(&self) -> bool {
        let counted = self.0.as_ref();
        counted.is_some_and(|counted| counted.shell.load(Ordering::Acquire))
    }

    /// From now on the bytes that are read of the connection are discarded. It keeps its place, and gives it up as any other.
    pub(crate) fn discards(&self) {
        if let Some(counted) = &self.0 {
            counted.uncharged.store(true, Ordering::Release);
        }
    }

    /// Once authenticated, the connection is charged by its HTTP/2 frames.
    fn charge_by_frames(&self) {
        self.change(Charge::by_frames);
    }

    fn frames_came(&self, head: usize, data: usize) {
        self.change(|charge| charge.frames_came(head, data));
    }

    fn change(&self, change: impl FnOnce(&mut Charge)) {
        if let Some(counted) = &self.0 {
            counted.change(change);
        }
    }

    /// A request's head has ended.
    pub(crate) fn head_ended(&self) {
        self.change(Charge::taken);
    }

    /// A request that may have a body: its bytes are unread until a handler reads them, or this is dropped.
    pub(crate) fn body(&self) -> UnreadBody {
        self.change(Charge::body_begun);
        UnreadBody(self.clone())
    }

    /// Charges an answer that no budget of requests counts, until what is returned is dropped: a refusal costs memory while its
    /// client does not read it.
    pub(crate) fn hold_answer(&self) -> UnsentAnswer {
        let counted = self.0.as_ref();
        let among_known =
            counted.is_some_and(|counted| counted.is_known() && !counted.asks_for_others());
        if among_known {
            self.change(Charge::answer_begun);
        } else if let Some(counted) = counted {
            let mut crowd = counted.strangers.crowd();
            crowd.charge(counted.id, limits::UNSENT_ANSWER);
        }
        UnsentAnswer {
            standing: self.clone(),
            among_known,
        }
    }

    /// Charges a request's head until what is returned is dropped. `None`: there is no room for it.
    pub(crate) fn hold(&self, headers: &HeaderMap) -> Option<Held> {
        let lines = headers.iter();
        let sizes = lines
            .map(|(name, value)| name.as_str().len() + value.len() + limits::STRANGER_HEADER_LINE);
        let bytes = sizes.sum();
        self.charge_head(bytes).then(|| Held {
            standing: self.clone(),
            bytes,
        })
    }

    /// Heads of other clients are charged also beside a known one.
    fn charge_head(&self, bytes: usize) -> bool {
        let Some(counted) = &self.0 else { return true };
        let own = !counted.asks_for_others();
        // It may become known meanwhile.
        (own && counted.is_known())
            || counted.strangers.crowd().charge(counted.id, bytes)
            || (own && counted.is_known())
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standing").finish_non_exhaustive()
    }
}

/// An authenticated request in flight: its connection is not idle.
#[must_use]
pub struct Recognised(Option<Arc<Counted>>);

impl Recognised {
    /// The connection carries a shell or a forwarded port from now on, whose bytes are somebody's who reads.
    pub fn upgraded(&self) {
        if let Some(counted) = &self.0 {
            counted.uncharged.store(true, Ordering::Release);
            counted.shell.store(true, Ordering::Release);
            counted.change(Charge::taken);
        }
    }

    /// The connection itself is recognised from now on: it is an agent's, and no request.
    pub fn for_good(self) {
        if let Some(counted) = &self.0 {
            counted.uncharged.store(true, Ordering::Release);
            counted.change(Charge::taken);
            // It never ends, and nobody else asks over it.
            counted.requests.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Recognised {
    fn drop(&mut self) {
        if let Some(counted) = &self.0 {
            counted.request_ended();
        }
    }
}

impl fmt::Debug for Recognised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recognised").finish_non_exhaustive()
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
            counted.strangers.crowd().refund(counted.id, self.bytes);
        }
    }
}

/// A request's body, some of which may have come and not been read.
#[derive(Debug)]
#[must_use]
pub(crate) struct UnreadBody(Standing);

impl serve::Charge for UnreadBody {
    fn read(&self, bytes: usize) {
        self.0.change(|charge| charge.body_read(bytes));
    }

    fn discarded(&self, bytes: usize) -> bool {
        let counted = self.0.0.as_ref();
        counted.is_none_or(|counted| counted.discarded(bytes))
    }
}

impl Drop for UnreadBody {
    fn drop(&mut self) {
        self.0.change(Charge::body_gone);
    }
}

/// An answer that is not sent yet.
#[derive(Debug)]
#[must_use]
pub(crate) struct UnsentAnswer {
    standing: Standing,
    among_known: bool,
}

impl Drop for UnsentAnswer {
    fn drop(&mut self) {
        if self.among_known {
            self.standing.change(Charge::answer_sent);
        } else if let Some(counted) = &self.standing.0 {
            let mut crowd = counted.strangers.crowd();
            crowd.refund(counted.id, limits::UNSENT_ANSWER);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use underpass_http::serve::Charge as _;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn proxy() -> Peer {
        Peer::new(
            HERE,
            &[HERE.to_string().parse().unwrap()].into_iter().collect(),
        )
    }

    fn user(name: &str) -> Holder {
        Holder::User(underpass_core::Authority::Directory, name.into())
    }

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
        let _request = standing.recognise(user("alice"));
        assert_eq!((strangers.bytes(), strangers.connections()), (0, 0));
        assert_eq!(strangers.known_connections(), 1);
        drop(held);
        let _free = standing.hold(&headers).unwrap();
        assert_eq!(strangers.bytes(), 0);
        drop(standing);
        assert_eq!(strangers.bytes(), 0);
    }

    #[test]
    fn rule_23_a_proxys_connection_is_a_strangers_again_after_each_request() {
        let strangers = Strangers::default();
        let standing = strangers.enter(HERE);
        standing.comes_from(&proxy());
        let mut headers = HeaderMap::new();
        headers.append("a", HeaderValue::from_static("b"));
        assert!(standing.charge(5000));
        for _ in 0..3 {
            standing.head_ended();
            let body = standing.body();
            body.read(10);
            let request = standing.recognise(user("alice"));
            assert_eq!((strangers.bytes(), strangers.known_connections()), (0, 1));
            assert!(standing.charge(1 << 20), "what alice sends is hers");
            // Somebody else asks meanwhile, and has not said who they are.
            let held = standing.hold(&headers).unwrap();
            assert!(strangers.bytes() > limits::STRANGER_HEADER_LINE);
            drop((held, request, body));
            assert_eq!(strangers.bytes(), limits::STRANGER_BASE);
            assert_eq!(
                (strangers.connections(), strangers.known_connections()),
                (1, 0)
            );
            assert!(standing.charge(1000));
            assert_eq!(strangers.bytes(), limits::STRANGER_BASE + 1000);
        }
        assert!(!standing.charge(limits::STRANGER_MOST));
    }

    #[test]
    fn rule_23_a_known_connection_is_charged_for_heads_that_do_not_end() {
        let strangers = Strangers::default();
        let alice = strangers.enter(HERE);
        let mut requests = vec![alice.recognise(user("alice"))];
        // Each has a request in flight, which bounds nothing.
        let known: Vec<_> = (0..400).map(|_| strangers.enter(HERE)).collect();
        requests.extend(known.iter().map(|known| known.recognise(user("mallory"))));
        let unfinished = |standing: &Standing| (0..64).all(|_| standing.charge(16 * 1024));
        known.iter().for_each(|standing| {
            unfinished(standing);
        });
        let open = known.iter().filter(|standing| !standing.is_closed());
        let open = open.count();
        assert!((250..300).contains(&open), "{open}");
        for _ in 0..1000 {
            assert!(unfinished(&alice), "others pay");
            // The head has ended, or a piece of the body was read.
            alice.head_ended();
        }
        requests[0].upgraded();
        assert!(alice.charge(1 << 30), "a shell");
        drop((requests, known));
        assert_eq!(strangers.known().unasked(), 0);
    }

    /// PING and WINDOW_UPDATE of a watch or a log that lasts for days.
    #[test]
    fn rule_23_control_frames_of_a_known_connection_cost_nothing() {
        let strangers = Strangers::default();
        let standing = strangers.enter(HERE);
        standing.charge_by_frames();
        let _watch = standing.recognise(user("alice"));
        for _ in 0..1000 {
            assert!(standing.charge(1 << 20));
        }
        assert_eq!(strangers.known().unasked(), 0);
        // Bodies that nobody reads, beside requests that are answered.
        let upload = standing.body();
        for _ in 0..64 {
            standing.frames_came(0, 32 * 1024);
            standing.head_ended();
            drop(standing.body());
        }
        let unread = 64 * 32 * 1024 - limits::KNOWN_HEAD_FREE;
        assert_eq!(strangers.known().unasked(), unread);
        upload.read(32 * 1024);
        assert_eq!(strangers.known().unasked(), unread - 32 * 1024);
        drop(upload);
        assert_eq!(strangers.known().unasked(), 0);
    }

    #[test]
    fn rule_23_strangers_pay_for_room_beyond_a_third_and_else_who_has_most() {
        let strangers = Strangers::default();
        let mallory: Vec<_> = (0..6).map(|_| strangers.enter(HERE)).collect();
        let known: Vec<_> = mallory
            .iter()
            .map(|standing| standing.recognise(user("mallory")))
            .collect();
        let strange: Vec<_> = (0..4).map(|_| strangers.enter(HERE)).collect();
        assert!(strangers.make_room());
        assert_eq!(
            (strangers.connections(), strangers.known_connections()),
            (3, 6)
        );
        assert!((0..3).all(|_| strangers.make_room()));
        assert_eq!(
            (strangers.connections(), strangers.known_connections()),
            (2, 4)
        );
        drop((known, mallory, strange));
        assert!(!strangers.make_room());
    }

    #[test]
    fn what_is_not_counted_costs_nothing() {
        let standing = Standing::default();
        assert!(standing.charge(usize::MAX));
        drop(standing.recognise(user("alice")));
    }
}
