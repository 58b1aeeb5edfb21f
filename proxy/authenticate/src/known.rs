//! Where users have logged in before.

use std::{collections::VecDeque, net::IpAddr, num::NonZeroUsize};

use lru::LruCache;

use underpass_core::{limits, network_of};

/// A user, by a hash with a key of this process: names of half a KiB that strangers make up are not kept.
pub(super) type Name = u64;

/// The networks that users have logged in from, the latest first. Only who was right writes it: a flood of names does not
/// make it forget.
#[derive(Debug)]
pub(super) struct Known(LruCache<Name, VecDeque<IpAddr>>);

impl Known {
    pub(super) fn new() -> Self {
        let room = NonZeroUsize::new(limits::PASSWORD_USERS).unwrap_or(NonZeroUsize::MIN);
        Self(LruCache::new(room))
    }

    /// Has the user logged in from the client's network?
    pub(super) fn knows(&mut self, name: Name, client: IpAddr) -> bool {
        let networks = self.0.get(&name);
        networks.is_some_and(|networks| networks.contains(&network_of(client)))
    }

    /// The user has.
    pub(super) fn learn(&mut self, name: Name, client: IpAddr) {
        let network = network_of(client);
        let networks = self.0.get_or_insert_mut(name, VecDeque::new);
        networks.retain(|known| *known != network);
        networks.push_front(network);
        networks.truncate(limits::PASSWORD_NETWORKS);
    }
}
