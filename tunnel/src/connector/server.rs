//! The servers that a connector may dial, and which one is next.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::ServerName;
use underpass_dial::ServerAddress;

use super::ConfigError;

/// A server, and the name that its certificate must carry.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: ServerAddress,
    pub(super) name: ServerName<'static>,
}

impl TryFrom<ServerAddress> for Server {
    type Error = ConfigError;

    fn try_from(address: ServerAddress) -> Result<Self, ConfigError> {
        let name = ServerName::try_from(address.host.clone())
            .map_err(|_| ConfigError::Host(address.host.clone()))?;
        Ok(Self { address, name })
    }
}

/// The servers in turn: one is dialled until it fails, then the next one is.
///
/// Each connector starts at a place of its own, so that many spread over the servers.
#[derive(Debug)]
pub(super) struct Rotation {
    first: Server,
    others: Vec<Server>,
    /// The turns until now. Wraps around after the machine has been scrapped.
    turns: AtomicUsize,
}

/// A server's turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn<'a> {
    pub(super) server: &'a Server,
    number: usize,
}

impl Rotation {
    /// `random` is drawn evenly from all its values: it chooses where to start.
    pub(super) fn new(addresses: &[ServerAddress], random: u32) -> Result<Self, ConfigError> {
        let mut servers = addresses.iter().cloned().map(Server::try_from);
        let first = servers.next().ok_or(ConfigError::NoServer)??;
        let others: Vec<_> = servers.collect::<Result<_, _>>()?;
        let random = usize::try_from(random).unwrap_or_default();
        let start = random % (others.len() + 1);
        Ok(Self {
            first,
            others,
            turns: AtomicUsize::new(start),
        })
    }

    pub(super) fn current(&self) -> Turn<'_> {
        let number = self.turns.load(Ordering::Relaxed);
        let place = number % (self.others.len() + 1);
        Turn {
            // The first one comes after the others: the place behind their end is its own.
            server: self.others.get(place).unwrap_or(&self.first),
            number,
        }
    }

    /// Ends a turn, unless another task has done so already.
    pub(super) fn end(&self, turn: Turn<'_>) {
        let next = turn.number.wrapping_add(1);
        let _ =
            self.turns
                .compare_exchange(turn.number, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(count: u16) -> Vec<ServerAddress> {
        (1..=count)
            .map(|port| ServerAddress::new("u.example.org", port))
            .collect()
    }

    fn ports(rotation: &Rotation, turns: usize) -> Vec<u16> {
        (0..turns)
            .map(|_| {
                let turn = rotation.current();
                rotation.end(turn);
                turn.server.address.port
            })
            .collect()
    }

    #[test]
    fn every_server_has_its_turn() {
        for random in 0..10 {
            let rotation = Rotation::new(&servers(3), random).unwrap();
            let mut seen = ports(&rotation, 3);
            assert_eq!(ports(&rotation, 3), seen, "and again in the same order");
            seen.sort_unstable();
            assert_eq!(seen, [1, 2, 3]);
        }
        let alone = Rotation::new(&servers(1), 7).unwrap();
        assert_eq!(ports(&alone, 3), [1, 1, 1]);
    }

    #[test]
    fn connectors_start_evenly_spread() {
        let mut counts = [0; 3];
        for random in (0..u32::MAX).step_by(1 << 22) {
            let rotation = Rotation::new(&servers(3), random).unwrap();
            counts[usize::from(rotation.current().server.address.port) - 1] += 1;
        }
        assert!(
            counts.iter().all(|count| (300..400).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn a_server_keeps_its_turn_until_it_is_ended_once() {
        let rotation = Rotation::new(&servers(3), 0).unwrap();
        let (one, same) = (rotation.current(), rotation.current());
        assert_eq!(one.server.address, same.server.address);
        // Two attempts at the same server fail.
        rotation.end(one);
        let next = rotation.current().server.address.clone();
        rotation.end(same);
        assert_eq!(rotation.current().server.address, next);
    }

    #[test]
    fn bad_lists_are_refused() {
        assert!(matches!(Rotation::new(&[], 0), Err(ConfigError::NoServer)));
        let bad = [ServerAddress::new("ok", 1), ServerAddress::new("not ok", 1)];
        assert!(matches!(
            Rotation::new(&bad, 0),
            Err(ConfigError::Host(host)) if host == "not ok"
        ));
    }
}
