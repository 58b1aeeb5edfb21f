//! Networks, as operators write them.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

use ipnet::IpNet;

/// One network, or one address: `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// The network of one subscriber: an IPv4 address, or the /64 that each has at the least (RFC 6177).
pub fn network_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        v4 => v4,
    }
}

/// The larger IPv6 networks around an address that one subscriber or one site may have altogether (RFC 6177): a /56 and a /48,
/// each with its number of bits. Whoever has one has so many /64 networks, and is one source still.
pub fn sites_of(client: IpAddr) -> impl Iterator<Item = (u8, Ipv6Addr)> {
    let v6 = match client.to_canonical() {
        IpAddr::V6(address) => Some(address.to_bits()),
        IpAddr::V4(_) => None,
    };
    let site = |address: u128, bits: u8| {
        let rest = u128::MAX.checked_shr(bits.into()).unwrap_or_default();
        (bits, Ipv6Addr::from_bits(address & !rest))
    };
    v6.into_iter()
        .flat_map(move |address| [site(address, 56), site(address, 48)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Networks {
        texts.iter().map(|text| text.parse().unwrap()).collect()
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
    fn a_site_is_larger_than_a_network_and_ipv6_only() {
        let sites = |text: &str| {
            let sites = sites_of(text.parse().unwrap());
            sites
                .map(|(bits, first)| format!("{first}/{bits}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            sites("2001:db8:1:1234:5::6"),
            ["2001:db8:1:1200::/56", "2001:db8:1::/48"]
        );
        assert!(sites("192.0.2.1").is_empty() && sites("::ffff:192.0.2.1").is_empty());
    }
}
