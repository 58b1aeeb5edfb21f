//! The order in which a name's addresses are tried.

use std::net::SocketAddr;

use crate::ADDRESSES;

/// The order in which to try a name's addresses: the resolver's (RFC 6724), except that the families
/// take turns, so that one that leads nowhere delays the other by one attempt (RFC 8305, section 4).
/// [`ADDRESSES`] at most.
pub fn interleaved(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut preferred = Vec::new();
    let mut other = Vec::new();
    for address in addresses {
        let family = match preferred.first() {
            Some(first) if SocketAddr::is_ipv6(first) != address.is_ipv6() => &mut other,
            _ => &mut preferred,
        };
        if !family.contains(&address) {
            family.push(address);
        }
    }
    let mut order = Vec::with_capacity(preferred.len() + other.len());
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    while order.len() < ADDRESSES {
        let before = order.len();
        order.extend(preferred.next());
        order.extend(other.next());
        if order.len() == before {
            break;
        }
    }
    order.truncate(ADDRESSES);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(addresses: &[&str]) -> Vec<String> {
        let addresses = addresses.iter().map(|text| text.parse().unwrap());
        let order = interleaved(addresses).into_iter();
        order.map(|address| address.to_string()).collect()
    }

    #[test]
    fn families_take_turns_in_the_resolvers_order() {
        assert_eq!(
            order(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"]),
            ["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]
        );
        assert_eq!(
            order(&["1.1.1.1:1", "2.2.2.2:1", "[::1]:1", "1.1.1.1:1"]),
            ["1.1.1.1:1", "[::1]:1", "2.2.2.2:1"]
        );
        assert_eq!(order(&[]), [""; 0]);
    }

    #[test]
    fn a_name_with_very_many_addresses_costs_a_bounded_time() {
        let addresses = (0..100).map(|n| SocketAddr::from(([10, 0, 0, n], 1)));
        assert_eq!(interleaved(addresses).len(), ADDRESSES);
    }
}
