//! Addresses that a name must not lead to, however they are written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The reason that an address is special.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpecialAddress {
    /// The agent's own machine, or pod.
    Loopback,
    /// The agent's own link, and the metadata services of most clouds.
    LinkLocal,
    /// No address: Linux connects to the machine itself.
    Unspecified,
    /// Many machines at once, or all of a network.
    Multicast,
    /// A cloud's metadata service outside the link-local range.
    Metadata,
}

impl fmt::Display for SpecialAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Unspecified => "an unspecified address",
            Self::Multicast => "a multicast or broadcast address",
            Self::Metadata => "the address of a cloud's metadata service",
        })
    }
}

/// RFC 6890, and RFC 1122, section 3.2.1.3, for 0.0.0.0/8. Below them, metadata services that are not link-local: Alibaba Cloud, Azure.
const V4: [(Ipv4Net, SpecialAddress); 7] = [
    (v4([0, 0, 0, 0], 8), SpecialAddress::Unspecified),
    (v4([127, 0, 0, 0], 8), SpecialAddress::Loopback),
    (v4([169, 254, 0, 0], 16), SpecialAddress::LinkLocal),
    (v4([224, 0, 0, 0], 4), SpecialAddress::Multicast),
    (v4([255, 255, 255, 255], 32), SpecialAddress::Multicast),
    (v4([100, 100, 100, 200], 32), SpecialAddress::Metadata),
    (v4([168, 63, 129, 16], 32), SpecialAddress::Metadata),
];

/// RFC 4291, section 2.4. Below it, metadata services: AWS, Google Cloud.
const V6: [(Ipv6Net, SpecialAddress); 6] = [
    (v6(Ipv6Addr::UNSPECIFIED, 128), SpecialAddress::Unspecified),
    (v6(Ipv6Addr::LOCALHOST, 128), SpecialAddress::Loopback),
    (
        v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
        SpecialAddress::LinkLocal,
    ),
    (
        v6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
        SpecialAddress::Multicast,
    ),
    (
        v6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128),
        SpecialAddress::Metadata,
    ),
    (
        v6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128),
        SpecialAddress::Metadata,
    ),
];

/// Prefixes of IPv6 behind which the next 32 bits are an IPv4 address that packets reach in the end: IPv4-compatible addresses
/// (RFC 4291, section 2.5.5.1), NAT64 (RFC 6052), 6to4 (RFC 3056). IPv4-mapped addresses are no IPv6 addresses to begin with.
const CARRYING_V4: [Ipv6Net; 3] = [
    v6(Ipv6Addr::UNSPECIFIED, 96),
    v6(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
    v6(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
];

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(address: Ipv6Addr, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(address, prefix)
}

/// The reason that this address is special, and the range of such addresses that it is in, in the address's own form.
pub(crate) fn special(address: IpAddr) -> Option<(SpecialAddress, IpNet)> {
    match address.to_canonical() {
        IpAddr::V4(address) => special_v4(address).map(|(range, kind)| (kind, range.into())),
        IpAddr::V6(address) => {
            let own = V6.iter().find(|(range, _)| range.contains(&address));
            let own = own.map(|(range, kind)| (*kind, (*range).into()));
            own.or_else(|| carried(address))
        }
    }
}

fn special_v4(address: Ipv4Addr) -> Option<(Ipv4Net, SpecialAddress)> {
    V4.into_iter().find(|(range, _)| range.contains(&address))
}

/// Of the IPv4 address inside.
fn carried(address: Ipv6Addr) -> Option<(SpecialAddress, IpNet)> {
    let prefix = CARRYING_V4
        .into_iter()
        .find(|prefix| prefix.contains(&address))?;
    let behind = address.to_bits() << prefix.prefix_len() >> 96;
    let inside = Ipv4Addr::from_bits(u32::try_from(behind).ok()?);
    let (range, kind) = special_v4(inside)?;
    let length = prefix.prefix_len() + range.prefix_len();
    let range = Ipv6Net::new(address, length).ok()?;
    Some((kind, range.trunc().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(address: &str) -> Option<SpecialAddress> {
        special(address.parse().unwrap()).map(|(kind, _)| kind)
    }

    #[test]
    fn rule_17_special_addresses_are_known_in_every_disguise() {
        use SpecialAddress::{LinkLocal, Loopback, Metadata, Multicast, Unspecified};
        for (address, expected) in [
            ("127.0.0.1", Loopback),
            ("127.255.255.254", Loopback),
            ("::1", Loopback),
            ("::ffff:127.0.0.1", Loopback),
            ("::127.0.0.1", Loopback),
            ("64:ff9b::7f00:1", Loopback),
            ("2002:7f00:1::", Loopback),
            ("2002:7f00:1:1:2:3:4:5", Loopback),
            ("0.0.0.0", Unspecified),
            ("0.1.2.3", Unspecified),
            ("::", Unspecified),
            ("::ffff:0.0.0.0", Unspecified),
            ("169.254.169.254", LinkLocal),
            ("::ffff:169.254.169.254", LinkLocal),
            ("64:ff9b::a9fe:a9fe", LinkLocal),
            ("2002:a9fe:a9fe::1", LinkLocal),
            ("fe80::1", LinkLocal),
            ("febf::1", LinkLocal),
            ("224.0.0.1", Multicast),
            ("239.255.255.250", Multicast),
            ("255.255.255.255", Multicast),
            ("ff02::1", Multicast),
            ("fd00:ec2::254", Metadata),
            ("fd20:ce::254", Metadata),
            ("168.63.129.16", Metadata),
            ("100.100.100.200", Metadata),
        ] {
            assert_eq!(kind(address), Some(expected), "{address}");
        }
        for ordinary in [
            "10.0.0.1",
            "128.0.0.1",
            "169.253.0.1",
            "192.0.2.1",
            "fd00::1",
            "fec0::1",
            "2001:db8::1",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(kind(ordinary), None, "{ordinary}");
        }
    }

    #[test]
    fn the_range_has_the_form_of_the_address() {
        let range = |address: &str| special(address.parse().unwrap()).unwrap().1.to_string();
        assert_eq!(range("127.0.0.1"), "127.0.0.0/8");
        assert_eq!(range("::ffff:127.0.0.1"), "127.0.0.0/8");
        assert_eq!(range("64:ff9b::7f00:1"), "64:ff9b::7f00:0/104");
        assert_eq!(range("2002:a9fe:a9fe::1"), "2002:a9fe::/32");
    }
}
