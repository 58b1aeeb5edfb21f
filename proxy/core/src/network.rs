//! Networks, as operators write them.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::limits;

/// One network, or one address: `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network(IpNet);

/// A text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Neither an address nor an address, `/` and a number of bits.
    #[error("it is neither an address nor a network like 10.0.0.0/8")]
    Malformed,
    /// The address is not the network's first: which of the two is meant?
    #[error("it has bits beyond its prefix: the network is {0}")]
    Bits(IpNet),
    /// Addresses are compared as IPv4 ones where they are: it would never match.
    #[error("it holds IPv4 addresses in IPv6: write it as an IPv4 network")]
    Mapped,
}

impl Network {
    /// Is the address one of this network's? An IPv4 address is, however it is written.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Are all of its addresses in `range`?
    pub fn is_within(&self, range: IpNet) -> bool {
        range.contains(&self.0)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let alone = text.parse::<IpAddr>().map(IpNet::from);
        let network = alone.or_else(|_| text.parse::<IpNet>());
        let network = network.map_err(|_| NetworkError::Malformed)?;
        if network != network.trunc() {
            return Err(NetworkError::Bits(network.trunc()));
        }
        if network.addr().to_canonical() != network.addr() {
            return Err(NetworkError::Mapped);
        }
        Ok(Self(network))
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Some networks. Cheap to clone; none by default.
#[derive(Clone, Debug, Default)]
pub struct Networks(Arc<[Network]>);

impl Networks {
    /// Is the address in one of them?
    pub fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }
}

impl FromIterator<Network> for Networks {
    fn from_iter<T: IntoIterator<Item = Network>>(networks: T) -> Self {
        Self(networks.into_iter().collect())
    }
}

/// How many sizes of [`Block`] there are.
pub const BLOCK_SIZES: usize = limits::NETWORK_BLOCKS.len();

/// A network that a client is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    network: IpAddr,
    size: usize,
    shares: u32,
}

impl Block {
    /// Which of the sizes it has: the smallest is 0.
    pub fn size(self) -> usize {
        self.size
    }

    /// How many subscribers' shares it has.
    pub fn shares(self) -> u32 {
        self.shares
    }
}

/// The networks that a client is counted in, from its own ([`network_of`]) to the largest: a /48 has 65,536
/// networks of subscribers in it. An IPv4 address is counted alone.
pub fn blocks_of(client: IpAddr) -> impl DoubleEndedIterator<Item = Block> + Clone {
    let client = client.to_canonical();
    let sizes = match client {
        IpAddr::V4(_) => 1,
        IpAddr::V6(_) => BLOCK_SIZES,
    };
    let sizes = limits::NETWORK_BLOCKS.into_iter().enumerate().take(sizes);
    sizes.map(move |(size, (bits, shares))| {
        let network = match client {
            IpAddr::V6(address) => {
                let mask = u128::MAX.unbounded_shl(Ipv6Addr::BITS.saturating_sub(bits));
                Ipv6Addr::from_bits(address.to_bits() & mask).into()
            }
            v4 => v4,
        };
        Block {
            network,
            size,
            shares,
        }
    })
}

/// The network of one subscriber: an IPv4 address, or the /64 that each has at the least (RFC 6177). To compare two
/// clients use this; to count clients use [`blocks_of`].
pub fn network_of(client: IpAddr) -> IpAddr {
    let mut blocks = blocks_of(client);
    blocks.next().map_or(client, |block| block.network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Networks {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_network_is_within_larger_ones() {
        let within = |network: &str, range: &str| {
            let network: Network = network.parse().unwrap();
            network.is_within(range.parse().unwrap())
        };
        assert!(within("127.0.0.0/8", "127.0.0.0/8") && within("127.0.0.1", "127.0.0.0/8"));
        assert!(within("fe80::1", "fe80::/10"));
        assert!(!within("0.0.0.0/0", "127.0.0.0/8") && !within("126.0.0.0/7", "127.0.0.0/8"));
        assert!(!within("::1", "127.0.0.0/8"));
    }

    #[test]
    fn an_address_is_in_its_networks() {
        let networks = networks(&["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]);
        for inside in [
            "10.255.0.1",
            "192.0.2.7",
            "2001:db8::1",
            "::ffff:10.1.2.3",
            "::ffff:192.0.2.7",
        ] {
            assert!(networks.contain(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["11.0.0.1", "192.0.2.8", "2001:db9::1", "::1", "::10.1.2.3"] {
            assert!(!networks.contain(outside.parse().unwrap()), "{outside}");
        }
        assert!(!Networks::default().contain(IpAddr::from([127, 0, 0, 1])));
    }

    #[test]
    fn what_would_not_mean_what_it_says_is_refused() {
        let parse = str::parse::<Network>;
        for text in ["", "10.0.0.0/33", "10.0.0", "lb.example.org", "10.0.0.0/8 "] {
            assert_eq!(parse(text), Err(NetworkError::Malformed), "{text}");
        }
        let meant = "10.0.0.0/8".parse().unwrap();
        assert_eq!(parse("10.0.0.7/8"), Err(NetworkError::Bits(meant)));
        for text in ["::ffff:10.0.0.0/104", "::ffff:10.0.0.1"] {
            assert_eq!(parse(text), Err(NetworkError::Mapped), "{text}");
        }
        assert_eq!(parse("0.0.0.0/0").unwrap().to_string(), "0.0.0.0/0");
    }

    #[test]
    fn rule_23_a_client_is_counted_in_each_network_that_one_may_have() {
        let blocks = |text: &str| -> Vec<Block> { blocks_of(text.parse().unwrap()).collect() };
        let shared = |one: &str, other: &str| {
            let (one, other) = (blocks(one), blocks(other));
            one.iter().filter(|block| other.contains(block)).count()
        };
        assert_eq!(shared("2001:db8:1:1::1", "2001:db8:1:1:ffff::1"), 3);
        assert_eq!(shared("2001:db8:1:1::1", "2001:db8:1:ff::1"), 2);
        assert_eq!(shared("2001:db8:1:1::1", "2001:db8:1:100::1"), 1);
        assert_eq!(shared("2001:db8:1:1::1", "2001:db8:2:1::1"), 0);
        assert_eq!(shared("192.0.2.1", "::ffff:192.0.2.1"), 1);
        assert_eq!(blocks("192.0.2.1").len(), 1);
        let own = network_of("2001:db8:1:1::1".parse().unwrap());
        assert_eq!(own, "2001:db8:1:1::".parse::<IpAddr>().unwrap());
    }
}
